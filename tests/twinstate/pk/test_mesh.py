"""Steps cover an interval exactly, never longer than asked."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from twinstate.pk.mesh import plan_steps


@given(
    time=st.floats(1e-6, 1e4),
    first=st.floats(1e-3, 1e3),
    growth=st.floats(1.0, 1e4),
    every=st.integers(1, 40),
)
def test_steps_cover_the_interval_and_keep_to_their_bounds(
    time: float, first: float, growth: float, every: int
) -> None:
    longest = first * growth
    step, doublings, last = plan_steps(time, first, longest, every)
    if last < 0:
        assert time / longest > 1000
        return
    covered = sum(every * step * 2.0**level for level in range(doublings)) + last * step * 2.0**doublings
    assert math.isclose(covered, time, rel_tol=1e-12)
    assert step <= first * (1 + 1e-12)
    assert step * 2.0**doublings <= longest * (1 + 1e-12)


def test_interval_that_needs_too_many_steps_or_no_number_is_refused() -> None:
    assert plan_steps(1e9, 1e-3, 1e-3, 4)[2] == -1
    for broken in (math.nan, 0.0):
        assert plan_steps(1.0, broken, broken, 4)[2] == -1
    assert plan_steps(math.nan, 1.0, 1.0, 4)[2] == -1
    assert plan_steps(5.0, math.inf, math.inf, 4) == (5.0, 0, 1)
