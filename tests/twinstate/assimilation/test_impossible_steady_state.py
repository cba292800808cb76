"""A steady state is declared that some parameters cannot have: they lose their weight, the twin keeps its estimate."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import truncnorm

from tests.twinstate.courses import START_H, Given, course, log_parameters
from twinstate.assimilation.observation import labs_under
from twinstate.assimilation.posterior import assimilate, carry_forward
from twinstate.drug import Residual
from twinstate.errors import MathsError
from twinstate.pk.course import LINEAR, MYELOSUPPRESSION, SATURABLE, Course, Structure, eta_row
from twinstate.pk.propagate import solve_points

OMEGA = np.diag([0.3**2, 0.2**2])
LEVELS_H = START_H + np.array([0.0, 6.0, 12.0])
ERROR = Residual(0.15, 0.3)


def phenytoin_like(mg: float) -> Course:
    """Doses every 12 h at steady state; elimination takes at most 17 mg/h of a typical patient."""
    row = log_parameters(maximum_elimination_rate=17.0, michaelis_constant=4.0, central_volume=45.0)
    plain = course(Structure(1, SATURABLE), [Given(0.0, mg, duration=1.0, interval=12.0)], [(-5000.0, row)])
    return plain._replace(eta_index=eta_row({"maximum_elimination_rate": 0, "michaelis_constant": 1}))


def test_before_any_level_the_parameters_are_those_of_the_population_that_can_have_it() -> None:
    mg = 160.0
    given = phenytoin_like(mg)
    _, cloud = carry_forward(
        assimilate(given, labs_under(ERROR, np.empty(0), np.empty(0), np.empty(0, np.int64)), OMEGA),
        given,
        None,
        START_H,
    )
    # What comes in must be less than elimination takes at most: Vmax > dose / interval.
    least = np.log(mg / 12.0 / 17.0) / 0.3
    expected = truncnorm(least, np.inf, scale=0.3)
    assert least > -1.0
    assert cloud.mean[0] == pytest.approx(expected.mean(), abs=0.01)
    assert cloud.covariance[0, 0] ** 0.5 == pytest.approx(expected.std(), abs=0.01)
    assert cloud.mean[1] == pytest.approx(0.0, abs=0.02)
    assert np.isfinite(solve_points(given, cloud.points, LEVELS_H)[0]).all()


@pytest.mark.parametrize(
    ("mg", "level"), [(160.0, 4.0), (160.0, 12.0), (160.0, 30.0), (230.0, 20.0)]
)  # the typical patient cannot have the last one
def test_levels_move_the_estimate_to_the_posterior_of_those_who_can_have_it(mg: float, level: float) -> None:
    given = phenytoin_like(mg)
    value = level * np.array([1.0, 1.15, 0.95])
    labs = labs_under(ERROR, LEVELS_H, value, np.zeros(3, np.int64))
    cloud = assimilate(given, labs, OMEGA).cloud
    # The posterior by brute force: the population, weighed by the likelihood of the levels.
    draws = np.random.default_rng(3).multivariate_normal(np.zeros(2), OMEGA, 200_000)
    draws = draws[np.log(17.0) + draws[:, 0] > np.log(mg / 12.0) + 1e-6]
    predicted = solve_points(given, draws, LEVELS_H)[0]
    sd = np.hypot(0.15 * predicted, 0.3)
    log_likelihood = (-0.5 * ((value - predicted) / sd) ** 2 - np.log(sd)).sum(axis=1)
    weights = np.exp(log_likelihood - log_likelihood.max())
    weights /= weights.sum()
    mean = weights @ draws
    spread = np.sqrt(weights @ (draws - mean) ** 2)
    assert np.abs(cloud.mean - mean).max() < 0.1 * spread.max()
    assert np.sqrt(np.diag(cloud.covariance)) == pytest.approx(spread, rel=0.1)


def test_doses_that_nobody_can_have_at_steady_state_are_refused_with_the_way_out() -> None:
    given = phenytoin_like(900.0)
    prior = assimilate(given, labs_under(ERROR, np.empty(0), np.empty(0), np.empty(0, np.int64)), OMEGA)
    with pytest.raises(MathsError, match=r"steady state.*one by one"):
        carry_forward(prior, given, None, START_H)


def test_a_marrow_that_the_train_kills_has_no_steady_state() -> None:
    row = log_parameters(
        clearance=5.0, response_baseline=6.0, response_time=90.0, response_slope=0.05, response_feedback=0.2
    )
    # Dividing cells stand still where (1 - slope C) feedback = 1: mean C must stay below 1 / slope = 20 mg/L.
    for mg, possible in ((1800.0, True), (3000.0, False)):
        train = [Given(0.0, mg, duration=20.0, interval=24.0)]
        plan = course(Structure(1, LINEAR, 0, MYELOSUPPRESSION), train, [(-5000.0, row)])
        concentration, _, cells = solve_points(plan, np.zeros((1, 6)), START_H + np.array([0.0, 12.0, 24.0]))
        assert np.isfinite(concentration).all()
        assert np.isfinite(cells).all() == possible
        if possible:
            assert cells[0, 2] == pytest.approx(cells[0, 0], rel=1e-6)


def test_a_marrow_that_goes_round_in_cycles_has_no_steady_state() -> None:
    # Every two weeks four fifths of what divides in between: the long train comes to cycles of several intervals.
    row = log_parameters(
        clearance=5.0, response_baseline=6.0, response_time=90.0, response_slope=0.8, response_feedback=0.17
    )
    train = [Given(0.0, 5.0 * 336.0, duration=2.0, interval=336.0)]
    plan = course(Structure(1, LINEAR, 0, MYELOSUPPRESSION), train, [(-5000.0, row)])
    cells = solve_points(plan, np.zeros((1, 6)), START_H + np.array([0.0, 336.0]))[2][0]
    again = [Given(0.0, 5.0 * 336.0, duration=2.0, interval=336.0), Given(336.0, 5.0 * 336.0, duration=2.0)]
    whole = course(Structure(1, LINEAR, 0, MYELOSUPPRESSION), again, [(-5000.0, row)])
    later = solve_points(whole, np.zeros((1, 6)), START_H + np.array([0.0, 336.0, 672.0]))[2][0]
    assert np.isnan(cells).all() or later[1] == pytest.approx(later[0], rel=1e-6)
