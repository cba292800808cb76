"""Where a record went: lines of the bounded trace, and what a twin holds of it."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from streams.ports import Recalled
from streams.queries import answers
from streams.queries.views import instant
from twinstate.twin import TwinDocument, TwinMemory


class Line(msgspec.Struct, frozen=True):
    """A line as `streams.pipeline` writes it; a refused record may have no name."""

    offset: int
    outcome: str
    reason: str
    patient: str | None = None
    kind: str | None = None
    source: str | None = None
    id: str | None = None
    revision: int | None = None


def arrivals_in(batch: bytes, partition: int, record_id: str, patient: str | None) -> list[answers.Trail]:
    """The arrivals of a record in one batch's lines.

    Args:
        batch: JSON lines.
        partition: Read from.
        record_id: The record's id.
        patient: Only this patient's; None for any.
    """
    if msgspec.json.encode(record_id) not in batch:
        return []
    lines = [msgspec.json.decode(line, type=Line) for line in batch.splitlines()]
    return [
        answers.Trail(partition=partition, **msgspec.structs.asdict(line))
        for line in lines
        if line.id == record_id and (patient is None or line.patient == patient)
    ]


def holdings(recalled: Recalled, patient: str, record_id: str) -> list[answers.Holding]:
    """What a stored twin holds under a record's id: the revision that wins."""
    if recalled.twin is None:
        return []
    document = msgspec.msgpack.decode(recalled.twin.canonical, type=TwinDocument)
    memory = msgspec.msgpack.decode(recalled.twin.rest, type=TwinMemory)
    return [
        answers.Holding(
            patient=patient,
            kind=e.kind,
            source=e.source,
            id=e.id,
            revision=e.revision,
            cancelled=e.cancelled,
            event_time=instant(e.event_time),
            twin_version=recalled.version,
        )
        for e in (*document.entries, *memory.frames)
        if e.id == record_id
    ]


def note(arrivals: Sequence[answers.Trail], held: Sequence[answers.Holding], patient: str | None) -> str:
    """One sentence on what the trace can and cannot tell."""
    if arrivals:
        last = arrivals[-1]
        return f"last seen at partition {last.partition}, offset {last.offset}: {last.outcome}"
    if held:
        return "the trace no longer reaches back to its arrival (or it is an applied wearable frame), the twin holds it"
    trace = "the trace (it keeps the latest batches of each partition)"
    if patient:
        return f"neither in {trace} nor in this patient's twin"
    return f"not in {trace}; name the patient, and the twin is looked into too"
