"""Servers that the environment gives: used as they are, never started, stopped, killed or paused."""

from __future__ import annotations

import os
from dataclasses import dataclass
from urllib.parse import urlsplit

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
    """Take a database of a Redis, one for each process of the test run, if nothing can be lost by it."""
    parts = urlsplit(url)
    number = int(parts.path.strip("/") or 0) + int(os.environ.get("PYTEST_XDIST_WORKER", "gw0")[2:])
    own = parts._replace(path=f"/{number}").geturl()
    with redis.Redis.from_url(own) as client:
        keys = client.dbsize()
    if keys:
        pytest.exit(
            f"REDIS_URL: database {number} of this Redis holds {keys} keys, and the tests empty it. Give an empty one, "
            "or leave REDIS_URL unset, and the tests start their own",
            returncode=2,
        )
    return GivenRedis(own)


def skip_if_kafka_is_given() -> None:
    """Skip a test that stops, kills or pauses its Kafka, or puts a proxy before it."""
    if KAFKA:
        pytest.skip("KAFKA_BOOTSTRAP_SERVERS is given, and this test breaks its Kafka")


def skip_if_redis_is_given() -> None:
    """Skip a test that stops, kills or pauses its Redis, or puts a proxy before it."""
    if REDIS:
        pytest.skip("REDIS_URL is given, and this test breaks its Redis")
