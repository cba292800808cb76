"""The pipeline, in batches of any size, does what the oracle does record by record: to the byte."""

from __future__ import annotations

import json
import random
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streams.oracle import Account
from streams.ports import Outgoing, RawRecord
from tests.streams import two_ways
from tests.streams.logs import (
    ADMISSION,
    Sent,
    dose,
    frame,
    level,
    logged,
    qtc_stay,
    regimen,
    resent,
    send,
    ward,
)
from tests.streams.two_ways import Run
from twinstate.digest import digest_of
from twinstate.library import load_library

LIBRARY = load_library(Path(__file__).parents[2] / "config")


def batches(log: list[RawRecord], seed: int) -> Iterator[list[RawRecord]]:
    dice = random.Random(seed)
    begin = 0
    while begin < len(log):
        end = begin + dice.choice([1, 2, 5, 20, 200])
        yield log[begin:end]
        begin = end


def piped(log: list[RawRecord], seed: int = 0, *, forgetful: bool = False) -> Run:
    return piped_in(batches(log, seed), forgetful=forgetful)


def piped_in(split: Iterable[list[RawRecord]], *, forgetful: bool = False) -> Run:
    return two_ways.piped(LIBRARY, split, forgetful=forgetful)


def foretold(log: list[RawRecord]) -> Account:
    return two_ways.foretold(LIBRARY, log)


def without_sentence(letter: Outgoing) -> Outgoing:
    return letter._replace(headers=tuple(h for h in letter.headers if h[0] != "twin-error-message"))


def check(run: Run, account: Account) -> None:
    """Same twins, events and dead letters; on the way to a difference in bytes say which patient and field."""
    risk = [one for one in run.outgoing if one.topic == "risk"]
    letters = [without_sentence(one) for one in run.outgoing if one.topic == "dead_letters"]
    assert letters == account.dead_letters[0]
    assert [(one.id, one.headers) for one in risk] == [(one.id, one.headers) for one in account.risk[0]]
    assert risk == account.risk[0]
    assert run.counts == account.counts
    assert run.twins == account.twins
    assert digest_of(run.twins) == account.digest


def kinds_of(account: Account) -> list[str]:
    return [json.loads(event.value or b"")["type"] for event in account.risk[0]]


@pytest.mark.parametrize("seed", range(6))
def test_the_pipeline_in_batches_of_any_size_does_what_the_oracle_does_record_by_record(seed: int) -> None:
    log = logged(ward(seed))
    check(piped(log, seed), foretold(log))


@pytest.mark.parametrize("seed", [0, 6, 7])
def test_forgetting_hot_memory_before_every_batch_changes_no_byte(seed: int) -> None:
    log = logged(ward(seed))
    remembering = piped(log, seed)
    assert piped(log, seed, forgetful=True) == remembering
    check(remembering, foretold(log))


def crowded_day() -> list[Sent]:
    """Three days of one patient that may come in any order: corrections, a cancellation, a discharge taken back."""
    return [
        send("p-1", "patient", "adm", 0.0, ADMISSION),
        send("p-1", "regimen", "r1", 0.5, regimen(1.0, 2000.0)),
        *(send("p-1", "dose", f"d{n}", 1.2 + 12.0 * n, dose(2000.0)) for n in range(5)),
        send("p-1", "lab", "l1", 12.5, level(31.4)),
        send("p-1", "lab", "l1", 13.0, level(21.4), revision=1),
        send("p-1", "lab", "l2", 36.9, level(44.0)),
        send("p-1", "lab", "c1", 36.9, level(2.4, "creatinine", "mg/dL")),
        send("p-1", "dose", "d2", 25.2, revision=1, cancelled=True),
        send("p-1", "discharge", "out", 50.0),
        send("p-1", "discharge", "out", 50.0, revision=1, cancelled=True),
        send("p-1", "tick", "t", 66.0),
    ]


@settings(max_examples=15)
@given(st.permutations(crowded_day()), st.integers(0, 10_000))
def test_any_order_of_arrival_within_the_limits_gives_one_digest(order: list[Sent], seed: int) -> None:
    log = logged(order)
    account = foretold(log)
    assert account.digest == foretold(logged(crowded_day())).digest
    check(piped(log, seed), account)


def test_frames_in_any_order_within_twelve_hours_give_one_digest() -> None:
    sent = qtc_stay("q-1", 3)
    dice = random.Random(5)
    digests = set()
    for seed in range(4):
        order = sorted(sent, key=lambda one: one.at_h + (dice.uniform(0.0, 11.9) if seed else 0.0))
        digests.add(digest_of(piped(logged(order), seed).twins))
        digests.add(foretold(logged(order)).digest)
    assert len(digests) == 1


