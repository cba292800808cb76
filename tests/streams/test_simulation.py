"""The simulated ward of devices: the same bytes from the same seed, and a truth that its records bear out."""

from __future__ import annotations

import datetime as dt
import functools
import json
import math
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from streams.codec import partition_of, to_ns
from streams.ndjson import read_lines
from streams.oracle import Oracle
from streams.pipeline import Pipeline
from streams.ports import RawRecord
from streams.releases import Releases
from streams.simulation.dice import Dice, wandering
from streams.simulation.pace import AS_FAST_AS_POSSIBLE, check_pace, paced
from streams.simulation.stream import Plan, PlanError, Stream, simulate
from twinstate.digest import digest_of
from twinstate.library import load_library
from twinstate.twin import TwinMemory
from twinstate.types import NS_PER_HOUR

LIBRARY = load_library(Path("config"))
SECOND = 1_000_000_000


@functools.cache
def ward() -> Stream:
    return simulate(Plan(seed=5, patients=8, length_h=30.0, faulty=0.0))


def truths(stream: Stream) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.truth]


def ns(text: str) -> int:
    return to_ns(dt.datetime.fromisoformat(text))


@functools.cache
def heard() -> dict[str, list[tuple[int, dict[str, Any]]]]:
    return frames_by_device(ward())


def frames_by_device(stream: Stream) -> dict[str, list[tuple[int, dict[str, Any]]]]:
    """Arrival and body of every frame, by device."""
    found = defaultdict(list)
    for arrival in stream.arrivals:
        body = json.loads(arrival.record.value)
        if body["kind"] == "wearable":
            found[body["id"].rpartition(":")[0]].append((arrival.at, body))
    return found


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others() -> None:
    plan = Plan(patients=2, length_h=3.0)
    one, same, other = simulate(plan), simulate(plan), simulate(plan._replace(seed=2))
    assert one.arrivals == same.arrivals
    assert one.truth == same.truth
    assert {a.record.value for a in one.arrivals}.isdisjoint(a.record.value for a in other.arrivals)


def test_one_more_patient_changes_nothing_of_the_others() -> None:
    few, more = (simulate(Plan(patients=n, length_h=3.0)) for n in (2, 3))
    assert more.truth[:2] == few.truth
    assert [a for a in more.arrivals if not a.record.patient.endswith("0003")] == few.arrivals


def test_two_plans_never_give_one_record_two_bodies() -> None:
    plan = Plan(patients=1, length_h=3.0)
    others = [plan._replace(length_h=4.0), plan._replace(faulty=1.0), plan._replace(kinds=("patch",))]
    bodies: dict[tuple[str, str, str], bytes] = {}
    for arrival in (a for one in (plan, *others) for a in simulate(one).arrivals):
        body = json.loads(arrival.record.value)
        identity = (body["patient"], body["kind"], body["id"])
        assert bodies.setdefault(identity, arrival.record.value) == arrival.record.value


def test_every_record_is_one_the_worker_takes() -> None:
    lines = list(read_lines((a.record.value for a in ward().arrivals), Releases(LIBRARY)))
    assert [line.refusal for line in lines if line.refusal is not None] == []
    assert len(lines) > 5000


def test_nothing_arrives_before_it_is_written_nor_after_the_end() -> None:
    plan = Plan(seed=5, patients=8, length_h=30.0, faulty=0.0)
    assert all(plan.start <= a.at <= plan.end for a in ward().arrivals)
    for arrival in ward().arrivals:
        assert arrival.record.event_time_ns - arrival.at < 300 * SECOND, "a broker would call it future"


def test_the_truth_counts_what_is_lost_and_what_is_sent_twice() -> None:
    for known in truths(ward()):
        for device in known["devices"]:
            ids = Counter(body["id"] for _, body in heard()[device["device"]])
            assert len(ids) == device["frames"] - device["lost"]
            assert sum(ids.values()) - len(ids) == device["sent_twice"]


