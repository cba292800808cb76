"""The demo's records as a bad network and busy people would send them, every one still within the limits.

Duplicates, corrections, cancellations (some before what they cancel), records first sent for the wrong patient, and
all of it late. What counts in the end is known, so that a test can compare the twins.
"""

from __future__ import annotations

from bisect import bisect_left
from typing import Any, NamedTuple

import msgspec

from streams.simulation.dice import Dice
from streams.simulation.wire import DemoRecord, moment, ordered
from twinstate.types import NS_PER_HOUR

NS_PER_MINUTE = NS_PER_HOUR // 60
DUPLICATES = 0.10
CORRECTIONS = 0.05
CANCELLATIONS = 0.05
MOVES = 0.01
# How long after its event a record may arrive. The limits behind the watermark are 72 h and, for wearables, 12 h; no
# watermark can be ahead of the last arrival, so whoever keeps to these is never late.
LATEST_H = 48.0
LATEST_WEARABLE_H = 8.0
CLOSING = (
    "tick",
    "discharge",
)  # they close a record; shifting them would change how far the twin is followed
PATH = 9  # first step of the path of dice, apart from the wards'


class Perturbed(NamedTuple):
    """One disturbed delivery.

    Attributes:
        arrival: Everything, in the order it arrives: duplicates, corrections, cancellations, wrong patients.
        in_order: The same without duplicates, in event time, each record's revisions in their order.
        winners: Only what counts in the end: the highest revisions, without the cancelled; in event time.
    """

    arrival: list[DemoRecord]
    in_order: list[DemoRecord]
    winners: list[DemoRecord]


def perturb(
    records: list[DemoRecord],
    seed: int,
    *,
    latest_h: float = LATEST_H,
    latest_wearable_h: float = LATEST_WEARABLE_H,
) -> Perturbed:
    """Disturb the delivery of records.

    One record in ten arrives twice; one in twenty is corrected by a higher revision with another value and an event
    time up to ten minutes earlier; one in twenty is cancelled, half of them before they arrive themselves; one in a
    hundred is first sent for a patient who was there at that time, and cancelled there. Ticks and discharges only
    come late or twice, and `patient` records are corrected but not taken away.

    Args:
        records: Distinct first revisions, such as `demo_records(seed)`.
        seed: Of the disturbance.
        latest_h: Longest delay between an event and each arrival that speaks of it, h; keep it below 72.
        latest_wearable_h: The same for wearable frames; keep it below 12.
    """
    dice = Dice(seed, PATH)
    present = _Presence(records)
    arrivals: list[tuple[int, DemoRecord]] = []
    in_order: list[DemoRecord] = []
    winners: list[DemoRecord] = []
    for record in records:
        parts, winner, in_sequence = _disturb(record, present, dice)
        span_h = latest_wearable_h if _body(record)["kind"] == "wearable" else latest_h
        delays_h = [dice.between(0.0, span_h) for _ in parts]
        if in_sequence:
            delays_h.sort()
        for part, delay_h in zip(parts, delays_h, strict=True):
            arrivals.append((record.event_time_ns + round(delay_h * NS_PER_HOUR), part))
            if dice.chance(DUPLICATES):
                again_h = dice.between(0.0, span_h)
                arrivals.append((record.event_time_ns + round(again_h * NS_PER_HOUR), part))
        in_order.extend(parts)
        if winner is not None:
            winners.append(winner)
    arrival = [record for _, record in sorted(arrivals, key=lambda arriving: arriving[0])]
    return Perturbed(arrival, ordered(in_order), ordered(winners))


def _disturb(
    record: DemoRecord, present: _Presence, dice: Dice
) -> tuple[list[DemoRecord], DemoRecord | None, bool]:
    """What is sent in place of one record, which of it counts, and whether it must arrive in this order."""
    body = _body(record)
    at = record.event_time_ns
    fate = dice.between(0.0, 1.0)
    if body["kind"] in CLOSING or fate >= CORRECTIONS + CANCELLATIONS + MOVES:
        return [record], record, False
    if fate < CORRECTIONS:
        correction = corrected(body, at - dice.whole(0, 10) * NS_PER_MINUTE)
        return [record, correction], correction, False
    if body["kind"] == "patient":
        return [record], record, False
    if fate < CORRECTIONS + CANCELLATIONS:
        cancellation = cancelled(body, record.patient, at)
        parts = [cancellation, record] if dice.chance(0.5) else [record, cancellation]
        return parts, None, True
    stranger = present.somebody_else(record, dice)
    if stranger is None:
        return [record], record, False
    return [readdressed(body, stranger, at), cancelled(body, stranger, at), record], record, True


def corrected(body: dict[str, Any], event_time: int) -> DemoRecord:
    """Revision 1 of a record: another value, another event time (UTC ns)."""
    payload = body["payload"]
    kind = body["kind"]
    if kind == "lab":
        change = {"value": round(payload["value"] * 1.07, 3)}
    elif kind == "dose" and payload["status"] == "given":
        change = {"amount": {**payload["amount"], "value": round(payload["amount"]["value"] * 1.05, 3)}}
    elif kind == "regimen":
        change = {"grace_h": 1.5}
    elif kind == "wearable":
        change = {"values": [None if value is None else value + 2 for value in payload["values"]]}
    elif kind == "patient" and "weight" in payload["covariates"]:
        weight = payload["covariates"]["weight"]
        heavier = {**weight, "value": round(weight["value"] * 1.02, 3)}
        change = {"covariates": {**payload["covariates"], "weight": heavier}}
    else:
        change = {}
    return _record({**body, "revision": 1, "payload": {**payload, **change}}, event_time)


def cancelled(body: dict[str, Any], patient: str, event_time: int) -> DemoRecord:
    """Revision 1 of a record: it never was."""
    envelope = {name: value for name, value in body.items() if name != "payload"}
    return _record({**envelope, "patient": patient, "revision": 1, "cancelled": True}, event_time)


def readdressed(body: dict[str, Any], patient: str, event_time: int) -> DemoRecord:
    """The same record, said of somebody else."""
    return _record({**body, "patient": patient}, event_time)


def _body(record: DemoRecord) -> dict[str, Any]:
    body: dict[str, Any] = msgspec.json.decode(record.value)
    return body


def _record(body: dict[str, Any], event_time: int) -> DemoRecord:
    body["event_time"] = moment(event_time)
    return DemoRecord(body["patient"], event_time, msgspec.json.encode(body))


class _Presence:
    """Who was there when, so that a record is only ever mistaken for somebody's of that time.

    A record from another season would push a stranger's watermark ahead of everything still to come for him.
    """

    def __init__(self, records: list[DemoRecord]) -> None:
        spans: dict[str, tuple[int, int]] = {}
        for patient, at, _ in records:
            first, last = spans.get(patient, (at, at))
            spans[patient] = (min(first, at), max(last, at))
        self._spans = sorted((first, last, patient) for patient, (first, last) in spans.items())

    def somebody_else(self, record: DemoRecord, dice: Dice) -> str | None:
        """Another patient whose records begin before and end after this one; None when there is nobody."""
        at = record.event_time_ns
        begun = self._spans[: bisect_left(self._spans, (at, 0, ""))]
        others = [patient for _, last, patient in begun if last > at and patient != record.patient]
        return others[dice.whole(0, len(others) - 1)] if others else None
