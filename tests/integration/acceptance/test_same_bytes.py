"""Same records, same bytes and events: twice, forgetful, shuffled, split, and beside the oracle."""

from __future__ import annotations

import pytest

from streams.simulation.perturb import perturb
from tests.integration.acceptance.invariants import require_invariants
from tests.integration.acceptance.records import (
    altered,
    body_of,
    disturbed,
    document_of,
    kind_of,
    piped,
    shuffled_again,
    small_ward,
)
from tests.integration.acceptance.ward import OpenWard, Undisturbed, require_same, require_sound
from twinstate.digest import digest_of

FORGETFUL = "tests.integration.acceptance.forgetful:create_forgetful_pipeline"


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


@pytest.mark.row("11")
def test_records_in_any_order_within_the_limits_give_the_digest_of_their_set(
    undisturbed: Undisturbed, wards: OpenWard
) -> None:
    delivery = disturbed()
    another, in_order = wards(), wards()
    another.start(TWIN_KAFKA__BATCH_MAX_RECORDS="7")
    in_order.start(TWIN_KAFKA__BATCH_MAX_RECORDS="500")
    arrival = shuffled_again(delivery.arrival, 7)
    assert arrival != delivery.arrival
    telling = another.telling(arrival)
    in_order.tell(delivery.in_order)
    telling.done()
    shuffled, expected = require_invariants(another), require_invariants(in_order)
    for outcome in (undisturbed.outcome, shuffled):
        assert outcome.twins == expected.twins
        assert outcome.digest == expected.digest
        assert outcome.standing.keys() == expected.standing.keys()
        assert outcome.counts["duplicate"] > 0
        assert not any(name.startswith("dead_letters") for name in outcome.counts)
        require_sound(outcome)


@pytest.mark.parametrize("seed", range(3))
def test_order_and_batches_change_no_byte_of_real_patients(seed: int) -> None:
    records = [record for record in small_ward() if record.patient.startswith(("vanc", "quin", "pheno"))]
    delivery = perturb(records, 100 + seed)
    expected = piped(delivery.in_order, seed)
    assert piped(delivery.arrival, seed + 1) == expected
    assert piped(shuffled_again(delivery.arrival, seed), seed + 2) == expected


def test_what_was_cancelled_or_moved_away_leaves_nothing_but_its_tombstone() -> None:
    delivery = disturbed()
    everything, winners = piped(delivery.in_order), piped(delivery.winners)
    for patient, canonical in winners.items():
        found, expected = document_of(everything[patient]), document_of(canonical)
        assert found.estimates == expected.estimates
        assert found.standing == expected.standing
        assert found.windows == expected.windows
        assert found.watermark == expected.watermark
        assert [entry for entry in found.entries if not entry.cancelled] == list(expected.entries)


def test_the_last_digit_of_one_level_changes_the_digest() -> None:
    records = [record for record in small_ward() if record.patient in ("vanc-01", "theoph-01")]
    place = next(n for n, record in enumerate(records) if kind_of(record) == "lab")
    payload = body_of(records[place])["payload"]
    changed = list(records)
    changed[place] = altered(records[place], payload={**payload, "value": payload["value"] + 0.01})
    assert digest_of(piped(changed)) != digest_of(piped(records))
