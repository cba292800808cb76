"""Rows of the fault matrix on the real pipeline: inject, heal, and compare every byte with the oracle."""

from __future__ import annotations

import asyncio
import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable

import pytest
from confluent_kafka import KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient, NewPartitions

from streams.adapters.redis_store import RedisStore, connect
from streams.codec import partition_of
from streams.ports import Claim, StaleClaimError
from tests.integration.acceptance.invariants import require_invariants
from tests.integration.acceptance.records import disturbed, kind_of
from tests.integration.acceptance.test_recovery import require_within
from tests.integration.acceptance.unhurried import UNHURRIED_RECORDS, UNHURRIED_S
from tests.integration.acceptance.ward import (
    PATIENCE_S,
    OpenWard,
    SmallWard,
    Undisturbed,
    require_same,
)
from tests.integration.test_worker import set_topic
from tests.integration.ward import wait_until

Record = Callable[[str, object], None]
THIRD = len(disturbed().arrival) // 3
GROWS_WITHIN_S = 10.0


@pytest.mark.row("3")
def test_acquire_of_a_zombie_that_comes_late_harms_nothing(wards: OpenWard, dice: random.Random) -> None:
    ward = wards()
    ward.start()
    telling = ward.telling(disturbed().arrival)
    ward.reach(THIRD)

    async def late(generation_less: int) -> None:
        store = RedisStore(connect(ward.redis_url), ward.group)
        try:
            for partition in range(ward.topics.partitions):
                meta, _ = await store.read_counters(partition)
                assert meta is not None
                zombie = Claim(meta.generation - generation_less, "zombie", "zombie", meta.fingerprint)
                await store.acquire(partition, zombie, 0)
        finally:
            await store.close()

    with pytest.raises(StaleClaimError):  # of an earlier generation
        asyncio.run(late(1))
    asyncio.run(late(0))  # of this one: static membership does not change it
    telling.done()
    require_invariants(ward)
    assert ward.workers[0].log.read_text().count('"fenced"') >= 1


