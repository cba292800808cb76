"""Ten thousand schedules of trouble end where an undisturbed reader ends; with one rule left out, they do not."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from tests.protocol.kafka_model import ViolationError
from tests.protocol.mutants import HARMLESS, MUTANTS
from tests.protocol.simulation import Counts, Rules, play

SCHEDULES = 10_000
# A mutant is caught by the first few, or the simulation has become too tame.
MOST_FOR_A_MUTANT = 3_000


def test_ten_thousand_schedules_lose_double_and_change_nothing(
    record_property: Callable[[str, object], None],
) -> None:
    began = time.monotonic()
    met = Counts()
    for seed in range(SCHEDULES):
        try:
            met.add(play(seed))
        except ViolationError as error:
            raise AssertionError(f"schedule {seed}: {error}") from error
    record_property("seconds", round(time.monotonic() - began, 1))
    record_property("met", vars(met))
    # A simulation that meets no trouble proves nothing.
    assert all(count > 0 for count in vars(met).values()), met


@pytest.mark.parametrize("rules", MUTANTS.values(), ids=MUTANTS)
def test_protocol_with_a_rule_left_out_is_caught(
    rules: Rules, record_property: Callable[[str, object], None]
) -> None:
    for seed in range(MOST_FOR_A_MUTANT):
        try:
            play(seed, rules)
        except ViolationError as error:
            record_property("caught", f"schedule {seed}: {error}")
            return
    pytest.fail(f"{MOST_FOR_A_MUTANT} schedules, and no violation")


@pytest.mark.parametrize("rules", HARMLESS.values(), ids=HARMLESS)
def test_protocol_that_is_only_slower_or_guarded_twice_is_not_reported(rules: Rules) -> None:
    for seed in range(300):
        play(seed, rules)


def test_a_schedule_follows_from_its_seed() -> None:
    assert vars(play(17)) == vars(play(17))
