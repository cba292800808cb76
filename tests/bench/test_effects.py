"""The small form of `bench/effects.py`: intervals of every watched drug hold, as far as forty patients can tell."""

from __future__ import annotations

from bench.effects import FEW, SEED, SMALL, run


def test_what_signals_teach_holds_on_forty_simulated_patients_of_each_drug() -> None:
    checks = run(SMALL, SEED, FEW)
    assert [check.name for check in checks if not check.holds] == []
    narrowed = {check.name: check.value for check in checks if "SD of the effect" in check.name}
    assert len(narrowed) == 4
    # Each signal narrows the effect of its drug.
    assert all(value < 0.9 for value in narrowed.values())
