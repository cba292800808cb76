"""Faust bound to the commit protocol: whole fetches as messages, positions and commits from the store alone.

What differs from Faust's own transport, and why:

- One fetched list is one message: an agent handles 15,000 messages a second, whatever is in them.
- The only commits are the positions that the store confirmed. Faust's own bookkeeping of acknowledgements commits past
  messages in work (its issue 606), so topics of this transport are made with `acks=False`.
- The consumer reads `read_committed`, which Faust's at-least-once mode does not offer, and has no reset policy: a
  position that is not in the log stops the worker.
- The position after a fetch is taken in the same step of the consumer thread's loop as the records, and a counter of
  seeks with it, so that no batch can be mistaken for one of another position.
- Faust drops a message whose offset is lower than the last one's; ours carry a delivery number as offset, since a seek
  may lead back.

The overridden names are partly private: `check_faust` compares their signatures at every start.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
from collections.abc import Coroutine, Iterable, Mapping
from dataclasses import dataclass
from inspect import signature
from typing import Any, NamedTuple, Protocol, TypeVar, cast

# Faust's compiled streams have hung in rebalances; the plain ones cost nothing at one message a batch.
os.environ.setdefault("NO_CYTHON", "1")

import aiokafka
import confluent_kafka
import faust
from aiokafka.coordinator.assignors.roundrobin import RoundRobinPartitionAssignor
from aiokafka.errors import (
    ConsumerStoppedError,
    CorruptRecordException,
    KafkaError,
    NoOffsetForPartitionError,
    OffsetOutOfRangeError,
)
from aiokafka.structs import OffsetAndMetadata
from faust.tables.manager import TableManager
from faust.transport.consumer import Consumer as FaustConsumer
from faust.transport.consumer import ThreadDelegateConsumer
from faust.transport.drivers import aiokafka as driver
from faust.types import TP, ConsumerMessage

from streams.adapters.raw_records import read_again
from streams.partition import Fetched, IntakeError, LogLostError
from streams.ports import RawRecord

T = TypeVar("T")

log = logging.getLogger(__name__)

POLL_S = 0.2
# While a partition is at rest its data cannot wake the poll that leaves it out: look often.
SHORT_POLL_S = 0.01
ANSWER_WITHIN_S = 10.0
# What is asked on the same connection (the log's bounds, by a partition taken over) waits behind a fetch, twice.
FETCH_WAIT_MS = 100

# What is overridden, and the parameters it was written against (Faust 0.15.3, aiokafka 0.14).
EXPECTED: tuple[tuple[type, str, tuple[str, ...]], ...] = (
    (driver.Consumer, "_new_consumer_thread", ("self",)),
    (driver.Consumer, "_to_message", ("self", "tp", "record")),
    (ThreadDelegateConsumer, "_getmany", ("self", "active_partitions", "timeout")),
    (ThreadDelegateConsumer, "highwater", ("self", "tp")),
    (driver.Consumer, "verify_event_path", ("self", "now", "tp")),
    (FaustConsumer, "perform_seek", ("self",)),
    (FaustConsumer, "commit", ("self", "topics", "start_new_transaction")),
    (FaustConsumer, "on_partitions_revoked", ("self", "revoked")),
    (FaustConsumer, "on_partitions_assigned", ("self", "assigned", "generation_id")),
    (driver.AIOKafkaConsumerThread, "_create_worker_consumer", ("self", "transport")),
    (driver.AIOKafkaConsumerThread, "_ensure_consumer", ("self",)),
    (TableManager, "on_start", ("self",)),
    (TableManager, "_update_channels", ("self",)),
)


class Holder(Protocol):
    """Who is told what this worker holds, and takes the batches."""

    def connect(self, source: BatchConsumer) -> None:
        """Hear of the consumer, once Faust has made it."""

    def wants(self, partition: int) -> bool:
        """Say whether a batch of the partition may be fetched now."""

    def took(self, batch: Fetched) -> None:
        """Hear that a batch was fetched and is on its way through Faust."""

    async def assigned(self, partitions: frozenset[int], generation: int) -> None:
        """Hold exactly these partitions."""

    async def revoked(self) -> None:
        """Rest: a rebalance has begun."""

    def confirmed(self) -> Mapping[int, int]:
        """Give the store's position of each partition."""

    def failed(self, error: BaseException) -> None:
        """Hear of what the worker cannot go on from."""


