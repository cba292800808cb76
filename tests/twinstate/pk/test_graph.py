"""Compartment graphs by matrix exponentials against SciPy's integration, and against the closed form."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.linalg import expm

from tests.twinstate.courses import PARAMETERS, START_H, Given, course
from tests.twinstate.graphs import Into, doses_of, integrate_graph, rate_matrix, trains_by_hand
from twinstate.pk.course import INTO_DEPOT
from twinstate.pk.graph import Doses, solve_graph, solve_graph_points
from twinstate.pk.matrix import TRANSITION, TWO_INTEGRALS, solve_in_place, step_matrices
from twinstate.pk.propagate import solve
from twinstate.pk.schedule import TRAIN_LIMIT

TIMES = np.array([0.0, 0.1, 0.5, 1.0, 1.7, 3.0, 6.0, 11.9, 12.0, 12.2, 14.0, 20.0, 30.0, 47.0, 80.0])

ONE = rate_matrix(2, [(0, 1, 0.9), (1, -1, 0.08)])
TWO = rate_matrix(3, [(0, 1, 1.3), (1, -1, 0.1), (1, 2, 0.3), (2, 1, 0.05)])
THREE = rate_matrix(4, [(0, 1, 2.0), (1, -1, 0.4), (1, 2, 0.7), (2, 1, 0.2), (1, 3, 0.1), (3, 1, 0.004)])
METABOLITE = rate_matrix(3, [(0, 1, 1.0), (1, 2, 0.04), (1, -1, 0.02), (2, -1, 0.045)])
EQUAL_RATES = rate_matrix(3, [(0, 1, 0.5), (1, 2, 0.5), (2, -1, 0.5)])
TRANSIT = rate_matrix(
    12, [*((k, k + 1, 3.5) for k in range(9)), (9, 10, 0.8), (10, -1, 0.1), (10, 11, 0.2), (11, 10, 0.1)]
)
RECYCLING = rate_matrix(4, [(0, 1, 1.1), (1, 2, 0.3), (2, 3, 0.2), (3, 0, 0.1), (1, -1, 0.15)])
GRAPHS = {
    "one compartment": ONE,
    "two compartments": TWO,
    "three compartments": THREE,
    "metabolite": METABOLITE,
    "equal rates": EQUAL_RATES,
    "transit chain of ten": TRANSIT,
    "enterohepatic recycling": RECYCLING,
}
THERAPIES = {
    "boluses": [Into(0, 500), Into(12, 300)],
    "overlapping infusions": [Into(0, 1000, 1, 4.0), Into(1.5, 600, 1, 12.0), Into(12, 1000, 1, 1.0)],
    "infusions longer than the interval": [Into(12.0 * k, 100, 1, 30.0) for k in range(3)],
    "lag longer than the interval": [Into(3.0 * k, 100, 0, lag=7.5) for k in range(4)],
    "parallel absorption": [
        Into(0, 60, 0, lag=0.4),
        Into(0, 40, 1, 2.5),
        Into(12, 60, 0, lag=0.4),
        Into(12, 40, 1, 2.5),
    ],
}


@pytest.mark.parametrize("graph", GRAPHS)
@pytest.mark.parametrize("therapy", THERAPIES)
def test_amounts_and_integrals_of_every_compartment_agree_with_scipy(graph: str, therapy: str) -> None:
    given = THERAPIES[therapy]
    amounts, areas = solve_graph(np.zeros(1), GRAPHS[graph][None], doses_of(given), TIMES)
    expected_amounts, expected_areas = integrate_graph([0.0], [GRAPHS[graph]], given, TIMES)
    # The integrator's own tolerance is 1e-12 a step and 1e-13 absolute.
    np.testing.assert_allclose(amounts, expected_amounts, rtol=1e-9, atol=1e-10)
    np.testing.assert_allclose(areas, expected_areas, rtol=1e-9, atol=1e-9)


def test_rates_that_change_in_mid_course_agree_with_scipy() -> None:
    starts = [0.0, 5.0, 11.95, 40.0]
    matrices = [TWO, TWO * 0.4, rate_matrix(3, [(0, 1, 0.2), (1, -1, 0.3)]), TWO]
    given = sorted([*THERAPIES["overlapping infusions"], *THERAPIES["parallel absorption"]])
    amounts, areas = solve_graph(np.array(starts), np.array(matrices), doses_of(given), TIMES)
    expected_amounts, expected_areas = integrate_graph(starts, matrices, given, TIMES)
    np.testing.assert_allclose(amounts, expected_amounts, rtol=1e-9, atol=1e-10)
    np.testing.assert_allclose(areas, expected_areas, rtol=1e-9, atol=1e-9)


def test_reset_empties_the_body_stops_infusions_and_forgets_doses_still_lagging() -> None:
    given = [
        Into(0, 100, 1, 20.0),
        Into(1, 50, 0, lag=3.0),
        Into(2, 50),
        Into(3, 70, 0, lag=1.0),
        Into(3, 10, 1),
    ]
    amounts, areas = solve_graph(np.zeros(1), METABOLITE[None], doses_of(given, [3.0]), TIMES)
    expected_amounts, expected_areas = integrate_graph([0.0], [METABOLITE], given, TIMES, [3.0])
    np.testing.assert_allclose(amounts, expected_amounts, rtol=1e-9, atol=1e-10)
    np.testing.assert_allclose(areas, expected_areas, rtol=1e-9, atol=1e-9)
    # Only the two doses given with the reset are left: the dose of the fourth hour enters one hour later.
    assert amounts[5].tolist() == [0.0, 0.0, 0.0]
    assert amounts[6, 0] == pytest.approx(70 * math.exp(-2.0), rel=1e-12)


TRAINS = {
    "bolus": [Into(0, 100, 1, interval=12.0)],
    "oral with lag": [Into(0, 100, 0, lag=1.5, interval=12.0)],
    "lag of two and a half intervals": [Into(0, 100, 0, lag=30.0, interval=12.0)],
    "lag of exactly one interval": [Into(0, 100, 0, lag=12.0, interval=12.0)],
    "infusion": [Into(0, 100, 1, 3.0, interval=12.0)],
    "infusion as long as the interval": [Into(0, 100, 1, 12.0, interval=12.0)],
    "infusion of two and a half intervals with lag": [Into(0, 100, 1, 30.0, 2.0, interval=12.0)],
    "two absorption routes at once": [
        Into(0, 60, 0, lag=0.5, interval=24.0),
        Into(0, 40, 1, 2.0, 1.0, interval=24.0),
    ],
}


@pytest.mark.parametrize(
    "graph", ["one compartment", "two compartments", "metabolite", "enterohepatic recycling"]
)
@pytest.mark.parametrize("train", TRAINS)
def test_steady_state_is_that_of_a_train_as_long_as_one_likes(graph: str, train: str) -> None:
    rates = GRAPHS[graph]
    amounts, _ = solve_graph(np.zeros(1), rates[None], doses_of(TRAINS[train]), TIMES)
    # Slowest rate of these graphs 0.011/h: after 250 intervals of 12 h e^-33 of the first dose is left.
    expected = trains_by_hand(rates, TRAINS[train], TIMES, 250)
    np.testing.assert_allclose(amounts, expected, rtol=1e-9, atol=1e-9)


def test_steady_state_forgets_what_was_before_and_infusions_that_still_run() -> None:
    before = [Into(0, 1000, 1, 40.0), Into(9, 500, 0, lag=5.0)]
    train = Into(10, 100, 0, lag=1.0, interval=12.0)
    late = np.array([10.0, 12.5, 17.0, 40.0])
    amounts, _ = solve_graph(np.zeros(1), TWO[None], doses_of([*before, train]), late)
    np.testing.assert_allclose(amounts, trains_by_hand(TWO, [train], late, 400), rtol=1e-9)


def test_average_at_steady_state_is_dose_over_clearance_and_interval() -> None:
    # Gibaldi, Perrier (1982), ch. 3: the mean over an interval is F D / (CL tau), whatever the structure.
    times = np.array([0.0, 24.0])
    _, areas = solve_graph(
        np.zeros(1), THREE[None], doses_of([Into(0, 90, 0, lag=30.0, interval=24.0)]), times
    )
    assert areas[1, 1] - areas[0, 1] == pytest.approx(90 / 0.4, rel=1e-11)


def test_accumulating_compartment_outside_the_train_does_not_spoil_its_steady_state() -> None:
    rates = rate_matrix(3, [(0, -1, 0.1), (1, 2, 0.3)])  # 2 is a sink that the train never reaches
    amounts, _ = solve_graph(np.zeros(1), rates[None], doses_of([Into(0, 10, 0, interval=8.0)]), np.zeros(1))
    assert amounts[0, 0] == pytest.approx(10 * math.exp(-0.8) / (1 - math.exp(-0.8)), rel=1e-13)
    into_sink, _ = solve_graph(
        np.zeros(1), rates[None], doses_of([Into(0, 10, 1, interval=8.0)]), np.zeros(1)
    )
    assert np.isnan(into_sink).any()


@pytest.mark.parametrize("compartments", [1, 2])
def test_graph_agrees_with_the_closed_form_of_the_product(compartments: int) -> None:
    given = [
        Given(0, 800, duration=2.0),
        Given(0.5, 200, INTO_DEPOT),
        Given(12, 100),
        Given(30, 300, INTO_DEPOT, 0, 12),
    ]
    times = START_H + np.array([0.2, 0.7, 1.0, 2.0, 5.0, 11.9, 13.0, 29.9, 30.2, 31.0, 41.0, 55.0, 300.0])
    concentration, area, _ = solve(course(compartments, given), np.zeros(6), times)
    p = PARAMETERS
    flows = [(0, 1, p["absorption_rate"]), (1, -1, p["clearance"] / p["central_volume"])]
    if compartments == 2:
        exchange = p["intercompartmental_clearance"]
        flows += [(1, 2, exchange / p["central_volume"]), (2, 1, exchange / p["peripheral_volume"])]
    oral = {"compartment": 0, "lag": p["lag"]}
    doses = doses_of(
        [
            Into(0, 800, 1, 2.0),
            Into(0.5, 200 * p["bioavailability"], **oral),
            Into(12, 100, 1),
            Into(30, 300 * p["bioavailability"], interval=12.0, **oral),
        ]
    )
    rates = rate_matrix(compartments + 1, flows)
    amounts, areas = solve_graph(np.zeros(1), rates[None], doses, times - START_H)
    np.testing.assert_allclose(amounts[:, 1] / p["central_volume"], concentration, rtol=1e-9)
    np.testing.assert_allclose(areas[:, 1] / p["central_volume"], area, rtol=1e-9)


@pytest.mark.parametrize("time", [0.0, 1e-9, 0.3, 7.0, 500.0])
@pytest.mark.parametrize("graph", GRAPHS)
def test_step_matrices_are_scipys_exponential_of_the_augmented_matrix(graph: str, time: float) -> None:
    rates = GRAPHS[graph]
    n = len(rates)
    transition, held, twice_held = (np.empty((n, n)) for _ in range(3))
    assert step_matrices(rates, time, TWO_INTEGRALS, transition, held, twice_held, np.empty((2, n, n)))
    # exp [[K, I, 0], [0, 0, I], [0, 0, 0]] t holds E, P and Q in its first row of blocks (Van Loan 1978).
    augmented = np.zeros((3 * n, 3 * n))
    augmented[:n, :n] = rates
    augmented[:n, n : 2 * n] = np.eye(n)
    augmented[n : 2 * n, 2 * n :] = np.eye(n)
    expected = expm(augmented * time)[:n]
    for matrix, block in zip((transition, held, twice_held), np.split(expected, 3, axis=1), strict=True):
        np.testing.assert_allclose(matrix, block, rtol=1e-10, atol=1e-12 * max(1.0, abs(block).max()))
    alone = np.empty((n, n))
    step_matrices(rates, time, TRANSITION, alone, held, twice_held, np.empty((2, n, n)))
    np.testing.assert_allclose(alone, transition, rtol=1e-12, atol=1e-60)


def test_what_is_left_after_many_half_lives_keeps_its_digits() -> None:
    rates = rate_matrix(1, [(0, -1, 2.0)])
    amounts, _ = solve_graph(np.zeros(1), rates[None], doses_of([Into(0, 1.0)]), np.array([300.0]))
    assert amounts[0, 0] == pytest.approx(math.exp(-600.0), rel=1e-10)


def test_points_solved_together_are_those_solved_alone_to_the_bit() -> None:
    points = np.array([TWO, TWO * 1.3, TWO * 0.1])[:, None]
    plan = doses_of(sorted([*THERAPIES["parallel absorption"], *TRAINS["oral with lag"]]))
    lag = plan.lag_h * np.array([[1.0], [0.2], [9.0]])
    spread = [np.ascontiguousarray(np.broadcast_to(a, lag.shape)) for a in (plan.amount, plan.duration_h)]
    together = solve_graph_points(
        np.zeros(1), points, TIMES, plan.time_h, lag, *spread, plan.compartment, plan.interval_h, plan.reset_h
    )
    for point in range(3):
        alone, _ = solve_graph(np.zeros(1), points[point], plan._replace(lag_h=lag[point]), TIMES)
        np.testing.assert_allclose(
            together[point], alone, rtol=1e-13
        )  # the integrals take other terms of the series


def test_singular_system_is_told_not_solved() -> None:
    vector = np.array([1.0, 2.0])
    assert not solve_in_place(np.array([[1.0, 2.0], [2.0, 4.0]]), vector, 2)
    assert np.isnan(vector).all()


@pytest.mark.parametrize(
    "spoilt",
    [
        {"lag_h": np.array([math.nan])},
        {"lag_h": np.array([-1.0])},
        {"lag_h": np.array([math.inf])},
        {"amount": np.array([math.nan])},
        {"duration_h": np.array([math.inf])},
        {"time_h": np.array([math.nan])},
        {"reset_h": np.array([math.nan])},
        {"interval_h": np.array([0.1]), "lag_h": np.array([0.11 * TRAIN_LIMIT])},
        {"interval_h": np.array([math.inf])},
    ],
    ids=str,
)
def test_doses_without_meaning_come_out_as_nan(spoilt: dict[str, np.ndarray]) -> None:
    doses: Doses = doses_of([Into(0, 100)])._replace(**spoilt)
    amounts, areas = solve_graph(np.zeros(1), ONE[None], doses, np.array([1.0, 2.0]))
    assert np.isnan(amounts).all()
    assert np.isnan(areas).all()


@pytest.mark.parametrize("value", [math.nan, math.inf, 1e300])
def test_rates_without_meaning_come_out_as_nan(value: float) -> None:
    rates = ONE.copy()
    rates[1, 0] = value
    amounts, areas = solve_graph(np.zeros(1), rates[None], doses_of([Into(0, 100)]), np.array([-1.0, 1.0]))
    assert amounts[0].tolist() == [0.0, 0.0]  # before the first dose nothing can be wrong
    assert np.isnan(amounts[1]).all()
    assert np.isnan(areas[1]).all()


def test_time_that_is_no_number_spoils_only_what_comes_after() -> None:
    amounts, _ = solve_graph(np.zeros(1), ONE[None], doses_of([Into(0, 100)]), np.array([1.0, math.nan]))
    assert np.isfinite(amounts[0]).all()
    assert np.isnan(amounts[1]).all()
