"""Rows of the fault matrix on the real pipeline: inject, heal, and compare every byte with the oracle."""

from __future__ import annotations

import asyncio
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
import redis
from confluent_kafka import KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient, NewPartitions

from streams.adapters.redis_store import RedisStore, connect
from streams.codec import partition_of
from streams.embedded import EmbeddedKafka, EmbeddedRedis
from streams.ports import Claim, StaleClaimError
from tests.integration.acceptance.invariants import committed_offsets, require_invariants
from tests.integration.acceptance.records import disturbed, kind_of
from tests.integration.acceptance.test_recovery import require_recovered
from tests.integration.acceptance.unhurried import UNHURRIED_RECORDS, UNHURRIED_S
from tests.integration.acceptance.ward import PATIENCE_S, OpenWard, SmallWard, open_ward
from tests.integration.proxy import TROUBLES, Proxy, trouble_on
from tests.integration.test_worker import set_topic
from tests.integration.ward import wait_until

Record = Callable[[str, object], None]
THIRD = len(disturbed().arrival) // 3


@pytest.fixture
def fragile(
    kafka: EmbeddedKafka, private_redis: EmbeddedRedis, tmp_path: Path
) -> Iterator[tuple[SmallWard, EmbeddedRedis]]:
    """Give a ward whose Redis may be broken."""
    ward = open_ward(kafka.bootstrap, private_redis.url, tmp_path)
    yield ward, private_redis
    ward.stop()


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


