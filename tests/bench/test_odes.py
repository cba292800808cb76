"""Equations given as formulas, integrated: against SciPy, and against the exact graph where they are linear."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.integrate import solve_ivp

from bench._formula import compile_formula
from bench._odes import join, solve_equations
from tests.twinstate.graphs import Into, doses_of, integrate_graph, rate_matrix, trains_by_hand

Floats = NDArray[np.float64]

NAMES = {"KA": 0, "K": 1, "VM": 2, "KM": 3}
LINEAR = ["-KA*A1", "KA*A1-K*A2"]
CURVED = ["-KA*A1", "KA*A1-VM*A2/(KM+A2)"]
RATES = rate_matrix(2, [(0, 1, 1.1), (1, -1, 0.12)])
TIMES = np.array([0.0, 0.4, 2.0, 7.0, 12.0, 13.0, 25.0, 40.0])


def solve(formulas: list[str], given: list[Into], values: Floats, times: Floats = TIMES) -> Floats:
    names = {**NAMES, "A1": 4, "A2": 5, "t": 6}
    doses = doses_of(given)
    return solve_equations(
        join([compile_formula(text, names) for text in formulas], names["A1"]),
        np.zeros(1),
        values[None, None],
        times,
        doses.time_h,
        doses.lag_h[None],
        doses.amount[None],
        doses.duration_h[None],
        doses.compartment,
        doses.interval_h,
        doses.reset_h,
    )[0]


VALUES = np.array([1.1, 0.12, 30.0, 80.0])


def test_linear_equations_agree_with_scipy_after_every_kind_of_dose() -> None:
    given = [
        Into(0, 100, lag=0.7),
        Into(0, 50, 1),
        Into(1, 300, 1, 15.0),
        Into(3, 80, 0, 2.5),
        Into(12, 100, lag=0.7),
    ]
    expected, _ = integrate_graph([0.0], [RATES], given, TIMES)
    np.testing.assert_allclose(solve(LINEAR, given, VALUES), expected, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("into", [Into(0, 100), Into(0, 100, 0, 2.0), Into(0, 100, interval=12.0)], ids=str)
def test_depot_that_empties_within_a_second_costs_no_steps_once_it_is_empty(into: Into) -> None:
    # 40 h at 1e5/h: held to the depot's pace the search for the end would take more steps than are allowed.
    fast = rate_matrix(2, [(0, 1, 1e5), (1, -1, 0.12)])
    found = solve(LINEAR, [into], np.array([1e5, 0.12, 0.0, 0.0]))
    np.testing.assert_allclose(
        found, trains_by_hand(fast, [into], TIMES, 60 if into.interval else 0), rtol=1e-7, atol=1e-6
    )


def test_rate_of_a_depot_is_that_of_its_own_stretch_of_time() -> None:
    names = {**NAMES, "A1": 4, "A2": 5, "t": 6}
    times = np.array([2.0, 3.0, 9.0])
    found = solve_equations(
        join([compile_formula(text, names) for text in LINEAR], names["A1"]),
        np.array([-np.inf, 2.0]),
        np.array([[VALUES, VALUES * [0.2, 1.0, 1.0, 1.0]]]),
        times,
        np.zeros(1),
        np.zeros((1, 1)),
        np.full((1, 1), 100.0),
        np.zeros((1, 1)),
        np.zeros(1, np.int64),
        np.zeros(1),
        np.zeros(0),
    )[0]
    np.testing.assert_allclose(found[:, 0], 100.0 * np.exp([-2.2, -2.42, -3.74]), rtol=1e-12)


@pytest.mark.parametrize(
    "train",
    [
        Into(0, 100, interval=12.0),
        Into(0, 100, lag=1.5, interval=12.0),
        Into(0, 100, lag=30.0, interval=12.0),
        Into(0, 100, 1, 3.0, 0.5, 12.0),
        Into(0, 100, 1, 30.0, 2.0, 12.0),
        Into(0, 100, 1, 12.0, 0.0, 12.0),
    ],
    ids=str,
)
def test_steady_state_of_linear_equations_is_that_of_a_long_train(train: Into) -> None:
    found = solve(LINEAR, [train], VALUES)
    np.testing.assert_allclose(found, trains_by_hand(RATES, [train], TIMES, 60), rtol=1e-7, atol=1e-6)


@pytest.mark.parametrize("into", [Into(0, 150, interval=12.0), Into(0, 150, 1, 3.0, interval=12.0)], ids=str)
def test_saturable_elimination_at_steady_state_is_where_many_intervals_lead(into: Into) -> None:
    # 150 mg every 12 h under a largest rate of 30 mg/h: half saturated, so far from linear.
    def slope(_: float, y: Floats, feed: float) -> list[float]:
        return [-1.1 * y[0], 1.1 * y[0] + feed - 30.0 * y[1] / (80.0 + y[1])]

    state = np.zeros(2)
    for _ in range(80):
        if into.duration > 0:
            pieces = [(0.0, into.duration, into.amount / into.duration), (into.duration, 12.0, 0.0)]
        else:
            state[into.compartment] += into.amount
            pieces = [(0.0, 12.0, 0.0)]
        for start, end, feed in pieces:
            state = solve_ivp(slope, (start, end), state, "DOP853", args=(feed,), rtol=1e-11, atol=1e-11).y[
                :, -1
            ]
    found = solve(CURVED, [into], VALUES, np.array([0.0, 12.0]))
    np.testing.assert_allclose(found[0], state, rtol=1e-7, atol=1e-7)


def test_more_than_can_be_eliminated_has_no_steady_state() -> None:
    assert np.isnan(solve(CURVED, [Into(0, 400, interval=12.0)], VALUES, np.zeros(1))).any()


def test_right_hand_side_may_name_time_and_jump_in_it() -> None:
    found = solve(["(t > 3) * 2 + 0.1 * t", "0"], [Into(0, 0.0)], VALUES, np.array([3.0, 10.0]))
    np.testing.assert_allclose(found[:, 0], [0.45, 14.0 + 5.0], rtol=1e-7)


def test_what_cannot_be_computed_comes_out_as_nan() -> None:
    assert np.isnan(solve(["log(A1 - 200)", "0"], [Into(0, 100)], VALUES)[1:, 0]).all()
