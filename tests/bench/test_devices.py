"""The small form of `bench/devices.py`: what goes wrong with a watch is found, as far as twelve patients can tell."""

from __future__ import annotations

from bench.devices import SEED, SMALL, run


def test_faults_of_a_watch_are_found_under_day_night_and_motion() -> None:
    checks = run(SMALL, [SEED], ["carvedilol"], small=True)
    assert [check.name for check in checks if not check.holds] == []
    assert any("twice the gain: flagged within 3 h" in check.name for check in checks)
