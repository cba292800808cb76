"""What `twin rebuild` asks of the store: a partition as it stands, and its twins put in place of the old ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import msgspec

from streams.adapters.redis_store import PartitionMeta, RedisStore, _meta, _pairs, _Script
from streams.ports import Answer, Lease, Outgoing, Verdict

READ_PARTITION, REWRITE = _Script("read_partition"), _Script("rewrite")


@dataclass(frozen=True, slots=True)
class Rows:
    """What is kept of patients, by patient, as bytes nobody has looked into; empty bytes stand for nothing.

    Attributes:
        twins: The packed pair of canonical twin and memory.
        standing: JSON list of standing episodes.
        index: JSON row for lists.
    """

    twins: Mapping[str, bytes]
    standing: Mapping[str, bytes]
    index: Mapping[str, bytes]

    def of(self, patient: str) -> tuple[bytes, bytes, bytes]:
        """The three of one patient."""
        return tuple(rows.get(patient, b"") for rows in (self.twins, self.standing, self.index))  # type: ignore[return-value]


class RebuildStore(RedisStore):
    """The store as a rebuild wants it."""

    async def read_rows(self, partition: int, patient: str | None) -> tuple[PartitionMeta | None, Rows]:
        """Read every patient of a partition, or one, and the position they are true for.

        Raises:
            StoreUnavailableError: No answer.
        """
        keys = self.keys(partition)
        fields, *hashes = await self._run(
            READ_PARTITION,
            [keys.meta, keys.twins, keys.standing, keys.index],
            [] if patient is None else [patient],
        )
        twins, standing, index = ({name.decode(): row for name, row in _pairs(flat)} for flat in hashes)
        return _meta(fields), Rows(twins, standing, index)

    async def first_applied(self, partition: int) -> int | None:
        """The first offset ever applied: from the audit, 0 when it was shortened, None when nothing was applied."""
        audit = await self.audit(partition)
        if not audit:
            return None
        return audit[0].begin if len(audit) < self.limits.audit_batches else 0

    async def erase_trace(self, partition: int, patient: str) -> int:
        """Remove every batch of the trace that names a patient, with what it says of others; how many those were.

        Raises:
            StoreUnavailableError: No answer.
        """
        key = self.keys(partition).trace
        named = b'"patient":' + msgspec.json.encode(patient)
        gone = []
        for identifier, fields in await self._command("XRANGE", key, "-", "+"):
            values = fields if isinstance(fields, dict) else dict(_pairs(fields))
            if named in values[b"lines"]:
                gone.append(identifier)
        for begin in range(0, len(gone), 100):
            await self._command("XDEL", key, *gone[begin : begin + 100])
        return len(gone)

    async def rewrite(
        self, lease: Lease, position: int, fingerprint: str, rows: Rows, events: Sequence[Outgoing]
    ) -> Answer:
        """Put rows in place, set the fingerprint and queue events, all at once.

        Position, marks, counters and trace stay. The ids of the events are given out by the script, at the log's end;
        those they carry are not used.

        Args:
            lease: From `acquire`.
            position: Up to which the rows were derived.
            fingerprint: Under which they were derived.
            rows: Only those that change; empty bytes remove one.
            events: For the risk outbox, in order. They may exceed its limit: they are few, and come once.

        Returns:
            OK; CONFLICT when the store stands elsewhere; FENCED when another owner has acquired the partition.

        Raises:
            StoreUnavailableError: No answer: it may or may not have been written.
        """
        keys = self.keys(lease.partition)
        arguments: list[bytes | str | int] = [lease.epoch, lease.owner, position, fingerprint]
        arguments.append(self.limits.audit_batches)
        for kind in (rows.twins, rows.standing, rows.index):
            arguments.append(len(kind))
            for patient, row in kind.items():
                arguments += [patient, row]
        arguments.append(len(events))
        for event in events:
            arguments += [event.key, msgspec.msgpack.encode(event.headers), event.value or b""]
        answer = await self._run(
            REWRITE,
            [
                keys.meta,
                keys.twins,
                keys.versions,
                keys.standing,
                keys.index,
                keys.outboxes["risk"],
                keys.audit,
            ],
            arguments,
        )
        detail = answer[2].decode() if len(answer) > 2 else ""
        return Answer(Verdict(answer[0].decode()), int(answer[1]), detail)
