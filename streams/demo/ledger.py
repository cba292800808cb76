"""What the store holds of a group at one moment, read without touching it."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

import msgspec

from streams.adapters.redis_store import RedisStore, connect
from streams.ports import OUTBOXES, StoredTwin
from twinstate.twin import TwinDocument


@dataclass
class Ledger:
    """Counters, positions and twins of all partitions.

    Attributes:
        counts: Records by outcome, dead letters by reason, events by type, summed over partitions.
        positions: By partition, the next input offset; absent where nothing was ever applied.
        risk_positions: By partition, the risk topic's offset up to which everything is published.
        waiting: Messages in outboxes.
        twins: By patient, empty unless asked for.
    """

    counts: Counter[str] = field(default_factory=Counter)
    positions: dict[int, int] = field(default_factory=dict)
    risk_positions: dict[int, int] = field(default_factory=dict)
    waiting: int = 0
    twins: dict[str, StoredTwin] = field(default_factory=dict)

    def documents(self) -> Iterator[TwinDocument]:
        """The canonical twins, decoded, by patient."""
        for _, twin in sorted(self.twins.items()):
            yield msgspec.msgpack.decode(twin.canonical, type=TwinDocument)


def read_ledger(
    redis_url: str, group: str, partitions: int, *, with_twins: bool = False, cluster: bool = False
) -> Ledger:
    """Read counters and positions, and on request every twin.

    Args:
        redis_url: Where the store is.
        group: Whose keys.
        partitions: How many the topic has.
        with_twins: Also read the twins.
        cluster: Whether the store is a node of a Redis Cluster.
    """
    store = RedisStore(connect(redis_url, cluster=cluster), group)
    return asyncio.run(_read(store, partitions, with_twins=with_twins))


async def _read(store: RedisStore, partitions: int, *, with_twins: bool) -> Ledger:
    ledger = Ledger()
    try:
        for partition in range(partitions):
            meta, counts = await store.read_counters(partition)
            if meta is None:
                continue
            ledger.counts.update(counts)
            ledger.positions[partition] = meta.position
            ledger.risk_positions[partition] = meta.risk_topic_position
            for outbox in OUTBOXES:
                ledger.waiting += await store.outbox_length(partition, outbox)
            if with_twins:
                found = await store.recall(partition, await store.patients(partition))
                ledger.twins.update({p: r.twin for p, r in found.items() if r.twin is not None})
    finally:
        await store.close()
    return ledger
