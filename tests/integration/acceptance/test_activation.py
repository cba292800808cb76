"""Row 21: another library takes effect in mid-stream, workers and Redis are lost round it, and no byte differs."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
import yaml
from typer.testing import CliRunner

from streams.cli import app
from streams.embedded import EmbeddedKafka, EmbeddedRedis
from streams.releases import load_releases
from tests.integration.acceptance.invariants import require_invariants
from tests.integration.acceptance.records import disturbed
from tests.integration.acceptance.ward import PATIENCE_S, SmallWard, open_ward
from tests.integration.ward import wait_until
from tests.streams.releases import GOTI, add_release, config_with, other_model, rewritten, stricter

Record = Callable[[str, object], None]
SEED = 20261125
THIRD = len(disturbed().arrival) // 3

pytestmark = [pytest.mark.row("21"), pytest.mark.timeout(900)]


@pytest.fixture
def ward(kafka: EmbeddedKafka, private_redis: EmbeddedRedis, tmp_path: Path) -> Iterator[SmallWard]:
    """Give a ward whose workers find two releases beside the first library, on a Redis that may be emptied."""
    config = config_with(tmp_path / "config", stricter=stricter, other=other_model)
    own = open_ward(kafka.bootstrap, private_redis.url, tmp_path)
    own.releases = load_releases(config)
    own.settings = {"TWIN_PATHS__LIBRARY": str(config)}
    yield own
    own.stop()


def twin(ward: SmallWard, *words: str, status: int = 0) -> Any:
    """Run `twin` beside the ward's workers; what it printed, or said when it was refused."""
    topics_file = ward.directory / "topics-cli.yaml"
    topics_file.write_text(yaml.safe_dump(ward.topics.model_dump()))
    environment = {
        "KAFKA_BOOTSTRAP_SERVERS": ward.bootstrap,
        "REDIS_URL": ward.redis_url,
        "TWIN_KAFKA__GROUP": ward.group,
        "TWIN_PATHS__TOPICS": str(topics_file),
        **ward.settings,
    }
    done = CliRunner().invoke(app, [*words, "--json"], env=environment)
    assert done.exit_code == status, f"{done.output}\n{done.stderr}\n{done.exception!r}"
    return json.loads(done.stdout) if status != 2 else done.stderr


def test_library_activated_in_mid_stream_is_in_effect_from_one_place_whatever_is_killed_round_it(
    ward: SmallWard, record_property: Record
) -> None:
    record_property("seed", SEED)
    dice = random.Random(SEED)
    arrival = disturbed().arrival
    worker = ward.start()
    ward.tell(arrival[:THIRD])
    ward.reach(THIRD)
    worker.kill()
    done = twin(ward, "ops", "activate", "stricter", "--send")
    assert sorted(map(int, done["places"])) == list(range(ward.topics.partitions))
    ward.tell(arrival[THIRD : THIRD + 40])
    # The batch that holds the activation is computed and lost, then written and its answer lost.
    for place in ("before_apply:1", "after_apply_before_reply:1"):
        dying = ward.start(f"dying-{place[0]}", TWIN_FAIL_POINT=place)
        assert dying.wait(PATIENCE_S) == -9
    worker.start()
    telling = ward.telling(arrival[THIRD + 40 : 2 * THIRD])
    for _ in range(2):
        ward.reach(ward.positions() + dice.randrange(5, 40))
        worker.kill()
        worker.start()
    telling.done()
    twin(ward, "ops", "activate", "other", "--send")
    ward.reach(ward.positions() + 1)
    worker.kill()
    worker.start()
    ward.tell(arrival[2 * THIRD :])
    wait_until(ward.at_end, PATIENCE_S, "applied", ward.workers)
    before = ward.outcome()
    # Told again from its beginning by a worker that has nothing, the log switches at the same places.
    with redis.Redis.from_url(ward.redis_url) as client:
        client.flushall()
    after = require_invariants(ward)
    assert (after.twins, after.event_ids) == (before.twins, before.event_ids)
    assert after.counts["activated"] == 2 * ward.topics.partitions
    types = [event.type for events in after.events.values() for event in events]
    record_property("events", len(types))
    trails = twin(ward, "trace", done["id"])["arrivals"]
    assert {one["partition"]: one["offset"] for one in trails} == {
        int(partition): offset for partition, offset in done["places"].items()
    }
    assert {one["outcome"] for one in trails} == {"activated"}
    assert [one["differing"] for one in twin(ward, "ops", "verify")["partitions"]] == [{}] * 4
    rebuilt = twin(ward, "rebuild", "--dry-run")["partitions"]
    assert [one["changed"] for one in rebuilt] == [[]] * ward.topics.partitions