@pytest.mark.row("10")
def test_records_sent_twice_and_a_group_set_back_change_nothing(
    undisturbed: Undisturbed, wards: OpenWard, dice: random.Random
) -> None:
    ward = wards()
    arrival = list(disturbed().arrival)
    worker = ward.start()
    ward.tell(arrival[:THIRD])
    ward.tell(dice.sample(arrival[:THIRD], THIRD // 10))
    wait_until(ward.at_end, PATIENCE_S, "applied", ward.workers)
    worker.stop()
    rewind(ward)
    worker.start()
    ward.tell(arrival[THIRD:])
    ward.tell(dice.sample(arrival, len(arrival) // 10))
    outcome = require_invariants(ward)

    assert outcome.counts["duplicate"] > undisturbed.outcome.counts["duplicate"]
    require_same(outcome, undisturbed.outcome)


def rewind(ward: SmallWard) -> None:
    """Set the group's committed offsets to the beginning."""
    from confluent_kafka import Consumer

    consumer = Consumer({"bootstrap.servers": ward.bootstrap, "group.id": ward.group, "log_level": 0})
    places = [TopicPartition(ward.topics.names.records, n, 0) for n in range(ward.topics.partitions)]

    def done() -> bool:
        try:
            consumer.commit(offsets=places, asynchronous=False)
        except KafkaException:  # the member that left is still known
            return False
        return True

    wait_until(done, PATIENCE_S, "rewound")
    consumer.close()
    assert set(ward.committed().values()) == {0}


@pytest.mark.row("17")
@pytest.mark.alone
@pytest.mark.timeout(400)
def test_workers_that_come_and_go_during_a_replay_double_nothing_and_never_hold_it_up(
    wards: OpenWard, dice: random.Random, thorough: bool, record_property: Record
) -> None:
    ward = wards()
    slow = {
        "TWIN_WORKER__PIPELINE_FACTORY": "tests.integration.acceptance.unhurried:create_unhurried_pipeline",
        "TWIN_KAFKA__BATCH_MAX_RECORDS": str(UNHURRIED_RECORDS),
    }
    for _ in range(4):  # again and again the same records: some minutes at this pace
        ward.tell(disturbed().arrival)
    lasting = ward.start("w1", **slow)
    ward.reach(1)
    growth = Growth(ward)
    for number in range(6 if thorough else 2):
        other = ward.start(f"w{2 + number % 2}", **slow)
        wait_until(lambda: '"acquired"' in other.log.read_text(), PATIENCE_S, "acquired", ward.workers)  # noqa: B023
        time.sleep(dice.uniform(0.0, 2 * UNHURRIED_S))  # anywhere in a batch
        other.stop() if number % 2 else other.kill()
    standstill_s = growth.longest_standstill_s()
    record_property("longest_standstill_s", standstill_s)
    assert ward.positions() < ward.sent, "the replay was over before the last had gone"
    require_within(GROWS_WITHIN_S, [standstill_s])
    lasting.stop()
    ward.start("w1")  # the rest at full speed
    require_invariants(ward)


class Growth(threading.Thread):
    """Watches the positions of a ward: how long they stand still at most, and that they never go back."""

    def __init__(self, ward: SmallWard) -> None:
        super().__init__(name="growth", daemon=True)
        self._ward = ward
        self._over = threading.Event()
        self._fell: tuple[int, int] | None = None
        self._longest_s = 0.0
        self.start()

    def run(self) -> None:
        """Look several times a second."""
        stands, since = self._ward.positions(), time.monotonic()
        while not self._over.wait(0.2):
            now = self._ward.positions()
            if now < stands:
                self._fell = (stands, now)
            if now != stands:
                stands, since = now, time.monotonic()
            self._longest_s = max(self._longest_s, time.monotonic() - since)

    def longest_standstill_s(self) -> float:
        """Stop watching; the longest time without an applied record."""
        self._over.set()
        self.join()
        assert self._fell is None, self._fell
        return round(self._longest_s, 1)


@pytest.mark.row("23")
def test_deleted_group_is_not_fenced_out_for_ever(wards: OpenWard, dice: random.Random) -> None:
    ward = wards()
    arrival = disturbed().arrival
    worker = ward.start()
    ward.tell(arrival[:THIRD])
    ward.reach(THIRD)
    worker.stop()
    admin = AdminClient({"bootstrap.servers": ward.bootstrap, "log_level": 0})

    def deleted() -> bool:
        try:
            admin.delete_consumer_groups([ward.group])[ward.group].result(10)
        except KafkaException:  # the static member is remembered for its session timeout
            return False
        return True

    wait_until(deleted, PATIENCE_S, "deleted")
    worker.start()
    ward.tell(arrival[THIRD:])
    require_invariants(ward)


@pytest.mark.row("24")
def test_added_partitions_are_refused_with_a_reason(wards: OpenWard, dice: random.Random) -> None:
    ward = wards()
    worker = ward.start()
    ward.tell(disturbed().arrival[:THIRD])
    ward.reach(THIRD)
    worker.stop()
    admin = AdminClient({"bootstrap.servers": ward.bootstrap, "log_level": 0})
    name = ward.topics.names.records
    admin.create_partitions([NewPartitions(name, 6)])[name].result(20)
    worker.start()
    assert worker.wait(60) == 78
    assert "partitions" in worker.tail()


@pytest.mark.row("25")
def test_risk_topic_that_takes_nothing_pauses_the_intake_and_loses_nothing(
    wards: OpenWard, dice: random.Random
) -> None:
    ward = wards()
    risk = ward.topics.names.risk
    limit = ward.topics.settings["max.message.bytes"]
    worker = ward.start(TWIN_WORKER__OUTBOX_MAX_MESSAGES="5")
    wait_until(lambda: '"acquired"' in worker.tail(200), PATIENCE_S, "acquired", [worker])
    set_topic(ward, risk, "max.message.bytes", "200")
    ward.tell(disturbed().arrival)
    wait_until(lambda: ward.waiting() >= 5, PATIENCE_S, "outbox grown", ward.workers)
    time.sleep(5)  # what can go on has: partitions whose outbox has room
    stands, waiting = ward.positions(), ward.waiting()
    time.sleep(2)
    assert (ward.positions(), ward.waiting()) == (stands, waiting), "the intake does not pause"
    assert stands < ward.sent
    assert not any(ward.read(risk, number) for number in range(ward.topics.partitions))
    assert worker.running
    set_topic(ward, risk, "max.message.bytes", limit)
    require_invariants(ward)


@pytest.mark.row("header")
def test_header_whose_name_is_not_utf8_is_a_dead_letter_and_stops_nobody(
    wards: OpenWard, dice: random.Random
) -> None:
    ward = wards()
    arrival = disturbed().arrival
    worker = ward.start()
    ward.tell(arrival[:THIRD])
    sent = [record for record in arrival if kind_of(record) == "lab"][:3]
    for record in sent:
        send_with_bad_header(ward, record.patient, record.value)
        ward.tell(arrival[THIRD : THIRD + 5])
    ward.tell(arrival[THIRD + 5 :])
    outcome = require_invariants(ward)
    assert outcome.counts["dead_letters.bad_header"] == len(sent)
    assert worker.log.read_text().count('"acquired"') == ward.topics.partitions


def send_with_bad_header(ward: SmallWard, key: str, value: bytes) -> None:
    """Send what no client library sends willingly: aiokafka's plain encoder and a name that encodes itself."""
    environment = {**os.environ, "AIOKAFKA_NO_EXTENSIONS": "1"}
    partition = partition_of(key.encode(), ward.topics.partitions)
    arguments = [ward.bootstrap, ward.topics.names.records, str(partition), key, value.decode()]
    subprocess.run([sys.executable, "-c", BAD_HEADER, *arguments], env=environment, check=True, timeout=60)


BAD_HEADER = """
import asyncio, sys
from aiokafka import AIOKafkaProducer

class Name(str):
    def encode(self, *how):
        return b"bad\\xff\\xfe"

async def send(bootstrap, topic, partition, key, value):
    async with AIOKafkaProducer(bootstrap_servers=bootstrap) as producer:
        await producer.send_and_wait(
            topic, value.encode(), key.encode(), int(partition), headers=[(Name("x"), b"v")]
        )

asyncio.run(send(*sys.argv[1:]))
"""
