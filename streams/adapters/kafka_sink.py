"""From a partition's outboxes to the same partition of the output topics, each message once.

One transactional producer a partition, with a static transactional id: `init_transactions` fences whoever published
before and ends what it left open. Only then is the tail of each output partition read back (read_committed): what is
found there is published, whatever the store says. A message found in the tail is dropped from its outbox unsent.

Risk goes first, and dead letters in small transactions of their own: poison delays neither risk nor other partitions.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

import structlog
from confluent_kafka import Consumer, KafkaError, KafkaException, Message, Producer, TopicPartition

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

# What identifies a message of an outbox in its topic; both are read back by the tail scan.
ID_HEADER = "twin-outbox"
GROUP_HEADER = "twin-group"

ANSWER_WITHIN_S = 10.0
LARGEST_MESSAGE = 4 * 1024 * 1024
MESSAGES_AT_ONCE: Mapping[OutboxName, int] = {"risk": 500, "dead_letters": 50}
BYTES_AT_ONCE = 1024 * 1024
# The tail is read from this many offsets before its end, then eight times as many, up to the last number.
FIRST_TAIL, LONGEST_TAIL = 256, 131_072
LOOK_EVERY_S = 1.0
# The broker holds back an empty answer, which is how the end of a partition shows, for so long.
END_SHOWS_AFTER_MS = 10

FENCED_CODES = (
    KafkaError._FENCED,
    KafkaError.PRODUCER_FENCED,
    KafkaError.INVALID_PRODUCER_EPOCH,
    KafkaError.TRANSACTION_COORDINATOR_FENCED,
)

log = structlog.get_logger()
LIBRARY_LOG = logging.getLogger("librdkafka")


class PublishError(Exception):
    """A transaction did not come to its end; what it did is found out by the next tail scan."""


class ProducerFencedError(Exception):
    """A later producer with the same transactional id has started."""


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
                link = _Link(
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
        link: _Link,
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
        link: _Link,
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


class _Link:
    """The blocking side: a producer and, when needed, a consumer. Every method runs in the publisher's thread."""

    def __init__(
        self,
        group: str,
        partition: int,
        connection: Mapping[str, str],
        topics: Mapping[OutboxName, str],
        records_topic: str,
        timeout_ms: int,
    ) -> None:
        self.broken = False
        self._group = group
        self._partition = partition
        self._connection = connection
        self._topics = topics
        self._records_topic = records_topic
        self._timeout_ms = timeout_ms
        self._producer: Producer | None = None

    def open(self) -> None:
        """Start the producer: fence the former one and end its transaction."""
        self._producer = Producer(
            {
                **self._connection,
                "transactional.id": f"{self._group}.{self._partition}",
                "transaction.timeout.ms": self._timeout_ms,
                "message.timeout.ms": self._timeout_ms,
                "message.max.bytes": LARGEST_MESSAGE,
                "linger.ms": 0,
                "log_level": 2,
            },
            logger=LIBRARY_LOG,
        )
        _checked(lambda producer: producer.init_transactions(ANSWER_WITHIN_S), self._producer)

    def close(self) -> None:
        """Drop the producer without waiting for what it has not sent."""
        producer, self._producer = self._producer, None
        if producer is not None:
            producer.purge(blocking=False)

    def publish(self, outbox: OutboxName, entries: Sequence[OutboxEntry]) -> int:
        """Send messages in one transaction; the output partition's next offset after the last of them."""
        producer = self._producer
        if producer is None:
            raise PublishError("the producer is closed")
        failures: list[KafkaError] = []
        offsets = [-1]

        def delivered(error: KafkaError | None, message: Message) -> None:
            if error is not None:
                failures.append(error)
            else:
                offsets.append(message.offset() or 0)

        bodies = [self._read_again(entry) if entry.value is None else entry.value for entry in entries]
        try:
            producer.begin_transaction()
            for entry, body in zip(entries, bodies, strict=True):
                producer.produce(
                    self._topics[outbox],
                    key=entry.key,
                    value=body,
                    partition=self._partition,
                    headers=[
                        *entry.headers,
                        (ID_HEADER, entry.id.encode()),
                        (GROUP_HEADER, self._group.encode()),
                    ],
                    on_delivery=delivered,
                )
                producer.poll(0)
            producer.commit_transaction(ANSWER_WITHIN_S)
        except (KafkaException, BufferError) as error:
            self._give_up(error, failures)
        return max(offsets) + 1

    def _give_up(self, error: KafkaException | BufferError, failures: Sequence[KafkaError]) -> None:
        """Abort what can be aborted; leave the rest to a new producer."""
        reason = error.args[0] if isinstance(error, KafkaException) else None
        text = "; ".join(sorted({failure.str() for failure in failures})) or str(error)
        if isinstance(reason, KafkaError) and reason.code() in FENCED_CODES:
            raise ProducerFencedError(text) from error
        self.broken = True
        # A commit whose answer is late may have been done: only a fresh start and the tail can say.
        if reason is None or reason.txn_requires_abort() or failures:
            try:
                if self._producer is not None:
                    self._producer.abort_transaction(ANSWER_WITHIN_S)
                self.broken = False
            except KafkaException as second:
                text = f"{text}; abort: {second}"
        raise PublishError(text) from error

    def tail(self, outbox: OutboxName) -> tuple[str, int] | None:
        """Find the last message of this outbox in its topic.

        Returns:
            Its id and the topic offset after it; None when the tail holds none (empty, or expired).
        """
        where = TopicPartition(self._topics[outbox], self._partition)
        consumer = self._consumer()
        try:
            low, high = consumer.get_watermark_offsets(where, ANSWER_WITHIN_S)
            length = FIRST_TAIL
            while high > low:
                start = max(low, high - length)
                last = self._last_id(consumer, where, start)
                if last is not None or start == low or length >= LONGEST_TAIL:
                    return last
                length *= 8
            return None
        finally:
            consumer.close()

    def _last_id(self, consumer: Consumer, where: TopicPartition, start: int) -> tuple[str, int] | None:
        found: tuple[str, int] | None = None
        for message in self._read(consumer, where, start):
            headers = dict(_headers(message))
            identifier = headers.get(ID_HEADER, b"").decode()
            mine = headers.get(GROUP_HEADER) == self._group.encode()
            # Not simply the last one: a store that was rolled back and a rebuild may have left ids out of order.
            if mine and identifier and (found is None or outbox_order(identifier) > outbox_order(found[0])):
                found = (identifier, (message.offset() or 0) + 1)
        return found

    def _read_again(self, entry: OutboxEntry) -> bytes:
        """Read the value of the input record that an outbox entry stands for."""
        offset = outbox_order(entry.id)[0]
        consumer = self._consumer()
        try:
            where = TopicPartition(self._records_topic, self._partition)
            for message in self._read(consumer, where, offset):
                if message.offset() == offset:
                    return message.value() or b""
                break
        finally:
            consumer.close()
        log.error(
            "a large record left the log before it was dead-lettered",
            partition=self._partition,
            offset=offset,
        )
        return b""

    def _consumer(self) -> Consumer:
        return Consumer(
            {
                **self._connection,
                "group.id": f"{self._group}.tail",
                "enable.auto.commit": False,
                "isolation.level": "read_committed",
                "enable.partition.eof": True,
                "auto.offset.reset": "earliest",
                "fetch.message.max.bytes": LARGEST_MESSAGE,
                "fetch.wait.max.ms": END_SHOWS_AFTER_MS,
                "log_level": 0,
            }
        )

    def _read(self, consumer: Consumer, where: TopicPartition, start: int) -> Any:
        """Yield messages from `start` to the end of the partition."""
        consumer.assign([TopicPartition(where.topic, where.partition, start)])
        while True:
            message = consumer.poll(ANSWER_WITHIN_S)
            if message is None:
                raise PublishError(
                    f"{where.topic}, partition {where.partition}: no answer in {ANSWER_WITHIN_S:g} s"
                )
            error = message.error()
            if error is None:
                yield message
            elif error.code() == KafkaError._PARTITION_EOF:
                return
            else:
                raise KafkaException(error)


def _checked(act: Callable[[Producer], None], producer: Producer) -> None:
    try:
        act(producer)
    except KafkaException as error:
        reason = error.args[0]
        if isinstance(reason, KafkaError) and reason.code() in FENCED_CODES:
            raise ProducerFencedError(str(reason)) from error
        raise PublishError(str(error)) from error


def _headers(message: Message) -> list[tuple[str, bytes]]:
    found: Any = message.headers() or []
    return [(name, value if isinstance(value, bytes) else b"") for name, value in found]


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
