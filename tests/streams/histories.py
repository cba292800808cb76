"""What may happen to one patient's records: any order, twice, corrected, cancelled, taken back and sent again."""

from __future__ import annotations

import hashlib
import json
from typing import Any, NamedTuple

from hypothesis import strategies as st

from tests.streams.logs import Sent, dose, frame, moment, send
from tests.streams.structures import Ward

PATIENT = "p-1"
# Names and times are whole minutes: shrunk examples stay readable.
MINUTE_H = 1.0 / 60.0


class History(NamedTuple):
    """One patient's records.

    Attributes:
        clean: The winning revision of each record and nothing else, by event time.
        arrival: Everything that was sent, in the order it arrived.
    """

    clean: list[Sent]
    arrival: list[Sent]


class Event(NamedTuple):
    """One record before anybody sent it twice or took it back."""

    kind: str
    name: str
    at_h: float
    payload: dict[str, Any]


@st.composite
def histories(draw: st.DrawFn, ward: Ward) -> History:
    """Draw what happened, then how it was told."""
    sent: list[Sent] = []
    clean: list[Sent] = []
    for event in draw(_events(ward)):
        versions = draw(_versions(event))
        sent += versions
        clean.append(max(versions, key=_rank))
    if sent:
        sent += draw(st.lists(st.sampled_from(sent), max_size=3))
    return History(sorted(clean, key=lambda one: one.at_h), draw(st.permutations(sent)))


@st.composite
def _events(draw: st.DrawFn, ward: Ward) -> list[Event]:
    doses = draw(st.integers(1, max(1, min(ward.events, int(ward.span_h / ward.every_h)))))
    given_h = [1.0 + ward.every_h * n + draw(_minutes(-20, 20)) for n in range(doses)]
    anywhen = _minutes(60, round(ward.span_h * 60))
    events = [
        Event("patient", "adm", 0.0, ward.told),
        Event("regimen", "plan", 0.5, _plan(ward, doses + 2)),
        *(Event("dose", f"d{n}", at, draw(_dose(ward, n))) for n, at in enumerate(given_h)),
    ]
    moments = list(given_h)
    for n in range(draw(st.integers(1, ward.events))):
        # Some levels are drawn at the very time of a dose, or of another level.
        at = draw(st.one_of(anywhen, st.sampled_from(moments)))
        moments.append(at)
        events.append(Event("lab", f"l{n}", at, draw(_level(ward))))
    if draw(st.booleans()):
        events.append(Event("patient", "changed", draw(anywhen), ward.later))
    if ward.frames:
        events += draw(_frames(ward))
    if draw(st.integers(0, 3)) == 0:
        out_h = draw(anywhen)
        events.append(Event("discharge", "out", out_h, {}))
        if draw(st.booleans()):
            events.append(Event("patient", "again", out_h + draw(_minutes(1, 90)), ward.told))
    events.append(Event("tick", "t", ward.span_h + 0.5, {}))
    return events


@st.composite
def _versions(draw: st.DrawFn, event: Event) -> list[Sent]:
    """Every revision of one record that was ever sent, as it is told and as it was told wrongly."""
    right = {"kind": event.kind, "name": event.name, "at_h": event.at_h, "payload": event.payload}
    wrong = {**right, "at_h": max(0.0, event.at_h + draw(_minutes(-45, 45)))}
    if event.kind == "lab":
        factor = draw(st.sampled_from([0.7, 1.1, 4.0]))
        wrong["payload"] = {**event.payload, "value": event.payload["value"] * factor}
    if event.kind == "wearable":
        wrong["payload"] = {**event.payload, "values": [v + 5.0 for v in event.payload["values"]]}
    once = [_sent(right, 0)]
    fates = [
        once,
        once,
        [_sent(wrong, 0), _sent(right, 1)],
        [_sent(wrong, 0), _sent(right, 0)],  # one revision told in two ways: the larger hash wins
        [_sent(wrong, 0), _sent(right, 1, cancelled=True)],
        [_sent(wrong, 0), _sent(wrong, 1, cancelled=True), _sent(right, 2)],
        [_sent(right, 3, cancelled=True)],  # what it cancels never comes
    ]
    if event.kind == "patient" and event.name == "adm":
        fates = fates[:4]
    return draw(st.sampled_from(fates))


def _sent(record: dict[str, Any], revision: int, *, cancelled: bool = False) -> Sent:
    return send(
        PATIENT,
        record["kind"],
        record["name"],
        record["at_h"],
        record["payload"],
        revision=revision,
        cancelled=cancelled,
        # History: the limit is then the longer one for every kind but frames.
        backfill=record["kind"] != "wearable",
    )


def _rank(one: Sent) -> tuple[int, bytes]:
    return json.loads(one.value)["revision"], hashlib.sha256(one.value).digest()


def _minutes(low: int, high: int) -> st.SearchStrategy[float]:
    return st.integers(low, high).map(lambda n: n * MINUTE_H)


def _plan(ward: Ward, count: int) -> dict[str, Any]:
    line: dict[str, Any] = {
        "amount": {"value": ward.amount_mg, "unit": "mg"},
        "route": ward.route,
        "first_due": moment(1.0),
        "every_h": ward.every_h,
        "count": count,
    }
    if ward.duration_h:
        line["duration_h"] = ward.duration_h
    return {"drug": _drug(ward), "lines": [line]}


@st.composite
def _dose(draw: st.DrawFn, ward: Ward, number: int) -> dict[str, Any]:
    if number > 0 and draw(st.integers(0, 5)) == 0:
        return {"drug": _drug(ward), "status": "missed"}
    given = dose(ward.amount_mg * draw(st.sampled_from([1.0, 0.5, 4.0])), _drug(ward), ward.route)
    if ward.route == "iv":
        given["duration_h"] = ward.duration_h
    if draw(st.integers(0, 5)) == 0:
        given["steady_state_interval_h"] = ward.every_h
    return given


@st.composite
def _level(draw: st.DrawFn, ward: Ward) -> dict[str, Any]:
    factor = draw(st.sampled_from([0.4, 0.7, 1.0, 1.3, 2.0]))
    told = {"analyte": ward.analyte, "value": round(ward.around * factor, 4), "unit": ward.unit}
    return {**told, "censored": "below"} if draw(st.integers(0, 7)) == 0 else told


@st.composite
def _frames(draw: st.DrawFn, ward: Ward) -> list[Event]:
    """Frames of two patches, some of one time; each sample a whole millisecond."""
    frames = []
    for n in range(draw(st.integers(3, 8))):
        at = draw(_minutes(30, round(ward.span_h * 60)))
        values = draw(st.lists(st.integers(390, 450).map(float), min_size=2, max_size=6))
        device = draw(st.sampled_from(["patch", "watch"]))
        frames.append(Event("wearable", f"{device}:{n}", at, frame(values)))
    return frames


def _drug(ward: Ward) -> str:
    return ward.model.split("-")[0]
