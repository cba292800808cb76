"""A dose at steady state is the newest of an endless train: here the train is long and written out."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.twinstate.courses import START_H, Given, course, log_parameters
from twinstate.pk.course import INTO_CENTRAL, INTO_DEPOT, PARALLEL_ORAL, ZERO_ORDER_ORAL
from twinstate.pk.propagate import solve

NO_ETA = np.zeros(6)
LONG = 400  # intervals; what is older has decayed below 1e-15


def train(mg: float, route: int, duration: float, interval: float) -> list[Given]:
    return [Given(-interval * back, mg, route, duration) for back in range(LONG, -1, -1)]


@pytest.mark.parametrize("compartments", [1, 2, 3])
@pytest.mark.parametrize(
    ("route", "duration", "row"),
    [
        (INTO_CENTRAL, 0.0, log_parameters()),
        (INTO_CENTRAL, 1.5, log_parameters()),
        (INTO_CENTRAL, 8.0, log_parameters()),  # ends as the next begins
        (INTO_CENTRAL, 21.0, log_parameters()),  # three overlap
        (INTO_DEPOT, 0.0, log_parameters(lag=0.0)),
        (INTO_DEPOT, 0.0, log_parameters(lag=0.7)),
        (INTO_DEPOT, 0.0, log_parameters(lag=8.0)),
        (INTO_DEPOT, 0.0, log_parameters(lag=19.0)),  # longer than two intervals: two doses still wait
        (INTO_DEPOT, 0.0, log_parameters(absorption_rate=4.5 / 58.0)),
        (ZERO_ORDER_ORAL, 0.0, log_parameters(lag=0.7, input_duration=2.0)),
        (ZERO_ORDER_ORAL, 0.0, log_parameters(lag=9.0, input_duration=18.0)),
        (PARALLEL_ORAL, 0.0, log_parameters(lag=0.7, input_duration=2.0)),
        (PARALLEL_ORAL, 0.0, log_parameters(lag=9.0, input_duration=18.0)),
        (PARALLEL_ORAL, 0.0, log_parameters(first_order_fraction=0.0)),
        (PARALLEL_ORAL, 0.0, log_parameters(first_order_fraction=1.0)),
    ],
)
def test_steady_state_agrees_with_a_long_train(
    compartments: int, route: int, duration: float, row: np.ndarray
) -> None:
    interval = 8.0
    hours = START_H + np.array([1e-6, 0.5, 1.0, 3.0, 5.9, 8.0, 11.0, 20.0, 40.0, 100.0])
    steady = course(compartments, [Given(0, 400, route, duration, interval)], [(-5000.0, row)])
    explicit = course(compartments, train(400, route, duration, interval), [(-5000.0, row)])
    concentration, area, _ = solve(steady, NO_ETA, hours)
    expected, expected_area, _ = solve(explicit, NO_ETA, hours)
    np.testing.assert_allclose(concentration, expected, rtol=1e-8)
    # The AUC counts what is seen: a steady state has no past of its own.
    np.testing.assert_allclose(area - area[0], expected_area - expected_area[0], rtol=1e-8)


def test_steady_state_dose_forgets_everything_before_it() -> None:
    before = [
        Given(-6, 5000, INTO_CENTRAL, 12.0),  # still running
        Given(-0.1, 900, INTO_DEPOT),  # still waiting for its lag
        Given(-2, 700, INTO_DEPOT),  # still in the depot
    ]
    steady = Given(0, 400, INTO_CENTRAL, 1.0, 12.0)
    after = Given(12, 400, INTO_CENTRAL, 1.0)
    hours = START_H + np.array([1e-6, 0.5, 4.0, 12.0, 13.0, 30.0])
    alone, _, _ = solve(course(2, [steady, after]), NO_ETA, hours)
    together, _, _ = solve(course(2, [*sorted(before), steady, after]), NO_ETA, hours)
    np.testing.assert_allclose(together, alone, rtol=1e-12)


def test_level_drawn_as_a_steady_state_dose_is_given_belongs_to_what_came_before() -> None:
    plan = course(1, [Given(0, 400, interval=12.0)])
    concentration, area, _ = solve(plan, NO_ETA, START_H + np.array([-1.0, 0.0]))
    assert not concentration.any()
    assert not area.any()


def test_mean_concentration_at_steady_state_is_dose_rate_over_clearance() -> None:
    # C_mean = F D / (CL tau), whatever the structure (Gibaldi, Perrier 1982, ch. 3).
    plan = course(2, [Given(0, 400, INTO_DEPOT, 0.0, 8.0), Given(8, 400, INTO_DEPOT)])
    _, area, _ = solve(plan, NO_ETA, START_H + np.array([0.0, 8.0]))
    assert area[1] == pytest.approx(0.8 * 400 / 4.5, rel=1e-9)


@given(
    interval=st.floats(4.0, 48.0),
    duration=st.floats(0.0, 60.0),
    compartments=st.sampled_from([1, 2, 3]),
)
def test_concentration_repeats_itself_every_interval(
    interval: float, duration: float, compartments: int
) -> None:
    doses = [Given(0, 500, INTO_CENTRAL, duration, interval)]
    doses += [Given(interval * k, 500, INTO_CENTRAL, duration) for k in range(1, 4)]
    hours = START_H + interval * np.array([0.3, 0.9, 1.3, 1.9, 2.3, 2.9])
    concentration, _, _ = solve(course(compartments, doses), NO_ETA, hours)
    np.testing.assert_allclose(concentration[2:4], concentration[:2], rtol=1e-8)
    np.testing.assert_allclose(concentration[4:], concentration[:2], rtol=1e-8)


def test_lag_beyond_what_a_train_may_reach_back_gives_nan_and_returns() -> None:
    plan = course(1, [Given(0, 400, INTO_DEPOT, 0.0, 0.01)], [(0.0, log_parameters(lag=1.0))])
    concentration, _, _ = solve(plan, NO_ETA, START_H + np.array([1.0]))
    assert np.isnan(concentration).all()
