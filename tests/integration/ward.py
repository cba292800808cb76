"""A ward for the worker's tests: sends numbers, runs workers, and compares what came out with a plain fold."""

from __future__ import annotations

import asyncio
import itertools
import os
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from confluent_kafka import Consumer, KafkaError, KafkaException, Message, Producer, TopicPartition

from streams.adapters.redis_store import AuditEntry, RedisStore, connect
from streams.adapters.topics import Topics
from streams.embedded.processes import Process
from streams.ports import OUTBOXES, OutboxName, RawRecord, StoreUnavailableError
from tests.fakes import fold

ROOT = Path(__file__).parents[2]
RUN = (
    "import sys; from streams.settings import load_settings; from streams.worker import run_worker; "
    "sys.exit(run_worker(load_settings()))"
)
PATIENTS = [f"p-{number}" for number in range(40)]
PARTITIONER = {"partitioner": "murmur2_random"}


@dataclass
class Ward:
    """One group with its topics on a Kafka and a Redis, and the workers that serve it."""

    bootstrap: str
    redis_url: str
    topics: Topics
    group: str
    directory: Path
    settings: Mapping[str, str] = field(default_factory=dict)
    cluster: bool = False
    workers: list[Process] = field(default_factory=list)
    _numbers: itertools.count[int] = field(default_factory=itertools.count)
    _looking: Consumer | None = None

    def worker(self, instance: str = "w1", **environment: str) -> Process:
        """Start a worker process with the fake pipeline."""
        topics_file = self.directory / "topics.yaml"
        topics_file.write_text(yaml.safe_dump(self.topics.model_dump()))
        own = {
            "KAFKA_BOOTSTRAP_SERVERS": self.bootstrap,
            "REDIS_URL": self.redis_url,
            "TWIN_REDIS__CLUSTER": str(self.cluster).lower(),
            "PYTHONPATH": str(ROOT),
            "TWIN_KAFKA__GROUP": self.group,
            "TWIN_KAFKA__INSTANCE_ID": instance,
            "TWIN_KAFKA__SESSION_TIMEOUT_SECONDS": "6",
            "TWIN_KAFKA__HEARTBEAT_INTERVAL_SECONDS": "0.5",
            "TWIN_KAFKA__BATCH_MAX_RECORDS": "100",
            "TWIN_WORKER__PIPELINE_FACTORY": "tests.fakes:create_fake_pipeline",
            "TWIN_WORKER__METRICS_PORT": "0",
            "TWIN_PATHS__TOPICS": str(topics_file),
        }
        log = self.directory / f"worker-{instance}-{len(self.workers)}.log"
        process = Process(
            f"worker {instance}",
            [sys.executable, "-c", RUN],
            log,
            environment={**os.environ, **own, **self.settings, **environment},
            directory=ROOT,
        )
        process.start()
        self.workers.append(process)
        return process

    def store(self) -> RedisStore:
        """Open the store, to be closed by the caller."""
        return RedisStore(connect(self.redis_url, cluster=self.cluster), self.group)

    def applied(self) -> int:
        """Sum of the store's positions: what shows progress."""
        return sum(self.position(partition) for partition in range(self.topics.partitions))

    def stop(self) -> None:
        """Kill every worker."""
        for worker in self.workers:
            worker.kill()

    def producer(self, **settings: str) -> Producer:
        """Make a producer that keeps order and reaches the murmur2 partition."""
        return Producer(
            {
                "bootstrap.servers": self.bootstrap,
                "log_level": 0,
                "enable.idempotence": True,
                **PARTITIONER,
                **settings,
            }
        )

    def send(self, count: int, producer: Producer | None = None, pause_s: float = 0.0) -> int:
        """Send the next `count` numbers, each to the next patient; how many the broker acknowledged."""
        producer = producer or self.producer()
        acknowledged = [0]

        def delivered(error: KafkaError | None, message: Message) -> None:
            acknowledged[0] += error is None

        for _ in range(count):
            number = next(self._numbers)
            patient = PATIENTS[number % len(PATIENTS)]
            producer.produce(self.topics.names.records, key=patient, value=str(number), on_delivery=delivered)
            producer.poll(0)
            if pause_s:
                time.sleep(pause_s)
        producer.flush(60)
        return acknowledged[0]

    def sending(self, count: int, pause_s: float) -> Sending:
        """Send in the background."""
        return Sending(self, count, pause_s)

    def read(self, topic: str, partition: int) -> list[Message]:
        """Read a partition from its first record to its end, as a read_committed subscriber does."""
        consumer = Consumer(
            {
                "bootstrap.servers": self.bootstrap,
                "group.id": f"{self.group}.check",
                "isolation.level": "read_committed",
                "enable.partition.eof": True,
                "enable.auto.commit": False,
                "auto.offset.reset": "earliest",
                "fetch.wait.max.ms": 10,
                "log_level": 0,
            }
        )
        consumer.assign([TopicPartition(topic, partition, 0)])
        messages = []
        try:
            while True:
                message = consumer.poll(20)
                assert message is not None, f"{topic} {partition}: no end within 20 s"
                error = message.error()
                if error is None:
                    messages.append(message)
                elif error.code() == KafkaError._PARTITION_EOF:
                    return messages
                elif not error.retriable():
                    raise KafkaException(error)
        finally:
            consumer.close()

    def records(self, partition: int) -> list[RawRecord]:
        """Read the input partition."""
        return [
            RawRecord(message.offset() or 0, 0, message.key(), message.value(), ())
            for message in self.read(self.topics.names.records, partition)
        ]

    def end(self, partition: int) -> int:
        """Give the end of the input partition, markers included."""
        if self._looking is None:
            self._looking = Consumer({"bootstrap.servers": self.bootstrap, "group.id": "end", "log_level": 0})
        where = TopicPartition(self.topics.names.records, partition)
        return self._looking.get_watermark_offsets(where, 20)[1]

    def position(self, partition: int) -> int:
        """Give the store's position, -1 before the first acquire or while Redis is away."""

        async def ask() -> int:
            store = self.store()
            try:
                meta, _ = await store.read_counters(partition)
                return -1 if meta is None else meta.position
            except StoreUnavailableError:
                return -1
            finally:
                await store.close()

        return asyncio.run(ask())

    def waiting(self) -> int:
        """Count the messages in all outboxes."""

        async def ask() -> int:
            store = self.store()
            try:
                return sum(
                    [
                        await store.outbox_length(partition, outbox)
                        for partition in range(self.topics.partitions)
                        for outbox in OUTBOXES
                    ]
                )
            except StoreUnavailableError:
                return -1
            finally:
                await store.close()

        return asyncio.run(ask())

    def settled(self, waiting: int = 0) -> bool:
        """Say whether every record is applied, and so many messages wait in the outboxes."""
        partitions = range(self.topics.partitions)
        return (
            all(self.position(number) == self.end(number) for number in partitions)
            and self.waiting() == waiting
        )

    def settle(self, within_s: float = 40.0) -> float:
        """Wait until all is applied and published; the seconds it took."""
        return wait_until(self.settled, within_s, "settled", self.workers)

    def committed(self) -> dict[int, int]:
        """Give what Kafka holds of the group, by partition; -1001 where nothing was committed."""
        consumer = Consumer({"bootstrap.servers": self.bootstrap, "group.id": self.group, "log_level": 0})
        try:
            places = [TopicPartition(self.topics.names.records, n) for n in range(self.topics.partitions)]
            return {place.partition: place.offset for place in consumer.committed(places, timeout=20)}
        finally:
            consumer.close()

    def check(self) -> None:
        """Compare twins, counters, applied ranges and both output topics with a plain fold of the log.

        And who applied what: nobody after a later owner had; and Kafka's committed offset is never ahead of Redis.
        """

        async def ask() -> None:
            store = self.store()
            try:
                for partition, committed in self.committed().items():
                    await self._check_partition(store, partition)
                    meta, _ = await store.read_counters(partition)
                    assert meta is not None
                    assert committed <= meta.position, f"partition {partition}: Kafka is ahead of Redis"
            finally:
                await store.close()

        asyncio.run(ask())

    async def _check_partition(self, store: RedisStore, partition: int) -> None:
        records = self.records(partition)
        expected = fold(records, partition, self.topics.partitions)
        found = await store.recall(partition, PATIENTS)
        twins = {
            patient: stored.twin.canonical for patient, stored in found.items() if stored.twin is not None
        }
        assert twins == expected.twins
        _, counters = await store.read_counters(partition)
        assert counters.get("records", 0) == len(records)
        audit = await store.audit(partition)
        require_one_owner_at_a_time(audit)
        applied = [(entry.begin, entry.end) for entry in audit]
        starts = [0, *(end for _, end in applied)]
        assert [begin for begin, _ in applied] == starts[:-1], "applied ranges do not tile the log"
        assert starts[-1] == self.end(partition)
        topics: dict[OutboxName, str] = {
            "risk": self.topics.names.risk,
            "dead_letters": self.topics.names.dead_letters,
        }
        large = {record.offset: record.value for record in records}
        for outbox, topic in topics.items():
            messages = self.read(topic, partition)
            published = [(_outbox_id(m), m.key(), m.value()) for m in messages]
            wanted = [
                (m.id, m.key, m.value if m.value is not None else large[int(m.id.split("-")[0])])
                for m in expected.outgoing
                if m.topic == outbox
            ]
            assert published == wanted, f"{topic}, partition {partition}"
            if outbox == "risk":
                meta, _ = await store.read_counters(partition)
                assert meta is not None
                last = max(((m.offset() or 0) + 1 for m in messages), default=0)
                assert meta.risk_topic_position == last