def test_the_last_digit_of_one_level_changes_the_digest() -> None:
    changed = [
        resent(one, dict(json.loads(one.value), payload=level(21.5))) if b"21.4" in one.value else one
        for one in crowded_day()
    ]
    assert foretold(logged(changed)).digest != foretold(logged(crowded_day())).digest


def test_refused_records_leave_as_dead_letters_and_nothing_else_changes() -> None:
    good = crowded_day()
    bad = [
        Sent("p-1", 0.0, b"{"),
        Sent("p-2", 0.0, good[0].value),
        send("p-1", "lab", "x1", 5.0, level(3.0, unit="mmol/L")),
        send("p-1", "dose", "x2", 5.0, dose(drug="vinegar")),
        send("p-1", "lab", "x3", 501.0, level(3.0)),
        send("p-1", "lab", "x4", -40.0, level(3.0)),
        send("p-1", "wearable", "w:1", 50.0, frame([400.0, 401.0])),
        send(
            "p-1",
            "wearable",
            "w:2",
            65.0,
            {"signal": "qtc", "unit": "ms", "values": [400.0], "offsets_s": [9.0]},
        ),
    ]
    account = foretold(logged([*good, *bad]))
    reasons = [dict(letter.headers)["twin-error-class"].decode() for letter in account.dead_letters[0]]
    assert reasons == [
        "not_json",
        "key_mismatch",
        "unknown_unit",
        "unknown_drug",
        "future",
        "late",
        "late",
        "bad_frame",
    ]
    assert account.digest == foretold(logged(good)).digest
    check(piped(logged([*good, *bad])), account)


def test_history_may_come_late_when_it_is_marked_as_history() -> None:
    sent = [
        *crowded_day(),
        send("p-1", "lab", "old", -40.0, level(1.0, "creatinine", "mg/dL"), backfill=True),
    ]
    account = foretold(logged(sent))
    assert account.dead_letters[0] == []
    check(piped(logged(sent)), account)


def test_an_overdose_that_never_was_is_raised_and_then_retracted() -> None:
    sent = [
        send("p-1", "patient", "adm", 0.0, ADMISSION),
        send("p-1", "dose", "d1", 1.0, dose(9000.0)),
        send("p-1", "dose", "d1", 1.0, revision=1, cancelled=True),
    ]
    account = foretold(logged(sent))
    assert kinds_of(account) == ["raised", "retracted"]
    check(piped(logged(sent)), account)


def test_a_crossing_that_moves_is_raised_anew_before_the_old_one_is_retracted() -> None:
    sent = [
        send("p-1", "patient", "adm", 0.0, ADMISSION),
        send("p-1", "dose", "d1", 9.0, dose(9000.0)),
        send("p-1", "dose", "d1", 7.0, dose(9000.0), revision=1),
    ]
    account = foretold(logged(sent))
    events = [json.loads(event.value or b"") for event in account.risk[0]]
    assert [event["type"] for event in events] == ["raised", "raised", "retracted"]
    assert events[1]["replaces"] == events[0]["episode"]
    assert events[2]["replaced_by"] == events[1]["episode"]
    check(piped(logged(sent)), account)


def test_a_discharge_ends_the_episode_and_readmission_begins_another() -> None:
    sent = [
        send("p-1", "patient", "adm", 0.0, ADMISSION),
        send("p-1", "dose", "d1", 1.0, dose(9000.0)),
        send("p-1", "discharge", "out", 3.0),
        send("p-1", "tick", "t1", 4.0),
        send("p-1", "patient", "back", 5.0, ADMISSION),
    ]
    account = foretold(logged(sent))
    events = [json.loads(event.value or b"") for event in account.risk[0]]
    assert [(event["type"], event["reason"]) for event in events] == [
        ("raised", ""),
        ("cleared", "discharged"),
        ("raised", ""),
    ]
    check(piped(logged(sent)), account)


def device(sequence: int, at_h: float, value: float = 400.0, **how: Any) -> Sent:
    return send("p-1", "wearable", f"patch:{sequence}", at_h, frame([value, value + 1.0]), **how)


