"""The embedded servers: what they promise to whoever starts, kills or forgets them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
import redis
from confluent_kafka import Consumer, Producer
from confluent_kafka.admin import AdminClient

from streams.adapters.topics import TopicError, Topics, compare_topics, create_topics, read_topics
from streams.embedded import EmbeddedKafka, EmbeddedRedis, Process, ProcessError
from streams.embedded.jars import LOCK, JarError, kafka_class_path
from tests.integration.conftest import TOPICS_FILE

TWO_MIB = 2 * 1024 * 1024


def wait_for(what: Callable[[], bool], timeout_s: float = 10.0) -> bool:
    deadline = time.monotonic() + timeout_s
    while not what():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def produce(connection: dict[str, str], topic: str, values: list[bytes]) -> None:
    failures: list[object] = []
    producer = Producer({**connection, "acks": "all", "message.max.bytes": 4 * TWO_MIB})
    for value in values:
        producer.produce(
            topic, value, partition=0, on_delivery=lambda error, _: error and failures.append(error)
        )
    assert producer.flush(20) == 0
    assert failures == []


def consume(connection: dict[str, str], topic: str, count: int) -> list[bytes]:
    consumer = Consumer({**connection, "group.id": f"read-{topic}", "auto.offset.reset": "earliest"})
    consumer.subscribe([topic])
    values: list[bytes] = []
    deadline = time.monotonic() + 20
    while len(values) < count and time.monotonic() < deadline:
        message = consumer.poll(0.5)
        if message is not None and message.error() is None:
            values.append(message.value() or b"")
    consumer.close()
    return values


def test_topics_have_four_partitions_and_the_brokers_clock(
    connection: dict[str, str], topics: Topics
) -> None:
    assert compare_topics(connection, topics) == []
    listed = AdminClient(connection).list_topics(timeout=10).topics
    assert {
        name: len(listed[name].partitions) for name in topics.names.model_dump().values()
    } == dict.fromkeys(topics.names.model_dump().values(), 4)


def test_creating_topics_again_makes_none(connection: dict[str, str], topics: Topics) -> None:
    assert create_topics(connection, topics) == []


def test_topics_with_other_partitions_or_clock_are_reported(connection: dict[str, str], group: str) -> None:
    plan = read_topics(TOPICS_FILE).renamed(group)
    other = plan.model_copy(
        update={"partitions": 3, "settings": {**plan.settings, "message.timestamp.type": "CreateTime"}}
    )
    create_topics(connection, other)

    with pytest.raises(TopicError) as refused:
        create_topics(connection, plan)

    assert "3 partitions on the broker, 4 in config/topics.yaml" in str(refused.value)
    assert "message.timestamp.type is CreateTime on the broker, LogAppendTime" in str(refused.value)


def test_a_broker_that_is_not_there_is_named() -> None:
    with pytest.raises(TopicError, match=r"127\.0\.0\.1:1"):
        create_topics({"bootstrap.servers": "127.0.0.1:1"}, read_topics(TOPICS_FILE))


def test_a_record_of_two_mebibytes_arrives(connection: dict[str, str], topics: Topics) -> None:
    produce(connection, topics.names.records, [b"x" * TWO_MIB])
    assert [len(value) for value in consume(connection, topics.names.records, 1)] == [TWO_MIB]


def test_redis_refuses_writes_rather_than_forget_a_twin(redis_client: redis.Redis) -> None:
    settings = redis_client.config_get("maxmemory-policy", "append*", "bind")
    assert settings["maxmemory-policy"] == "noeviction"
    assert settings["appendonly"] == "yes"
    assert settings["appendfsync"] == "everysec"
    assert settings["bind"] == "127.0.0.1"


def test_killed_redis_comes_back_with_its_data_on_its_port(private_redis: EmbeddedRedis) -> None:
    with redis.Redis.from_url(private_redis.url) as client:
        client.set("twin", b"kept")
    url = private_redis.url

    private_redis.kill()
    private_redis.start()

    assert private_redis.url == url
    with redis.Redis.from_url(url) as client:
        assert client.get("twin") == b"kept"


def test_killed_kafka_comes_back_with_its_records_within_seconds(private_kafka: EmbeddedKafka) -> None:
    connection = {"bootstrap.servers": private_kafka.bootstrap, "log_level": "0"}
    plan = read_topics(TOPICS_FILE)
    create_topics(connection, plan)
    written = [b"%d" % number for number in range(500)]
    produce(connection, plan.names.records, written)

    for _ in range(2):  # the second comes while the first registration would still be waited for
        private_kafka.kill()
        begun = time.monotonic()
        private_kafka.start()
        assert time.monotonic() - begun < 20

    assert consume(connection, plan.names.records, 500) == written
    assert compare_topics(connection, plan) == []


def test_paused_redis_is_silent_until_it_is_resumed(private_redis: EmbeddedRedis) -> None:
    with redis.Redis.from_url(private_redis.url, socket_timeout=0.3, retry=None) as client:
        client.ping()
        private_redis.pause()
        with pytest.raises(redis.exceptions.TimeoutError):
            client.ping()
        private_redis.resume()
        assert wait_for(lambda: bool(client.ping()))


def test_paused_kafka_is_silent_until_it_is_resumed(private_kafka: EmbeddedKafka) -> None:
    connection = {"bootstrap.servers": private_kafka.bootstrap, "log_level": "0"}
    plan = read_topics(TOPICS_FILE)
    create_topics(connection, plan)
    private_kafka.pause()
    producer = Producer({**connection, "acks": "all"})
    producer.produce(plan.names.records, b"waits", partition=0)
    assert producer.flush(1.0) == 1

    private_kafka.resume()

    assert producer.flush(20) == 0
    assert consume(connection, plan.names.records, 1) == [b"waits"]


PARENT = """
    import sys, time
    from pathlib import Path
    from streams.embedded import EmbeddedKafka, EmbeddedRedis, ProcessGroup
    with ProcessGroup() as group:
        kafka, redis = group.add(EmbeddedKafka(Path(sys.argv[1]))), group.add(EmbeddedRedis(Path(sys.argv[2])))
        kafka.start()
        redis.start()
        print(kafka.process.pid, redis.process.pid, flush=True)
        time.sleep(600)
