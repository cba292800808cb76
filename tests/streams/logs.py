"""Synthetic logs of one partition: stays of patients, what disturbs them on the way, and the raw records."""

from __future__ import annotations

import datetime as dt
import json
import random
from collections.abc import Sequence
from typing import Any, NamedTuple

from streams.ports import RawRecord

START = dt.datetime(2026, 3, 1, 8, tzinfo=dt.UTC)
ADMISSION = {
    "covariates": {
        "weight": {"value": 70, "unit": "kg"},
        "age": {"value": 61, "unit": "a"},
        "sex": "male",
        "creatinine": {"value": 1.1, "unit": "mg/dL"},
        "dialysis": False,
    }
}


class Sent(NamedTuple):
    """A record on its way to the log."""

    patient: str
    at_h: float
    value: bytes
    headers: tuple[tuple[str, bytes], ...] = ()


def send(
    patient: str,
    kind: str,
    name: str,
    at_h: float,
    payload: dict[str, Any] | None = None,
    *,
    revision: int = 0,
    cancelled: bool = False,
    backfill: bool = False,
) -> Sent:
    body: dict[str, Any] = {
        "schema": "twin.record/1",
        "id": name,
        "revision": revision,
        "patient": patient,
        "kind": kind,
        "event_time": moment(at_h),
        "source": "ward",
    }
    if cancelled:
        body["cancelled"] = True
    else:
        body["payload"] = {} if payload is None else payload
    return Sent(patient, at_h, json.dumps(body).encode(), ((("twin-backfill", b"1"),) if backfill else ()))


def moment(at_h: float) -> str:
    return (START + dt.timedelta(hours=at_h)).isoformat()


def dose(amount_mg: float = 1000.0, drug: str = "vancomycin", route: str = "iv") -> dict[str, Any]:
    given = {"drug": drug, "status": "given", "amount": {"value": amount_mg, "unit": "mg"}, "route": route}
    return {**given, "duration_h": 1.0} if route == "iv" else given


def level(value: float, analyte: str = "vancomycin", unit: str = "mg/L") -> dict[str, Any]:
    return {"analyte": analyte, "value": value, "unit": unit}


def regimen(
    first_h: float, amount_mg: float = 1000.0, count: int = 6, every_h: float = 12.0
) -> dict[str, Any]:
    line = {
        "amount": {"value": amount_mg, "unit": "mg"},
        "route": "iv",
        "duration_h": 1.0,
        "first_due": moment(first_h),
        "every_h": every_h,
        "count": count,
    }
    return {"drug": "vancomycin", "lines": [line]}


def frame(values: Sequence[float | None]) -> dict[str, Any]:
    return {"signal": "qtc", "unit": "ms", "values": list(values), "period_s": 60.0}


def stay(patient: str, seed: int) -> list[Sent]:
    """A course of vancomycin in event order: an overdose in some, levels, creatinine, a new regimen, a missed dose."""
    dice = random.Random(seed)
    amount = dice.choice([750.0, 1000.0, 2500.0])
    sent = [
        send(patient, "patient", "adm", 0.0, ADMISSION),
        send(patient, "regimen", "r1", 0.5, regimen(1.0, amount)),
    ]
    for n in range(6):
        due = 1.0 + 12.0 * n
        given = due + dice.uniform(-0.5, 1.0)
        if dice.random() < 0.15:
            sent.append(send(patient, "dose", f"d{n}", due, {"drug": "vancomycin", "status": "missed"}))
        elif dice.random() < 0.9:
            sent.append(send(patient, "dose", f"d{n}", given, dose(amount)))
    for n in range(dice.randint(1, 3)):
        at = dice.uniform(5.0, 70.0)
        sent.append(send(patient, "lab", f"l{n}", at, level(round(dice.uniform(5, 45), 1))))
        sent.append(
            send(patient, "lab", f"c{n}", at, level(round(dice.uniform(0.7, 3.0), 2), "creatinine", "mg/dL"))
        )
    if dice.random() < 0.5:
        sent.append(send(patient, "regimen", "r2", 30.0, regimen(37.0, amount / 2, 4)))
    if dice.random() < 0.4:
        sent.append(send(patient, "discharge", "out", dice.uniform(40.0, 72.0)))
        if dice.random() < 0.6:
            sent.append(send(patient, "patient", "readm", 74.0, ADMISSION))
            sent.append(send(patient, "dose", "again", 75.0, dose(amount)))
    sent.append(send(patient, "tick", "t", 80.0))
    return sorted(sent, key=lambda one: one.at_h)


