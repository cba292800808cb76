"""Rows of the fault matrix about Redis: torn, emptied, away, badly reached, without room."""

from __future__ import annotations

import os
import random
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
import redis

from streams.embedded import EmbeddedKafka, EmbeddedRedis
from tests.integration.acceptance.invariants import require_invariants
from tests.integration.acceptance.records import disturbed
from tests.integration.acceptance.test_recovery import require_recovered
from tests.integration.acceptance.ward import PATIENCE_S, SmallWard, open_ward
from tests.integration.proxy import REPLIES_LOST, TROUBLES, Proxy, trouble_on
from tests.integration.ward import wait_until

Record = Callable[[str, object], None]
THIRD = len(disturbed().arrival) // 3
BEYOND_THE_SESSION_S = 9.0


@pytest.mark.row("6")
def test_torn_append_only_file_is_healed(
    fragile: tuple[SmallWard, EmbeddedRedis], dice: random.Random
) -> None:
    ward, store = fragile
    worker = ward.start()
    arrival = disturbed().arrival
    ward.tell(arrival[: 2 * THIRD])
    ward.reach(2 * THIRD)
    store.kill()
    [log] = (store.directory / "data" / "appendonlydir").glob("*.incr.aof")
    size = log.stat().st_size
    os.truncate(log, dice.randrange(size // 2, size - 1))
    store.start()
    # No record follows at first: an idle worker finds it out by itself.
    wait_until(ward.at_end, PATIENCE_S, "healed", ward.workers)
    assert "store stands elsewhere" in worker.log.read_text() or '"fenced"' in worker.log.read_text()
    ward.tell(arrival[2 * THIRD :])
    require_invariants(ward)


@pytest.mark.row("22")
def test_emptied_redis_becomes_what_it_was_though_no_record_follows(
    fragile: tuple[SmallWard, EmbeddedRedis], dice: random.Random
) -> None:
    ward, store = fragile
    ward.start()
    ward.tell(disturbed().arrival)
    wait_until(ward.at_end, PATIENCE_S, "applied", ward.workers)
    before = ward.outcome()
    with redis.Redis.from_url(store.url) as client:
        client.flushall()
    assert ward.positions() < ward.sent
    after = require_invariants(ward)
    assert (after.twins, after.event_ids) == (before.twins, before.event_ids)


@pytest.mark.row("7")
@pytest.mark.alone
@pytest.mark.parametrize("how", ["stopped", pytest.param("refused", marks=pytest.mark.long)])
def test_redis_away_for_a_while_costs_neither_membership_nor_processor(
    fragile: tuple[SmallWard, EmbeddedRedis],
    how: str,
    dice: random.Random,
    thorough: bool,
    record_property: Record,
) -> None:
    ward, store = fragile
    away_s = 30.0 if thorough else BEYOND_THE_SESSION_S
    worker = ward.start()
    arrival = disturbed().arrival
    ward.tell(arrival[:THIRD])
    ward.reach(THIRD)
    assigned = worker.log.read_text().count('"assigned"')
    store.pause() if how == "stopped" else store.kill()
    ward.tell(arrival[THIRD:])
    process = psutil.Process(worker.pid)
    busy = sum(process.cpu_times()[:2])
    time.sleep(away_s)
    share = (sum(process.cpu_times()[:2]) - busy) / away_s
    store.resume() if how == "stopped" else store.start()
    back_s = ward.reach(THIRD + 1)
    record_property("back_s", round(back_s, 2))
    record_property("cpu_share", round(share, 3))
    require_invariants(ward)
    assert share < 0.2
    assert worker.log.read_text().count('"assigned"') == assigned, "a rebalance"
    require_recovered([back_s])


@pytest.mark.row("9")
@pytest.mark.parametrize(
    "trouble", [t if t == REPLIES_LOST else pytest.param(t, marks=pytest.mark.long) for t in TROUBLES]
)
def test_bad_connections_to_redis_double_nothing(
    fragile: tuple[SmallWard, EmbeddedRedis], trouble: str, dice: random.Random, record_property: Record
) -> None:
    ward, store = fragile
    with Proxy(store.port) as proxy:
        worker = ward.start(
            REDIS_URL=f"redis://127.0.0.1:{proxy.port}/0", TWIN_REDIS__ANSWER_TIMEOUT_SECONDS="1"
        )
        telling = ward.telling(disturbed().arrival)
        ward.reach(THIRD)
        trouble_on(proxy, trouble, dice)
        telling.done()
        require_invariants(ward)
    if trouble == REPLIES_LOST:
        # Redis said AHEAD to a batch it had written before: the worker heard so, and went on behind it.
        ahead = worker.log.read_text().count('"applied already"')
        record_property("ahead", ahead)
        assert ahead >= 1


@pytest.mark.row("19")
@pytest.mark.parametrize("fsync", ["everysec", pytest.param("always", marks=pytest.mark.long)])
def test_disk_full_under_redis_loses_nothing(
    kafka: EmbeddedKafka, tmp_path: Path, fsync: str, dice: random.Random
) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", str(disk)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"a small disk cannot be mounted here: {mounted.stderr.decode().strip()}")
    store = EmbeddedRedis(disk / "redis")
    try:
        store.start()
        with redis.Redis.from_url(store.url) as client:
            client.config_set("appendfsync", fsync)
        ward = open_ward(kafka.bootstrap, store.url, tmp_path)
        try:
            worker = ward.start()
            telling = ward.telling(disturbed().arrival)
            ward.reach(THIRD)
            room = disk / "filled"
            fill(room)
            # With `always` Redis ends itself at the first write it cannot keep; else it refuses the following ones.
            wait_until(
                lambda: (
                    not store.process.running if fsync == "always" else "MISCONF" in worker.log.read_text()
                ),
                30,
                "refused for want of room",
                ward.workers,
            )
            assert ward.positions() < len(disturbed().arrival)
            room.unlink()
            if fsync == "always":
                store.start()
            telling.done()
            require_invariants(ward)
        finally:
            ward.stop()
    finally:
        store.kill()
        subprocess.run(["umount", "-l", str(disk)], check=False)


def fill(room: Path) -> None:
    """Write until the disk is full."""
    with suppress(OSError), room.open("wb", buffering=0) as file:
        while file.write(b"\0" * 4096) == 4096:
            pass


@pytest.mark.row("20")
def test_redis_without_memory_refuses_whole_batches_and_goes_on_later(
    fragile: tuple[SmallWard, EmbeddedRedis], dice: random.Random
) -> None:
    ward, store = fragile
    worker = ward.start()
    telling = ward.telling(disturbed().arrival)
    ward.reach(THIRD)
    with redis.Redis.from_url(store.url) as client:
        client.config_set("maxmemory", 1_000_000)
        time.sleep(3)
        stands = ward.positions()
        time.sleep(1)
        assert ward.positions() == stands
        client.config_set("maxmemory", 0)
    telling.done()
    require_invariants(ward)
    assert "OutOfMemory" in worker.log.read_text()