"""


@pytest.mark.parametrize(
    "number", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name
)
def test_servers_die_with_their_parent(tmp_path: Path, number: signal.Signals) -> None:
    parent = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(PARENT), str(tmp_path / "kafka"), str(tmp_path / "redis")],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        cwd=TOPICS_FILE.parents[1],
    )
    with parent:
        assert parent.stdout is not None
        children = [psutil.Process(int(pid)) for pid in parent.stdout.readline().split()]
        assert len(children) == 2
        os.kill(parent.pid, number)
        parent.wait(20)

    _, alive = psutil.wait_procs(children, timeout=10)
    assert alive == []


def test_a_child_outlives_the_thread_that_asked_for_it(tmp_path: Path) -> None:
    child = Process("sleeper", ("sleep", "600"), tmp_path / "log")
    thread = threading.Thread(target=child.start)
    thread.start()
    thread.join()
    time.sleep(0.3)
    try:
        assert child.running
    finally:
        child.kill()


def test_a_server_that_cannot_start_shows_the_end_of_its_log(
    tmp_path: Path, redis_server: EmbeddedRedis
) -> None:
    twin = EmbeddedRedis(tmp_path, port=redis_server.port)
    with pytest.raises(ProcessError, match=r"Redis ended by itself.*\n(.*\n)*.*Address already in use"):
        twin.start()


def test_a_jar_with_other_bytes_than_the_lock_says_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kafka: EmbeddedKafka
) -> None:
    monkeypatch.setenv("M2_REPO", str(tmp_path / "repository"))
    first = LOCK.read_text().split("[[dependencies]]")[2]
    assert "slf4j-simple" in first
    forged = tmp_path / "forged.toml"
    digest = first.split('sha256 = "')[1][:64]
    forged.write_text("[[dependencies]]" + first.replace(digest, "0" * 64))

    with pytest.raises(JarError, match=f"has SHA-256 {digest}, but"):
        kafka_class_path(forged)

    assert list((tmp_path / "repository").rglob("*.jar")) == []
