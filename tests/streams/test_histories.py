"""Same records, same bytes, whatever happened to them on the way: for every structure the library can express."""

from __future__ import annotations

import os

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from streams.oracle import Oracle
from streams.pipeline import Pipeline
from streams.ports import StoredTwin
from tests.streams.histories import PATIENT, History, histories
from tests.streams.logs import Sent, logged
from tests.streams.structures import WARDS, library_of
from twinstate.library import Library

# Ten times as many: HISTORIES=10 .venv/bin/python -m pytest tests/streams/test_histories.py -n 2 --timeout 0
TIMES = int(os.environ.get("HISTORIES", "1"))
# Shrinking takes longer than a test may; a wider search has that time.
PHASES = [Phase.generate, *([Phase.shrink] if TIMES > 1 else [])]
APPENDED_H = 1000.0


def piped(library: Library, sent: list[Sent], sizes: list[int]) -> bytes:
    """The twin's canonical bytes after a log in batches of these sizes; memory is dropped before every second one."""
    pipeline = Pipeline(library, 0, 1)
    stored: dict[str, StoredTwin] = {}
    log = logged(sent, APPENDED_H)
    turn = 0
    while log:
        size = sizes[turn % len(sizes)]
        turn += 1
        if turn % 2 == 0:
            pipeline.forget()
        batch = pipeline.decode(log[:size])
        del log[:size]
        for patient in pipeline.missing(batch):
            pipeline.remember(patient, stored.get(patient))
        outcome = pipeline.update(batch)
        letters = [one for one in outcome.outgoing if one.topic == "dead_letters"]
        assert letters == [], letters[0].headers
        stored.update(outcome.twins)
    return stored[PATIENT].canonical


@pytest.mark.parametrize("structure", WARDS)
def test_any_history_of_the_same_records_ends_in_the_bytes_of_the_clean_one(structure: str) -> None:
    library, ward = library_of(structure), WARDS[structure]

    @settings(max_examples=ward.examples * TIMES, phases=PHASES, suppress_health_check=list(HealthCheck))
    @given(histories(ward), st.lists(st.sampled_from([1, 2, 5, 20]), min_size=1, max_size=3))
    def same_bytes(history: History, sizes: list[int]) -> None:
        assert piped(library, history.arrival, sizes) == piped(library, history.clean, [len(history.clean)])

    same_bytes()


@pytest.mark.parametrize("structure", WARDS)
def test_the_oracle_tells_the_same_of_a_history_record_by_record(structure: str) -> None:
    library, ward = library_of(structure), WARDS[structure]

    @settings(
        max_examples=max(2, ward.examples // 5) * TIMES,
        phases=PHASES,
        suppress_health_check=list(HealthCheck),
    )
    @given(histories(ward))
    def same_bytes(history: History) -> None:
        oracle = Oracle(library, 1)
        oracle.read(0, logged(history.arrival, APPENDED_H))
        assert piped(library, history.arrival, [5]) == oracle.account().twins[PATIENT]

    same_bytes()