@pytest.mark.row("6")
def test_torn_append_only_file_is_healed(
    fragile: tuple[SmallWard, EmbeddedRedis], dice: random.Random
) -> None:
    ward, store = fragile
    worker = ward.start()
    arrival = disturbed().arrival
    ward.tell(arrival[: 2 * THIRD])
    ward.reach(2 * THIRD)
    store.kill()
    [log] = (store.directory / "data" / "appendonlydir").glob("*.incr.aof")
    size = log.stat().st_size
    os.truncate(log, dice.randrange(size // 2, size - 1))
    store.start()
    # No record follows at first: an idle worker finds it out by itself.
    wait_until(ward.at_end, PATIENCE_S, "healed", ward.workers)
    assert "store stands elsewhere" in worker.log.read_text() or '"fenced"' in worker.log.read_text()
    ward.tell(arrival[2 * THIRD :])
    require_invariants(ward)


@pytest.mark.row("22")
def test_emptied_redis_becomes_what_it_was_though_no_record_follows(
    fragile: tuple[SmallWard, EmbeddedRedis], dice: random.Random
) -> None:
    ward, store = fragile
    ward.start()
    ward.tell(disturbed().arrival)
    wait_until(ward.at_end, PATIENCE_S, "applied", ward.workers)
    before = ward.outcome()
    with redis.Redis.from_url(store.url) as client:
        client.flushall()
    assert ward.positions() < ward.sent
    after = require_invariants(ward)
    assert (after.twins, after.event_ids) == (before.twins, before.event_ids)


@pytest.mark.row("7")
@pytest.mark.long
@pytest.mark.parametrize("how", ["stopped", "refused"])
def test_redis_away_for_30_s_costs_neither_membership_nor_processor(
    fragile: tuple[SmallWard, EmbeddedRedis], how: str, dice: random.Random, record_property: Record
) -> None:
    ward, store = fragile
    worker = ward.start()
    arrival = disturbed().arrival
    ward.tell(arrival[:THIRD])
    ward.reach(THIRD)
    assigned = worker.log.read_text().count('"assigned"')
    store.pause() if how == "stopped" else store.kill()
    ward.tell(arrival[THIRD:])
    process = psutil.Process(worker.pid)
    busy = sum(process.cpu_times()[:2])
    time.sleep(30)
    share = (sum(process.cpu_times()[:2]) - busy) / 30
    store.resume() if how == "stopped" else store.start()
    back_s = ward.reach(THIRD + 1)
    record_property("back_s", round(back_s, 2))
    require_invariants(ward)
    assert share < 0.2
    assert worker.log.read_text().count('"assigned"') == assigned, "a rebalance"
    require_recovered([back_s])


@pytest.mark.row("9")
@pytest.mark.long
@pytest.mark.parametrize("trouble", TROUBLES)
def test_bad_connections_to_redis_double_nothing(
    fragile: tuple[SmallWard, EmbeddedRedis], trouble: str, dice: random.Random
) -> None:
    ward, store = fragile
    with Proxy(store.port) as proxy:
        ward.start(REDIS_URL=f"redis://127.0.0.1:{proxy.port}/0", TWIN_REDIS__ANSWER_TIMEOUT_SECONDS="1")
        telling = ward.telling(disturbed().arrival)
        ward.reach(THIRD)
        trouble_on(proxy, trouble, dice)
        telling.done()
        require_invariants(ward)


@pytest.mark.row("10")
def test_records_sent_twice_and_a_group_set_back_change_nothing(wards: OpenWard, dice: random.Random) -> None:
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
    assert outcome.counts["duplicate"] > 0


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
    assert set(committed_offsets(ward).values()) == {0}


@pytest.mark.row("17")
@pytest.mark.long
@pytest.mark.timeout(400)
def test_workers_that_come_and_go_during_a_replay_double_nothing(
    wards: OpenWard, dice: random.Random, record_property: Record
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
    seen = [ward.positions()]
    for number in range(6):
        other = ward.start(f"w{2 + number % 2}", **slow)
        wait_until(lambda: '"acquired"' in other.log.read_text(), PATIENCE_S, "acquired", ward.workers)  # noqa: B023
        time.sleep(dice.uniform(0.0, 2 * UNHURRIED_S))  # anywhere in a batch
        seen.append(ward.positions())
        other.stop() if number % 2 else other.kill()
    record_property("positions", seen)
    assert seen[-1] < ward.sent, "the replay was over before the last had gone"
    assert seen == sorted(seen)
    lasting.stop()
    ward.start("w1")  # the rest at full speed
    require_invariants(ward)


@pytest.mark.row("19")
@pytest.mark.long
@pytest.mark.parametrize("fsync", ["everysec", "always"])
def test_disk_full_under_redis_loses_nothing(
    kafka: EmbeddedKafka, tmp_path: Path, fsync: str, dice: random.Random
) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", str(disk)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"a small disk cannot be mounted here: {mounted.stderr.decode().strip()}")
    store = EmbeddedRedis(disk / "redis")
    try:
        store.start()
        with redis.Redis.from_url(store.url) as client:
            client.config_set("appendfsync", fsync)
        ward = open_ward(kafka.bootstrap, store.url, tmp_path)
        try:
            worker = ward.start()
            telling = ward.telling(disturbed().arrival)
            ward.reach(THIRD)
            room = disk / "filled"
            fill(room)
            # With `always` Redis ends itself at the first write it cannot keep; else it refuses the following ones.
            wait_until(
                lambda: (
                    not store.process.running if fsync == "always" else "MISCONF" in worker.log.read_text()
                ),
                30,
                "refused for want of room",
                ward.workers,
            )
            assert ward.positions() < len(disturbed().arrival)
            room.unlink()
            if fsync == "always":
                store.start()
            telling.done()
            require_invariants(ward)
        finally:
            ward.stop()
    finally:
        store.kill()
        subprocess.run(["umount", "-l", str(disk)], check=False)


def fill(room: Path) -> None:
    """Write until the disk is full."""
    with suppress(OSError), room.open("wb", buffering=0) as file:
        while file.write(b"\0" * 4096) == 4096:
            pass


@pytest.mark.row("20")
def test_redis_without_memory_refuses_whole_batches_and_goes_on_later(
    fragile: tuple[SmallWard, EmbeddedRedis], dice: random.Random
) -> None:
    ward, store = fragile
    worker = ward.start()
    telling = ward.telling(disturbed().arrival)
    ward.reach(THIRD)
    with redis.Redis.from_url(store.url) as client:
        client.config_set("maxmemory", 1_000_000)
        time.sleep(3)
        stands = ward.positions()
        time.sleep(1)
        assert ward.positions() == stands
        client.config_set("maxmemory", 0)
    telling.done()
    require_invariants(ward)
    assert "OutOfMemory" in worker.log.read_text()


@pytest.mark.row("23")
@pytest.mark.long
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
@pytest.mark.long
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
    time.sleep(5)
    assert not any(ward.read(risk, number) for number in range(ward.topics.partitions))
    assert worker.running
    set_topic(ward, risk, "max.message.bytes", limit)
    require_invariants(ward)


@pytest.mark.row("28")
@pytest.mark.timeout(1800)
def test_worker_ended_by_sigterm_again_and_again_doubles_nothing(
    wards: OpenWard, dice: random.Random, thorough: bool, record_property: Record
) -> None:
    # A restart takes 3 to 4 s: the whole number is for `make faults` alone, the one row longer than three minutes.
    times = 200 if thorough else 5
    ward = wards()
    arrival = disturbed().arrival
    worker = ward.start()
    ends = []
    for number in range(times):
        wait_until(lambda: '"acquired"' in worker.tail(200), PATIENCE_S, "acquired", [worker])
        ward.tell(arrival[number * len(arrival) // times : (number + 1) * len(arrival) // times])
        time.sleep(dice.uniform(0.0, 0.3))
        began = time.monotonic()
        worker.stop(30)
        ends.append(time.monotonic() - began)
        assert worker.exit_status == 0, worker.tail()
        worker.start()
    assert max(ends) < 5.0, ends
    record_property("longest_s", round(max(ends), 2))
    record_property("times", times)
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
