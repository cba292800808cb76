"""What must hold after every fault, compared byte by byte with the oracle told the log as it stands."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterable

from streams.adapters.redis_store import AuditEntry
from streams.demo.plan import DemoRecord
from tests.integration.acceptance.ward import Outcome, SmallWard, require_sound
from tests.integration.ward import require_one_owner_at_a_time


def require_invariants(ward: SmallWard) -> Outcome:
    """Wait for the end of the log, and check I1 to I7 of the fault matrix.

    I1 the bytes of every twin; I2 the events, ids and bodies, in order; I3 no event twice; I4 the applied ranges tile
    the log up to its end; I5 each record counted once, under the oracle's outcome; I6 Kafka's committed offset never
    ahead of Redis; I7 nobody wrote after a later owner had.
    """
    outcome = ward.finish()
    account = ward.foretold()
    differing = [
        p for p in sorted({*outcome.twins, *account.twins}) if outcome.twins.get(p) != account.twins.get(p)
    ]
    assert not differing, f"I1: {differing}"
    assert outcome.event_ids == account.event_ids, "I2"
    for partition, events in account.risk.items():
        bodies = [message.value() for message in ward.read(ward.topics.names.risk, partition)]
        assert bodies == [event.value for event in events], f"I2, partition {partition}"
    require_sound(outcome)
    assert dict(outcome.counts) == account.counts, "I5"
    positions = {number: ward.position(number) for number in range(ward.topics.partitions)}
    for number, committed in ward.committed().items():
        assert committed <= positions[number], f"I6, partition {number}"
    for rows in audits(ward):
        require_one_owner_at_a_time(rows)  # I7
    return outcome


def audits(ward: SmallWard) -> list[list[AuditEntry]]:
    """Read who applied what, by partition."""

    async def ask() -> list[list[AuditEntry]]:
        store = ward.store()
        try:
            return [await store.audit(number) for number in range(ward.topics.partitions)]
        finally:
            await store.close()

    return asyncio.run(ask())


def require_acknowledged(ward: SmallWard, records: Iterable[DemoRecord]) -> None:
    """Check that the log holds each acknowledged record once: the sender was idempotent."""
    topic, numbers = ward.topics.names.records, range(ward.topics.partitions)
    held = Counter(message.value() for number in numbers for message in ward.read(topic, number))
    assert held == Counter(record.value for record in records)
