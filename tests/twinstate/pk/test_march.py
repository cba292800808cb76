"""The solver's stated error, against SciPy's DOP853 over wide draws of courses, and what it promises besides."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tests.twinstate.courses import START_H, Given, course, integrate_all, log_parameters
from tests.twinstate.pk.draws import NO_ETA, draw_course
from twinstate.pk.course import (
    COAGULATION_MEAN,
    COAGULATION_PRODUCT,
    EFFECT_SITE,
    INTO_DEPOT,
    LINEAR,
    METABOLITE,
    MIXED,
    MYELOSUPPRESSION,
    PARALLEL_ORAL,
    SATURABLE,
    STRUCTURAL_PARAMETERS,
    STRUCTURAL_UNITS,
    Structure,
    log_row,
)
from twinstate.pk.propagate import solve, solve_points

NO_ETAS = [-1] * len(STRUCTURAL_UNITS)
# Structures by what has to be stepped, and draws of each.
STRUCTURES = [
    Structure(1, SATURABLE),
    Structure(2, SATURABLE),
    Structure(3, SATURABLE),
    Structure(1, MIXED),
    Structure(2, MIXED),
    Structure(3, MIXED),
    Structure(1, LINEAR, 1),
    Structure(1, LINEAR, 6),
    Structure(3, LINEAR, 3),
    Structure(2, MIXED, 2),
    Structure(1, SATURABLE, 4),
    Structure(2, LINEAR, 0, METABOLITE),
    Structure(2, MIXED, 0, METABOLITE),
    Structure(1, LINEAR, 3, METABOLITE),
    Structure(3, LINEAR, 0, EFFECT_SITE),
    Structure(1, SATURABLE, 1, EFFECT_SITE),
    Structure(1, LINEAR, 0, COAGULATION_PRODUCT, 1),
    Structure(2, LINEAR, 0, COAGULATION_PRODUCT, 6, 1),
    Structure(1, LINEAR, 0, COAGULATION_MEAN, 3, 3),
    Structure(3, LINEAR, 0, COAGULATION_MEAN, 8, 4),
    Structure(1, SATURABLE, 0, COAGULATION_PRODUCT, 3, 2),
    Structure(1, LINEAR, 0, MYELOSUPPRESSION),
    Structure(2, LINEAR, 0, MYELOSUPPRESSION),
    Structure(1, SATURABLE, 0, MYELOSUPPRESSION),
]
DRAWS = 12


def relative_error(found: np.ndarray, expected: np.ndarray, peak: float, share: float) -> np.ndarray:
    """Error by size, sizes below a share of the peak counting as that share."""
    return np.asarray(abs(found - expected) / (abs(expected) + share * peak))


@pytest.mark.parametrize("structure", STRUCTURES, ids=str)
def test_error_over_wide_draws_is_the_one_stated(structure: Structure) -> None:
    errors = []
    for draw in range(DRAWS):
        plan, times = draw_course(structure, np.random.default_rng([draw, *structure]))
        found = solve(plan, NO_ETA, times)
        expected = integrate_all(plan, NO_ETA, times, 1e-11)
        peak = plan.dose_mg.max() / math.exp(plan.log_typical[0, 1])
        errors.append(
            [
                relative_error(found[0], expected[0], peak, 1e-4).max(),
                relative_error(found[1], expected[1], expected[1].max(), 1e-3).max(),
                relative_error(found[2], expected[2], expected[2].max(initial=0.0) + 1e-300, 1e-4).max(),
            ]
        )
    # Stated: 6e-5 at worst in courses as wide as these, and 1e-5 in nine of ten.
    assert np.max(errors) < 6e-5
    assert np.quantile(errors, 0.9, axis=0).max() < 1e-5


def test_phenytoin_follows_its_integrated_rate_law() -> None:
    # Without input, C0 - C + Km ln(C0 / C) = Vmax t / V (Wagner 1973, J. Pharmacokinet. Biopharm. 1:103-121).
    row = log_row({"maximum_elimination_rate": 13.5, "michaelis_constant": 4.0, "central_volume": 40.0})
    plan = course(Structure(1, SATURABLE), [Given(0, 1200)], [(0.0, row)], NO_ETAS)
    hours = np.array([1.0, 24.0, 60.0, 100.0, 150.0])
    concentration, area, _ = solve(plan, NO_ETA, START_H + hours)
    elapsed = (30.0 - concentration + 4.0 * np.log(30.0 / concentration)) * 40.0 / 13.5
    np.testing.assert_allclose(elapsed, hours, rtol=1e-5)
    # And the area by the same substitution: V/Vmax (Km (C0 - C) + (C0^2 - C^2) / 2).
    expected = 40.0 / 13.5 * (4.0 * (30.0 - concentration) + 0.5 * (900.0 - concentration**2))
    np.testing.assert_allclose(area, expected, rtol=1e-5)


@pytest.mark.parametrize("compartments", [1, 2, 3])
def test_elimination_far_from_saturation_is_linear(compartments: int) -> None:
    doses = [Given(0, 500, INTO_DEPOT), Given(8, 300, duration=2.0), Given(20, 200, PARALLEL_ORAL)]
    hours = START_H + np.array([1.0, 7.0, 9.0, 19.0, 30.0, 60.0])
    linear = solve(course(compartments, doses), np.zeros(6), hours)
    row = log_parameters(maximum_elimination_rate=4.5e9, michaelis_constant=1e9)
    saturable = course(Structure(compartments, SATURABLE), doses, [(0.0, row)])
    found = solve(saturable, np.zeros(6), hours)
    np.testing.assert_allclose(found[0], linear[0], rtol=1e-7)
    np.testing.assert_allclose(found[1], linear[1], rtol=1e-7)


def test_saturable_structure_has_no_linear_clearance() -> None:
    doses = [Given(0, 500)]
    one = course(Structure(1, SATURABLE), doses, [(0.0, log_parameters(clearance=0.0))])
    other = course(Structure(1, SATURABLE), doses, [(0.0, log_parameters(clearance=50.0))])
    at = START_H + np.array([5.0, 50.0])
    assert solve(one, np.zeros(6), at)[0].tobytes() == solve(other, np.zeros(6), at)[0].tobytes()


def test_many_transits_without_a_depot_deliver_an_erlang_time_after_the_dose() -> None:
    # The amount absorbed from n transits of rate k is the Erlang distribution; nothing leaves the body here.
    row = log_row({"central_volume": 10.0, "transit_rate": 2.0})
    plan = course(Structure(1, LINEAR, 5), [Given(0, 100, INTO_DEPOT)], [(0.0, row)], NO_ETAS)
    hours = np.array([0.5, 1.0, 2.0, 3.0, 5.0, 9.0])
    concentration, _, _ = solve(plan, NO_ETA, START_H + hours)
    x = 2.0 * hours
    absorbed = 1.0 - np.exp(-x) * sum(x**n / math.factorial(n) for n in range(5))
    np.testing.assert_allclose(concentration, 10.0 * absorbed, rtol=1e-5)


def test_covariates_that_change_in_mid_course_move_the_stepped_structures_too() -> None:
    doses = [Given(0, 600, INTO_DEPOT), Given(9, 400, duration=30.0), Given(24, 300, PARALLEL_ORAL)]
    times = START_H + np.array([2.0, 5.0, 12.0, 20.0, 30.0, 45.0, 90.0])
    for structure in (
        Structure(3, MIXED, 2, EFFECT_SITE),
        Structure(2, MIXED, 0, METABOLITE),
        Structure(2, LINEAR, 0, METABOLITE),
        Structure(2, SATURABLE, 0, COAGULATION_PRODUCT, 3, 1),
        Structure(1, LINEAR, 0, MYELOSUPPRESSION),
    ):
        segments = [
            (0.0, log_parameters()),
            (10.0, log_parameters(central_volume=30.0, michaelis_constant=2.0, metabolite_volume=35.0)),
            (40.0, log_parameters(clearance=9.0, response_baseline=1.3, response_time=50.0, hill=1.0)),
        ]
        plan = course(structure, doses, segments)
        found = solve(plan, np.zeros(6), times)
        expected = integrate_all(plan, np.zeros(6), times, 1e-11)
        for ours, theirs in zip(found, expected, strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-5)


def test_an_occasion_moves_a_parameter_within_its_segment_only() -> None:
    segments = [(0.0, log_parameters()), (10.0, log_parameters()), (20.0, log_parameters())]
    plan = course(Structure(1, MIXED), [Given(0, 600), Given(15, 300)], segments)
    plan.occasion_index[1, STRUCTURAL_PARAMETERS.index("maximum_elimination_rate")] = 6
    times = START_H + np.array([9.0, 14.0, 30.0])
    eta = np.array([0.0, 0, 0, 0, 0, 0, 0.5])
    found = solve(plan, eta, times)
    expected = integrate_all(plan, eta, times, 1e-11)
    np.testing.assert_allclose(found[0], expected[0], rtol=1e-5)
    still = solve(plan, np.zeros(7), times)
    assert found[0][0] == still[0][0]
    assert found[0][1] < still[0][1]


@pytest.mark.parametrize("structure", STRUCTURES, ids=str)
def test_points_are_solved_as_each_alone_to_the_bit(structure: Structure) -> None:
    plan, times = draw_course(structure, np.random.default_rng([3, *structure]))
    plan.eta_index[[0, 1, 10, 11]] = [0, 1, 2, 3]
    points = np.random.default_rng(7).normal(0, 0.4, (8, 4))
    together = solve_points(plan, points, times)
    for point in range(8):
        alone = solve(plan, points[point], times)
        for kind in range(3):
            assert together[kind][point].tobytes() == alone[kind].tobytes()


@pytest.mark.parametrize("structure", STRUCTURES, ids=str)
@pytest.mark.parametrize("broken", [math.nan, math.inf, 800.0])
def test_parameter_that_is_not_finite_gives_nan_and_returns(structure: Structure, broken: float) -> None:
    plan, times = draw_course(structure, np.random.default_rng([4, *structure]))
    plan.eta_index[1] = 0
    for output in solve(plan, np.array([broken]), times):
        assert np.isnan(output).all()


@pytest.mark.parametrize("structure", STRUCTURES, ids=str)
def test_parameters_far_out_end_in_a_number_or_nan_and_return(structure: Structure) -> None:
    plan, times = draw_course(structure, np.random.default_rng([5, *structure]))
    plan.eta_index[:] = np.arange(len(STRUCTURAL_UNITS))
    points = np.random.default_rng(9).choice([-8.0, 0.0, 8.0], size=(40, len(STRUCTURAL_UNITS)))
    concentration, area, _ = solve_points(plan, points, times)
    known = np.isfinite(concentration)
    assert known.mean() > 0.5
    assert concentration[known].min() > -1e-9 * np.abs(concentration[known]).max()
    assert (area[np.isfinite(area)] >= 0).all()
