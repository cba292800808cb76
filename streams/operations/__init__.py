"""What whoever runs the service does by hand: look, verify, send again, fence, activate, forget, back up."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from streams.adapters.redis_rebuild import RebuildStore
from streams.adapters.redis_store import StoreLimits, connect
from streams.settings import Settings

T = TypeVar("T")

# Everything a partition holds goes through one command: give Redis time for it.
ANSWER_WITHIN_S = 60.0


class OperationError(Exception):
    """It cannot be done as things are, and nothing was changed; the text says what to do."""


def ask_store(settings: Settings, question: Callable[[RebuildStore], Awaitable[T]]) -> T:
    """Put one question to the store over a connection of its own.

    Raises:
        StoreError: Redis does not answer.
    """
    redis = settings.redis
    arguments = {**redis.client_arguments(), "socket_timeout": ANSWER_WITHIN_S}
    limits = StoreLimits(
        outbox_messages=settings.worker.outbox_max_messages, audit_batches=settings.worker.audit_max_batches
    )

    async def run() -> T:
        client = connect(redis.url, cluster=redis.cluster, **arguments)
        store = RebuildStore(client, settings.kafka.group, limits)
        try:
            return await question(store)
        finally:
            await store.close()

    return asyncio.run(run())


def checked_partition(partition: int, partitions: int) -> int:
    """Give the number back when there is such a partition.

    Raises:
        OperationError: There is none.
    """
    if not 0 <= partition < partitions:
        raise OperationError(f"there is no partition {partition}; they are 0 to {partitions - 1}")
    return partition
