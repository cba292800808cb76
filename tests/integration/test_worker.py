"""The worker on a real Kafka and Redis: kill it, its servers, its transactions; nothing is lost, nothing doubled."""

from __future__ import annotations

import random
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis
from confluent_kafka import TopicPartition
from confluent_kafka.admin import AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource, ResourceType

from streams.adapters.redis_store import PartitionKeys
from streams.adapters.topics import Topics, create_topics, read_topics
from streams.embedded import EmbeddedKafka, EmbeddedRedis
from streams.embedded.processes import Process
from tests.integration.conftest import TOPICS_FILE
from tests.integration.ward import PATIENTS, ROOT, Ward, wait_until

# The promise is 2 s on an idle machine; test machines have two cores for four processes.
RESUMES_WITHIN_S = 20.0


@pytest.fixture
def ward(
    kafka: EmbeddedKafka,
    redis_server: EmbeddedRedis,
    redis_client: redis.Redis,
    topics: Topics,
    group: str,
    tmp_path: Path,
) -> Iterator[Ward]:
    """Give a ward of its own on the session's servers."""
    ward = Ward(kafka.bootstrap, redis_server.url, topics, group, tmp_path)
    yield ward
    ward.stop()


@pytest.fixture
def private_ward(
    private_kafka: EmbeddedKafka, private_redis: EmbeddedRedis, group: str, tmp_path: Path
) -> Iterator[Ward]:
    """Give a ward whose servers the test may kill."""
    topics = read_topics(TOPICS_FILE).renamed(group)
    create_topics({"bootstrap.servers": private_kafka.bootstrap}, topics)
    ward = Ward(private_kafka.bootstrap, private_redis.url, topics, group, tmp_path)
    yield ward
    ward.stop()


def ended(worker: Process, within_s: float = 20.0) -> int:
    """Wait for a worker to end by itself."""
    return worker.wait(within_s)


def resumes(ward: Ward, worker: Process) -> float:
    """Start a killed worker again; the seconds until it has applied something."""
    before = ward.applied()
    began = time.monotonic()
    worker.start()  # harmless for one that runs
    wait_until(lambda: ward.applied() > before, RESUMES_WITHIN_S, "resumed", [worker])
    return time.monotonic() - began


def test_records_become_twins_and_risk_once_and_in_order(ward: Ward) -> None:
    ward.worker()
    assert ward.send(2_000) == 2_000
    ward.settle()
    ward.check()


