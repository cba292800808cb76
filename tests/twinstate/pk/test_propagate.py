"""The exact propagation against SciPy's integration of the same equations, and against closed forms."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.twinstate.courses import (
    PARAMETERS,
    START_H,
    Given,
    course,
    integrate,
    integrate_all,
    log_parameters,
)
from twinstate.pk.course import (
    EFFECT_SITE,
    INTO_CENTRAL,
    INTO_DEPOT,
    LINEAR,
    METABOLITE,
    NOTHING,
    PARALLEL_ORAL,
    ZERO_ORDER_ORAL,
    Structure,
)
from twinstate.pk.propagate import solve, solve_points

NO_ETA = np.zeros(6)
AN_ETA = np.array([0.3, -0.2, 0.4, -0.3, 0.5, 0.6])
TIMES = START_H + np.array([0.1, 0.5, 1.0, 1.7, 3.0, 6.0, 11.9, 12.0, 12.2, 14.0, 20.0, 30.0, 47.0, 80.0])

THERAPIES = {
    "boluses": [Given(0, 500), Given(12, 300)],
    "overlapping infusions": [
        Given(0, 1000, duration=4.0),
        Given(1.5, 600, duration=12.0),
        Given(12, 1000, duration=1.0),
    ],
    "oral doses with lag": [
        Given(0, 400, INTO_DEPOT),
        Given(12, 400, INTO_DEPOT),
        Given(12.2, 100, INTO_DEPOT),
    ],
    "zero-order oral doses": [Given(0, 400, ZERO_ORDER_ORAL), Given(1.0, 400, ZERO_ORDER_ORAL)],
    "oral doses by two ways": [Given(0, 400, PARALLEL_ORAL), Given(1.5, 400, PARALLEL_ORAL)],
    "all routes together": [
        Given(0, 800, INTO_CENTRAL, 2.0),
        Given(0.5, 200, INTO_DEPOT),
        Given(1.0, 200, ZERO_ORDER_ORAL),
        Given(12, 100),
    ],
}


@pytest.mark.parametrize("compartments", [1, 2, 3])
@pytest.mark.parametrize("eta", [NO_ETA, AN_ETA], ids=["typical", "individual"])
@pytest.mark.parametrize("therapy", THERAPIES)
def test_concentration_and_auc_agree_with_scipy(compartments: int, eta: np.ndarray, therapy: str) -> None:
    plan = course(compartments, THERAPIES[therapy])
    concentration, area, _ = solve(plan, eta, TIMES)
    expected_concentration, expected_area = integrate(plan, eta, TIMES)
    # The integrator's own tolerance is 1e-12 a step; times of 5e5 h resolve 6e-11 h.
    np.testing.assert_allclose(concentration, expected_concentration, rtol=1e-8, atol=1e-12)
    np.testing.assert_allclose(area, expected_area, rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("compartments", [1, 2, 3])
def test_covariates_that_change_in_mid_course_agree_with_scipy(compartments: int) -> None:
    segments = [
        (0.0, log_parameters()),
        (5.0, log_parameters(clearance=2.0, lag=2.0, bioavailability=0.5)),
        (
            11.95,
            log_parameters(clearance=9.0, central_volume=30.0, peripheral_volume=80.0, absorption_rate=0.2),
        ),
        (40.0, log_parameters(intercompartmental_clearance=1.0, input_duration=6.0)),
    ]
    doses = [*THERAPIES["all routes together"], Given(12, 300, INTO_DEPOT), Given(13, 300, ZERO_ORDER_ORAL)]
    plan = course(compartments, sorted(doses), segments)
    concentration, area, _ = solve(plan, AN_ETA, TIMES)
    expected_concentration, expected_area = integrate(plan, AN_ETA, TIMES)
    np.testing.assert_allclose(concentration, expected_concentration, rtol=1e-8, atol=1e-12)
    np.testing.assert_allclose(area, expected_area, rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("second", [NOTHING, METABOLITE, EFFECT_SITE])
@pytest.mark.parametrize("compartments", [1, 2, 3])
def test_even_steps_agree_with_scipy_when_doses_and_covariates_change_on_the_grid_and_between(
    compartments: int, second: int
) -> None:
    # A step as long as the last one reuses its exponentials: not so under other parameters, or from a filling depot.
    segments = [
        (0.0, log_parameters()),
        (5.0, log_parameters(clearance=2.0, effect_rate=0.8, metabolite_clearance=1.0, lag=0.5)),
        (11.25, log_parameters(absorption_rate=0.2, central_volume=40.0, lag=1.0)),
    ]
    doses = [
        Given(1.0, 700, duration=2.0),
        Given(4.0, 300, INTO_DEPOT),
        Given(7.5, 500, duration=1.25),
        Given(9.0, 200, INTO_DEPOT),
        Given(13.3, 400, ZERO_ORDER_ORAL),
    ]
    even = START_H + np.arange(0.0, 30.0, 0.5)
    structure = Structure(compartments, LINEAR, 0, second)
    # Without a change of covariates a point's first step is as long as the last one of the point before.
    for plan in (course(structure, doses, segments), course(structure, doses)):
        found = solve_points(plan, np.array([NO_ETA, AN_ETA]), even)
        for point, eta in enumerate([NO_ETA, AN_ETA]):
            for output, expected in zip(found, integrate_all(plan, eta, even), strict=True):
                np.testing.assert_allclose(output[point], expected, rtol=1e-8, atol=1e-11)


@pytest.mark.parametrize("apart", [0.0, 1e-15, 1e-12, 1e-9, 1e-6, 1e-3])
def test_absorption_as_fast_as_elimination_loses_no_digits(apart: float) -> None:
    elimination = PARAMETERS["clearance"] / PARAMETERS["central_volume"]
    row = log_parameters(absorption_rate=elimination * (1.0 + apart), lag=0.0, bioavailability=1.0)
    plan = course(1, [Given(0, 100, INTO_DEPOT)], [(0.0, row)])
    hours = np.array([0.01, 1.0, 10.0, 100.0])
    concentration, area, _ = solve(plan, NO_ETA, START_H + hours)
    # Limit of the Bateman function for equal rates k: C = D k t e^(-kt) / V; its integral follows by parts.
    kt = elimination * hours
    expected = 100 * kt * np.exp(-kt) / PARAMETERS["central_volume"]
    expected_area = 100 / PARAMETERS["clearance"] * (1 - np.exp(-kt) * (1 + kt))
    if apart <= 1e-9:
        np.testing.assert_allclose(concentration, expected, rtol=1e-7)
        np.testing.assert_allclose(area, expected_area, rtol=1e-7)
    by_scipy = integrate(plan, NO_ETA, START_H + hours)
    np.testing.assert_allclose(concentration, by_scipy[0], rtol=1e-8)
    np.testing.assert_allclose(area, by_scipy[1], rtol=1e-8)


def test_level_drawn_at_the_time_of_a_dose_is_the_one_before_it() -> None:
    plan = course(1, [Given(0, 500), Given(12, 500)])
    concentration, _, _ = solve(plan, NO_ETA, START_H + np.array([0.0, 12.0]))
    elimination = PARAMETERS["clearance"] / PARAMETERS["central_volume"]
    assert concentration[0] == 0.0
    assert concentration[1] == pytest.approx(500 / 58.0 * math.exp(-12 * elimination), rel=1e-12)


def test_parameters_of_a_segment_rule_from_its_very_start() -> None:
    plan = course(1, [Given(0, 500)], [(0.0, log_parameters()), (10.0, log_parameters(central_volume=29.0))])
    concentration, _, _ = solve(plan, NO_ETA, START_H + np.array([10.0]))
    elimination = PARAMETERS["clearance"] / PARAMETERS["central_volume"]
    assert concentration[0] == pytest.approx(500 / 29.0 * math.exp(-10 * elimination), rel=1e-12)


def test_all_drug_leaves_so_the_final_auc_is_dose_over_clearance() -> None:
    # AUC to infinity = F D / CL whatever the structure (Gibaldi, Perrier 1982, ch. 11).
    plan = course(2, [Given(0, 500, INTO_DEPOT), Given(3, 250, ZERO_ORDER_ORAL), Given(4, 100, duration=2)])
    _, area, _ = solve(plan, NO_ETA, START_H + np.array([2000.0]))
    assert area[0] == pytest.approx((0.8 * 750 + 100) / PARAMETERS["clearance"], rel=1e-12)


def test_goti_2018_vancomycin_gives_its_published_half_lives_and_auc24() -> None:
    # Creatinine clearance 100 mL/min, 79 kg: CL 3.89 L/h, 2 g/day AUC24 514, half-lives 2.5 and 21.6 h.
    row = log_parameters(
        clearance=4.5 * (100 / 120) ** 0.8,
        central_volume=58.4 * 79 / 70,
        intercompartmental_clearance=6.5,
        peripheral_volume=38.4 * 79 / 70,
    )
    assert math.exp(row[0]) == pytest.approx(3.89, abs=0.005)
    twice_a_day = course(2, [Given(12.0 * k, 1000, duration=1.0) for k in range(60)], [(0.0, row)])
    _, area, _ = solve(twice_a_day, NO_ETA, START_H + np.array([29 * 24.0, 30 * 24.0]))
    assert area[1] - area[0] == pytest.approx(514, abs=0.5)
    once = course(2, [Given(0, 1000)], [(0.0, row)])
    late, _, _ = solve(once, NO_ETA, START_H + np.array([200.0, 221.6]))
    assert late[1] / late[0] == pytest.approx(0.5, abs=0.002)
    # What the slow phase leaves over, carried back to the start, is the fast phase.
    slow = math.log(late[0] / late[1]) / 21.6
    early, _, _ = solve(once, NO_ETA, START_H + np.array([1.0, 3.5]))
    fast = early - late[0] * np.exp(slow * (200.0 - np.array([1.0, 3.5])))
    assert math.log(2) * 2.5 / math.log(fast[0] / fast[1]) == pytest.approx(2.5, abs=0.05)


def test_theophylline_of_the_twelve_volunteers_peaks_where_the_bateman_function_does() -> None:
    # Refit of R's Theoph: ka 1.59 1/h, CL 0.0397 L/h/kg, ke 0.086 1/h; 70 kg, 320 mg.
    clearance, elimination, absorption = 0.0397 * 70, 0.086, 1.59
    volume = clearance / elimination
    row = log_parameters(
        clearance=clearance, central_volume=volume, absorption_rate=absorption, lag=0.0, bioavailability=1.0
    )
    peak_at = math.log(absorption / elimination) / (absorption - elimination)
    plan = course(1, [Given(0, 320, INTO_DEPOT)], [(0.0, row)])
    around, _, _ = solve(plan, NO_ETA, START_H + peak_at + np.array([-0.1, 0.0, 0.1]))
    assert around[1] == pytest.approx(320 / volume * math.exp(-elimination * peak_at), rel=1e-9)
    assert around[1] > max(around[0], around[2])


def test_infusion_too_short_for_the_clock_is_a_bolus() -> None:
    at_once, _, _ = solve(course(1, [Given(0, 10), Given(12, 500)]), NO_ETA, TIMES)
    for duration in (1e-300, 1e-16, 1e-9):
        plan = course(1, [Given(0, 10), Given(12, 500, duration=duration)])
        np.testing.assert_allclose(solve(plan, NO_ETA, TIMES)[0], at_once, rtol=1e-9)


def test_clearance_of_nought_keeps_the_drug() -> None:
    plan = course(1, [Given(0, 580, duration=2.0)], [(0.0, log_parameters(clearance=0.0))])
    concentration, area, _ = solve(plan, NO_ETA, START_H + np.array([1.0, 2.0, 12.0]))
    np.testing.assert_allclose(concentration, [5.0, 10.0, 10.0], rtol=1e-12)
    np.testing.assert_allclose(area, [2.5, 10.0, 110.0], rtol=1e-12)


def test_without_doses_there_is_no_drug() -> None:
    concentration, area, _ = solve(course(2, []), NO_ETA, TIMES)
    assert not concentration.any()
    assert not area.any()


@pytest.mark.parametrize("broken", [math.nan, math.inf, 800.0])
@pytest.mark.parametrize("parameter", range(6))
def test_parameter_that_is_not_finite_gives_nan_and_returns(broken: float, parameter: int) -> None:
    eta = NO_ETA.copy()
    eta[parameter] = broken
    concentration, area, _ = solve(course(2, THERAPIES["all routes together"]), eta, TIMES)
    assert np.isnan(concentration).all()
    assert np.isnan(area).all()


@pytest.mark.parametrize("dose", range(4))
def test_amount_that_is_not_a_number_gives_nan(dose: int) -> None:
    plan = course(2, THERAPIES["all routes together"])
    plan.dose_mg[dose] = math.nan
    concentration, area, _ = solve(plan, NO_ETA, TIMES)
    assert np.isnan(concentration[-1])
    assert np.isnan(area[-1])


@pytest.mark.parametrize("broken", [math.nan, math.inf, -math.inf])
def test_time_that_is_not_finite_gives_nan_and_returns(broken: float) -> None:
    whole = course(2, THERAPIES["all routes together"], [(0.0, log_parameters()), (5.0, log_parameters())])
    starts, doses, times = whole.segment_start_h.copy(), whole.dose_time_h.copy(), TIMES.copy()
    starts[1], doses[1], times[-1] = math.nan, broken, broken
    for plan, at in (
        (whole._replace(segment_start_h=starts), TIMES),
        (whole._replace(dose_time_h=doses), TIMES),
        (whole, times),
    ):
        concentration, area, _ = solve(plan, NO_ETA, at)
        assert np.isnan(concentration[-1])
        assert np.isnan(area[-1])


def test_points_are_solved_as_each_alone_to_the_bit() -> None:
    plan = course(2, THERAPIES["all routes together"])
    points = np.random.default_rng(7).normal(0, 0.4, (40, 6))
    together = solve_points(plan, points, TIMES)
    for point in range(40):
        alone = solve(plan, points[point], TIMES)
        assert together[0][point].tobytes() == alone[0].tobytes()
        assert together[1][point].tobytes() == alone[1].tobytes()


@given(
    compartments=st.sampled_from([1, 2, 3]),
    splits=st.lists(st.floats(0.01, 79.0), min_size=1, max_size=5, unique=True),
    therapy=st.sampled_from(sorted(THERAPIES)),
    eta=st.lists(st.floats(-1, 1), min_size=6, max_size=6),
)
def test_segment_that_changes_no_parameter_changes_nothing(
    compartments: int, splits: list[float], therapy: str, eta: list[float]
) -> None:
    whole = solve(course(compartments, THERAPIES[therapy]), np.array(eta), TIMES)
    rows = [(start, log_parameters()) for start in (0.0, *sorted(splits))]
    split = solve(course(compartments, THERAPIES[therapy], rows), np.array(eta), TIMES)
    for before, after in zip(whole, split, strict=True):
        scale = before.max()
        np.testing.assert_allclose(after, before, rtol=1e-12, atol=1e-12 * scale)


@given(
    extra=st.lists(st.floats(0.0, 80.0), max_size=8),
    therapy=st.sampled_from(sorted(THERAPIES)),
)
def test_times_read_on_the_way_do_not_change_the_answer(extra: list[float], therapy: str) -> None:
    plan = course(2, THERAPIES[therapy])
    alone = solve(plan, AN_ETA, START_H + np.array([80.0]))
    times = START_H + np.array([*sorted(extra), 80.0])
    among = solve(plan, AN_ETA, times)
    assert among[0][-1] == pytest.approx(alone[0][0], rel=1e-12)
    assert among[1][-1] == pytest.approx(alone[1][0], rel=1e-12)
