"""What issue by issue was promised of the whole: real patients, the real pipeline, a real Kafka and Redis.

One log of a small ward, disturbed as a bad network would, is told undisturbed once; every test that kills, splits,
shuffles or poisons something must end with the same digest and the same events in the same order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from streams.embedded import EmbeddedKafka, EmbeddedRedis
from streams.oracle import Account
from tests.integration.acceptance import (
    FORGETFUL,
    Outcome,
    SmallWard,
    disturbed,
    open_ward,
    require_same,
    require_sound,
)

OpenWard = Callable[..., SmallWard]


class Undisturbed(NamedTuple):
    """The log that everything is compared with: who holds it, what a worker made of it, what the oracle says."""

    ward: SmallWard
    outcome: Outcome
    account: Account


@pytest.fixture(scope="module")
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
def wards(kafka: EmbeddedKafka, redis_server: EmbeddedRedis, tmp_path: Path) -> Iterator[OpenWard]:
    """Open wards on the session's servers and stop their workers at the end."""
    opened: list[SmallWard] = []

    def make(listens_to: SmallWard | None = None) -> SmallWard:
        opened.append(open_ward(kafka.bootstrap, redis_server.url, tmp_path, listens_to=listens_to))
        return opened[-1]

    yield make
    for ward in opened:
        ward.stop()


def test_a_worker_does_with_a_log_what_the_oracle_does_record_by_record(undisturbed: Undisturbed) -> None:
    outcome, account = undisturbed.outcome, undisturbed.account
    assert outcome.twins == account.twins
    assert outcome.digest == account.digest
    assert outcome.event_ids == account.event_ids
    assert outcome.counts == account.counts
    require_sound(outcome)


def test_the_same_log_twice_gives_one_digest_and_the_same_event_ids_in_the_same_order(
    undisturbed: Undisturbed, wards: OpenWard
) -> None:
    again = wards(listens_to=undisturbed.ward)
    again.start(TWIN_KAFKA__BATCH_MAX_RECORDS="500")
    require_same(again.finish(), undisturbed.outcome)


def test_dropping_hot_memory_before_every_batch_changes_no_byte(
    undisturbed: Undisturbed, wards: OpenWard
) -> None:
    again = wards(listens_to=undisturbed.ward)
    again.start(TWIN_WORKER__PIPELINE_FACTORY=FORGETFUL)
    require_same(again.finish(), undisturbed.outcome)