@pytest.mark.row("1")
@pytest.mark.faults
@pytest.mark.parametrize(
    "place", ["in_acquire:2", "before_apply:5", "after_apply_before_reply:5", "after_publish_before_ack:3"]
)
def test_worker_killed_at_a_fail_point_loses_and_doubles_nothing(
    ward: Ward, place: str, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    counter = tmp_path / "counter"
    worker = ward.worker(TWIN_FAIL_POINT=place, TWIN_FAIL_COUNTER=str(counter))
    sending = ward.sending(1_500, pause_s=0.002)
    assert ended(worker) == -9
    assert counter.read_text().split() == [place.partition(":")[0]]
    if not sending.done_by_now():
        record_property("resumes_s", resumes(ward, worker))
    else:
        worker.start()
    assert sending.done() == 1_500
    ward.settle()
    ward.check()


@pytest.mark.row("1")
@pytest.mark.faults
def test_worker_killed_at_random_loses_and_doubles_nothing(
    ward: Ward, dice: random.Random, record_property: Callable[[str, object], None]
) -> None:
    worker = ward.worker()
    pauses = []
    for _ in range(5):
        ward.send(400)
        pauses.append(resumes(ward, worker))
        sending = ward.sending(400, pause_s=0.001)
        time.sleep(dice.uniform(0.0, 0.5))
        worker.kill()
        sending.done()
    worker.start()
    record_property("resumes_s", pauses)
    ward.settle()
    ward.check()


@pytest.mark.row("2")
@pytest.mark.faults
def test_first_of_two_workers_with_one_instance_id_exits_75(ward: Ward) -> None:
    first = ward.worker("same")
    ward.send(500)
    ward.settle()
    second = ward.worker("same")
    sending = ward.sending(1_000, pause_s=0.002)
    assert ended(first) == 75
    assert "another worker has started with instance id same" in first.tail()
    sending.done()
    ward.settle()
    assert second.running
    ward.check()


@pytest.mark.row("2")
@pytest.mark.faults
def test_paused_worker_finds_itself_replaced_and_does_no_harm(ward: Ward) -> None:
    zombie, other = ward.worker("w1"), ward.worker("w2")
    for worker in (zombie, other):
        wait_until(lambda: '"acquired"' in worker.log.read_text(), 60, "acquired", [zombie, other])  # noqa: B023
    ward.send(500)
    ward.settle()
    sending = ward.sending(8_000, pause_s=0.002)
    before = ward.applied()
    wait_until(lambda: ward.applied() >= before + 200, 60, "at work", [zombie, other])
    zombie.pause()
    stands = [ward.position(number) for number in range(ward.topics.partitions)]
    wait_until(
        lambda: all(ward.position(number) > at for number, at in enumerate(stands)), 60, "taken over", [other]
    )
    assert not sending.done_by_now()
    zombie.resume()
    wait_until(lambda: '"fenced"' in zombie.log.read_text(), 60, "fenced", [zombie, other])
    sending.done()
    ward.settle(60)
    assert zombie.running
    assert other.running
    ward.check()


@pytest.mark.faults
def test_two_workers_share_the_partitions_and_one_leaves_in_order(ward: Ward) -> None:
    first, second = ward.worker("w1"), ward.worker("w2")
    ward.send(500)
    ward.settle()
    sending = ward.sending(2_000, pause_s=0.002)
    began = time.monotonic()
    first.stop(10)
    assert first.exit_status == 0
    assert time.monotonic() - began < 5
    sending.done()
    ward.settle(60)
    assert second.running
    ward.check()


@pytest.mark.row("transactions")
def test_bad_and_transactional_records_do_not_stop_the_partition(ward: Ward) -> None:
    ward.worker()
    records = ward.topics.names.records
    transactional = ward.producer(
        **{"transactional.id": f"{ward.group}-input", "message.max.bytes": "4194304"}
    )
    transactional.init_transactions(20)
    for commit in (True, False, True, False):
        transactional.begin_transaction()
        ward.send(40, transactional)
        transactional.commit_transaction(20) if commit else transactional.abort_transaction(20)
    plain = ward.producer(**{"message.max.bytes": "4194304"})
    ward.send(100, plain)
    for partition in range(ward.topics.partitions):
        plain.produce(records, key=PATIENTS[0], value="1", partition=partition)
        plain.produce(records, key=PATIENTS[partition], value="bad")
    plain.produce(records, key=PATIENTS[0], value=b"x" * (2 * 1024 * 1024))
    plain.produce(records, key=None, value=None, partition=0)
    plain.flush(20)
    ward.send(100, plain)
    # The last word of the log is an aborted transaction: nothing but markers to apply.
    transactional.begin_transaction()
    ward.send(40, transactional)
    transactional.abort_transaction(20)
    ward.settle()
    ward.check()
    dead = [
        len(ward.read(ward.topics.names.dead_letters, number)) for number in range(ward.topics.partitions)
    ]
    assert sum(dead) == 3 + 4 + 1 + 1


@pytest.mark.row("5", "NOSCRIPT")
@pytest.mark.faults
def test_redis_killed_twice_loses_and_doubles_nothing(
    private_ward: Ward, private_redis: EmbeddedRedis
) -> None:
    worker = private_ward.worker()
    sending = private_ward.sending(3_000, pause_s=0.003)
    for _ in range(2):
        time.sleep(3)
        private_redis.kill()
        time.sleep(1)
        private_redis.start()
    assert sending.done() == 3_000
    private_ward.settle()
    assert worker.running
    private_ward.check()


@pytest.mark.row("6", "22")
@pytest.mark.faults
def test_redis_set_back_to_an_old_state_is_healed_without_a_second_event(
    private_ward: Ward, private_redis: EmbeddedRedis, tmp_path: Path
) -> None:
    worker = private_ward.worker()
    private_ward.send(1_000)
    private_ward.settle()
    private_redis.stop()
    data = private_redis.directory / "data"
    shutil.copytree(data, tmp_path / "old")
    private_redis.start()
    private_ward.send(1_000)
    private_ward.settle()
    private_redis.stop()
    shutil.rmtree(data)
    shutil.copytree(tmp_path / "old", data)
    private_redis.start()
    private_ward.send(200)
    private_ward.settle()
    assert worker.running
    assert "store stands elsewhere" in worker.log.read_text()
    private_ward.check()


@pytest.mark.row("22")
@pytest.mark.faults
def test_emptied_redis_is_filled_again_from_the_log(private_ward: Ward, private_redis: EmbeddedRedis) -> None:
    worker = private_ward.worker()
    private_ward.send(1_000)
    private_ward.settle()
    with redis.Redis.from_url(private_redis.url) as client:
        client.flushall()
    private_ward.send(200)
    private_ward.settle()
    assert worker.running
    private_ward.check()


@pytest.mark.faults
def test_kafka_killed_twice_loses_and_doubles_nothing(
    private_ward: Ward, private_kafka: EmbeddedKafka
) -> None:
    worker = private_ward.worker()
    sending = private_ward.sending(4_000, pause_s=0.003)
    for _ in range(2):
        time.sleep(2)
        private_kafka.kill()
        private_kafka.start()
    assert sending.done(90) == 4_000
    private_ward.settle(60)
    assert worker.running
    private_ward.check()


@pytest.mark.row("late Kafka")
@pytest.mark.faults
def test_worker_started_before_its_servers_waits_for_them(tmp_path: Path, group: str) -> None:
    kafka, store = EmbeddedKafka(tmp_path / "kafka"), EmbeddedRedis(tmp_path / "redis")
    ward = Ward(kafka.bootstrap, store.url, read_topics(TOPICS_FILE).renamed(group), group, tmp_path)
    worker = ward.worker()
    try:
        wait_until(lambda: "waiting for Kafka" in worker.tail(), 20, "waiting", [worker])
        kafka.start()
        create_topics({"bootstrap.servers": kafka.bootstrap}, ward.topics)
        wait_until(lambda: "waiting for Redis" in worker.tail(), 20, "waiting", [worker])
        store.start()
        ward.send(100)
        ward.settle()
        ward.check()
    finally:
        ward.stop()
        store.kill()
        kafka.kill()


def test_full_outbox_slows_the_intake_and_loses_nothing(ward: Ward) -> None:
    ward.worker(TWIN_WORKER__OUTBOX_MAX_MESSAGES="2")
    ward.send(2_000)
    ward.settle()
    ward.check()


def test_dead_letters_that_cannot_be_published_hold_no_risk_back(ward: Ward) -> None:
    ward.worker()
    ward.send(40)
    ward.settle()
    dead_letters, risk = ward.topics.names.dead_letters, ward.topics.names.risk
    limit = ward.topics.settings["max.message.bytes"]
    set_topic(ward, dead_letters, "max.message.bytes", "2000")
    producer = ward.producer()
    for partition in range(ward.topics.partitions):
        producer.produce(ward.topics.names.records, key="p", value=b"x" * 10_000, partition=partition)
    producer.flush(10)
    ward.send(800)
    wait_until(lambda: ward.settled(waiting=ward.topics.partitions), 40, "risk published", ward.workers)
    events = sum(len(ward.read(risk, partition)) for partition in range(ward.topics.partitions))
    assert events == (40 + 800) // len(PATIENTS) // 10 * len(PATIENTS)
    set_topic(ward, dead_letters, "max.message.bytes", limit)
    ward.settle()
    ward.check()


def set_topic(ward: Ward, topic: str, key: str, value: str) -> None:
    """Change one setting of a topic."""
    entry = ConfigEntry(key, value, incremental_operation=AlterConfigOpType.SET)
    admin = AdminClient({"bootstrap.servers": ward.bootstrap, "log_level": 0})
    resource = ConfigResource(ResourceType.TOPIC, topic, incremental_configs=[entry])
    for answer in admin.incremental_alter_configs([resource]).values():
        answer.result(10)


@pytest.mark.row("18")
def test_position_that_retention_has_passed_stops_the_worker(ward: Ward) -> None:
    worker = ward.worker()
    ward.send(400)
    ward.settle()
    worker.kill()
    ward.send(400)
    admin = AdminClient({"bootstrap.servers": ward.bootstrap, "log_level": 0})
    where = [TopicPartition(ward.topics.names.records, number, ward.end(number)) for number in range(4)]
    for answer in admin.delete_records(where).values():
        answer.result(20)
    worker.start()
    assert ended(worker) == 65
    assert "are gone by retention" in worker.tail()
    assert "docs/operations.md, Retention lost" in worker.tail()
    assert "## Retention lost" in (ROOT / "docs/operations.md").read_text(encoding="utf-8")


def test_position_after_the_end_of_the_log_stops_the_worker(ward: Ward, redis_client: redis.Redis) -> None:
    ward.worker()
    ward.send(40)
    ward.settle()
    ward.workers[0].kill()
    redis_client.hset(PartitionKeys(ward.group, 0).meta, "next", 10_000)
    ward.workers[0].start()
    assert ended(ward.workers[0], 30) == 65
    assert "The topic was made anew" in ward.workers[0].tail()


@pytest.mark.row("20")
def test_redis_that_may_evict_stops_the_worker_with_a_reason(ward: Ward, redis_client: redis.Redis) -> None:
    redis_client.config_set("maxmemory-policy", "allkeys-lru")
    try:
        worker = ward.worker()
        assert ended(worker) == 78
        assert "maxmemory-policy is allkeys-lru" in worker.tail()
    finally:
        redis_client.config_set("maxmemory-policy", "noeviction")


@pytest.mark.row("27")
def test_other_fingerprint_stops_the_worker_and_names_the_rebuild(
    ward: Ward, redis_client: redis.Redis
) -> None:
    ward.worker()
    ward.send(40)
    ward.settle()
    ward.workers[0].kill()
    redis_client.hset(PartitionKeys(ward.group, 0).meta, "fingerprint", "other")
    ward.workers[0].start()
    assert ended(ward.workers[0]) == 78
    assert "twin rebuild --partition 0" in ward.workers[0].tail()


def test_pipeline_that_hangs_ends_the_worker(ward: Ward) -> None:
    worker = ward.worker(TWIN_WORKER__STALLED_AFTER_SECONDS="3")
    ward.send(40)
    ward.settle()
    producer = ward.producer()
    producer.produce(ward.topics.names.records, key=PATIENTS[0], value="hang")
    producer.flush(10)
    assert ended(worker, 30) == 70
    assert "has stood at offset" in worker.tail()