def test_the_truth_knows_how_wrong_each_clock_is() -> None:
    checked = 0
    for known in truths(ward()):
        for device in known["devices"]:
            arrived = heard()[device["device"]]
            lag_s = [(at - ns(body["event_time"])) / SECOND for at, body in arrived]
            if len(lag_s) < 20:
                continue
            # A frame on its way takes 1 to 20 s: what the least lag lies off that is the clock's doing.
            drifted_s = abs(device["clock"]["drift_ppm"]) * 1e-6 * 30 * 3600
            assert -1.0 - drifted_s <= min(lag_s) + device["clock"]["offset_s"] <= 20.0 + drifted_s
            checked += 1
    assert checked >= 20


def test_buffered_frames_come_in_a_burst_when_their_outage_ends() -> None:
    late = 0
    for known in truths(ward()):
        for device in known["devices"]:
            ends = [ns(outage["to"]) for outage in device["outages"]]
            for at, body in heard()[device["device"]]:
                true = ns(body["event_time"]) - round(device["clock"]["offset_s"]) * SECOND
                if at - true > NS_PER_HOUR:
                    late += 1
                    # Two minutes for the burst, ten for one sent again.
                    assert any(-1 <= (at - end) / SECOND <= 720 for end in ends)
    assert late > 50


def test_readings_lie_round_the_true_signal() -> None:
    differences = []
    for known in truths(ward()):
        patch = known["devices"][0]
        if any(off["shows"] == "noise" for off in patch["off_body"]):
            continue
        readings = [
            v
            for _, body in heard()[patch["device"]]
            for v in body["payload"]["values"]
            if v is not None and v < 800
        ]
        differences.append(np.mean(readings) - np.mean(known["hourly"]["signals"]["qtc"]))
    assert len(differences) >= 4
    # 1.52 % of 406 ms that remembers 1.5 h, over 30 h: SD 6.2 * sqrt(2 * 1.5 / 30) = 2 ms a patient.
    assert abs(np.mean(differences)) < 4.0 * 2.0 / math.sqrt(len(differences))


def test_noise_remembers_as_long_as_it_should() -> None:
    noise = wandering(Dice(3, 1), 20_000, 1.0 / 60.0, 0.5)
    assert np.corrcoef(noise[1:], noise[:-1])[0, 1] == pytest.approx(math.exp(-1.0 / 30.0), abs=0.01)
    assert np.std(noise) == pytest.approx(1.0, abs=0.15)


def test_every_sort_of_trouble_occurs() -> None:
    stream = simulate(Plan(seed=5, patients=8, length_h=30.0, faulty=1.0))
    devices = [device for known in truths(stream) for device in known["devices"]]
    assert {d["fault"]["what"] for d in devices} == {"stuck", "twice the gain", "5 % an hour upwards"}
    assert {off["shows"] for d in devices for off in d["off_body"]} == {"nothing", "nulls", "noise"}
    assert any(d["clock"]["offset_s"] > 50 for d in devices)
    assert any(d["clock"]["offset_s"] < -1000 for d in devices)
    assert all(known["doses"] for known in truths(stream))
    sizes = {len(b["payload"]["values"]) for found in frames_by_device(stream).values() for _, b in found}
    assert sizes == {1, 10, 15, 60}


def log_of(arrivals: list[tuple[int, bytes]]) -> list[RawRecord]:
    return [
        RawRecord(offset, at, json.loads(value)["patient"].encode(), value, ())
        for offset, (at, value) in enumerate(arrivals)
    ]


def digest_through_the_pipeline(log: list[RawRecord]) -> str:
    pipeline = Pipeline(LIBRARY, 0, 1)
    batch = pipeline.decode(log)
    for patient in batch.patients:
        pipeline.remember(patient, None)
    outcome = pipeline.update(batch)
    assert {name for name in outcome.counts if name.startswith("dead_letters")} == set()
    return digest_of({patient: twin.canonical for patient, twin in outcome.twins.items()})


def test_however_the_network_behaves_the_twins_are_those_of_a_perfect_one_and_of_the_oracle() -> None:
    plan = Plan(seed=3, patients=2, length_h=8.0, kinds=("patch", "thermometer"), faulty=0.5)
    stream = simulate(plan)
    arrived = log_of([(a.at, a.record.value) for a in stream.arrivals])
    perfect = log_of([(plan.end, record.value) for record in stream.in_order])
    assert [r.value for r in arrived] != [r.value for r in perfect]
    found = digest_through_the_pipeline(arrived)
    assert found == digest_through_the_pipeline(perfect)
    oracle = Oracle(LIBRARY, 1)
    oracle.read(0, arrived)
    assert oracle.account().digest == found


