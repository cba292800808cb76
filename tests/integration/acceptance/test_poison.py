"""Poison in the input (bad records, transactions, a twin that cannot be computed) harms nothing beside it."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import pytest

from streams.adapters.kafka_link import LARGEST_BODY
from streams.codec import LARGEST_RECORD, Decoder, Refusal, partition_of
from streams.demo.plan import DemoRecord
from streams.messages import LARGEST_OUTBOX_BODY
from streams.ports import RawRecord
from streams.simulation.wire import moment
from tests.integration.acceptance.invariants import require_invariants
from tests.integration.acceptance.poison import PATIENT, Poison, corpus
from tests.integration.acceptance.records import (
    altered,
    bad_records,
    body_of,
    disturbed,
    document_of,
    kind_of,
    library,
    piped,
    small_ward,
)
from tests.integration.acceptance.ward import (
    PATIENCE_S,
    OpenWard,
    Undisturbed,
    require_same,
    require_sound,
)
from tests.integration.ward import ROOT, wait_until
from twinstate.types import NS_PER_HOUR


@pytest.mark.row("transactions")
def test_transactions_and_a_wrong_partition_in_the_input_change_nothing(
    undisturbed: Undisturbed, wards: OpenWard
) -> None:
    ward = wards()
    arrival = disturbed().arrival
    third = len(arrival) // 3
    ward.start()
    ward.tell(arrival[:third])
    producer = ward.producer(**{"transactional.id": f"{ward.group}-input"})
    producer.init_transactions(20)

    def within(records: Sequence[DemoRecord], *, commit: bool) -> None:
        producer.begin_transaction()
        ward.tell(records, producer)
        producer.commit_transaction(20) if commit else producer.abort_transaction(20)

    # As a correction each of these would win, and change its twin.
    poison = [altered(record, revision=9, cancelled=True, payload=None) for record in arrival[:third:3]]
    within(arrival[third : 2 * third], commit=True)
    within(poison, commit=False)
    elsewhere = (partition_of(poison[0].patient.encode(), ward.topics.partitions) + 1) % 4
    ward.tell(poison[:1], partition=elsewhere)
    ward.tell(arrival[2 * third :])
    within(poison, commit=False)  # the last word of the log: nothing but markers to apply
    outcome = require_invariants(ward)
    require_same(outcome, undisturbed.outcome)
    [letter] = ward.read(ward.topics.names.dead_letters, elsewhere)
    assert dict(letter.headers() or [])["twin-error-class"] == b"wrong_partition"
    assert letter.value() == poison[0].value


def test_a_twin_whose_mathematics_fails_is_quarantined_alone_and_recovers(wards: OpenWard) -> None:
    patients = ("quin-064", "quin-054", "vanc-05", "vanc-08", "theoph-02")
    records = [record for record in small_ward() if record.patient in patients]
    level = [r for r in records if r.patient == patients[0] and kind_of(r) == "lab"][-1]
    # Drawn twice: that both levels are wrong is not held possible.
    again = altered(level, id="again", event_time=moment(level.event_time_ns + NS_PER_HOUR // 12))
    records.insert(records.index(level) + 1, again)
    victim = [record for record in records if record.patient == patients[0]]
    dose = next(record for record in victim if kind_of(record) == "dose")
    # A steady state of the least dose that is taken: what came before is forgotten, and this model's residual error is
    # proportional, so that no parameters explain the levels drawn ten minutes later.
    payload = {**body_of(dose)["payload"], "amount": {"value": 1e-6, "unit": "mg"}}
    typo = altered(
        dose,
        id="typo",
        event_time=moment(level.event_time_ns - NS_PER_HOUR // 6),
        payload={**payload, "steady_state_interval_h": 8.0},
    )
    ward = wards()
    ward.start()
    place = records.index(level)
    ward.tell([*records[:place], typo, *records[place:]])
    wait_until(ward.at_end, PATIENCE_S, "at the end of the log", ward.workers)
    broken = ward.outcome()
    quarantined = document_of(broken.twins[patients[0]])
    assert quarantined.state == "quarantined"
    assert any("finite" in reason for reason in quarantined.reason)
    assert quarantined.estimates == ()
    assert len(quarantined.entries) == len(victim) + 1
    assert broken.digest == ward.foretold().digest

    ward.tell([altered(typo, revision=1, cancelled=True, payload=None)])
    healed = ward.finish()
    account = ward.foretold()
    assert healed.digest == account.digest
    assert healed.event_ids == account.event_ids
    require_sound(healed)
    expected = piped(records)
    for patient in patients[1:]:
        assert broken.twins[patient] == healed.twins[patient] == expected[patient]
    found, never = document_of(healed.twins[patients[0]]), document_of(expected[patients[0]])
    assert found.state == "live"
    assert found.estimates == never.estimates
    assert found.standing == never.standing
    assert [entry for entry in found.entries if not entry.cancelled] == list(never.entries)


@pytest.mark.row("14", "15")
def test_a_bad_record_of_each_kind_is_a_dead_letter_and_nothing_else_changes(
    undisturbed: Undisturbed, wards: OpenWard
) -> None:
    ward = wards()
    arrival = disturbed().arrival
    bad = bad_records(ward.topics.partitions)
    ward.start()
    places = []
    for number, one in enumerate(bad):
        ward.tell(arrival[number * 20 : (number + 1) * 20])
        places.append(ward.tell_bad(one))
    ward.tell(arrival[len(bad) * 20 :])
    outcome = require_invariants(ward)
    require_same(outcome, undisturbed.outcome)
    letters = {}
    for partition in range(ward.topics.partitions):
        for letter in ward.read(ward.topics.names.dead_letters, partition):
            headers: dict[str, Any] = dict(letter.headers() or [])
            place = int(headers["twin-error-partition"]), int(headers["twin-error-offset"])
            assert place[0] == partition
            letters[place] = (letter, headers)
    assert sorted(letters) == sorted(places)
    for one, place in zip(bad, places, strict=True):
        letter, headers = letters[place]
        assert (letter.key(), letter.value()) == (one.key, one.value), one.name
        assert headers["sent-by"] == b"ward-7", one.name
        assert headers["twin-error-class"].decode() == one.reason, one.name
        assert one.says in headers["twin-error-message"].decode(), one.name


@pytest.mark.row("14")
@pytest.mark.faults
def test_every_record_of_a_corpus_of_poison_is_a_dead_letter_as_it_came(
    undisturbed: Undisturbed, wards: OpenWard, dice: random.Random
) -> None:
    ward = wards()
    arrival = list(disturbed().arrival)
    poison = corpus(dice.randrange(2**32))
    home = partition_of(PATIENT.encode(), ward.topics.partitions)
    worker = ward.start()
    expected: dict[int, Poison] = {}
    rounds = 12
    for number in range(rounds):
        ward.tell(arrival[number * len(arrival) // rounds : (number + 1) * len(arrival) // rounds])
        some = poison[number::rounds]
        places = ward.tell_raw([(PATIENT, one.value) for one in some], home)
        expected.update(zip(places, some, strict=True))
    outcome = require_invariants(ward)
    require_same(outcome, undisturbed.outcome)
    letters = ward.read(ward.topics.names.dead_letters, home)
    contract = (ROOT / "docs" / "contract.md").read_text()
    seen = []
    for letter in letters:
        headers = {name: (value or b"").decode() for name, value in letter.headers() or []}
        seen.append(int(headers["twin-error-offset"]))
        one = expected[seen[-1]]
        assert int(headers["twin-error-partition"]) == home, one.name
        assert (letter.key(), letter.value()) == (PATIENT.encode(), one.value), one.name
        assert f"`{headers['twin-error-class']}`" in contract, one.name
        assert len(headers["twin-error-message"]) > 10, one.name
    assert sorted(seen) == sorted(expected)
    assert outcome.counts["records"] == len(arrival) + len(poison)
    assert worker.log.read_text().count('"acquired"') == ward.topics.partitions


def test_a_corpus_of_poison_is_refused_whatever_its_seed(dice: random.Random) -> None:
    decoder = Decoder(library(), None, 4)
    for seed in range(20):
        for one in corpus(seed):
            refusal = decoder.decode(RawRecord(0, 0, PATIENT.encode(), one.value, ()))
            assert isinstance(refusal, Refusal), one.name


@pytest.mark.row("15")
@pytest.mark.faults
def test_records_of_every_size_at_a_limit_are_applied_or_dead_letters_and_nothing_is_cut(
    wards: OpenWard, dice: random.Random
) -> None:
    ward = wards()
    ward.start()
    arrival = list(disturbed().arrival)
    lab = next(r for r in arrival if r.patient == PATIENT and kind_of(r) == "lab")
    home = partition_of(PATIENT.encode(), ward.topics.partitions)
    ward.tell(arrival[: arrival.index(lab) + 1])
    largest = largest_value(PATIENT, int(ward.topics.settings["max.message.bytes"]))
    sizes = [
        *(
            limit + more
            for limit in (LARGEST_RECORD, LARGEST_OUTBOX_BODY, LARGEST_BODY)
            for more in (-1, 0, 1)
        ),
        *(largest - 1, largest),
    ]
    dice.shuffle(sizes)
    sent = [padded(altered(lab, id=f"size-{size}").value, size) for size in sizes]
    places = ward.tell_raw([(PATIENT, value) for value in sent], home)
    with pytest.raises(AssertionError, match="MSG_SIZE_TOO_LARGE"):
        ward.tell_raw([(PATIENT, padded(lab.value, largest + 1))], home)
    ward.tell(arrival[arrival.index(lab) + 1 :])
    outcome = require_invariants(ward)
    letters = {
        int(dict(letter.headers() or [])["twin-error-offset"]): letter
        for letter in ward.read(ward.topics.names.dead_letters, home)
    }
    for size, value, place in zip(sizes, sent, places, strict=True):
        if size <= LARGEST_RECORD:
            assert place not in letters, size
            continue
        headers = dict(letters[place].headers() or [])
        assert headers["twin-error-class"] == b"too_large", size
        assert ("twin-error-omitted" in headers) == (size > LARGEST_BODY), size
        assert letters[place].value() == (value if size <= LARGEST_BODY else b""), size
    assert outcome.counts["dead_letters.too_large"] == sum(size > LARGEST_RECORD for size in sizes)


def largest_value(key: str, largest_batch: int) -> int:
    """Largest body that fits a batch of one record.

    Sizes of Kafka's record batch, version 2: 61 bytes of batch header, then the record's own length (4, a varint),
    attributes, two deltas, the key's length, the number of headers (1 each), and the value's length (4).
    """
    return largest_batch - 61 - 4 - 1 - 2 - 1 - len(key) - 4 - 1


def padded(body: bytes, size: int) -> bytes:
    """Fill a JSON object with spaces before its last brace."""
    return body[:-1] + b" " * (size - len(body)) + b"}"
