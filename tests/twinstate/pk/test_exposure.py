"""Exposure metrics against trapezoids and hand-made trajectories."""

from __future__ import annotations

import numpy as np
import pytest

from tests.twinstate.courses import START_H, Given, course
from twinstate.pk.exposure import auc_over, highest_trailing_auc, peak, time_above, trough
from twinstate.pk.propagate import solve_points

HOURS = START_H + np.arange(0.0, 72.0 + 1e-9, 0.05)


@pytest.fixture
def trajectories() -> tuple[np.ndarray, np.ndarray]:
    plan = course(2, [Given(12.0 * k, 1000, duration=1.0) for k in range(6)])
    return solve_points(plan, np.random.default_rng(3).normal(0, 0.3, (5, 6)), HOURS)


def test_auc_over_a_day_agrees_with_the_trapezoid(trajectories: tuple[np.ndarray, np.ndarray]) -> None:
    concentration, area = trajectories
    day = (HOURS >= START_H + 24 - 1e-9) & (HOURS <= START_H + 48 + 1e-9)
    expected = np.trapezoid(concentration[:, day], HOURS[day], axis=1)
    found = auc_over(area, HOURS, START_H + 24.0, START_H + 48.0)
    np.testing.assert_allclose(found, expected, rtol=1e-4)  # the trapezoid's own error


def test_highest_auc24_is_that_of_the_last_day_while_drug_accumulates(
    trajectories: tuple[np.ndarray, np.ndarray],
) -> None:
    _, area = trajectories
    highest = highest_trailing_auc(area, HOURS, 24.0, START_H + 24.0)
    windows = [area[:, k] - area[:, k - 480] for k in range(480, len(HOURS))]
    np.testing.assert_allclose(highest, np.max(windows, axis=0), rtol=1e-9)
    assert np.isnan(highest_trailing_auc(area, HOURS, 24.0, START_H + 99.0)).all()


def test_time_above_counts_where_a_straight_line_crosses() -> None:
    concentration = np.array([[0.0, 10.0, 0.0, 0.0], [10.0, 10.0, 10.0, 10.0], [1.0, 2.0, 2.0, 5.0]])
    found = time_above(concentration, np.array([0.0, 1.0, 2.0, 4.0]), 5.0)
    np.testing.assert_allclose(found, [1.0, 4.0, 0.0])


def test_peak_and_trough_are_the_extremes_of_each_point() -> None:
    concentration = np.array([[1.0, 3.0, 2.0], [4.0, 0.5, 4.5]])
    np.testing.assert_array_equal(peak(concentration), [3.0, 4.5])
    np.testing.assert_array_equal(trough(concentration), [1.0, 0.5])
