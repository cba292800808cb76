"""Servers that the environment gives: used as they are, never started, stopped, killed or paused."""

from __future__ import annotations

import os
from dataclasses import dataclass

import pytest
import redis

# Read once, before a fixture of tests/conftest.py takes them out of each test's environment.
KAFKA = os.environ.get("KAFKA_BOOTSTRAP_SERVERS")
REDIS = os.environ.get("REDIS_URL")


@dataclass(frozen=True)
class GivenKafka:
    """A Kafka of somebody else."""

    bootstrap: str


@dataclass(frozen=True)
class GivenRedis:
    """A Redis of somebody else, empty at the start: tests empty it again and again."""

    url: str


def given_redis(url: str) -> GivenRedis:
    """Take a Redis, if nothing can be lost by it."""
    with redis.Redis.from_url(url) as client:
        keys = sum(int(about["keys"]) for about in client.info("keyspace").values())
    if keys:
        pytest.exit(
            f"REDIS_URL: this Redis holds {keys} keys, and the tests empty it. Give an empty one, or leave REDIS_URL "
            "unset, and the tests start their own",
            returncode=2,
        )
    return GivenRedis(url)


def skip_if_kafka_is_given() -> None:
    """Skip a test that stops, kills or pauses its Kafka, or puts a proxy before it."""
    if KAFKA:
        pytest.skip("KAFKA_BOOTSTRAP_SERVERS is given, and this test breaks its Kafka")


def skip_if_redis_is_given() -> None:
    """Skip a test that stops, kills or pauses its Redis, or puts a proxy before it."""
    if REDIS:
        pytest.skip("REDIS_URL is given, and this test breaks its Redis")