@dataclass(frozen=True, slots=True)
class ConsumerOptions:
    """How the input is read.

    Attributes:
        arguments: Keyword arguments of an aiokafka client that reach the broker.
        connection: The same for librdkafka.
        topic: Input topic.
        group: Consumer group.
        instance: `group.instance.id` of static membership.
        session_timeout_s: Seconds without a heartbeat after which the group gives the partitions away.
        heartbeat_interval_s: Seconds between heartbeats.
        batch_records: Records of one batch at most.
        partition_fetch_bytes: Bytes of one partition in one fetch; a larger record still arrives, alone.
    """

    arguments: Mapping[str, Any]
    connection: Mapping[str, str]
    topic: str
    group: str
    instance: str
    session_timeout_s: float
    heartbeat_interval_s: float
    batch_records: int
    partition_fetch_bytes: int


class _Gate(NamedTuple):
    """A partition's reading: the counter of seeks and the position up to which batches were handed out."""

    seeks: int
    position: int


class BatchConsumerThread(driver.AIOKafkaConsumerThread):
    """Owns the aiokafka consumer; everything that touches it runs in this thread's loop."""

    def __post_init__(self) -> None:
        """Start without a position."""
        super().__post_init__()
        self._gates: dict[int, _Gate] = {}
        self._seeks = itertools.count(1)

    def _create_worker_consumer(self, transport: driver.Transport) -> aiokafka.AIOKafkaConsumer:
        options = cast(BatchConsumer, self.consumer).options
        return aiokafka.AIOKafkaConsumer(
            **options.arguments,
            client_id=f"{options.group}-{options.instance}",
            group_id=options.group,
            group_instance_id=options.instance,
            partition_assignment_strategy=[RoundRobinPartitionAssignor],
            enable_auto_commit=False,
            auto_offset_reset="none",
            isolation_level="read_committed",
            max_poll_records=options.batch_records,
            max_partition_fetch_bytes=options.partition_fetch_bytes,
            fetch_max_wait_ms=FETCH_WAIT_MS,
            session_timeout_ms=int(options.session_timeout_s * 1000),
            rebalance_timeout_ms=int(options.session_timeout_s * 1000),
            heartbeat_interval_ms=int(options.heartbeat_interval_s * 1000),
            request_timeout_ms=max(40_000, int(options.session_timeout_s * 1000) + 5_000),
            metadata_max_age_ms=30_000,
        )

    async def inside(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine in this thread's loop, from another."""
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(work, self.thread_loop))

    def shut(self) -> None:
        """Hand out nothing until the next seek."""
        self._gates.clear()

    async def seek_partition(self, partition: int, position: int) -> int:
        """Read on from `position`; the new seek counter."""
        self._ensure_consumer().seek(self._tp(partition), position)
        gate = _Gate(next(self._seeks), position)
        self._gates[partition] = gate
        return gate.seeks

    async def log_bounds(self, partition: int) -> tuple[int, int]:
        """Give the log's first retained offset and its end for a read_committed reader."""
        consumer, tp = self._ensure_consumer(), self._tp(partition)
        first = await consumer.beginning_offsets([tp])
        end = await consumer.end_offsets([tp])
        return first[tp], end[tp]

    async def poll(self, wanted: frozenset[int], timeout: float) -> list[Fetched]:
        """Fetch at most one batch of each wanted partition.

        Raises:
            OffsetOutOfRangeError: A position is not in the log.
        """
        consumer = self._ensure_consumer()
        fetcher = consumer._fetcher
        if consumer._closed or fetcher._closed:
            raise ConsumerStoppedError
        # Being here counts as a poll: a partition at rest, waiting for the store, must not cost the membership.
        with fetcher._subscriptions.fetch_context():
            tps = {self._tp(partition) for partition in wanted if partition in self._gates}
            if not tps:
                await asyncio.sleep(timeout)
                return []
            try:
                found = await fetcher.fetched_records(
                    tps, timeout=timeout, max_records=consumer._max_poll_records
                )
            except NoOffsetForPartitionError:
                return []  # a poll that began before a rebalance meets a partition before its seek
            except (CorruptRecordException, UnicodeDecodeError) as error:
                return await self._read_around(tps, error)
            except OffsetOutOfRangeError as error:
                if not any(self._stands(tp.partition, position) for tp, position in error.args[0].items()):
                    return []  # the hint in Kafka, tried before our seek
                raise
        # No await from here on: records, position and seek counter belong together.
        subscription = fetcher._subscriptions.subscription
        assignment = None if subscription is None else subscription.assignment
        batches = []
        for tp in tps:
            gate = self._gates.get(tp.partition)
            if gate is None or assignment is None or tp not in assignment.tps:
                continue
            state = assignment.state_value(tp)
            # Markers and aborted records move the position without a record: an empty batch says so.
            if not state.has_valid_position or state.position <= gate.position:
                continue
            records = tuple(_raw(record) for record in found.get(tp, ()))
            batches.append(Fetched(tp.partition, gate.seeks, gate.position, state.position, records))
            self._gates[tp.partition] = gate._replace(position=state.position)
        return batches

    async def _read_around(self, tps: Iterable[aiokafka.TopicPartition], error: Exception) -> list[Fetched]:
        """Read one batch of each partition by another client: a record among them cannot be parsed by this one.

        Such a record stands at the end of its batch, without headers, and is refused with its place.

        Raises:
            Exception: The error, when every header can be read: then the record is damaged, and must not be skipped.
        """
        consumer, options = self._ensure_consumer(), cast(BatchConsumer, self.consumer).options
        batches: list[Fetched] = []
        found = False
        for tp in tps:
            # What was fetched is half consumed, and would be taken for a hole.
            consumer._fetcher._records.pop(tp, None)
            gate = self._gates.get(tp.partition)
            if gate is None or not consumer._subscription.is_assigned(tp):
                continue
            consumer.seek(tp, gate.position)
            where = confluent_kafka.TopicPartition(tp.topic, tp.partition, gate.position)
            try:
                again = await asyncio.to_thread(read_again, options.connection, where, options.batch_records)
            except confluent_kafka.KafkaException as second:
                log.warning("a record cannot be parsed, nor read again now: %r, %r", error, second)
                return batches
            if self._gates.get(tp.partition) != gate or not consumer._subscription.is_assigned(tp):
                continue
            found = found or again.unreadable
            if again.records:
                consumer.seek(tp, again.end)
                self._gates[tp.partition] = gate._replace(position=again.end)
                batches.append(Fetched(tp.partition, gate.seeks, gate.position, again.end, again.records))
        if not found and batches:
            raise error
        return batches

    def _stands(self, partition: int, position: int) -> bool:
        gate = self._gates.get(partition)
        return gate is not None and gate.position == position

    async def hint(self, positions: Mapping[int, int]) -> None:
        """Commit positions to Kafka: for tools that show lag, and for nothing else."""
        consumer = self._ensure_consumer()
        held = consumer.assignment()
        offsets = {
            self._tp(partition): OffsetAndMetadata(position, "")
            for partition, position in positions.items()
            if self._tp(partition) in held
        }
        if offsets:
            await consumer.commit(offsets)

    def _tp(self, partition: int) -> aiokafka.TopicPartition:
        return aiokafka.TopicPartition(cast(BatchConsumer, self.consumer).options.topic, partition)


