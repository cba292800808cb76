"""Rows of the fault matrix about time: how late is too late, to the millisecond, and clocks that are wrong."""

from __future__ import annotations

import datetime as dt
import json
import random
from collections.abc import Sequence

import pytest

from streams.codec import partition_of
from streams.simulation.wire import DemoRecord, Sender, utc
from tests.integration.acceptance.invariants import require_invariants
from tests.integration.acceptance.records import altered, body_of, disturbed, document_of, kind_of
from tests.integration.acceptance.ward import PATIENCE_S, OpenWard, SmallWard
from tests.integration.ward import wait_until
from twinstate.types import NS_PER_HOUR

SKEWED = "tests.integration.acceptance.skewed:create_skewed_pipeline"
STEPPING = "tests.integration.acceptance.skewed:create_stepping_pipeline"
NOW = utc("2026-03-20T08:00:00Z")
WHO = Sender("edge-1", "ward-3")
YEAR_H = 365 * 24.0


def placed(record: DemoRecord, hours: float, milliseconds: int = 0, **changes: object) -> DemoRecord:
    """The record so many hours, and milliseconds, from NOW."""
    at = dt.datetime.fromtimestamp(NOW / 1e9, dt.UTC) + dt.timedelta(hours=hours, milliseconds=milliseconds)
    return altered(record, event_time=at.isoformat(timespec="milliseconds"), **changes)


def lab(name: str) -> DemoRecord:
    return WHO.lab(NOW, name, "creatinine", 1.1, "mg/dL")


def frame(name: str) -> DemoRecord:
    return WHO.frame(NOW, name, "heart_rate", "/min", [71.0], None)


def refused(ward: SmallWard, patient: str) -> list[tuple[str, str]]:
    """Ids and reasons of a patient's dead letters, in order."""
    letters = ward.read(
        ward.topics.names.dead_letters, partition_of(patient.encode(), ward.topics.partitions)
    )
    return [
        (json.loads(one.value())["id"], dict(one.headers())["twin-error-class"].decode())
        for one in letters
        if one.key() == patient.encode()
    ]


@pytest.mark.row("12")
def test_record_exactly_at_its_limit_is_taken_and_one_a_millisecond_later_is_not(
    wards: OpenWard, dice: random.Random
) -> None:
    ward = wards()
    ward.start()
    revise_h = 90 * 24.0  # the limits of semantics: 72 h, for wearables 12 h, for corrections 90 days
    ward.tell(
        [
            placed(WHO.patient_record(NOW, "admission", {}), -revise_h - 24.0),
            WHO.tick(NOW, "now"),
            placed(lab("exact"), -72.0),
            placed(lab("beyond"), -72.0, -1),
            placed(frame("watch:1"), -12.0),
            placed(frame("watch:2"), -12.0, -1),
            placed(lab("corrected"), -revise_h, revision=1),
            placed(lab("corrected-beyond"), -revise_h, -1, revision=1),
            # Taken from where it is known to stand to beyond the limit: the older of the two times counts.
            placed(lab("exact"), -revise_h, -1, revision=1),
        ]
    )
    outcome = require_invariants(ward)
    assert refused(ward, WHO.patient) == [
        ("edge-1.beyond", "late"),
        ("watch:2", "late"),
        ("edge-1.corrected-beyond", "late"),
        ("edge-1.exact", "late"),
    ]
    assert outcome.counts["dead_letters.late"] == 4
    twin = document_of(outcome.twins[WHO.patient])
    assert sorted((one.id, one.revision) for one in twin.entries if one.kind == "lab") == [
        ("edge-1.corrected", 1),
        ("edge-1.exact", 0),
    ]
    assert list(twin.windows) == ["heart_rate"]


@pytest.mark.row("12")
def test_record_too_late_is_a_dead_letter_and_counted(wards: OpenWard, dice: random.Random) -> None:
    ward = wards()
    ward.start()
    arrival = list(disturbed().arrival)
    ward.tell(arrival)
    late = [
        altered(record, id=f"late-{number}", event_time="2001-01-01T00:00:00Z")
        for number, record in enumerate(arrival)
        if kind_of(record) == "lab"
    ][:5]
    ward.tell(late)
    outcome = require_invariants(ward)
    assert outcome.counts["dead_letters.late"] >= len(late)


@pytest.mark.row("13")
def test_clock_of_a_worker_and_of_devices_change_no_byte(wards: OpenWard, dice: random.Random) -> None:
    ward = wards()
    ward.start(TWIN_WORKER__PIPELINE_FACTORY=SKEWED)
    arrival = list(disturbed().arrival)
    for record in dice.sample([r for r in arrival if kind_of(r) == "lab"], 8):
        year = int(body_of(record)["event_time"][:4]) + dice.choice((-40, 170))
        arrival.insert(
            dice.randrange(len(arrival)),
            altered(record, id=f"skew-{year}", event_time=f"{year}-01-01T00:00:00Z"),
        )
    ward.tell(arrival)
    outcome = require_invariants(ward)
    assert outcome.counts["dead_letters.future"] > 0


def clocks_gone_wrong(real: Sequence[DemoRecord], dice: random.Random) -> list[DemoRecord]:
    """The records, and among them copies of levels by devices ten years ahead, a year back, and without any time."""
    arrival = list(real)
    for number, record in enumerate(dice.sample([r for r in real if kind_of(r) == "lab"], 8)):
        year = int(body_of(record)["event_time"][:4])
        wrong = {
            0: f"{year + 10}-01-01T00:00:00Z",
            1: f"{year - 1}-01-01T00:00:00Z",
            2: float("nan"),
            3: "NaN",
        }[number % 4]
        place = dice.randrange(arrival.index(record) + 1, len(arrival) + 1)
        arrival.insert(place, altered(record, id=f"skew-{number}", event_time=wrong))
    return arrival


@pytest.mark.row("13")
@pytest.mark.long
def test_clock_set_back_under_a_running_worker_and_devices_years_off_poison_no_watermark(
    wards: OpenWard, dice: random.Random
) -> None:
    ward = wards()
    worker = ward.start(TWIN_WORKER__PIPELINE_FACTORY=STEPPING)
    arrival = clocks_gone_wrong(disturbed().arrival, dice)
    telling = ward.telling(arrival)
    telling.done()
    wait_until(ward.at_end, PATIENCE_S, "applied", ward.workers)
    # Who was told of a time ten years ahead is where his own records are, and the next one is taken.
    ward.tell([WHO.patient_record(NOW, "admission", {})])
    ward.tell([placed(lab("ahead"), 10 * YEAR_H)])
    ward.tell([placed(lab("next"), 1.0)])
    outcome = require_invariants(ward)
    assert refused(ward, WHO.patient) == [("edge-1.ahead", "future")]
    assert document_of(outcome.twins[WHO.patient]).watermark == NOW + NS_PER_HOUR
    assert (outcome.counts["dead_letters.not_json"], outcome.counts["dead_letters.wrong_schema"]) == (2, 2)
    assert outcome.counts["dead_letters.future"] == 3
    assert worker.log.read_text().count("clock set back") > 0