class ManualClock:
    def __init__(self) -> None:
        self.now_s = 100.0

    def now(self) -> float:
        return self.now_s

    def rest(self, seconds: float) -> None:
        self.now_s += seconds


def test_at_speed_sixty_an_hour_takes_a_minute() -> None:
    plan = Plan(patients=1, length_h=2.0)
    stream, clock = simulate(plan), ManualClock()
    due = []
    for arrival in paced(stream.arrivals, plan.start, 60.0, now=clock.now, rest=clock.rest):
        due.append((arrival.at - plan.start) / SECOND / 60.0 - (clock.now() - 100.0))
    assert len(due) == len(stream.arrivals)
    assert max(abs(d) for d in due) < 1e-6
    assert clock.now() - 100.0 == pytest.approx(120.0)


def test_as_fast_as_possible_never_rests() -> None:
    plan = Plan(patients=1, length_h=2.0)
    stream, clock = simulate(plan), ManualClock()
    assert (
        len(list(paced(stream.arrivals, plan.start, AS_FAST_AS_POSSIBLE, now=clock.now, rest=clock.rest)))
        > 50
    )
    assert clock.now() == 100.0


def test_a_stream_that_would_overtake_the_clock_is_refused_and_real_time_from_now_on_is_not() -> None:
    plan = Plan(length_h=24.0)
    wall = plan.start + NS_PER_HOUR
    check_pace(plan, 1.0, wall)
    check_pace(plan, AS_FAST_AS_POSSIBLE, plan.end)
    for speed in (60.0, AS_FAST_AS_POSSIBLE):
        with pytest.raises(PlanError, match="start 24 h ago or earlier, or simulate at speed 1"):
            check_pace(plan, speed, wall)
    with pytest.raises(PlanError, match="lies ahead"):
        check_pace(plan, 1.0, plan.start - SECOND)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"seed": -1}, "a seed is 0 or"),
        ({"patients": 0}, "simulate 1 to 9999"),
        ({"length_h": 0.5}, "simulate 1 to 336"),
        ({"faulty": 1.5}, "lies from 0 to 1"),
        ({"kinds": ("patch", "lamp")}, "no device lamp; there are patch, watch, thermometer, cuff"),
    ],
)
def test_a_plan_that_cannot_be_says_why(change: dict[str, Any], says: str) -> None:
    with pytest.raises(PlanError, match=says):
        simulate(Plan()._replace(**change))


def test_patients_spread_over_partitions() -> None:
    keys = {a.record.patient.encode() for a in ward().arrivals}
    assert len({partition_of(key, 4) for key in keys}) > 1


def test_wrong_clocks_are_found_and_right_ones_left_alone_and_no_byte_of_a_twin_knows() -> None:
    plan = Plan(seed=8, patients=16, length_h=3.0, kinds=("patch",), faulty=0.0)
    stream = simulate(plan)
    arrived = [(a.at, a.record.value) for a in stream.arrivals]
    pipeline = Pipeline(LIBRARY, 0, 1)
    batch = pipeline.decode(log_of(arrived))
    for patient in batch.patients:
        pipeline.remember(patient, None)
    twins = pipeline.update(batch).twins
    found, wrong = {}, {}
    for known in truths(stream):
        device = known["devices"][0]
        offset_s = device["clock"]["offset_s"]
        wrong[device["device"]] = "ahead" if offset_s > 50 else "behind" if offset_s < -1000 else ""
        memory = msgspec.msgpack.decode(twins[known["patient"]].rest, type=TwinMemory)
        (clock,) = memory.clocks
        found[device["device"]] = clock.doubt
    assert sorted(set(wrong.values())) == ["", "ahead", "behind"]
    assert found == wrong
    in_time = log_of([(plan.end, record.value) for record in stream.in_order])
    assert digest_through_the_pipeline(in_time) == digest_of({p: t.canonical for p, t in twins.items()})