def test_worker_killed_between_two_pieces_of_a_partition_leaves_old_twins_and_the_next_one_writes_all(
    ward: SmallWard,
) -> None:
    arrival = disturbed().arrival
    worker = ward.start()
    ward.tell(arrival[:THIRD])
    wait_until(ward.at_end, PATIENCE_S, "applied", ward.workers)
    worker.kill()
    before = ward.outcome().twins
    twin(ward, "ops", "activate", "stricter", "--send")
    piecemeal = {
        "TWIN_WORKER__PIPELINE_FACTORY": "tests.integration.acceptance.piecemeal:create_piecemeal_pipeline"
    }
    dying = ward.start("dying", TWIN_FAIL_POINT="between_pieces:2", **piecemeal)
    assert dying.wait(PATIENCE_S) == -9
    with redis.Redis.from_url(ward.redis_url) as client:
        aside = list(client.scan_iter(f"tw:{{{ward.group}.*}}:staged"))
        assert len(aside) >= 1
        now = ward.outcome().twins
        for key in aside:
            waiting = [name.decode() for name in client.hkeys(key) if b" " not in name]
            assert waiting
            assert all(now[name] == before[name] for name in waiting)
        ward.start("next", **piecemeal)
        ward.tell(arrival[THIRD : 2 * THIRD])
        outcome = require_invariants(ward)
        assert list(client.scan_iter(f"tw:{{{ward.group}.*}}:staged")) == []
    assert outcome.counts["activated"] == ward.topics.partitions


def test_worker_without_the_activated_library_ends_with_78_and_goes_on_once_it_has_it(
    ward: SmallWard, tmp_path: Path
) -> None:
    bare = config_with(tmp_path / "bare")
    arrival = disturbed().arrival
    worker = ward.start(TWIN_PATHS__LIBRARY=str(bare))
    ward.tell(arrival[:THIRD])
    twin(ward, "ops", "activate", "stricter", "--send")
    assert worker.wait(PATIENCE_S) == 78
    wanted = ward.releases.others["stricter"].fingerprint if ward.releases else ""
    assert f"the log activates library {wanted}" in worker.tail(200)
    add_release(bare, "came-later", stricter)
    worker.start()
    ward.tell(arrival[THIRD : 2 * THIRD])
    require_invariants(ward)


def test_library_in_effect_is_activated_once_more_when_another_waits_before_it_in_the_log(
    ward: SmallWard,
) -> None:
    worker = ward.start()
    ward.tell(disturbed().arrival[:40])
    wait_until(ward.at_end, PATIENCE_S, "applied", ward.workers)
    under = fingerprints(ward)
    worker.kill()
    twin(ward, "ops", "activate", "stricter", "--send")
    again = twin(ward, "ops", "activate", "stricter", "--send", status=2)
    assert "in effect in every partition already, or will be when its records are applied" in again
    done = twin(ward, "ops", "activate", "first", "--send")
    assert len(done["places"]) == ward.topics.partitions
    worker.start()
    wait_until(ward.at_end, PATIENCE_S, "applied", ward.workers)
    assert fingerprints(ward) == under
    # The log ends in the marker of a transaction by now, which is no record that waits.
    said = twin(ward, "ops", "activate", "first", "--send", status=2)
    assert "in effect in every partition already" in said


def test_release_that_may_not_follow_one_that_still_waits_in_the_log_is_refused_before_anything_is_sent(
    ward: SmallWard, tmp_path: Path
) -> None:
    add_release(tmp_path / "config", "watched", watched)
    worker = ward.start()
    ward.tell(disturbed().arrival[:40])
    wait_until(ward.at_end, PATIENCE_S, "applied", ward.workers)
    worker.kill()
    twin(ward, "ops", "activate", "watched", "--send")
    ends = [ward.end(number) for number in range(ward.topics.partitions)]
    said = twin(ward, "ops", "activate", "stricter", "--send", status=2)
    assert "stricter cannot follow watched, which is in effect at the end of partition 0" in said
    assert "lacks the threshold higher_auc24" in said
    assert [ward.end(number) for number in range(ward.topics.partitions)] == ends
    worker.start()
    require_invariants(ward)


def watched(folder: Path) -> None:
    """One more alarm for vancomycin."""
    rewritten(
        folder,
        GOTI,
        lambda data: data["thresholds"].update(
            higher_auc24={**data["thresholds"]["high_auc24"], "toxicity_alarm": 700}
        ),
    )


def fingerprints(ward: SmallWard) -> list[str]:
    return [one["fingerprint"] for one in twin(ward, "ops", "status")["partitions"]]


def test_release_that_may_not_follow_or_is_not_there_is_refused_before_anything_is_sent(
    ward: SmallWard, tmp_path: Path
) -> None:
    ward.start()
    wait_until(lambda: ward.positions() == 0 and ward.waiting() == 0, PATIENCE_S, "acquired", ward.workers)
    add_release(tmp_path / "config", "no-vancomycin", without_vancomycin)
    said = twin(ward, "ops", "activate", "no-vancomycin", "--send", status=2)
    assert "drug vancomycin is missing" in said
    assert "there are first, no-vancomycin, other, stricter" in twin(
        ward, "ops", "activate", "strickter", "--send", status=2
    )
    assert "in effect in every partition already" in twin(
        ward, "ops", "activate", "first", "--send", status=2
    )
    dry = twin(ward, "ops", "activate", "other")
    assert dry["places"] == {}
    assert (
        "vancomycin is modelled by vancomycin-thomson-2009 instead of vancomycin-goti-2018" in dry["changes"]
    )
    assert [ward.end(number) for number in range(ward.topics.partitions)] == [0] * 4


def without_vancomycin(folder: Path) -> None:
    for path in (folder / "drugs").glob("vancomycin-*.yaml"):
        path.unlink()
