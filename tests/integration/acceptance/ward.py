"""A ward whose workers run the real pipeline, and what is asked of a whole run.

`SmallWard` runs workers as `Ward` does and adds what is asked of a whole run: the twins and their digest, the events as
an independent kafka-python subscriber hears them, the standing episodes, and whether the batches tile the log.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import threading
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import kafka
import redis
from confluent_kafka import Consumer, Producer, TopicPartition

from streams.adapters.redis_store import PartitionKeys
from streams.adapters.topics import create_topics, read_topics
from streams.demo.ledger import read_ledger
from streams.demo.plan import DemoRecord
from streams.demo.replay import read_partition
from streams.oracle import Account, Oracle
from streams.ports import StoreUnavailableError
from streams.releases import Releases
from tests.integration.acceptance.records import BY_KEY, Bad, library
from tests.integration.ward import ROOT, Ward, wait_until
from twinstate.digest import digest_of
from twinstate.library import Library

BATCH_RECORDS = 25
PATIENCE_S = 120.0
PIPELINE = "streams.pipeline:create_pipeline"

_numbers = itertools.count(1)


class Event(NamedTuple):
    """A risk event as a subscriber hears it."""

    id: str
    patient: str
    episode: str
    revision: int
    type: str


@dataclass(frozen=True)
class Outcome:
    """What a worker made of a log.

    Attributes:
        twins: Canonical bytes by patient.
        standing: By episode, the revision the store holds of it.
        counts: The partitions' counters, summed.
        events: By partition, in the order of the topic.
    """

    twins: dict[str, bytes]
    standing: dict[str, int]
    counts: Counter[str]
    events: dict[int, list[Event]]

    @property
    def digest(self) -> str:
        """SHA-256 (hex) over the canonical twins."""
        return digest_of(self.twins)

    @property
    def event_ids(self) -> dict[int, list[str]]:
        """CloudEvents ids by partition, in order."""
        return {partition: [event.id for event in events] for partition, events in self.events.items()}


@dataclass
class SmallWard(Ward):
    """A ward whose workers run the real pipeline."""

    sent: int = 0
    releases: Releases | None = None
    _producer: Producer | None = field(default=None, repr=False)

    def start(self, instance: str = "w1", **environment: str) -> Any:
        """Start a worker with the real pipeline and batches so small that a log makes many."""
        real = {
            "TWIN_WORKER__PIPELINE_FACTORY": PIPELINE,
            "TWIN_KAFKA__BATCH_MAX_RECORDS": str(BATCH_RECORDS),
        }
        return self.worker(instance, **{**real, **environment})

    def tell(
        self, records: Iterable[DemoRecord], producer: Producer | None = None, partition: int = BY_KEY
    ) -> None:
        """Publish records in this order and wait until all are acknowledged.

        Args:
            records: What to publish.
            producer: Another one than the ward's own.
            partition: Where to, right or wrong.
        """
        if self._producer is None:
            self._producer = self.producer()
        producer = producer or self._producer
        failures: list[str] = []

        def delivered(error: Any, message: Any) -> None:
            if error is not None:
                failures.append(str(error))

        for record in records:
            producer.produce(
                self.topics.names.records,
                key=record.patient,
                value=record.value,
                on_delivery=delivered,
                partition=partition,
            )
            producer.poll(0)
            self.sent += 1
        assert producer.flush(60) == 0, "records wait for an acknowledgement"
        assert failures == []

    def tell_bad(self, bad: Bad) -> tuple[int, int]:
        """Publish one bad record; the partition and offset where it lies."""
        places: list[tuple[int, int]] = []

        def delivered(error: Any, message: Any) -> None:
            assert error is None, f"{bad.name}: {error}"
            places.append((message.partition(), message.offset()))

        producer = self.producer(**{"message.max.bytes": "4194304"})
        producer.produce(
            self.topics.names.records,
            key=bad.key,
            value=bad.value,
            headers=[("sent-by", b"ward-7")],
            on_delivery=delivered,
            partition=bad.partition,
        )
        producer.flush(60)
        [place] = places
        return place

    def tell_raw(self, keyed: Iterable[tuple[str, bytes]], partition: int) -> list[int]:
        """Publish bodies as they are to one partition; the offset of each, in order."""
        places: list[int] = []

        def delivered(error: Any, message: Any) -> None:
            assert error is None, error
            places.append(message.offset())

        producer = self.producer(**{"message.max.bytes": "8388608"})
        for key, value in keyed:
            producer.produce(
                self.topics.names.records, key=key, value=value, on_delivery=delivered, partition=partition
            )
            producer.poll(0)
        assert producer.flush(60) == 0, "records wait for an acknowledgement"
        return places

    def telling(self, records: Sequence[DemoRecord]) -> Telling:
        """Publish in the background, never far ahead of the worker."""
        return Telling(self, records)

    def positions(self) -> int:
        """Sum of the store's positions; 0 while it is away."""
        found = self._stands(range(self.topics.partitions))
        return 0 if found is None else sum(max(0, position) for position in found)

    def position(self, partition: int) -> int:
        """Give the store's position, -1 before the first acquire or while its Redis is away."""
        found = self._stands([partition])
        return -1 if found is None else found[0]

    def _stands(self, partitions: Iterable[int]) -> list[int] | None:
        keys = [PartitionKeys(self.group, number).meta for number in partitions]
        kind = redis.RedisCluster if self.cluster else redis.Redis
        try:
            with kind.from_url(self.redis_url, socket_timeout=5) as client:
                return [-1 if (found := client.hget(key, "next")) is None else int(found) for key in keys]
        except (redis.RedisError, redis.exceptions.RedisClusterException):
            return None

    def reach(self, count: int) -> float:
        """Wait until the positions of the store add up to this much; the seconds it took."""
        return wait_until(lambda: self.positions() >= count, PATIENCE_S, f"at {count}", self.workers)

    def at_end(self) -> bool:
        """Say whether the store stands at the end of the log with empty outboxes."""
        partitions = range(self.topics.partitions)
        try:
            ledger = read_ledger(self.redis_url, self.group, self.topics.partitions, cluster=self.cluster)
        except StoreUnavailableError:
            return False
        return ledger.waiting == 0 and all(
            ledger.positions.get(number, -1) == self.end(number) for number in partitions
        )

    def finish(self) -> Outcome:
        """Wait for the end of the log, stop the workers, and give what they made of it."""
        wait_until(self.at_end, PATIENCE_S, "at the end of the log", self.workers)
        outcome = self.outcome()
        for worker in self.workers:
            if worker.exit_status is None:
                worker.kill()
        self.require_tiled()
        return outcome

    def outcome(self) -> Outcome:
        """Read twins, standing episodes, counters and events as they are now."""
        ledger = read_ledger(
            self.redis_url, self.group, self.topics.partitions, with_twins=True, cluster=self.cluster
        )
        rows = asyncio.run(self._standing())
        return Outcome(
            twins={patient: twin.canonical for patient, twin in ledger.twins.items()},
            standing={row["episode"]: row["revision"] for row in rows},
            counts=ledger.counts,
            events=self.heard(),
        )

    async def _standing(self) -> list[dict[str, Any]]:
        store = self.store()
        try:
            found = [await store.read_standing(number) for number in range(self.topics.partitions)]
        finally:
            await store.close()
        return [row for _, rows in found for listed in rows.values() for row in json.loads(listed)]

    def require_tiled(self) -> None:
        """Check that the batches applied tile the log: no offset twice, none left out."""

        async def ask() -> list[list[tuple[int, int]]]:
            store = self.store()
            try:
                found = [await store.audit(number) for number in range(self.topics.partitions)]
                return [[(entry.begin, entry.end) for entry in entries] for entries in found]
            finally:
                await store.close()

        for ranges in asyncio.run(ask()):
            ends = [0, *(end for _, end in ranges)]
            assert [begin for begin, _ in ranges] == ends[:-1]

    def heard(self) -> dict[int, list[Event]]:
        """Read the whole risk topic with kafka-python, `read_committed`, as a service that is not ours would."""
        topic = self.topics.names.risk
        ends = self.ends_of(topic)
        events: dict[int, list[Event]] = {number: [] for number in ends}
        consumer = kafka.KafkaConsumer(
            bootstrap_servers=self.bootstrap,
            isolation_level="read_committed",
            enable_auto_commit=False,
            group_id=None,
        )
        places = {number: kafka.TopicPartition(topic, number) for number in ends}
        consumer.assign(list(places.values()))
        consumer.seek_to_beginning(*places.values())
        deadline = time.monotonic() + PATIENCE_S
        try:
            while any(consumer.position(place) < ends[number] for number, place in places.items()):
                assert time.monotonic() < deadline, f"{topic} cannot be read to its end"
                for place, messages in consumer.poll(timeout_ms=100).items():
                    events[place.partition] += [_event(message) for message in messages]
        finally:
            consumer.close()
        return events

    def ends_of(self, topic: str) -> dict[int, int]:
        """Give the end of each partition, transaction markers included."""
        consumer = Consumer({"bootstrap.servers": self.bootstrap, "group.id": "end", "log_level": 0})
        try:
            places = [TopicPartition(topic, number) for number in range(self.topics.partitions)]
            return {place.partition: consumer.get_watermark_offsets(place, 20)[1] for place in places}
        finally:
            consumer.close()

    def foretold(self, models: Library | None = None) -> Account:
        """Tell the oracle the log as it stands, record by record; with the project's models, or other ones."""
        first = models or (library() if self.releases is None else self.releases.first)
        oracle = Oracle(first, self.topics.partitions, releases=self.releases)
        consumer = Consumer(
            {
                "bootstrap.servers": self.bootstrap,
                "group.id": "oracle",
                "enable.auto.commit": False,
                "isolation.level": "read_committed",
                "auto.offset.reset": "earliest",
                "log_level": 0,
            }
        )
        try:
            for number in range(self.topics.partitions):
                oracle.read(number, read_partition(consumer, self.topics.names.records, number))
        finally:
            consumer.close()
        return oracle.account()


