"""From a partition's outboxes to the same partition of the output topics, each message once.

One transactional producer a partition, with a static transactional id: `init_transactions` fences whoever published
before and ends what it left open. Only then is the tail of each output partition read back (read_committed): what is
found there is published, whatever the store says. A message found in the tail is dropped from its outbox unsent.

Risk goes first, and dead letters in small transactions of their own: poison delays neither risk nor other partitions.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

import structlog
from confluent_kafka import KafkaException

from streams.adapters.kafka_link import OutputLink, ProducerFencedError, PublishError
from streams.failpoints import fail_point
from streams.partition import Backoff
from streams.ports import (
    OUTBOXES,
    Lease,
    OutboxEntry,
    OutboxName,
    StoreUnavailableError,
    TwinStore,
    outbox_order,
)

T = TypeVar("T")

MESSAGES_AT_ONCE: Mapping[OutboxName, int] = {"risk": 500, "dead_letters": 50}
BYTES_AT_ONCE = 1024 * 1024
LOOK_EVERY_S = 1.0
log = structlog.get_logger()


@dataclass
class PublisherStatus:
    """What metrics ask of a publisher; written by it alone."""

    risk: int = 0
    dead_letters: int = 0
    found_in_tail: int = 0
    failures: int = 0
    fenced: int = 0


class _Progress(NamedTuple):
    """Id of the last message known to be published, and the topic's next offset after it, where known."""

    mark: str
    topic_position: int | None = None


class PartitionPublisher:
    """Publishes one partition's outboxes.

    Args:
        partition: Number of the input partition and of the output partitions.
        group: Consumer group; with the partition it makes the transactional id.
        store: Where the outboxes are.
        connection: librdkafka settings that reach the broker.
        topics: Output topic of each outbox.
        records_topic: Input topic, where large bodies are read again.
        transaction_timeout_s: Seconds after which the broker aborts a transaction left open.
    """

    def __init__(
        self,
        partition: int,
        group: str,
        store: TwinStore,
        connection: Mapping[str, str],
        topics: Mapping[OutboxName, str],
        records_topic: str,
        transaction_timeout_s: float = 15.0,
    ) -> None:
        self.partition = partition
        self.status = PublisherStatus()
        self._group = group
        self._store = store
        self._connection = connection
        self._topics = topics
        self._records_topic = records_topic
        self._timeout_ms = int(transaction_timeout_s * 1000)
        self._awake = asyncio.Event()
        self._log = log.bind(partition=partition)

    def wake(self) -> None:
        """Say that an outbox has new messages."""
        self._awake.set()

    async def run(self, lease: Lease) -> None:
        """Publish until cancelled, or return when another owner has acquired the partition."""
        thread = ThreadPoolExecutor(1, thread_name_prefix=f"publish-{self.partition}")
        wait = Backoff()
        progress = {outbox: _Progress(mark) for outbox, mark in lease.marks.items()}
        try:
            while True:
                link = OutputLink(
                    self._group,
                    self.partition,
                    self._connection,
                    self._topics,
                    self._records_topic,
                    self._timeout_ms,
                )
                try:
                    await self._session(lease, link, thread, progress, wait)
                    return
                except ProducerFencedError:
                    self.status.fenced += 1
                    # A zombie may have started its producer late: the lease says who is right.
                    if not await self._patiently(lambda: self._store.owns(lease)):
                        return
                    self._log.warning("producer fenced by a zombie, starting again")
                except (PublishError, KafkaException) as error:
                    self.status.failures += 1
                    if wait.rounds == 0:
                        self._log.warning("publishing failed, starting again", reason=str(error))
                finally:
                    thread.submit(link.close)
                await wait.sleep()
        finally:
            thread.shutdown(wait=False)

    async def _session(
        self,
        lease: Lease,
        link: OutputLink,
        thread: ThreadPoolExecutor,
        progress: dict[OutboxName, _Progress],
        wait: Backoff,
    ) -> None:
        """Work with one producer; returns when the lease is lost."""
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(thread, link.open)
        if not await self._patiently(lambda: self._store.owns(lease)):
            return
        for outbox in OUTBOXES:
            found = await loop.run_in_executor(thread, link.tail, outbox)
            if found is not None and outbox_order(found[0]) >= outbox_order(progress[outbox].mark):
                progress[outbox] = _Progress(*found)
        dead_letters_from = 0.0
        poison = Backoff()
        while True:
            self._awake.clear()
            moved = await self._move(lease, "risk", link, thread, progress)
            if moved == 0 and time.monotonic() >= dead_letters_from:
                try:
                    moved = await self._move(lease, "dead_letters", link, thread, progress)
                except (PublishError, KafkaException) as error:
                    # The transaction is aborted and the producer sound, or the next risk finds it broken.
                    self.status.failures += 1
                    self._log.warning("dead letters not published", reason=str(error))
                    poison.rounds += 1
                    dead_letters_from = time.monotonic() + min(30.0, 0.1 * 2.0**poison.rounds)
                    if link.broken:
                        raise
                else:
                    poison.rounds = 0
            if moved is None:
                return
            if moved:
                wait.rounds = 0
                continue
            # Not wait_for: before Python 3.12 it loses a cancellation that comes with the event.
            with suppress(TimeoutError):
                async with asyncio.timeout(LOOK_EVERY_S):
                    await self._awake.wait()

    async def _move(
        self,
        lease: Lease,
        outbox: OutboxName,
        link: OutputLink,
        thread: ThreadPoolExecutor,
        progress: dict[OutboxName, _Progress],
    ) -> int | None:
        """Publish and drop the oldest messages of an outbox; their number, or None when the lease is lost."""
        entries = await self._patiently(
            lambda: self._store.pending(self.partition, outbox, MESSAGES_AT_ONCE[outbox])
        )
        if not entries:
            return 0
        mark = outbox_order(progress[outbox].mark)
        fresh = _at_once([entry for entry in entries if outbox_order(entry.id) > mark])
        self.status.found_in_tail += sum(outbox_order(entry.id) <= mark for entry in entries)
        if fresh:
            topic_position = await asyncio.get_running_loop().run_in_executor(
                thread, link.publish, outbox, fresh
            )
            fail_point("after_publish_before_ack")
            progress[outbox] = _Progress(fresh[-1].id, topic_position)
            if outbox == "risk":
                self.status.risk += len(fresh)
            else:
                self.status.dead_letters += len(fresh)
        last = fresh[-1].id if fresh else entries[-1].id
        # While a store that was set back catches up, its standing episodes are older than what is published: the topic
        # position they are true for moves on only with the message that was published last.
        whole = progress[outbox].topic_position if last == progress[outbox].mark else None
        return len(entries) if await self._ack(lease, outbox, last, whole) else None

    async def _ack(self, lease: Lease, outbox: OutboxName, last_id: str, topic_position: int | None) -> bool:
        return await self._patiently(lambda: self._store.ack(lease, outbox, last_id, topic_position))

    async def _patiently(self, call: Callable[[], Awaitable[T]]) -> T:
        wait = Backoff()
        while True:
            try:
                return await call()
            except StoreUnavailableError:
                await wait.sleep()


def _at_once(entries: Sequence[OutboxEntry]) -> list[OutboxEntry]:
    """Take the first entries that fit a transaction; a body that is read again counts whole."""
    taken: list[OutboxEntry] = []
    size = 0
    for entry in entries:
        size += BYTES_AT_ONCE if entry.value is None else len(entry.value)
        if taken and size > BYTES_AT_ONCE:
            break
        taken.append(entry)
    return taken
