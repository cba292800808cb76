"""A ward of people who wear devices: every record in the order it reaches the broker, and the truth beside it.

Everything comes from the seed and the plan: the same plan gives the same bytes, and a further patient changes nothing
of the others. The truth is for who checks an answer; it is never published.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import msgspec
import numpy as np

from streams.simulation.delivery import Arrival, Delivered, deliver
from streams.simulation.devices import KINDS, NS_PER_SECOND, Kind, Worn, wear
from streams.simulation.dice import Dice
from streams.simulation.moxifloxacin_ward import (
    DOSE_MG,
    EVERY_H,
    PLANNED_DOSES,
    RAISED_BY,
    STEP_H,
    Stay,
    draw_ordinary_heart,
    tell_care,
)
from streams.simulation.person import SIGNALS, Person, draw_levels, draw_motion
from streams.simulation.truth import Story
from streams.simulation.wire import DemoRecord, Sender, from_hours, moment, ordered, utc
from twinstate.types import hours

WARD = 3  # first step of every path of dice
OPENS = utc("2026-03-16T00:00:00Z")
RAISED_BASELINES = 0.1
LONGEST_H = 14 * 24.0
CHARTED_S = (20.0, 1800.0)  # after a dose
# Steps of a patient's path of dice.
BODY, CARE, NETWORK = 0, 1, 2
FIRST_DEVICE = 10
EVERY_KIND = tuple(kind.name for kind in KINDS)


class PlanError(ValueError):
    """A simulation that cannot be; the text says which rule is broken, and the way out."""


class Plan(NamedTuple):
    """What is simulated.

    Attributes:
        seed: 0 or above.
        patients: How many.
        length_h: From admission on.
        start: Everybody's admission, UTC ns, a whole second.
        faulty: Share of devices that break.
        kinds: Devices everybody wears, by name; a patch reads the one signal a drug model explains.
    """

    seed: int = 1
    patients: int = 10
    length_h: float = 24.0
    start: int = OPENS
    faulty: float = 0.1
    kinds: tuple[str, ...] = EVERY_KIND

    @property
    def end(self) -> int:
        """When it is over, UTC ns."""
        return from_hours(self.start, self.length_h)

    @property
    def name(self) -> str:
        """Four hex digits of all that shapes a patient, so that two plans never give one record two bodies."""
        shaping = self._replace(patients=0)
        return hashlib.sha256(repr(tuple(shaping)).encode()).hexdigest()[:4]

    def check(self) -> None:
        """See that it can be simulated.

        Raises:
            PlanError: A number is out of bounds, or a device unknown.
        """
        if self.seed < 0:
            raise PlanError(f"the seed is {self.seed}; a seed is 0 or a positive whole number")
        if not 1 <= self.patients <= 9999:
            raise PlanError(f"{self.patients} patients; simulate 1 to 9999")
        if not 1.0 <= self.length_h <= LONGEST_H:
            raise PlanError(f"{self.length_h:g} hours; simulate 1 to {LONGEST_H:g}")
        if not 0.0 <= self.faulty <= 1.0:
            raise PlanError(f"a share of {self.faulty:g} broken devices; it lies from 0 to 1")
        known = [kind.name for kind in KINDS]
        unknown = [name for name in self.kinds if name not in known]
        if unknown or not self.kinds:
            raise PlanError(f"no device {', '.join(unknown) or 'was named'}; there are {', '.join(known)}")


class Stream(NamedTuple):
    """A simulated ward.

    Attributes:
        arrivals: Every record in the order it reaches the broker, those sent twice twice.
        truth: What is true, one JSON object a patient.
    """

    arrivals: list[Arrival]
    truth: list[bytes]

    @property
    def in_order(self) -> list[DemoRecord]:
        """Every record once, in event time: as if network and devices' memories were perfect."""
        distinct = {arrival.record.value: arrival.record for arrival in self.arrivals}
        return ordered(list(distinct.values()))


def simulate(plan: Plan, progress: Callable[[], None] = lambda: None) -> Stream:
    """Simulate a ward.

    Args:
        plan: What.
        progress: Called after each patient.

    Raises:
        PlanError: The plan breaks a rule.
    """
    plan.check()
    arrivals: list[Arrival] = []
    truth: list[bytes] = []
    for number in range(1, plan.patients + 1):
        told, known = _simulate_patient(plan, number)
        arrivals.extend(told)
        truth.append(msgspec.json.encode(known))
        progress()
    # Patient and body break ties, so that the order has no other say in it.
    arrivals.sort(key=lambda arrival: (arrival.at, arrival.record.patient, arrival.record.value))
    return Stream(arrivals, truth)