class Undisturbed(NamedTuple):
    """The log that everything is compared with: who holds it, what a worker made of it, what the oracle says."""

    ward: SmallWard
    outcome: Outcome
    account: Account


class Telling(threading.Thread):
    """Publishes records in the background, never more than `AHEAD` of what the store has."""

    AHEAD = 60
    AT_ONCE = 5

    def __init__(self, ward: SmallWard, records: Sequence[DemoRecord]) -> None:
        super().__init__(name="telling", daemon=True)
        self._ward = ward
        self._records = records
        self._failure: Exception | None = None
        self.start()

    def run(self) -> None:
        """Publish all, or note why not."""
        try:
            for begin in range(0, len(self._records), self.AT_ONCE):
                self._ward.tell(self._records[begin : begin + self.AT_ONCE])
                wait_until(
                    lambda: self._ward.sent - self._ward.positions() <= self.AHEAD, PATIENCE_S, "caught up"
                )
        except Exception as failure:
            self._failure = failure

    def done(self) -> None:
        """Wait until every record is acknowledged."""
        self.join(PATIENCE_S)
        assert not self.is_alive(), "still publishing"
        if self._failure is not None:
            raise self._failure


class OpenWard(Protocol):
    """Opens wards whose workers end with the test."""

    def __call__(self, listens_to: SmallWard | None = None) -> SmallWard:
        """Make a group with topics of its own, or one that reads the records of another and answers elsewhere."""