class BatchConsumer(driver.Consumer):
    """Faust's consumer with the store's positions; it is also the processors' Intake."""

    _thread: BatchConsumerThread
    options: ConsumerOptions
    holder: Holder

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        transport = cast(BatchTransport, args[0])
        self.options = transport.options
        self.holder = transport.holder
        self._deliveries = itertools.count(1)
        self._assigned: frozenset[int] | None = None
        self._generation = -1
        self._hinted: dict[int, int] = {}
        super().__init__(*args, **kwargs)
        self.holder.connect(self)

    def _new_consumer_thread(self) -> BatchConsumerThread:
        return BatchConsumerThread(self, loop=self.loop, beacon=self.beacon)

    async def _getmany(self, active_partitions: set[TP] | None, timeout: float) -> Any:
        active = {tp.partition for tp in active_partitions or ()}
        wanted = frozenset(partition for partition in active if self.holder.wants(partition))
        try:
            batches = await self._thread.inside(
                self._thread.poll(wanted, POLL_S if wanted == active else SHORT_POLL_S)
            )
        except OffsetOutOfRangeError as error:
            self.holder.failed(_out_of_range(error))
            return {}
        for batch in batches:
            self.holder.took(batch)
        return {TP(self.options.topic, batch.partition): [batch] for batch in batches}

    def _to_message(self, tp: TP, record: Any) -> ConsumerMessage:
        return ConsumerMessage(
            tp.topic, tp.partition, next(self._deliveries), 0.0, 0, None, None, record, None, 0, 0, tp,
            generation_id=self.app.consumer_generation_id,
        )  # fmt: skip

    def highwater(self, tp: TP) -> int:
        """Give nothing: Faust's monitor asks before each message, even of a partition just taken away."""
        return 0

    def verify_event_path(self, now: float, tp: TP) -> None:
        """Do nothing: progress is watched by the worker, and Faust's view of it is made of acknowledgements."""

    async def perform_seek(self) -> None:
        """Let the processors acquire and seek: Faust calls this after every assignment, before it resumes."""
        if self._assigned is not None:
            await self.holder.assigned(self._assigned, self._generation)

    async def on_partitions_revoked(self, revoked: set[TP]) -> None:
        """Rest until the next assignment; an instance id that was taken ends the process here, before a rejoin."""
        self._assigned = None
        self._thread.thread_loop.call_soon_threadsafe(self._thread.shut)
        self._hinted.clear()
        await self.holder.revoked()
        await super().on_partitions_revoked(revoked)

    async def on_partitions_assigned(self, assigned: set[TP], generation_id: int = 0) -> None:
        """Note what is ours from now on; the processors start with `perform_seek`."""
        self._assigned = frozenset(tp.partition for tp in assigned)
        self._generation = generation_id
        await super().on_partitions_assigned(assigned, generation_id)
        if not assigned:
            await self.holder.assigned(frozenset(), generation_id)

    async def commit(self, topics: Any = None, start_new_transaction: bool = True) -> bool:
        """Commit what the store confirmed; a hint, so a failure is only logged."""
        positions = {
            partition: position
            for partition, position in self.holder.confirmed().items()
            if self._hinted.get(partition) != position
        }
        if not positions or self._assigned is None:
            return False
        try:
            async with asyncio.timeout(ANSWER_WITHIN_S):
                await self._thread.inside(self._thread.hint(positions))
        except (KafkaError, TimeoutError) as error:
            self.log.info("offsets not committed, which costs nothing: %r", error)
            return False
        self._hinted.update(positions)
        return True

    async def bounds(self, partition: int) -> tuple[int, int]:
        """See `streams.partition.Intake`."""
        return await self._asked(self._thread.log_bounds(partition))

    async def seek_to(self, partition: int, position: int) -> int:
        """See `seek` of `streams.partition.Intake`; Faust has a `seek` of its own."""
        return await self._asked(self._thread.seek_partition(partition, position))

    async def _asked(self, work: Coroutine[Any, Any, T]) -> T:
        try:
            async with asyncio.timeout(ANSWER_WITHIN_S):
                return await self._thread.inside(work)
        except (KafkaError, TimeoutError) as error:
            raise IntakeError(f"Kafka does not answer: {error!r}") from error


