"""`twin simulate` to a real Kafka: at the speed asked for, each patient's records in his partition and in order."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import redis

from streams.adapters.topics import Topics
from streams.codec import partition_of
from streams.embedded import EmbeddedKafka, EmbeddedRedis, Process
from streams.simulation.stream import Plan
from streams.simulation.stream import simulate as play
from tests.integration.test_cli import Line, environment
from tests.integration.ward import ROOT, Ward, wait_until

SPEED = 3600.0
PLAN = Plan(seed=4, patients=4, length_h=3.0)


@pytest.fixture
def line(
    kafka: EmbeddedKafka,
    redis_server: EmbeddedRedis,
    redis_client: redis.Redis,
    topics: Topics,
    group: str,
    tmp_path: Path,
) -> Line:
    servers = {"KAFKA_BOOTSTRAP_SERVERS": kafka.bootstrap, "REDIS_URL": redis_server.url}
    return Line(environment(tmp_path, topics, **servers, TWIN_KAFKA__GROUP=group))


@pytest.fixture
def ward(
    kafka: EmbeddedKafka, redis_server: EmbeddedRedis, topics: Topics, group: str, tmp_path: Path
) -> Any:
    ward = Ward(kafka.bootstrap, redis_server.url, topics, group, tmp_path)
    yield ward
    ward.stop()


def simulated(line: Line, tmp_path: Path, *more: str) -> Any:
    words = ("--seed", str(PLAN.seed), "--patients", str(PLAN.patients), "--hours", "3")
    return line.json("simulate", *words, "--truth", str(tmp_path / "truth.ndjson"), *more)


def test_a_simulated_ward_is_published_at_the_speed_asked_for_and_becomes_twins(
    line: Line, ward: Ward, topics: Topics, tmp_path: Path
) -> None:
    began = time.monotonic()
    told = simulated(line, tmp_path, "--speed", str(SPEED))
    took_s = time.monotonic() - began
    assert told["seconds"] >= 3.0, "three hours at 3600 hours an hour"
    assert took_s < 60.0
    stream = play(PLAN)
    assert told["published"] == len(stream.arrivals)
    by_partition: dict[int, list[bytes]] = {p: [] for p in range(topics.partitions)}
    for arrival in stream.arrivals:
        by_partition[partition_of(arrival.record.patient.encode(), topics.partitions)].append(
            arrival.record.value
        )
    for partition, sent in by_partition.items():
        assert [record.value for record in ward.records(partition)] == sent
    assert [json.loads(row)["patient"] for row in (tmp_path / "truth.ndjson").read_text().splitlines()] == [
        f"sim-{PLAN.name}-{n:04d}" for n in range(1, 5)
    ]
    ward.worker(TWIN_WORKER__PIPELINE_FACTORY="streams.pipeline:create_pipeline")
    ward.settle(120)
    twin = line.json("state", f"sim-{PLAN.name}-0001")
    assert twin["state"] == "live"
    assert [e["drug"] for e in twin["estimates"]] == ["moxifloxacin"]
    assert twin["estimates"][0]["channel"]["windows"]["taken"] > 10


def test_simulating_the_same_again_changes_no_twin(line: Line, ward: Ward, tmp_path: Path) -> None:
    first = simulated(line, tmp_path)
    ward.worker(TWIN_WORKER__PIPELINE_FACTORY="streams.pipeline:create_pipeline")
    ward.settle(120)
    assert ward.applied() == first["published"]
    before = line.json("state", f"sim-{PLAN.name}-0002")
    again = simulated(line, tmp_path)
    ward.settle(120)
    assert ward.applied() == first["published"] + again["published"]
    after = line.json("state", f"sim-{PLAN.name}-0002")
    assert after["version"] == before["version"]
    assert after["estimates"] == before["estimates"]


def test_a_live_ward_is_told_as_it_happens_and_ctrl_c_says_how_far_it_came(
    line: Line, ward: Ward, tmp_path: Path
) -> None:
    words = ("--patients", "3", "--hours", "1", "--start", "now", "--speed", "1", "--json")
    live = Process(
        "simulate",
        [sys.executable, "-m", "streams", "simulate", *words, "--truth", str(tmp_path / "live.ndjson")],
        tmp_path / "live.log",
        environment={**os.environ, **line.environment, "PYTHONPATH": str(ROOT)},
        directory=ROOT,
    )
    live.start()
    try:
        wait_until(lambda: sum(ward.end(p) for p in range(4)) >= 6, 40, "admissions and orders", [live])
        assert live.pid is not None
        os.kill(live.pid, signal.SIGINT)
        assert live.wait(30) == 130
    finally:
        live.kill()
    told = json.loads(live.log.read_text())
    assert told["stopped"]
    assert told["published"] == sum(ward.end(p) for p in range(4)) < told["records"]
    ward.worker(TWIN_WORKER__PIPELINE_FACTORY="streams.pipeline:create_pipeline")
    ward.settle(90)
    assert line.json("state", json.loads((tmp_path / "live.ndjson").read_text().splitlines()[0])["patient"])


def test_records_go_to_a_file_or_standard_output_instead(tmp_path: Path) -> None:
    line = Line(environment(tmp_path))
    line("simulate", "--patients", "1", "--hours", "2", "--out", str(tmp_path / "ward.ndjson"))
    assert (tmp_path / "ward.truth.ndjson").exists()
    line("validate", str(tmp_path / "ward.ndjson"))
    truth = str(tmp_path / "truth.ndjson")
    out = line("simulate", "--patients", "1", "--hours", "2", "--out", "-", "--truth", truth)
    assert out.encode() == (tmp_path / "ward.ndjson").read_bytes()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--speed", "fast"), "give a factor above 0"),
        (("--start", "2026-03-01"), "with its offset from UTC"),
        (("--start", "now"), "records from the future are refused"),
        (("--start", "2600-01-01T00:00:00Z"), "a moment from 1970 to 2198"),
        (("--start", "1970-01-01T00:00:00+14:00"), "a moment from 1970 to 2198"),
        (("--out", "ward.ndjson", "--truth", "ward.ndjson"), "would overwrite the truth"),
        (("--patients", "0"), "simulate 1 to 9999"),
        (("--device", "lamp"), "there are patch, watch"),
    ],
)
def test_what_cannot_be_simulated_ends_with_status_2_and_a_sentence(
    words: tuple[str, ...], says: str, tmp_path: Path
) -> None:
    line = Line(environment(tmp_path))
    line("simulate", *words, status=2)
    assert says in line.told
