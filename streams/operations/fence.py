"""`twin ops fence`: take a partition from its owner, so that nothing it still has in hand can be written."""

from __future__ import annotations

import secrets
from typing import NamedTuple

from streams.adapters.redis_rebuild import RebuildStore
from streams.adapters.topics import read_topics
from streams.operations import OperationError, ask_store, checked_partition
from streams.ports import Claim
from streams.settings import Settings

# How an operator signs as owner of a partition.
INSTANCE = "twin-ops-fence"
# Owners that are no workers: they run under no instance id that could be taken.
NO_WORKERS = (INSTANCE, "twin-rebuild", "")


class Fenced(NamedTuple):
    """What was done.

    Attributes:
        partition: Its number.
        instance: Instance id of the owner before.
        epoch_before: Under which every write is refused from now on.
        epoch: Now.
        position: Where the partition stands; fencing never moves it.
        stopped: Whether the owner's instance id was taken too, so that it ends with status 75.
        next: What happens next, for people.
    """

    partition: int
    instance: str
    epoch_before: int
    epoch: int
    position: int
    stopped: bool
    next: str


def fence(settings: Settings, partition: int, *, stop: bool = False) -> Fenced:
    """Raise a partition's epoch.

    Args:
        settings: Of the service.
        partition: Its number.
        stop: Take the owner's instance id as well: a worker that finds it taken ends with status 75.

    Raises:
        OperationError: There is no such partition, nobody owns it, or its owner is no worker that could be stopped.
        StoreError: Redis does not answer.
    """
    checked_partition(partition, read_topics(settings.paths.topics).partitions)
    nonce = secrets.token_hex(8)

    async def ask(store: RebuildStore) -> Fenced:
        meta, _ = await store.read_counters(partition)
        if meta is None:
            raise OperationError(
                f"partition {partition}: no worker has ever acquired it: there is nobody to fence"
            )
        if stop and meta.instance in NO_WORKERS:
            raise OperationError(
                f"partition {partition}: its owner is {meta.instance or 'nameless'}, no worker that could be stopped; "
                "leave --stop out"
            )
        if stop:
            # First: a worker that is fenced asks for its id, and must find it taken.
            await store.claim_instance(meta.instance, nonce)
        # Of the generation and fingerprint that are there: an operator is no member of the group.
        lease = await store.acquire(
            partition, Claim(meta.generation, nonce, INSTANCE, meta.fingerprint), meta.position
        )
        return Fenced(
            partition=partition,
            instance=meta.instance,
            epoch_before=lease.epoch - 1,
            epoch=lease.epoch,
            position=lease.position,
            stopped=stop,
            next=_next(meta.instance, partition, stop),
        )

    return ask_store(settings, ask)


def _next(instance: str, partition: int, stop: bool) -> str:
    if stop:
        return (
            f"{instance} ends with exit status 75 within seconds and is not restarted by its supervisor; all its "
            "partitions go to the other workers once the session timeout is over. Without others nothing is taken in: "
            "start one, twin worker"
        )
    return (
        f"the next write of {instance or 'the owner'} is refused; a worker that still belongs to the group forgets the "
        "twins in its memory, acquires the partition anew and reads on from Redis, a few seconds at most; one that "
        f"does not belong any more can write nothing of partition {partition} again. To end the process: --stop"
    )
