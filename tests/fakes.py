"""Stand-ins for tests: a pipeline whose every result can be worked out by hand."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from hashlib import sha256
from typing import NamedTuple

import msgspec
from aiokafka.partitioner import murmur2

from streams.ports import BatchOutcome, Outgoing, RawRecord, StoredTwin

LARGEST_OUTBOX_BODY = 256 * 1024


class Tally(msgspec.Struct):
    """A fake twin: how many records, their sum, and a hash that knows their order."""

    count: int = 0
    total: int = 0
    order: str = ""


class FakePipeline:
    """Counts and sums whole numbers by patient; every tenth is a risk, and what is no number is a dead letter."""

    fingerprint = "fake-1"

    def __init__(self, partition: int, partitions: int) -> None:
        self.partition = partition
        self.partitions = partitions
        self.twins: dict[str, Tally] = {}

    def decode(self, records: Sequence[RawRecord]) -> Sequence[RawRecord]:
        return records

    def fingerprints(self) -> tuple[str, ...]:
        return (self.fingerprint,)

    def stand_under(self, fingerprint: str) -> None:
        assert fingerprint in ("", self.fingerprint)

    def touches_all(self, batch: Sequence[RawRecord]) -> bool:
        return False

    def missing(self, batch: Sequence[RawRecord], stored: Sequence[str] = ()) -> list[str]:
        return sorted({(record.key or b"").decode() for record in batch} - self.twins.keys())

    def remember(self, patient: str, stored: StoredTwin | None) -> None:
        self.twins[patient] = Tally() if stored is None else msgspec.json.decode(stored.canonical, type=Tally)

    def forget(self) -> None:
        self.twins.clear()

    def update(self, batch: Sequence[RawRecord], progress: Callable[[], None] = lambda: None) -> BatchOutcome:
        outgoing: list[Outgoing] = []
        changed: dict[str, Tally] = {}
        for record in batch:
            key = record.key or b""
            if record.value == b"hang":
                time.sleep(3600)
            reason = self._refuse(record)
            if reason is not None:
                value = record.value or b""
                body = value if len(value) <= LARGEST_OUTBOX_BODY else None
                headers = (("twin-error-class", reason),)
                outgoing.append(Outgoing(f"{record.offset}-1", "dead_letters", key, headers, body))
                continue
            patient = key.decode()
            tally = self.twins[patient]
            number = int(record.value or b"0")
            tally.count += 1
            tally.total += number
            tally.order = sha256(f"{tally.order} {number}".encode()).hexdigest()[:16]
            changed[patient] = tally
            if tally.count % 10 == 0:
                event = f"{patient}-{tally.count}".encode()
                outgoing.append(
                    Outgoing(
                        f"{record.offset}-1", "risk", key, (("ce_id", event),), msgspec.json.encode(tally)
                    )
                )
        return BatchOutcome(
            twins={
                patient: StoredTwin(msgspec.json.encode(tally), b"") for patient, tally in changed.items()
            },
            standing={
                patient: msgspec.json.encode([tally.count // 10]) for patient, tally in changed.items()
            },
            index={patient: msgspec.json.encode(tally) for patient, tally in changed.items()},
            outgoing=outgoing,
            counts={"records": len(batch)},
            trace=b"",
        )

    def _refuse(self, record: RawRecord) -> bytes | None:
        if (murmur2(record.key or b"") & 0x7FFFFFFF) % self.partitions != self.partition:
            return b"wrong_partition"
        return None if (record.value or b"").isdigit() else b"not_a_number"


def create_fake_pipeline(library_dir: str, partition: int, partitions: int, group: str) -> FakePipeline:
    """Make the fake for the worker under test, by import path."""
    return FakePipeline(partition, partitions)


class Folded(NamedTuple):
    """What one partition's records must lead to."""

    twins: dict[str, bytes]
    outgoing: list[Outgoing]


def fold(records: Sequence[RawRecord], partition: int, partitions: int) -> Folded:
    """Fold a log one record at a time, in one process: what every worker's result is compared with."""
    pipeline = FakePipeline(partition, partitions)
    twins: dict[str, bytes] = {}
    outgoing: list[Outgoing] = []
    for record in records:
        batch = pipeline.decode([record])
        for patient in pipeline.missing(batch):
            pipeline.remember(patient, None)
        outcome = pipeline.update(batch)
        twins |= {patient: twin.canonical for patient, twin in outcome.twins.items()}
        outgoing += outcome.outgoing
    return Folded(twins, outgoing)