class SilentProducer(driver.Producer):
    """Connects to nothing: this application publishes from the outboxes, never through Faust."""

    async def on_start(self) -> None:
        """Do nothing."""

    async def on_stop(self) -> None:
        """Do nothing."""

    async def flush(self) -> None:
        """Do nothing."""


class BatchTransport(driver.Transport):
    """Makes the consumer above; set as `app.transport` before the agents start."""

    Consumer = BatchConsumer
    Producer = SilentProducer

    def __init__(self, app: faust.App, options: ConsumerOptions, holder: Holder) -> None:
        super().__init__([], app)
        self.options = options
        self.holder = holder


class BatchSchema(faust.Schema[Any, Any]):
    """Hands a batch to the agent as it is."""

    def loads_key(self, app: Any, message: Any, **kwargs: Any) -> None:
        """Give no key: a batch holds many."""

    def loads_value(self, app: Any, message: Any, **kwargs: Any) -> Fetched:
        """Give the batch."""
        return cast(Fetched, message.value)


def check_faust() -> None:
    """Check that what is overridden still has the form it was written against.

    Raises:
        RuntimeError: It has not: another version of Faust is installed.
    """
    changed = [
        f"{owner.__name__}.{name}{signature(getattr(owner, name))}"
        for owner, name, parameters in EXPECTED
        if tuple(signature(getattr(owner, name)).parameters) != parameters
    ]
    if changed:
        raise RuntimeError(
            f"faust-streaming {faust.__version__} is not the version this worker was written against: "
            f"{', '.join(changed)} changed. Install the version that pyproject.toml names."
        )


def _raw(record: Any) -> RawRecord:
    return RawRecord(
        record.offset, record.timestamp * 1_000_000, record.key, record.value, tuple(_headers(record.headers))
    )


def _headers(headers: Iterable[tuple[str, bytes | None]]) -> Iterable[tuple[str, bytes]]:
    return ((name, value or b"") for name, value in headers)


def _out_of_range(error: OffsetOutOfRangeError) -> LogLostError:
    positions: dict[Any, int] = error.args[0]
    where = ", ".join(f"partition {tp.partition} at offset {position}" for tp, position in positions.items())
    return LogLostError(
        f"{where or error!r}: not in the log any more. Retention has passed the worker, or the topic was made anew; "
        "nothing was skipped. Restore the records, or a Redis that had applied them; or begin with an empty Redis and "
        "what the log has"
    )


__all__ = [
    "BatchConsumer",
    "BatchSchema",
    "BatchTransport",
    "ConsumerOptions",
    "Holder",
    "check_faust",
]