def require_one_owner_at_a_time(audit: Sequence[AuditEntry]) -> None:
    """Check that nobody applied a batch after a later owner had."""
    epochs = [entry.epoch for entry in audit]
    assert epochs == sorted(epochs), "a write after being fenced"
    assert len({(entry.epoch, entry.owner) for entry in audit}) == len(set(epochs)), "two owners of one epoch"


def _outbox_id(message: Message) -> str:
    headers: Any = dict(message.headers() or [])
    return str(headers["twin-outbox"].decode())


class Sending(threading.Thread):
    """Sends at a pace while the test breaks things."""

    def __init__(self, ward: Ward, count: int, pause_s: float) -> None:
        super().__init__(daemon=True)
        self._ward, self._count, self._pause_s = ward, count, pause_s
        self.acknowledged = 0
        self.start()

    def run(self) -> None:
        """Send."""
        self.acknowledged = self._ward.send(self._count, pause_s=self._pause_s)

    def done_by_now(self) -> bool:
        """Whether all is sent."""
        return not self.is_alive()

    def done(self, within_s: float = 60.0) -> int:
        """Wait for the end; how many were acknowledged."""
        self.join(within_s)
        assert not self.is_alive(), "still sending"
        return self.acknowledged


def wait_until(
    done: Callable[[], bool], within_s: float, what: str, workers: list[Process] | None = None
) -> float:
    """Wait for a condition; the seconds it took."""
    began = time.monotonic()
    while True:
        with suppress(KafkaException):
            if done():
                return time.monotonic() - began
        if time.monotonic() - began > within_s:
            tails = "\n".join(worker.tail(15) for worker in workers or [])
            raise AssertionError(f"not {what} after {within_s:g} s\n{tails}")
        time.sleep(0.05)
