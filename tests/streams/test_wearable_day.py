"""A day of telemetry, however it comes: semantics 1.5, 2.3 and 3.4."""

from __future__ import annotations

import itertools
import json
import random
from pathlib import Path
from typing import Any

import msgspec
import pytest

from streams.codec import partition_of
from streams.oracle import Oracle
from streams.pipeline import Pipeline
from streams.ports import RawRecord
from streams.queries.views import look
from tests.streams.logs import START, VOLUNTEER, dose, moment
from twinstate.library import Library, load_library
from twinstate.twin import TwinDocument
from twinstate.types import NS_PER_HOUR

PATIENT = "p-day"
PARTITION = partition_of(PATIENT.encode(), 4)
ZERO = int(START.timestamp()) * 1_000_000_000
MINUTES = 24 * 60


@pytest.fixture(scope="module")
def library() -> Library:
    return load_library(Path("config"))


def raw(body: dict[str, Any], arrives_h: float, offset: int = 0) -> RawRecord:
    return RawRecord(
        offset=offset,
        append_time=ZERO + round(arrives_h * NS_PER_HOUR),
        key=PATIENT.encode(),
        value=json.dumps(body).encode(),
        headers=(),
    )


def record(kind: str, name: str, at_h: float, payload: dict[str, Any]) -> dict[str, Any]:
    return {
        "schema": "twin.record/1",
        "id": name,
        "patient": PATIENT,
        "kind": kind,
        "event_time": moment(at_h),
        "source": "ward",
        "payload": payload,
    }


def admission() -> list[dict[str, Any]]:
    return [
        record("patient", "adm", 0.0, VOLUNTEER),
        record("dose", "d1", 1.0, dose(400.0, "moxifloxacin", "oral")),
    ]


def day(seed: int) -> list[float | None]:
    """A reading a minute, some unreadable, some nonsense."""
    dice = random.Random(seed)
    return [
        dice.choice([None, 950.0]) if dice.random() < 0.05 else round(dice.gauss(410.0, 6.0))
        for _ in range(MINUTES)
    ]


def frames(values: list[float | None], cuts: list[int], device: str = "patch") -> list[dict[str, Any]]:
    """The day cut at these minutes, a frame each."""
    told = []
    for sequence, (begin, end) in enumerate(itertools.pairwise(cuts)):
        payload = {"signal": "qtc", "unit": "ms", "values": values[begin:end], "period_s": 60.0}
        told.append(record("wearable", f"{device}:{sequence}", (end - 1) / 60.0, payload))
    return told


def within_hours(dice: random.Random) -> list[int]:
    """Cuts at every full hour and at random in between: the last minute of an hour belongs to that hour."""
    cuts = {0, MINUTES, *(60 * hour + 1 for hour in range(24))}
    cuts |= {dice.randrange(1, MINUTES) for _ in range(60)}
    return sorted(cuts)


def twin_of(library: Library, arrivals: list[RawRecord]) -> bytes:
    pipeline = Pipeline(library, PARTITION, 4)
    pipeline.remember(PATIENT, None)
    return pipeline.update(pipeline.decode(arrivals)).twins[PATIENT].canonical


def test_any_order_duplication_and_split_within_hours_gives_the_same_bytes(
    library: Library,
) -> None:
    values = day(1)
    end = record("tick", "t", 24.5, {})
    seen = set()
    for seed in range(5):
        dice = random.Random(seed)
        told = frames(values, within_hours(dice))
        told += dice.sample(told, 20)
        dice.shuffle(told)
        # Out of order within the 12 h that a frame may be late: the morning, then the rest.
        told.sort(key=lambda body: body["event_time"] > moment(11.9))
        arrivals = [raw(body, 24.0) for body in [*admission(), *told, end]]
        seen.add(twin_of(library, arrivals))
    assert len(seen) == 1


