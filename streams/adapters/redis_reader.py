"""What people ask of the store beside what a worker does; it never writes."""

from __future__ import annotations

import time

from streams.adapters.redis_store import RedisStore


class RedisReader(RedisStore):
    """The store as `streams.queries.TwinReader` wants it."""

    async def read_trace(self, partition: int) -> list[bytes]:
        """Read the bounded trace, newest batch first: JSON lines of what became of each record.

        Raises:
            StoreUnavailableError: No answer.
        """
        found = await self._command("XREVRANGE", self.keys(partition).trace, "+", "-")
        batches = []
        for _, fields in found:
            values = fields if isinstance(fields, dict) else dict(zip(fields[::2], fields[1::2], strict=True))
            batches.append(bytes(values[b"lines"]))
        return batches

    async def seconds_since_seen(self, partition: int) -> float | None:
        """How long ago a worker last acquired the partition or applied a batch to it, s; None for never.

        Raises:
            StoreUnavailableError: No answer.
        """
        seen = await self.seen_ms(partition)
        return None if seen is None else max(0.0, time.time() - seen / 1000.0)

    async def durability(self) -> list[dict[str, str]]:
        """What each server says of its append-only file.

        Raises:
            StoreUnavailableError: No answer.
        """
        wanted = ("aof_enabled", "aof_last_write_status")
        return [{key: str(about.get(key, "")) for key in wanted} for about in await self._about()]
