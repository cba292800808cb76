"""Two releases side by side: the twins belong to one of them, and change hands by a rebuild alone."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.integration.acceptance.invariants import require_invariants
from tests.integration.acceptance.records import disturbed
from tests.integration.acceptance.ward import PATIENCE_S, OpenWard, SmallWard, Undisturbed, require_sound
from tests.integration.ward import ROOT, wait_until
from twinstate.library import load_library

REFUSED = 78


@pytest.fixture
def next_release(tmp_path: Path) -> Path:
    """Give a library in which vancomycin's limit is another one."""
    directory = tmp_path / "next-release"
    shutil.copytree(ROOT / "config", directory)
    file = directory / "drugs" / "vancomycin-goti-2018.yaml"
    before = file.read_text()
    after = before.replace("toxicity_alarm: 600", "toxicity_alarm: 700").replace(
        'version: "1"', 'version: "2"'
    )
    assert after != before
    file.write_text(after)
    return directory


@pytest.mark.row("27")
@pytest.mark.faults
def test_worker_of_another_release_is_refused_while_the_first_goes_on(
    wards: OpenWard, next_release: Path, dice: random.Random
) -> None:
    ward = wards()
    arrival = list(disturbed().arrival)
    place = dice.randrange(len(arrival) // 3, len(arrival) // 2)
    old = ward.start("old")
    ward.tell(arrival[:place])
    ward.reach(place)
    new = ward.start("new", TWIN_PATHS__LIBRARY=str(next_release))
    ward.tell(arrival[place:])
    assert new.wait(PATIENCE_S) == REFUSED
    assert "twin rebuild --partition" in new.tail()
    require_invariants(ward)
    assert old.log.read_text().count("worker ends") == 0


@pytest.mark.row("27")
@pytest.mark.long
def test_rebuild_hands_the_twins_to_the_next_release_in_the_middle_of_the_stream(
    undisturbed: Undisturbed, wards: OpenWard, next_release: Path, dice: random.Random
) -> None:
    ward = wards()
    arrival = list(disturbed().arrival)
    place = dice.randrange(len(arrival) // 2, 2 * len(arrival) // 3)
    old = ward.start("old")
    ward.tell(arrival[:place])
    wait_until(ward.at_end, PATIENCE_S, "applied", [old])
    old.stop()
    assert old.exit_status == 0
    rebuild(ward, next_release)
    ward.start("new", TWIN_PATHS__LIBRARY=str(next_release))
    ward.tell(arrival[place:])
    outcome = ward.finish()
    account = ward.foretold(load_library(next_release))
    assert outcome.twins == account.twins
    assert outcome.twins != undisturbed.outcome.twins, "the releases do not differ for these patients"
    require_sound(outcome)


def rebuild(ward: SmallWard, models: Path) -> None:
    """Derive the ward's twins again from the log with other models, as an operator does."""
    own = {
        "KAFKA_BOOTSTRAP_SERVERS": ward.bootstrap,
        "REDIS_URL": ward.redis_url,
        "TWIN_KAFKA__GROUP": ward.group,
        "TWIN_PATHS__TOPICS": str(ward.directory / "topics.yaml"),
        "TWIN_PATHS__LIBRARY": str(models),
    }
    command = [sys.executable, "-m", "streams", "rebuild"]
    done = subprocess.run(
        command, env={**os.environ, **own}, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
