"""What operators are told of a device whose clock is wrong: in the twin's answer, the list and the metrics."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from streams.pipeline import Pipeline
from streams.ports import RawRecord
from streams.queries import answers
from streams.queries.listing import read_row
from streams.queries.views import describe_twin, look
from streams.web.metrics import render_metrics
from tests.streams.logs import START, VOLUNTEER, moment
from twinstate.library import load_library
from twinstate.types import NS_PER_HOUR

LIBRARY = load_library(Path("config"))
PATIENT = "p-clock"
ZERO = int(START.timestamp()) * 1_000_000_000


def sent(kind: str, name: str, at_h: float, payload: dict[str, Any], lag_s: float) -> RawRecord:
    body = {
        "schema": "twin.record/1",
        "id": name,
        "patient": PATIENT,
        "kind": kind,
        "event_time": moment(at_h),
        "source": "ward",
        "payload": payload,
    }
    append = ZERO + round(at_h * NS_PER_HOUR) + round(lag_s * 1e9)
    return RawRecord(0, append, PATIENT.encode(), json.dumps(body).encode(), ())


def frame(device: str, sequence: int, at_h: float, lag_s: float) -> RawRecord:
    values = {"signal": "qtc", "unit": "ms", "values": [410.0], "period_s": 60.0}
    return sent("wearable", f"{device}:{sequence}", at_h, values, lag_s)


@pytest.fixture(scope="module")
def outcome() -> Any:
    pipeline = Pipeline(LIBRARY, 0, 1)
    pipeline.remember(PATIENT, None)
    records = [sent("patient", "adm", 0.0, VOLUNTEER, 5.0)]
    for n in range(8):
        records.append(frame("fast", n, 1.0 + 0.1 * n, -90.0 - n))
        records.append(frame("slow", n, 1.0 + 0.1 * n, 1500.0 + n))
        records.append(frame("good", n, 1.0 + 0.1 * n, 3.0))
    return pipeline.update(pipeline.decode(records))


def test_the_answer_names_the_device_the_direction_and_how_far(outcome: Any) -> None:
    rules = Pipeline(LIBRARY, 0, 1).rules
    position = answers.Position(partition=0, next_offset=25)
    for as_of in ("live", ZERO + NS_PER_HOUR):
        view = look(outcome.twins[PATIENT], as_of, rules)  # type: ignore[arg-type]
        told = describe_twin(view, 1, position, "f", ZERO + 3 * NS_PER_HOUR, rules)
        assert [clock.model_dump() for clock in told.clocks] == [
            {"device": "fast", "doubt": "ahead", "seconds": 97.0, "frames": 8},
            {"device": "slow", "doubt": "behind", "seconds": 1500.0, "frames": 8},
        ]


def test_the_list_and_the_metrics_count_them_without_a_name(outcome: Any) -> None:
    row = read_row(outcome.index[PATIENT], LIBRARY.drugs)
    assert sorted(row.doubted_clocks) == ["ahead", "behind"]
    counts = answers.Counts(
        records={},
        events={},
        dead_letters={},
        twins={},
        standing={},
        doubted_clocks={"ahead": 1, "behind": 1},
        positions={},
        waiting={},
        seen_s={},
        fingerprints=(),
    )
    text = render_metrics(counts, "0" * 64).decode()
    assert 'twin_doubted_clocks{doubt="ahead"} 1.0' in text
    assert "fast" not in text


def test_a_correction_or_a_history_sent_again_says_nothing_of_a_clock() -> None:
    pipeline = Pipeline(LIBRARY, 0, 1)
    pipeline.remember(PATIENT, None)
    late = [frame("watch", n, 1.0 + 0.1 * n, 1500.0) for n in range(8)]
    backfill = [r._replace(headers=(("twin-backfill", b"1"),)) for r in late]
    records = [sent("patient", "adm", 0.0, VOLUNTEER, 5.0), *backfill]
    outcome = pipeline.update(pipeline.decode(records))
    assert read_row(outcome.index[PATIENT], LIBRARY.drugs).doubted_clocks == ()
