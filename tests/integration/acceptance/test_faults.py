"""Kill the worker, Redis, Kafka or a subscriber: the events are those of a run that nobody disturbs."""

from __future__ import annotations

import random
import sqlite3
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import redis

from streams.embedded import EmbeddedKafka, EmbeddedRedis, Server
from streams.embedded.processes import Process
from tests.integration.acceptance.invariants import require_acknowledged, require_invariants
from tests.integration.acceptance.records import disturbed
from tests.integration.acceptance.ward import (
    PATIENCE_S,
    OpenWard,
    Outcome,
    SmallWard,
    Telling,
    Undisturbed,
    open_ward,
    require_same,
)
from tests.integration.ward import ROOT, wait_until

Record = Callable[[str, object], None]
FAIL_POINTS = (
    "in_acquire:2",
    "after_publish_before_ack:1",
    "before_apply:4",
    "after_apply_before_reply:4",
)


@pytest.mark.row("1")
@pytest.mark.faults
def test_worker_killed_at_every_fail_point_in_turn_gives_the_same_events(
    undisturbed: Undisturbed, wards: OpenWard, tmp_path: Path
) -> None:
    ward = wards()
    counter = tmp_path / "counter"
    telling = ward.telling(disturbed().arrival)
    for place in FAIL_POINTS:
        worker = ward.start(TWIN_FAIL_POINT=place, TWIN_FAIL_COUNTER=str(counter))
        assert worker.wait(PATIENCE_S) == -9
    assert counter.read_text().split() == [place.partition(":")[0] for place in FAIL_POINTS]
    ward.start()
    telling.done()
    outcome = require_invariants(ward)
    require_same(outcome, undisturbed.outcome)


@pytest.mark.row("1")
@pytest.mark.faults
@pytest.mark.timeout(900)
def test_worker_killed_at_random_record_counts_of_a_paced_run_gives_the_same_events(
    undisturbed: Undisturbed, wards: OpenWard, kills: int, dice: random.Random, record_property: Record
) -> None:
    ward = wards()
    arrival = disturbed().arrival
    worker = ward.start()
    telling = ward.telling(arrival)
    takeovers = []
    for count in sorted(dice.sample(range(1, len(arrival) - Telling.AHEAD), kills)):
        ward.reach(count)
        worker.kill()
        before = ward.positions()
        worker.start()
        takeovers.append(ward.reach(before + 1))
    telling.done()
    outcome = require_invariants(ward)
    record_property("takeover_s", [round(seconds, 2) for seconds in takeovers])
    require_same(outcome, undisturbed.outcome)


@pytest.mark.row("5", "NOSCRIPT")
@pytest.mark.faults
@pytest.mark.parametrize("fsync", ["everysec", pytest.param("always", marks=pytest.mark.long)])
def test_redis_killed_twice_and_away_for_a_while_gives_the_same_events(
    undisturbed: Undisturbed,
    kafka: EmbeddedKafka,
    private_redis: EmbeddedRedis,
    tmp_path: Path,
    fsync: str,
    dice: random.Random,
    thorough: bool,
    record_property: Record,
) -> None:
    private_redis.stop()
    private_redis.fsync = fsync
    private_redis.start()

    def killed() -> None:
        private_redis.kill()
        time.sleep(dice.uniform(0.0, 10.0 if thorough else 1.0))

    ward = open_ward(kafka.bootstrap, private_redis.url, tmp_path)
    try:
        worker = ward.start()
        outcome = broken_twice(ward, private_redis, (killed, killed), record_property)
        with redis.Redis.from_url(private_redis.url) as client:
            assert client.config_get("appendfsync") == {"appendfsync": fsync}
        # What a killed server had not yet given to the kernel is gone: usually nothing, and healed if not.
        record_property("rolled_back", worker.log.read_text().count("store stands elsewhere"))
        assert worker.log.read_text().count("acquired") >= ward.topics.partitions
    finally:
        ward.stop()
    require_same(outcome, undisturbed.outcome)


@pytest.mark.row("4")
@pytest.mark.faults
def test_kafka_killed_and_then_stopped_in_order_gives_the_same_events(
    undisturbed: Undisturbed,
    private_kafka: EmbeddedKafka,
    redis_server: EmbeddedRedis,
    tmp_path: Path,
    record_property: Record,
) -> None:
    ward = open_ward(private_kafka.bootstrap, redis_server.url, tmp_path)
    try:
        ward.start()
        outcome = broken_twice(ward, private_kafka, (private_kafka.kill, private_kafka.stop), record_property)
    finally:
        ward.stop()
    require_same(outcome, undisturbed.outcome)


def broken_twice(
    ward: SmallWard,
    server: Server,
    ends: tuple[Callable[[], None], Callable[[], None]],
    record_property: Record,
) -> Outcome:
    """Tell the disturbed delivery, and end a server after a third and two thirds of it, in these ways."""
    arrival = disturbed().arrival
    telling = ward.telling(arrival)
    pauses = []
    for third, end in enumerate(ends, 1):
        ward.reach(third * len(arrival) // 3)
        end()
        began = time.monotonic()
        server.start()
        before = ward.positions()
        ward.reach(before + 1)
        pauses.append(round(time.monotonic() - began, 2))
    record_property("takeover_s", pauses)
    telling.done()
    outcome = require_invariants(ward)
    require_acknowledged(ward, arrival)
    return outcome


@pytest.mark.faults
def test_a_killed_subscriber_ends_with_the_database_of_one_never_killed(
    undisturbed: Undisturbed, wards: OpenWard, tmp_path: Path
) -> None:
    ward = wards()
    ward.start()
    database = tmp_path / "killed.sqlite"
    killed = subscriber(ward, database)
    killed.start()
    telling = ward.telling(disturbed().arrival)
    for episodes in (2, 8):
        wait_until(partial(has_heard, database, episodes), PATIENCE_S, f"{episodes} heard", [killed])
        killed.kill()
        killed.start()
    telling.done()
    outcome = ward.finish()
    never_killed = subscriber(ward, tmp_path / "never_killed.sqlite")
    never_killed.start()
    for one in (killed, never_killed):
        assert one.wait(PATIENCE_S) == 0
    for name in ("positions", "episodes"):
        assert table(database, name) == table(tmp_path / "never_killed.sqlite", name)
    heard = {episode: revision for episode, revision, standing, _ in table(database, "episodes") if standing}
    assert heard == outcome.standing == undisturbed.outcome.standing


def subscriber(ward: SmallWard, database: Path) -> Process:
    """The example as a service would run it, ending after a silence."""
    topic, example = ward.topics.names.risk, str(ROOT / "examples" / "subscriber.py")
    arguments = ["--bootstrap", ward.bootstrap, "--topic", topic, "--database", str(database)]
    command = [sys.executable, example, *arguments, "--until-idle", "10"]
    return Process(database.stem, command, database.with_suffix(".log"))


def has_heard(database: Path, episodes: int) -> bool:
    """Whether the subscriber's database has so many episodes."""
    return len(table(database, "episodes")) >= episodes


def table(database: Path, name: str) -> list[tuple[object, ...]]:
    """Every row, in order; none before the subscriber has made its tables."""
    store = sqlite3.connect(database)
    try:
        return sorted(store.execute(f"SELECT * FROM {name}").fetchall())
    except sqlite3.OperationalError:
        return []
    finally:
        store.close()
