"""Row 22, the rest: a snapshot of Redis, looked into, and restored as the runbook says, becomes what was lost."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import time
from pathlib import Path
from typing import BinaryIO

import pytest
import redis

from streams.embedded import EmbeddedRedis
from streams.embedded.redis import redis_server
from streams.operations import backup
from streams.settings import Settings
from tests.integration.acceptance.invariants import require_invariants
from tests.integration.acceptance.records import disturbed
from tests.integration.acceptance.test_activation import twin
from tests.integration.acceptance.ward import PATIENCE_S, SmallWard
from tests.integration.ward import wait_until

THIRD = len(disturbed().arrival) // 3

pytestmark = [pytest.mark.row("22"), pytest.mark.timeout(600)]


def restore(store: EmbeddedRedis, snapshot: Path) -> None:
    """Do what docs/operations.md says, word by word."""
    data = store.directory / "data"
    shutil.rmtree(data)
    data.mkdir()
    shutil.copy(snapshot, data / "dump.rdb")
    program, configuration = redis_server(store.directory), store.directory / "redis.conf"
    with (store.directory / "restore.log").open("wb") as log:
        loading = subprocess.Popen([program, configuration, "--appendonly", "no"], stdout=log, stderr=log)
    with redis.Redis.from_url(store.url) as client:

        def answers() -> bool:
            try:
                return bool(client.ping())
            except redis.RedisError:
                return False

        wait_until(answers, 30, "loaded")
        client.config_set("appendonly", "yes")
        time.sleep(0.2)
        wait_until(lambda: not client.info("persistence")["aof_rewrite_in_progress"], 60, "rewritten")
        assert client.info("persistence")["aof_last_bgrewrite_status"] == "ok"
        client.shutdown(save=False)
    assert loading.wait(30) == 0
    store.start()


def test_snapshot_restored_after_redis_was_lost_becomes_the_bytes_before_and_tells_nothing_twice(
    fragile: tuple[SmallWard, EmbeddedRedis], tmp_path: Path
) -> None:
    ward, store = fragile
    arrival = disturbed().arrival
    worker = ward.start()
    telling = ward.telling(arrival[: 2 * THIRD])
    ward.reach(THIRD)
    # While a worker writes.
    backup_folder = tmp_path / 'backup of "1" December'
    found = twin(ward, "ops", "backup", str(backup_folder))
    assert found["wrong"] == []
    for path, mode in ((backup_folder, 0o700), (backup_folder / "dump.rdb", 0o600)):
        assert stat.S_IMODE(path.stat().st_mode) == mode, path
    assert [path.name for path in backup_folder.iterdir()] == ["dump.rdb"]
    telling.done()
    wait_until(ward.at_end, PATIENCE_S, "applied", ward.workers)
    before = ward.outcome()
    worker.stop()
    store.kill()
    restore(store, backup_folder / "dump.rdb")
    kept = [ward.position(number) for number in range(ward.topics.partitions)]
    assert kept == [one["next_offset"] for one in found["partitions"]]
    assert 0 < sum(kept) < ward.sent  # an old backup: some was applied, some is to be read again
    worker.start()
    wait_until(ward.at_end, PATIENCE_S, "caught up", ward.workers)
    after = ward.outcome()
    assert (after.twins, after.event_ids, after.standing) == (before.twins, before.event_ids, before.standing)
    ward.tell(arrival[2 * THIRD :])
    require_invariants(ward)


def test_snapshot_that_could_not_be_restored_says_why(
    fragile: tuple[SmallWard, EmbeddedRedis], tmp_path: Path
) -> None:
    ward, store = fragile
    empty = tmp_path / "empty"
    assert twin(ward, "ops", "backup", str(empty), status=1)["wrong"][0][1].startswith("it holds nothing of")
    ward.start()
    ward.tell(disturbed().arrival[:60])
    wait_until(ward.at_end, PATIENCE_S, "applied", ward.workers)
    for worker in ward.workers:
        worker.kill()
    with redis.Redis.from_url(store.url) as client:
        [meta] = list(client.scan_iter(f"tw:{{{ward.group}.0}}:m"))
        client.hset(meta, mapping={"next": 999, "fingerprint": "of-another-time"})
    wrong = twin(ward, "ops", "backup", str(tmp_path / "odd"), status=1)["wrong"]
    assert [partition for partition, _ in wrong] == [0, 0]
    assert "the log ends at" in wrong[0][1]
    assert "of-another-time" in wrong[1][1]
    again = twin(ward, "ops", "backup", str(tmp_path / "odd"), status=2)
    assert "exists; give every backup a folder of its own" in again
    (empty / "dump.rdb").write_bytes(b"REDIS0011 torn")
    said = twin(ward, "ops", "backup", str(empty), "--check", status=2)
    assert "dump.rdb cannot be loaded: Short read or OOM loading DB" in said
    assert said.count("\n") == 1
    nowhere = tmp_path / "no where"
    said = twin(ward, "ops", "backup", str(nowhere), "--check", status=2)
    assert f"is not there; twin ops backup '{nowhere}' makes it" in said


def test_file_of_that_name_that_redis_did_not_just_write_is_not_copied(
    fragile: tuple[SmallWard, EmbeddedRedis], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ward, _ = fragile
    save = backup._save

    async def on_another_machine(settings: Settings) -> backup.Written:
        written = await save(settings)
        hour_old = written.ended_s - 3600
        os.utime(written.file, (hour_old, hour_old))
        return written

    monkeypatch.setattr(backup, "_save", on_another_machine)
    said = twin(ward, "ops", "backup", str(tmp_path / "stale"), status=2)
    assert "a file of that name here is not the one just written" in said
    assert not (tmp_path / "stale").exists()


def test_copy_that_breaks_off_leaves_nothing_that_looks_like_a_snapshot(
    fragile: tuple[SmallWard, EmbeddedRedis], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ward, _ = fragile

    def full(source: object, target: BinaryIO, length: int) -> None:
        target.write(b"REDIS0011")
        raise OSError(28, "No space left on device", "dump.rdb")

    monkeypatch.setattr("shutil.copyfileobj", full)
    assert "No space left" in twin(ward, "ops", "backup", str(tmp_path / "full"), status=2)
    assert list((tmp_path / "full").iterdir()) == []