def test_a_split_across_the_hours_gives_the_same_estimates_and_risks(library: Library) -> None:
    # Other bytes: a share of a window is kept with the hour its frame ends in (decision 2).
    values = day(1)
    end = record("tick", "t", 24.5, {})
    documents = []
    for cuts in (
        [0, *(60 * hour + 1 for hour in range(24)), MINUTES],
        [*range(0, MINUTES + 1, 10)],
        [0, *range(5, MINUTES, 10), MINUTES],
        [*range(0, MINUTES + 1, 60)],
    ):
        arrivals = [raw(body, 24.0) for body in [*admission(), *frames(values, cuts), end]]
        documents.append(msgspec.msgpack.decode(twin_of(library, arrivals), type=TwinDocument))
    assert any(document.windows != documents[0].windows for document in documents)
    assert documents[0].estimates[0].channel is not None
    assert all(document.estimates == documents[0].estimates for document in documents)


def test_a_buffered_upload_five_hours_late_gives_the_twin_an_on_time_upload_would(library: Library) -> None:
    told = frames(day(2), [*range(0, MINUTES, 10), MINUTES])
    end = record("tick", "t", 24.5, {})
    on_time = [raw(body, 24.0) for body in [*admission(), *told, end]]
    buffered = [body for body in told if moment(6.0) < body["event_time"] < moment(11.0)]
    rest = [body for body in told if body not in buffered]
    before = [body for body in rest if body["event_time"] < moment(16.0)]
    after = [body for body in rest if body["event_time"] >= moment(16.0)]
    late = [raw(body, 24.0) for body in [*admission(), *before, *buffered, *after, end]]
    assert len(buffered) == 30
    assert twin_of(library, late) == twin_of(library, on_time)


def test_odd_devices_are_flagged_and_the_oracle_flags_them_alike(library: Library) -> None:
    values = day(3)
    told = frames(values, [*range(0, 600, 10)])
    told += frames([450.0 + i % 4 for i in range(MINUTES)], [*range(480, 600, 30)], "watch")
    overlapping = record(
        "wearable",
        "patch:900",
        9.5,
        {"signal": "qtc", "unit": "ms", "values": [501.0, 502.0], "period_s": 60.0},
    )
    hung = record(
        "wearable",
        "ring:1",
        9.7,
        {"signal": "systolic_pressure", "unit": "mm[Hg]", "values": [122.0] * 200, "period_s": 1.0},
    )
    arrivals = [raw(body, 24.0, i) for i, body in enumerate([*admission(), *told, overlapping, hung])]
    found = twin_of(library, arrivals)
    assert set(msgspec.msgpack.decode(found, type=TwinDocument).quality) >= {
        "qtc:several_devices",
        "qtc:devices_overlap",
        "qtc:frames_overlap",
        "qtc:unusual",
        "systolic_pressure:flat_line",
        "systolic_pressure:unmodelled",
    }
    oracle = Oracle(library, 4)
    oracle.read(PARTITION, arrivals)
    assert oracle.account().twins[PATIENT] == found
    quiet = twin_of(
        library, [raw(body, 24.0) for body in [*admission(), *frames(values, [*range(0, 600, 10)])]]
    )
    assert msgspec.msgpack.decode(quiet, type=TwinDocument).quality == ()


def test_an_answer_about_the_past_flags_the_frames_that_overlapped_then(library: Library) -> None:
    told = frames(day(3), [*range(0, 1200, 10)])
    overlapping = record(
        "wearable",
        "patch:900",
        9.5,
        {"signal": "qtc", "unit": "ms", "values": [501.0, 502.0], "period_s": 60.0},
    )
    pipeline = Pipeline(library, PARTITION, 4)
    pipeline.remember(PATIENT, None)
    arrivals = [raw(body, 24.0, i) for i, body in enumerate([*admission(), *told, overlapping])]
    stored = pipeline.update(pipeline.decode(arrivals)).twins[PATIENT]
    for at_h, overlap in ((9.0, False), (10.0, True), (19.0, True)):
        then = look(stored, ZERO + round(at_h * NS_PER_HOUR), pipeline.rules)
        assert then.recomputed
        assert ("qtc:frames_overlap" in then.document.quality) is overlap, at_h
    until_ten = [r for r in arrivals if json.loads(r.value or b"")["event_time"] <= moment(10.0)]
    pipeline.remember(PATIENT, None)
    alone = pipeline.update(pipeline.decode(until_ten)).twins[PATIENT]
    asked = look(stored, ZERO + 10 * NS_PER_HOUR, pipeline.rules).document
    assert asked.quality == msgspec.msgpack.decode(alone.canonical, type=TwinDocument).quality
