"""One log of a small ward, told undisturbed once; what is killed, shuffled or poisoned is compared with it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from streams.embedded import EmbeddedKafka, EmbeddedRedis
from tests.integration.acceptance.records import disturbed
from tests.integration.acceptance.ward import OpenWard, SmallWard, Undisturbed, open_ward


@pytest.fixture(scope="session")
def undisturbed(
    kafka: EmbeddedKafka, redis_server: EmbeddedRedis, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Undisturbed]:
    """Tell the disturbed delivery to one worker that nobody disturbs."""
    ward = open_ward(kafka.bootstrap, redis_server.url, tmp_path_factory.mktemp("undisturbed"))
    try:
        ward.start()
        ward.tell(disturbed().arrival)
        yield Undisturbed(ward, ward.finish(), ward.foretold())
    finally:
        ward.stop()


@pytest.fixture
def thorough(request: pytest.FixtureRequest) -> bool:
    """Whether faults are repeated as often as the matrix asks: in `make faults`, not in `make test` or by `--short`."""
    return request.config.getoption("--rows") and not request.config.getoption("--short")


@pytest.fixture
def kills(thorough: bool) -> int:
    """How often a worker is killed at random."""
    return 12 if thorough else 3


@pytest.fixture
def wards(kafka: EmbeddedKafka, redis_server: EmbeddedRedis, tmp_path: Path) -> Iterator[OpenWard]:
    """Open wards on the session's servers and stop their workers at the end."""
    opened: list[SmallWard] = []

    def make(listens_to: SmallWard | None = None) -> SmallWard:
        opened.append(open_ward(kafka.bootstrap, redis_server.url, tmp_path, listens_to=listens_to))
        return opened[-1]

    yield make
    for ward in opened:
        ward.stop()


@pytest.fixture
def fragile(
    kafka: EmbeddedKafka, private_redis: EmbeddedRedis, tmp_path: Path
) -> Iterator[tuple[SmallWard, EmbeddedRedis]]:
    """Give a ward whose Redis may be broken."""
    ward = open_ward(kafka.bootstrap, private_redis.url, tmp_path)
    yield ward, private_redis
    ward.stop()
