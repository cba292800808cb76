"""The partitions this worker holds: a processor for each, started and retired with the group's assignments."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from typing import Protocol

import structlog

from streams.partition import Fetched, InstanceTakenError, PartitionProcessor
from streams.ports import Claim, StoreUnavailableError

# Batches of a partition under way at once: one in work, one behind it.
MOST_OWED = 2
# A rebalance waits this long for the store's word on the instance id, then goes on.
ASK_WITHIN_S = 2.0
CANCEL_EVERY_S = 0.2

log = structlog.get_logger()


class Source(Protocol):
    """Where batches come from: the bound consumer, once Faust has made it."""

    async def bounds(self, partition: int) -> tuple[int, int]:
        """Give the log's first retained offset and its end."""

    async def seek_to(self, partition: int, position: int) -> int:
        """Deliver from `position` on; the new seek counter."""


class InstanceRegister(Protocol):
    """Who runs under which instance id."""

    async def claim_instance(self, instance: str, owner: str) -> None:
        """Take the id; the former holder finds itself replaced."""

    async def instance_owner(self, instance: str) -> str | None:
        """Give the nonce of the process that took the id last."""


class Crew:
    """Starts, feeds and retires the processors; also the Intake of each of them.

    Args:
        instance: `group.instance.id` of this worker.
        owner: Nonce of this process.
        register: Tells whether another process took the instance id.
        make_processor: Makes the processor of a partition of this crew.
        fail: Ends the process for a reason; it does not return.
    """

    def __init__(
        self,
        instance: str,
        owner: str,
        register: InstanceRegister,
        make_processor: Callable[[int, Crew], PartitionProcessor],
        fail: Callable[[BaseException], None],
    ) -> None:
        self.processors: dict[int, PartitionProcessor] = {}
        self.ends: dict[int, int] = {}  # end of the log by partition, as the watchdog last saw it
        self.loop_beat = time.monotonic()
        self.generation = -1
        self._instance = instance
        self._owner = owner
        self._register = register
        self._make_processor = make_processor
        self._fail = fail
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._positions: dict[int, int] = {}
        self._resting = True
        self._source: Source | None = None

    def connect(self, source: Source) -> None:
        """Take the consumer that Faust made."""
        self._source = source

    def wants(self, partition: int) -> bool:
        """Say whether a batch of the partition may be fetched now."""
        processor = self.processors.get(partition)
        return not self._resting and processor is not None and processor.owed < MOST_OWED

    def took(self, batch: Fetched) -> None:
        """Count a batch that is on its way."""
        processor = self.processors.get(batch.partition)
        if processor is not None:
            processor.owed += 1

    def deliver(self, batch: Fetched) -> None:
        """Hand a batch to its processor; one of a partition given away is dropped."""
        processor = self.processors.get(batch.partition)
        if processor is not None:
            processor.offer(batch)

    async def assigned(self, partitions: frozenset[int], generation: int) -> None:
        """Hold exactly these partitions; one that stays acquires again and may keep its memory.

        Faust may call this twice in a generation: what it fetched between is dropped, so the second time is a seek.
        """
        again = generation == self.generation
        self.generation = generation
        await self._retire(self.processors.keys() - partitions)
        for partition in sorted(partitions):
            if partition in self.processors:
                if again:
                    self.processors[partition].rewind()
                else:
                    self.processors[partition].renew()
                continue
            processor = self._make_processor(partition, self)
            self.processors[partition] = processor
            task = asyncio.create_task(processor.run(), name=f"partition-{partition}")
            task.add_done_callback(self._ended)
            self._tasks[partition] = task
        self._resting = False
        log.info("assigned", partitions=sorted(partitions), generation=generation)

    async def revoked(self) -> None:
        """Fetch nothing until the next assignment, and see whether the instance id is still ours.

        The group gives a member whose id was taken no other sign than "unknown member", upon which aiokafka would
        join again and throw the other one out.
        """
        self._resting = True
        try:
            async with asyncio.timeout(ASK_WITHIN_S):
                await self.still_mine()
        except (StoreUnavailableError, TimeoutError):
            return
        except InstanceTakenError as error:
            self._fail(error)

    def confirmed(self) -> Mapping[int, int]:
        """Give the store's position of each partition held."""
        return self._positions

    def failed(self, error: BaseException) -> None:
        """End the worker."""
        self._fail(error)

    async def stop(self) -> None:
        """Retire every processor."""
        self._resting = True
        await self._retire(set(self.processors))

    async def still_mine(self) -> None:
        """Check that no other process runs under this one's instance id.

        Raises:
            InstanceTakenError: One does.
            StoreUnavailableError: The store does not say.
        """
        owner = await self._register.instance_owner(self._instance)
        if owner is None:  # the store was emptied
            await self._register.claim_instance(self._instance, self._owner)
        elif owner != self._owner:
            raise InstanceTakenError(
                f"another worker has started with instance id {self._instance}, so this one ends. Each worker needs an "
                "id of its own: set kafka.instance_id, or TWIN_KAFKA__INSTANCE_ID, and start it again"
            )

    def claim(self, fingerprint: str, others: tuple[str, ...] = ()) -> Claim:
        """Ask for a partition in the group's present generation."""
        return Claim(self.generation, self._owner, self._instance, fingerprint, others)

    async def bounds(self, partition: int) -> tuple[int, int]:
        """See `streams.partition.Intake`."""
        return await self._bound_source().bounds(partition)

    async def seek(self, partition: int, position: int) -> int:
        """See `streams.partition.Intake`."""
        return await self._bound_source().seek_to(partition, position)

    def confirm(self, partition: int, position: int) -> None:
        """See `streams.partition.Intake`."""
        if partition in self.processors:
            self._positions[partition] = position

    def _bound_source(self) -> Source:
        if self._source is None:
            raise RuntimeError("a partition was assigned before the consumer was connected")
        return self._source

    async def _retire(self, partitions: set[int]) -> None:
        tasks = [self._tasks.pop(partition) for partition in partitions]
        for partition in partitions:
            del self.processors[partition]
            self._positions.pop(partition, None)
        # Again and again: a library that is cancelled as its answer arrives may swallow it, and the processor goes on.
        while going := [task for task in tasks if not task.done()]:
            for task in going:
                task.cancel()
            await asyncio.wait(going, timeout=CANCEL_EVERY_S)

    def _ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled():
            self._fail(task.exception() or RuntimeError(f"{task.get_name()} ended by itself"))
