"""The elements of a step against the same formulas in fifty digits."""

from __future__ import annotations

import math
from decimal import Decimal, localcontext

import pytest
from hypothesis import given
from hypothesis import strategies as st

from twinstate.pk.steps import absorbed, held, held_under_absorption, held_under_infusion

RATES = st.one_of(st.floats(1e-6, 50.0), st.just(1.0), st.floats(1.0 - 1e-9, 1.0 + 1e-9))


@given(rate=RATES, other=RATES, time=st.floats(1e-6, 200.0))
def test_no_rates_or_times_lose_digits(rate: float, other: float, time: float) -> None:
    decay, depot_decay = math.exp(-rate * time), math.exp(-other * time)
    unit_held, depot_held = held(rate, time, decay), held(other, time, depot_decay)
    unit_absorbed = absorbed(rate, other, time, decay, depot_decay)
    with localcontext() as context:
        context.prec = 80
        r, a, t = Decimal(rate), Decimal(other), Decimal(time)
        if r == a:
            a += Decimal("1e-25")  # the limit, to 25 digits
        e, f = (-r * t).exp(), (-a * t).exp()
        exact_held = (1 - e) / r
        exact_infused = (t - exact_held) / r
        exact_absorbed = (e - f) / (a - r)
        exact_area = ((1 - f) / a - exact_absorbed) / r
    # exp(-x) itself is uncertain by x rounding errors.
    tolerance = 1e-13 + 4e-16 * max(rate, other) * time
    assert unit_held == pytest.approx(float(exact_held), rel=tolerance)
    assert held_under_infusion(rate, time, unit_held) == pytest.approx(float(exact_infused), rel=1e-13)
    assert unit_absorbed == pytest.approx(float(exact_absorbed), rel=tolerance, abs=1e-300)
    area = held_under_absorption(rate, other, time, unit_held, depot_held, unit_absorbed)
    assert area == pytest.approx(float(exact_area), rel=2e-13)


def test_mode_that_does_not_decay_keeps_everything() -> None:
    assert held(0.0, 3.0, 1.0) == 3.0
    assert held_under_infusion(0.0, 3.0, 3.0) == 4.5
    assert absorbed(0.0, 0.0, 3.0, 1.0, 1.0) == 3.0
    assert held_under_absorption(0.0, 0.0, 3.0, 3.0, 3.0, 3.0) == 4.5