def _simulate_patient(plan: Plan, number: int) -> tuple[list[Arrival], dict[str, Any]]:
    def dice(purpose: int) -> Dice:
        return Dice(plan.seed, WARD, number, purpose)

    patient = f"sim-{plan.name}-{number:04d}"
    body = dice(BODY)
    stay = _draw_stay(body, plan)
    story = Story.RAISED_BASELINE if body.chance(RAISED_BASELINES) else Story.ORDINARY
    ahead_h = hours(stay.admitted) + np.arange(0.0, plan.length_h + EVERY_H, STEP_H)
    heart, rise = draw_ordinary_heart(body, story, stay, ahead_h)
    person = Person(patient, heart, stay, draw_levels(body), draw_motion(body, stay, plan.length_h))
    arrivals = _chart(tell_care(patient, stay, heart, dice(CARE)), plan, dice(NETWORK))
    arrivals.append(Arrival(plan.end, Sender(patient, "clock").tick(plan.end, "closing")))
    devices = []
    for step, kind in enumerate(KINDS):
        if kind.name not in plan.kinds:
            continue
        worn = wear(dice(FIRST_DEVICE + 2 * step), person, kind, plan.length_h, plan.faulty)
        sent = deliver(dice(FIRST_DEVICE + 2 * step + 1), patient, worn, plan.start, plan.end)
        arrivals.extend(sent.arrivals)
        devices.append(_device_truth(worn, sent))
    hourly_h = hours(plan.start) + np.arange(0.0, math.floor(plan.length_h) + 1.0)
    signals = [c.signal for kind in _chosen(plan) for c in kind.channels]
    known = {
        "patient": patient,
        "seed": plan.seed,
        "start": moment(plan.start),
        "end": moment(plan.end),
        "drug": "moxifloxacin",
        "story": story.value,
        "raised_ms": RAISED_BY if story is Story.RAISED_BASELINE else 0.0,
        "eta": dict(zip(("clearance", "central_volume", "absorption_rate"), heart.eta.tolist(), strict=True)),
        "baseline_ms": heart.baseline_ms,
        "emax_ms": heart.emax_ms,
        "highest_rise_ms": float(rise.max()),
        "doses": [
            {"time": moment(from_hours(stay.admitted, float(at_h))), "amount_mg": DOSE_MG}
            for at_h in stay.dose_h
        ],
        "motion": _spans(person.motion),
        "hourly": {
            "time": [moment(round(h * 3600.0) * NS_PER_SECOND) for h in hourly_h.tolist()],
            "concentration_mg_L": person.concentration(hourly_h).tolist(),
            "qtc_rise_ms": heart.rise(person.concentration(hourly_h)).tolist(),
            "signals": {
                name: person.expected(name, hourly_h).tolist() for name in SIGNALS if name in signals
            },
        },
        "devices": devices,
    }
    return arrivals, known


def _chosen(plan: Plan) -> list[Kind]:
    return [kind for kind in KINDS if kind.name in plan.kinds]


def _draw_stay(dice: Dice, plan: Plan) -> Stay:
    """The first tablet 6 to 12 h after admission, or in the first quarter of a shorter stay; then one a day."""
    due_h = min(float(dice.whole(6, 12)), math.floor(plan.length_h) / 4.0)
    given = 1 + math.floor((plan.length_h - due_h - 1.0) / EVERY_H) if plan.length_h > due_h + 1.0 else 1
    late_h = np.round(np.clip(10.0 * dice.normals(given), -10.0, 40.0)) / 60.0
    dose_h = np.minimum(due_h + EVERY_H * np.arange(given) + late_h, plan.length_h)
    return Stay(plan.start, dose_h, due_h, max(PLANNED_DOSES, given + 2))


def _chart(records: Iterable[DemoRecord], plan: Plan, dice: Dice) -> list[Arrival]:
    """What people tell arrives when they have written it down, a level when it is known."""
    arrivals = []
    for record in records:
        written = record.event_time_ns + round(dice.between(*CHARTED_S) * 1e9)
        body = msgspec.json.decode(record.value)
        if body["kind"] == "patient":
            written = record.event_time_ns
        elif body["kind"] == "lab":
            written = utc(body["payload"]["resulted_at"])
            if written > plan.end:  # still at the laboratory
                continue
        if record.event_time_ns <= plan.end:
            # An order may be older than the admission.
            arrivals.append(Arrival(min(max(written, plan.start), plan.end), record))
    return arrivals


def _device_truth(worn: Worn, sent: Delivered) -> dict[str, Any]:
    return {
        "device": worn.name,
        "kind": worn.kind.name,
        "signals": [channel.signal for channel in worn.kind.channels],
        "clock": {"offset_s": sent.clock.offset_s, "drift_ppm": sent.clock.drift_ppm},
        "fault": None
        if worn.fault is None
        else {"what": worn.fault.name, "from": _moment(worn.fault.begin_h)},
        "off_body": [
            {"from": _moment(off.span.begin_h), "to": _moment(off.span.end_h), "shows": off.shows}
            for off in worn.off_body
        ],
        "outages": _spans(sent.outages),
        "frames": len(worn.frames),
        "lost": sent.lost,
        "sent_twice": sent.twice,
        "more_than_an_hour_late": sent.late,
        "readings": sum(len(frame.values) for frame in worn.frames),
        "missing": sum(value is None for frame in worn.frames for value in frame.values),
        "artefacts": sum(frame.artefacts for frame in worn.frames),
    }


def _spans(spans: Iterable[Any]) -> list[dict[str, str]]:
    return [{"from": _moment(span.begin_h), "to": _moment(span.end_h)} for span in spans]


def _moment(time_h: float) -> str:
    return moment(round(time_h * 3600.0) * NS_PER_SECOND)
