"""A log told to the pipeline in batches, and to the oracle record by record: what each makes of it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from streams.oracle import Account, Oracle
from streams.pipeline import Pipeline
from streams.ports import Outgoing, RawRecord, StoredTwin
from twinstate.library import Library


class Run(NamedTuple):
    """What a pipeline made of a log."""

    twins: dict[str, bytes]
    outgoing: list[Outgoing]
    counts: dict[str, int]


def piped(library: Library, split: Iterable[list[RawRecord]], *, forgetful: bool = False) -> Run:
    """Batch by batch through one pipeline; a forgetful one loses its hot memory before each."""
    pipeline = Pipeline(library, 0, 1)
    stored: dict[str, StoredTwin] = {}
    outgoing: list[Outgoing] = []
    counts: dict[str, int] = {}
    for records in split:
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


def in_batches(log: list[RawRecord], size: int) -> Iterable[list[RawRecord]]:
    """The log cut into batches of one size."""
    return (log[begin : begin + size] for begin in range(0, len(log), size))


def foretold(library: Library, log: list[RawRecord]) -> Account:
    """What the oracle says must come of the log."""
    oracle = Oracle(library, 1)
    oracle.read(0, log)
    return oracle.account()
