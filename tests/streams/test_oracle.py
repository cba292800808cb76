"""The pipeline, in batches of any size, does what the oracle does record by record: to the byte."""

from __future__ import annotations

import datetime as dt
import json
import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streams.oracle import Account, Oracle
from streams.pipeline import Pipeline
from streams.ports import Outgoing, RawRecord, StoredTwin
from twinstate.digest import digest_of
from twinstate.library import load_library

LIBRARY = load_library(Path(__file__).parents[2] / "config")
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


def regimen(first_h: float, amount_mg: float = 1000.0, count: int = 6, every_h: float = 12.0) -> dict[str, Any]:
    line = {
        "amount": {"value": amount_mg, "unit": "mg"},
        "route": "iv",
        "duration_h": 1.0,
        "first_due": moment(first_h),
        "every_h": every_h,
        "count": count,
    }
    return {"drug": "vancomycin", "lines": [line]}


def frame(at_h: float, values: Sequence[float | None], signal: str = "qtc", unit: str = "ms") -> dict[str, Any]:
    return {"signal": signal, "unit": unit, "values": list(values), "period_s": 60.0}


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


def disturbed(sent: list[Sent], seed: int) -> list[Sent]:
    """Some records late, some twice, some corrected or cancelled (half of that before they come themselves)."""
    dice = random.Random(seed)
    order: list[tuple[float, Sent]] = []
    for one in sent:
        arrival = one.at_h + (dice.uniform(0.0, 60.0) if dice.random() < 0.3 else 0.0)
        order.append((arrival, one))
        body = json.loads(one.value)
        if dice.random() < 0.1:
            order.append((arrival + dice.uniform(0.0, 30.0), one))
        if body["kind"] in ("dose", "lab") and dice.random() < 0.15:
            corrected = dict(body, revision=1)
            if body["kind"] == "lab" and dice.random() < 0.5:
                corrected["payload"] = dict(body["payload"], value=body["payload"]["value"] + 0.3)
            else:
                corrected["event_time"] = moment(one.at_h + dice.uniform(-3.0, 3.0))
            order.append((one.at_h + dice.uniform(0.0, 100.0), one._replace(value=json.dumps(corrected).encode())))
        if body["kind"] != "patient" and dice.random() < 0.1:
            tombstone = {k: v for k, v in body.items() if k != "payload"} | {"revision": 2, "cancelled": True}
            when = one.at_h + dice.uniform(-10.0, 40.0)
            order.append((when, one._replace(value=json.dumps(tombstone).encode())))
    return [one for _, one in sorted(order, key=lambda item: item[0])]


def logged(sent: Sequence[Sent], append_h: float = 500.0) -> list[RawRecord]:
    """The log of one partition; offsets with holes, as transactions leave them."""
    append = round((START.timestamp() + append_h * 3600) * 1e9)
    return [
        RawRecord(3 * n + n % 2, append, one.patient.encode(), one.value, one.headers) for n, one in enumerate(sent)
    ]


class Run(NamedTuple):
    """What a pipeline made of a log."""

    twins: dict[str, bytes]
    outgoing: list[Outgoing]
    counts: dict[str, int]


def batches(log: list[RawRecord], seed: int) -> Iterator[list[RawRecord]]:
    dice = random.Random(seed)
    begin = 0
    while begin < len(log):
        end = begin + dice.choice([1, 2, 5, 20, 200])
        yield log[begin:end]
        begin = end


def piped(log: list[RawRecord], seed: int = 0, *, forgetful: bool = False) -> Run:
    pipeline = Pipeline(LIBRARY, 0, 1)
    stored: dict[str, StoredTwin] = {}
    outgoing: list[Outgoing] = []
    counts: dict[str, int] = {}
    for records in batches(log, seed):
        if forgetful:
            pipeline.forget()
        batch = pipeline.decode(records)
        for patient in pipeline.missing(batch):
            pipeline.remember(patient, stored.get(patient))
        outcome = pipeline.update(batch)
        stored.update(outcome.twins)
        outgoing.extend(outcome.outgoing)
        for name, count in outcome.counts.items():
            counts[name] = counts.get(name, 0) + count
    return Run({patient: twin.canonical for patient, twin in stored.items()}, outgoing, counts)


def foretold(log: list[RawRecord]) -> Account:
    oracle = Oracle(LIBRARY, 1)
    oracle.read(0, log)
    return oracle.account()


def without_sentence(letter: Outgoing) -> Outgoing:
    return letter._replace(headers=tuple(h for h in letter.headers if h[0] != "twin-error-message"))


def check(run: Run, account: Account) -> None:
    """Same twins, events and dead letters; on the way to a difference in bytes say which patient and field."""
    risk = [one for one in run.outgoing if one.topic == "risk"]
    letters = [without_sentence(one) for one in run.outgoing if one.topic == "dead_letters"]
    assert letters == account.dead_letters[0]
    assert [(one.id, one.headers) for one in risk] == [(one.id, one.headers) for one in account.risk[0]]
    assert risk == account.risk[0]
    assert run.counts == account.counts
    assert run.twins == account.twins
    assert digest_of(run.twins) == account.digest