def open_ward(
    bootstrap: str,
    redis_url: str,
    directory: Path,
    *,
    listens_to: SmallWard | None = None,
    copies: int = 1,
    cluster: bool = False,
) -> SmallWard:
    """Make a group with topics of its own, or one that reads the records of another and answers elsewhere."""
    group = f"acceptance-{os.getpid()}-{next(_numbers)}"
    topics = read_topics(ROOT / "config" / "topics.yaml").renamed(group)
    topics = topics.model_copy(update={"replication_factor": copies})
    if listens_to is not None:
        names = topics.names.model_copy(update={"records": listens_to.topics.names.records})
        topics = topics.model_copy(update={"names": names})
    create_topics({"bootstrap.servers": bootstrap}, topics)
    own = directory / group
    own.mkdir()
    return SmallWard(bootstrap, redis_url, topics, group, own, cluster=cluster)


def require_same(found: Outcome, expected: Outcome) -> None:
    """Check twins, digest, and event ids in their order; name the patients and events that differ."""
    differing = [
        patient
        for patient in sorted(found.twins.keys() | expected.twins.keys())
        if found.twins.get(patient) != expected.twins.get(patient)
    ]
    assert differing == []
    assert found.digest == expected.digest
    assert found.event_ids == expected.event_ids
    assert found.standing == expected.standing


def require_sound(outcome: Outcome) -> None:
    """Check what holds of every outcome: no event twice, and the topic tells the episodes that stand."""
    events = [event for partition in outcome.events.values() for event in partition]
    assert len({event.id for event in events}) == len(events)
    last: dict[str, Event] = {}
    for event in events:
        assert event.revision == (last[event.episode].revision + 1 if event.episode in last else 1)
        last[event.episode] = event
    heard = {event.episode: event.revision for event in last.values() if event.type in ("raised", "updated")}
    assert heard == outcome.standing


def _event(message: Any) -> Event:
    headers = {name: value.decode() for name, value in message.headers}
    body = json.loads(message.value)
    return Event(headers["ce_id"], body["patient"], body["episode"], body["revision"], body["type"])
