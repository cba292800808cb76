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
def kills(request: pytest.FixtureRequest) -> int:
    """How often a worker is killed at random: thoroughly in `make faults`, a few times in `make test`."""
    return 20 if request.config.getoption("--rows") else 3


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
