"""Real servers for the tests that need them.

`kafka` and `redis_server` are started once a session and shared: a test gets topics and a group of its own, and an
empty Redis. A test that kills a server takes `private_kafka` or `private_redis` instead, or `kafka_cluster`, whose
nodes it may kill one by one.

`KAFKA_BOOTSTRAP_SERVERS` and `REDIS_URL` in the environment are used in the place of the shared ones; tests that break
a server are skipped then.
"""

from __future__ import annotations

import itertools
import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis

from streams.adapters.topics import Topics, create_topics, read_topics
from streams.embedded import (
    EmbeddedKafka,
    EmbeddedKafkaCluster,
    EmbeddedRedis,
    EmbeddedRedisCluster,
    ProcessGroup,
)
from tests.integration import given
from tests.integration.given import GivenKafka, GivenRedis

TOPICS_FILE = Path(__file__).parents[2] / "config" / "topics.yaml"

_numbers = itertools.count(1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what lives here, so that `-m "not integration"` runs without servers."""
    here = Path(__file__).parent
    for item in items:
        if item.path.is_relative_to(here):
            item.add_marker(pytest.mark.integration)


@pytest.fixture(scope="session")
def servers() -> Iterator[ProcessGroup]:
    """Own the session's servers and stop them at its end."""
    with ProcessGroup() as group:
        yield group


@pytest.fixture(scope="session")
def kafka(servers: ProcessGroup, tmp_path_factory: pytest.TempPathFactory) -> EmbeddedKafka | GivenKafka:
    """Start the session's Kafka, or take the one that is given; never stop, pause or kill it."""
    if given.KAFKA:
        return GivenKafka(given.KAFKA)
    server = servers.add(EmbeddedKafka(tmp_path_factory.mktemp("kafka")))
    server.start()
    return server


@pytest.fixture(scope="session")
def redis_server(
    servers: ProcessGroup, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[EmbeddedRedis | GivenRedis]:
    """Start the session's Redis, or take the one that is given and empty it; never stop, pause or kill it."""
    if given.REDIS:
        taken = given.given_redis(given.REDIS)
        yield taken
        with redis.Redis.from_url(taken.url) as client:
            client.flushdb()
        return
    server = servers.add(EmbeddedRedis(tmp_path_factory.mktemp("redis")))
    server.start()
    yield server


@pytest.fixture
def connection(kafka: EmbeddedKafka | GivenKafka) -> dict[str, str]:
    """Give the librdkafka settings that reach the session's Kafka, without its log on standard error."""
    return {"bootstrap.servers": kafka.bootstrap, "log_level": "0"}


@pytest.fixture
def group() -> str:
    """Give a consumer group's name that no other test has."""
    return f"test-{os.getpid()}-{next(_numbers)}"


@pytest.fixture
def topics(connection: dict[str, str], group: str) -> Topics:
    """Make the three topics under names that no other test has."""
    own = read_topics(TOPICS_FILE).renamed(group)
    create_topics(connection, own)
    return own


@pytest.fixture
def redis_client(redis_server: EmbeddedRedis | GivenRedis) -> Iterator[redis.Redis]:
    """Connect to the session's Redis, emptied."""
    with redis.Redis.from_url(redis_server.url) as client:
        client.flushdb()
        client.script_flush()
        yield client


@pytest.fixture
def private_kafka(tmp_path: Path) -> Iterator[EmbeddedKafka]:
    """Start a Kafka for this test alone, to be killed and paused (4 s)."""
    given.skip_if_kafka_is_given()
    server = EmbeddedKafka(tmp_path / "kafka")
    try:
        server.start()
        yield server
    finally:
        server.process.kill()


@pytest.fixture
def private_redis(tmp_path: Path) -> Iterator[EmbeddedRedis]:
    """Start a Redis for this test alone, to be killed and paused."""
    given.skip_if_redis_is_given()
    server = EmbeddedRedis(tmp_path / "redis")
    try:
        server.start()
        yield server
    finally:
        server.process.kill()


@pytest.fixture(scope="module")
def three_nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedKafkaCluster]:
    """Start a Kafka of three nodes for this module's tests (10 s)."""
    given.skip_if_kafka_is_given()
    cluster = EmbeddedKafkaCluster(tmp_path_factory.mktemp("cluster"))
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.kill()


@pytest.fixture
def kafka_cluster(three_nodes: EmbeddedKafkaCluster) -> EmbeddedKafkaCluster:
    """Give a Kafka of three nodes, all there and up to date, whatever the test before has done to them."""
    three_nodes.start()
    return three_nodes


@pytest.fixture
def redis_cluster(tmp_path: Path) -> Iterator[EmbeddedRedisCluster]:
    """Start a Redis Cluster of three masters for this test alone (3 s)."""
    given.skip_if_redis_is_given()
    cluster = EmbeddedRedisCluster(tmp_path / "redis-cluster")
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.kill()


@pytest.fixture
def dice(request: pytest.FixtureRequest, record_property: Callable[[str, object], None]) -> random.Random:
    """Give a row's dice; their seed is written down with its result."""
    seed = request.config.getoption("--seed")
    record_property("seed", seed)
    return random.Random(seed)
