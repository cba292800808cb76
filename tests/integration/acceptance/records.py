"""A small ward of real and virtual patients: its records, how a bad network delivers them, and what may be wrong."""

from __future__ import annotations

import functools
import json
import random
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import msgspec

from streams.codec import partition_of
from streams.demo.plan import DemoRecord, demo_records
from streams.pipeline import Pipeline
from streams.ports import RawRecord, StoredTwin
from streams.simulation.perturb import LATEST_H, LATEST_WEARABLE_H, Perturbed, perturb
from tests.integration.ward import ROOT
from twinstate.library import Library, load_library
from twinstate.twin import TwinDocument
from twinstate.types import NS_PER_HOUR

SEED = 1
# Overdoses, a failing kidney, a QTc patch without and with a raised baseline, and real patients of all three studies,
# among them those with the most events; each of the four partitions has some.
VIRTUAL = ("vanc-01", "vanc-05", "vanc-07", "vanc-08", "vanc-17", "moxi-01", "moxi-17")
REAL = (
    *("theoph-01", "theoph-02", "pheno-08", "pheno-24", "pheno-52"),
    *("quin-009", "quin-047", "quin-054", "quin-064", "quin-128"),
)
EVERY_NTH_FRAME = 6  # of a patch; the rest would only take time
BY_KEY = -1  # confluent-kafka leaves the partition to the partitioner
FAR_AHEAD = 1_900_000_000 * 10**9  # 2030, an append time after every record, UTC ns


@functools.cache
def library() -> Library:
    """Load the project's models once."""
    return load_library(ROOT / "config")


@functools.cache
def small_ward() -> tuple[DemoRecord, ...]:
    """Give the records of the chosen patients in the order of event time."""
    frames: Counter[str] = Counter()
    chosen = []
    for record in demo_records(SEED):
        if record.patient not in VIRTUAL + REAL:
            continue
        if kind_of(record) == "wearable":
            frames[record.patient] += 1
            if frames[record.patient] % EVERY_NTH_FRAME:
                continue
        chosen.append(record)
    return tuple(chosen)


@functools.cache
def disturbed() -> Perturbed:
    """Give the small ward as a bad network would deliver it."""
    return perturb(list(small_ward()), SEED)


def shuffled_again(delivery: Sequence[DemoRecord], seed: int) -> list[DemoRecord]:
    """Give the same records, duplicates included, in another order of arrival within the limits."""
    dice = random.Random(seed)

    def arrival(record: DemoRecord) -> float:
        latest_h = LATEST_WEARABLE_H if kind_of(record) == "wearable" else LATEST_H
        return record.event_time_ns + dice.uniform(0.0, latest_h) * NS_PER_HOUR

    return sorted(delivery, key=arrival)


def body_of(record: DemoRecord) -> dict[str, Any]:
    """Decode a record's body."""
    body: dict[str, Any] = json.loads(record.value)
    return body


def kind_of(record: DemoRecord) -> str:
    """Name a record's kind."""
    return str(body_of(record)["kind"])


def altered(record: DemoRecord, **changes: Any) -> DemoRecord:
    """Give a record with other fields; None leaves a field out."""
    body = {name: value for name, value in {**body_of(record), **changes}.items() if value is not None}
    return record._replace(value=json.dumps(body).encode())


def piped(records: Iterable[DemoRecord], seed: int = 0) -> dict[str, bytes]:
    """Run records through the pipeline in this process, in batches of random size; canonical twins by patient."""
    dice = random.Random(seed)
    log = [RawRecord(n, FAR_AHEAD, one.patient.encode(), one.value, ()) for n, one in enumerate(records)]
    pipeline = Pipeline(library(), 0, 1)
    stored: dict[str, StoredTwin] = {}
    while log:
        size = dice.choice([1, 2, 5, 20, 200])
        batch = pipeline.decode(log[:size])
        del log[:size]
        for patient in pipeline.missing(batch):
            pipeline.remember(patient, stored.get(patient))
        stored.update(pipeline.update(batch).twins)
    return {patient: twin.canonical for patient, twin in stored.items()}


def document_of(canonical: bytes) -> TwinDocument:
    """Decode a canonical twin."""
    return msgspec.msgpack.decode(canonical, type=TwinDocument)


class Bad(NamedTuple):
    """A record that cannot be used.

    Attributes:
        name: What is wrong with it.
        key: Pseudonym.
        value: Body.
        partition: Where it is sent.
        reason: Class of the dead letter it becomes.
        says: Words its message must hold, for people.
    """

    name: str
    key: bytes
    value: bytes
    partition: int
    reason: str
    says: str


def bad_records(partitions: int) -> list[Bad]:
    """Give one bad record of each kind, all of them about a patient of the ward and in themselves in time."""
    patient = "vanc-07"
    records = [record for record in small_ward() if record.patient == patient]
    lab = next(record for record in records if kind_of(record) == "lab")
    dose = next(record for record in records if kind_of(record) == "dose")
    level, given = body_of(lab)["payload"], body_of(dose)["payload"]
    wrong = (partition_of(patient.encode(), partitions) + 1) % partitions

    def bad(name: str, reason: str, says: str, value: bytes, partition: int = BY_KEY) -> Bad:
        return Bad(name, patient.encode(), value, partition, reason, says)

    def lab_with(**changes: Any) -> bytes:
        return altered(lab, id="bad", **changes).value

    return [
        bad("not JSON", "not_json", "not JSON", b"{oops"),
        bad("another schema", "wrong_schema", "$.schema", lab_with(schema="twin.record/9")),
        bad("a field misspelt", "wrong_schema", "unti", lab_with(payload={**level, "unti": "mg/L"})),
        bad("unknown unit", "unknown_unit", "mmol/L", lab_with(payload={**level, "unit": "mmol/L"})),
        bad(
            "unknown drug",
            "unknown_drug",
            "vinegar",
            altered(dose, id="bad", payload={**given, "drug": "vinegar"}).value,
        ),
        bad("future", "future", "ahead", lab_with(event_time="2190-01-01T00:00:00Z")),
        bad("before all clocks", "implausible", "clock", lab_with(event_time="0001-01-01T00:00:00Z")),
        bad("NaN", "not_json", "not JSON", lab_with(payload={**level, "value": float("nan")})),
        bad("wrong partition", "wrong_partition", "murmur2", lab_with(), wrong),
        bad("2 MiB", "too_large", "split", lab_with(payload={**level, "note": "x" * 2**21})),
        bad(
            "nested 10,000 deep", "not_json", "nested", b'{"payload":' + b"[" * 10_000 + b"]" * 10_000 + b"}"
        ),
    ]