ADMITTED = send("p-1", "patient", "adm", 0.0, ADMISSION)
FAR_H = 24.0 * 500
# What forgetting must not change: each log in one batch and record by record.
HARD_TO_REMEMBER: dict[str, list[Sent]] = {
    "dose and level before the patient record": [
        send("p-1", "dose", "d1", 0.0, dose()),
        send("p-1", "lab", "l1", 5.0, level(14.0)),
        send("p-1", "patient", "adm", 6.0, ADMISSION),
    ],
    "a frame again after thirteen hours": [
        ADMITTED,
        device(1, 1.0),
        send("p-1", "tick", "t", 20.0),
        device(1, 1.0),
    ],
    "a frame again while pending": [
        device(1, 1.0),
        send("p-1", "dose", "d1", 20.0, dose()),
        device(1, 1.0),
        ADMITTED,
    ],
    "a frame corrected while pending": [
        device(1, 1.0),
        send("p-1", "dose", "d1", 20.0, dose()),
        device(1, 1.0, 440.0, revision=1),
        ADMITTED,
    ],
    "a frame again after the watermark fell": [
        ADMITTED,
        device(1, 1.0),
        send("p-1", "tick", "t", 20.0),
        send("p-1", "tick", "t", 20.0, revision=1, cancelled=True),
        device(1, 1.0),
    ],
    "the watermark falls back on frames": [
        ADMITTED,
        *(device(n, 1.0 + n) for n in range(5)),
        send("p-1", "tick", "t", 30.0),
        send("p-1", "tick", "t", 30.0, revision=1, cancelled=True),
    ],
    "the watermark falls back on old records": [
        ADMITTED,
        send("p-1", "dose", "d1", 1.0, dose()),
        send("p-1", "tick", "t", FAR_H),
        send("p-1", "tick", "t", FAR_H, revision=1, cancelled=True),
    ],
    "a level again after it left memory": [
        ADMITTED,
        send("p-1", "lab", "l1", 5.0, level(14.0)),
        send("p-1", "tick", "t", FAR_H),
        send("p-1", "lab", "l1", 5.0, level(14.0)),
    ],
    "a crossing at an hour whose windows have left": [
        ADMITTED,
        send("p-1", "regimen", "r1", 0.2, regimen(30.0, 9000.0, 60)),
        *(device(n, 1.0 + n) for n in range(29)),
        *(send("p-1", "dose", f"d{n}", 30.0 + 12.0 * n, dose(4000.0)) for n in range(20)),
    ],
    "an old discharge and an episode that stands for ever": [
        ADMITTED,
        send("p-1", "discharge", "out", 5.0),
        send("p-1", "patient", "back", 10.0, ADMISSION),
        *(send("p-1", "dose", f"d{n}", 20.0 + 72.0 * n, dose(9000.0)) for n in range(175)),
    ],
    "a drug of which nothing is left": [
        ADMITTED,
        send("p-1", "dose", "d1", 1.0, dose(6000.0)),
        send("p-1", "tick", "t1", FAR_H),
        send("p-1", "tick", "t2", FAR_H - 10.0),
    ],
}


@pytest.mark.parametrize("story", HARD_TO_REMEMBER)
def test_what_has_left_memory_changes_nothing_however_the_log_is_split(story: str) -> None:
    log = logged(HARD_TO_REMEMBER[story], append_h=2 * FAR_H)
    account = foretold(log)
    check(piped_in([log]), account)
    check(piped_in([[raw] for raw in log]), account)
    check(piped_in([[raw] for raw in log], forgetful=True), account)


# Two orders of arrival of the same records.
HARD_TO_ORDER: dict[str, tuple[list[Sent], list[Sent]]] = {
    "a level four days after the last frame, for the wrong patient": (
        [
            ADMITTED,
            *(device(n, 1.0 + n) for n in range(5)),
            send("p-1", "lab", "l1", 110.0, level(9.0)),
            send("p-1", "lab", "l1", 110.0, revision=1, cancelled=True),
        ],
        [
            ADMITTED,
            send("p-1", "lab", "l1", 110.0, revision=1, cancelled=True),
            *(device(n, 1.0 + n) for n in range(5)),
            send("p-1", "lab", "l1", 110.0, level(9.0)),
        ],
    ),
    "a patient record after months of doses": (
        [ADMITTED, *(send("p-1", "dose", f"d{n}", 20.0 + 72.0 * n, dose(9000.0)) for n in range(45))],
        [*(send("p-1", "dose", f"d{n}", 20.0 + 72.0 * n, dose(9000.0)) for n in range(45)), ADMITTED],
    ),
}


@pytest.mark.parametrize("story", HARD_TO_ORDER)
def test_what_leaves_memory_on_the_way_does_not_make_the_order_of_arrival_matter(story: str) -> None:
    logs = [logged(order, append_h=FAR_H) for order in HARD_TO_ORDER[story]]
    accounts = [foretold(log) for log in logs]
    assert accounts[0].digest == accounts[1].digest
    for log, account in zip(logs, accounts, strict=True):
        check(piped_in([[raw] for raw in log], forgetful=True), account)