VOLUNTEER = {
    "covariates": {
        "weight": {"value": 68, "unit": "kg"},
        "age": {"value": 31, "unit": "a"},
        "sex": "male",
    }
}


def qtc_stay(patient: str, seed: int) -> list[Sent]:
    """Moxifloxacin by mouth under a QTc patch: frames of half an hour, some of them empty, artefact or missing."""
    dice = random.Random(seed)
    amount = dice.choice([400.0, 4000.0])
    sent = [send(patient, "patient", "adm", 0.0, VOLUNTEER)]
    for n in range(2):
        at = 2.0 + 24.0 * n + dice.uniform(0.0, 1.0)
        sent.append(send(patient, "dose", f"d{n}", at, dose(amount, "moxifloxacin", "oral")))
    sent.append(
        send(patient, "lab", "l0", dice.uniform(4.0, 30.0), level(round(amount / 250, 2), "moxifloxacin"))
    )
    base = dice.uniform(395.0, 440.0)
    for n in range(60):
        at = 0.5 * (n + 1) + dice.choice([0.0, 0.01, -0.02])
        values: list[float | None] = [round(dice.gauss(base + amount / 200, 6.0), 1) for _ in range(30)]
        for place in range(30):
            if dice.random() < 0.05:
                values[place] = dice.choice([None, 20.0])
        if dice.random() < 0.9:
            sent.append(send(patient, "wearable", f"patch:{n}", at, frame(values)))
    sent.append(send(patient, "tick", "t", 34.2))
    return sorted(sent, key=lambda one: one.at_h)


def disturbed(sent: list[Sent], seed: int) -> list[Sent]:
    """In order of arrival: some late, some twice, some corrected or cancelled, at times before they come."""
    dice = random.Random(seed)
    order: list[tuple[float, Sent]] = []
    for one in sent:
        body = json.loads(one.value)
        longest_h = 5.0 if body["kind"] == "wearable" else 60.0
        arrival = one.at_h + (dice.uniform(0.0, longest_h) if dice.random() < 0.3 else 0.0)
        order.append((arrival, one))
        if dice.random() < 0.1:
            order.append((arrival + dice.uniform(0.0, longest_h / 2), one))
        if body["kind"] in ("dose", "lab") and dice.random() < 0.15:
            corrected = dict(body, revision=1)
            if body["kind"] == "lab" and dice.random() < 0.5:
                corrected["payload"] = dict(body["payload"], value=body["payload"]["value"] + 0.3)
            else:
                corrected["event_time"] = moment(one.at_h + dice.uniform(-3.0, 3.0))
            order.append((one.at_h + dice.uniform(0.0, 100.0), resent(one, corrected)))
        if body["kind"] == "wearable" and dice.random() < 0.1:
            values = [None if v is None else v + 2 for v in body["payload"]["values"]]
            corrected = dict(body, revision=1, payload=dict(body["payload"], values=values))
            order.append((one.at_h + dice.uniform(0.0, longest_h), resent(one, corrected)))
        if body["kind"] != "patient" and dice.random() < 0.1:
            tombstone = {k: v for k, v in body.items() if k != "payload"} | {"revision": 2, "cancelled": True}
            order.append((one.at_h + dice.uniform(-0.2, 0.6) * longest_h, resent(one, tombstone)))
    return [one for _, one in sorted(order, key=lambda item: item[0])]


def resent(one: Sent, body: dict[str, Any]) -> Sent:
    return one._replace(value=json.dumps(body).encode())


def ward(seed: int) -> list[Sent]:
    """Four disturbed stays, interleaved."""
    dice = random.Random(seed)
    stays = [disturbed(stay(f"p-{n}", 10 * seed + n), 100 * seed + n) for n in range(2)]
    stays += [disturbed(qtc_stay(f"q-{n}", 10 * seed + n), 200 * seed + n) for n in range(2)]
    order = [n for n, sent in enumerate(stays) for _ in sent]
    dice.shuffle(order)
    streams = [iter(sent) for sent in stays]
    return [next(streams[n]) for n in order]


def logged(sent: Sequence[Sent], append_h: float = 500.0) -> list[RawRecord]:
    """The log of one partition; offsets with holes, as transactions leave them."""
    append = round((START.timestamp() + append_h * 3600) * 1e9)
    return [
        RawRecord(3 * n + n % 2, append, one.patient.encode(), one.value, one.headers)
        for n, one in enumerate(sent)
    ]
