"""The worker on a real Kafka and Redis: kill it, its servers, its transactions; nothing is lost, nothing doubled."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
from confluent_kafka import Producer

from streams.adapters.topics import Topics, create_topics
from streams.embedded import EmbeddedKafka, EmbeddedRedis
from tests.integration.ward import PATIENTS, Ward, wait_until


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


def test_records_become_twins_and_risk_once_and_in_order(ward: Ward) -> None:
    ward.worker()
    assert ward.send(2_000) == 2_000
    ward.settle()
    ward.check()
