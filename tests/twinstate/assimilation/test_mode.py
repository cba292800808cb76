"""The mode against SciPy's minimisation of the objective written longhand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.stats import norm

from twinstate.assimilation.deviance import Measured, deviances
from twinstate.assimilation.mode import Status, find_mode, objective
from twinstate.assimilation.simplex import descend

Floats = NDArray[np.float64]

HOURS = np.array([1.0, 4.0, 9.0, 16.0, 30.0])
LEVELS = np.array([17.0, 11.5, 6.1, 3.9, 0.7])
OMEGA = np.array([[0.2, 0.05], [0.05, 0.1]])


def bolus(etas: Floats) -> Floats:
    """1000 mg into 50 L, 5 L/h."""
    clearance, volume = 5.0 * np.exp(etas[:, :1]), 50.0 * np.exp(etas[:, 1:2])
    return 1000.0 / volume * np.exp(-clearance / volume * HOURS)


def measured(
    proportional: float = 0.0, additive: float = 0.0, log_normal: float = 0.0, censored: tuple[int, ...] = ()
) -> Measured:
    below = np.isin(np.arange(LEVELS.size), censored).astype(np.int64)
    columns = [np.full(LEVELS.size, value) for value in (proportional, additive, log_normal)]
    return Measured(np.where(below == 1, 2.0, LEVELS), below, *columns)


def longhand(eta: Floats, levels: Measured, omega: Floats) -> float:
    total = float(eta @ np.linalg.solve(omega, eta))
    for f, y, below, proportional, additive, log_normal in zip(bolus(eta[None])[0], *levels, strict=True):
        if log_normal > 0:
            variance, miss = log_normal, math.log(y) - math.log(f)
        else:
            variance, miss = proportional * f**2 + additive, y - f
        if below:
            total -= 2.0 * float(norm.logcdf(miss / math.sqrt(variance)))
        else:
            total += miss**2 / variance + math.log(variance)
    return total


ERRORS = {
    "proportional": measured(proportional=0.04),
    "additive": measured(additive=0.6),
    "combined": measured(proportional=0.02, additive=0.1),
    "log-normal": measured(log_normal=0.05),
    "censored": measured(proportional=0.02, additive=0.1, censored=(4,)),
    "censored log-normal": measured(log_normal=0.05, censored=(3, 4)),
    "all censored": measured(proportional=0.02, additive=0.1, censored=(0, 1, 2, 3, 4)),
}


@pytest.mark.parametrize("error", ERRORS)
def test_mode_is_the_one_scipy_finds(error: str) -> None:
    levels = ERRORS[error]
    mode = find_mode(bolus, levels, OMEGA)
    expected = minimize(
        longhand, np.zeros(2), (levels, OMEGA), method="Nelder-Mead", options={"xatol": 1e-9, "fatol": 1e-12}
    )
    assert mode.status is Status.SMOOTH
    # The simplex's own digits: half of the objective's, that is 1e-7.
    np.testing.assert_allclose(mode.eta, expected.x, atol=1e-6)
    assert mode.objective == pytest.approx(expected.fun, abs=1e-9)
    assert objective(bolus, levels, OMEGA, mode.eta[None])[0] == pytest.approx(
        longhand(mode.eta, levels, OMEGA)
    )


def test_covariance_is_prior_and_fisher_information_at_the_mode() -> None:
    levels = measured(proportional=0.02, additive=0.1)
    mode = find_mode(bolus, levels, OMEGA)
    rate = 0.1 * math.exp(mode.eta[0] - mode.eta[1])
    f = bolus(mode.eta[None])[0]
    # d ln f / d eta: -k t for clearance, -1 + k t for volume.
    slope = f * np.array([-rate * HOURS, -1.0 + rate * HOURS])
    variance = 0.02 * f**2 + 0.1
    slope_of_variance = 2 * 0.02 * f * slope
    information = (slope / variance) @ slope.T + 0.5 * (slope_of_variance / variance**2) @ slope_of_variance.T
    expected = np.linalg.inv(np.linalg.inv(OMEGA) + information)
    np.testing.assert_allclose(mode.covariance, expected, rtol=1e-6)


def test_eta_without_variance_stays_at_nought_and_the_others_are_as_without_it() -> None:
    levels = measured(proportional=0.04)
    omega = np.zeros((3, 3))
    omega[np.ix_([0, 2], [0, 2])] = OMEGA
    mode = find_mode(lambda etas: bolus(etas[:, [0, 2]] + etas[:, [1]]), levels, omega)
    alone = find_mode(bolus, levels, OMEGA)
    np.testing.assert_allclose(mode.eta, [alone.eta[0], 0.0, alone.eta[1]], atol=1e-9)
    assert mode.covariance[1].tolist() == [0.0, 0.0, 0.0]
    np.testing.assert_allclose(mode.covariance[np.ix_([0, 2], [0, 2])], alone.covariance, rtol=1e-6)
    assert (
        objective(lambda etas: bolus(etas[:, [0, 2]]), levels, omega, np.array([[0.0, 0.1, 0.0]]))[0]
        == math.inf
    )


def test_perfectly_correlated_etas_stay_each_others_multiples() -> None:
    levels = measured(proportional=0.04)
    direction = np.array([0.3, -0.6])
    mode = find_mode(bolus, levels, np.outer(direction, direction))
    expected = minimize(
        lambda z: (
            longhand(direction * z[0], levels, np.eye(2))
            - float(direction @ direction) * z[0] ** 2
            + z[0] ** 2
        ),
        [0.0],
        method="Nelder-Mead",
        options={"xatol": 1e-9, "fatol": 1e-12},
    )
    np.testing.assert_allclose(mode.eta, direction * expected.x[0], atol=1e-6)


def test_two_modes_end_in_the_better_one_though_the_mean_lies_in_the_worse_ones_valley() -> None:
    def predict(etas: Floats) -> Floats:
        # Levels of 1 are met near eta = 0.3 (by half) and near eta = -1.5 (in full).
        near = 0.5 * np.exp(-0.5 * ((etas - 0.3) / 0.25) ** 2)
        return np.repeat(near + np.exp(-0.5 * ((etas + 1.5) / 0.25) ** 2), 3, axis=1)

    levels = Measured(np.ones(3), np.zeros(3, np.int64), np.zeros(3), np.full(3, 0.01), np.zeros(3))
    mode = find_mode(predict, levels, np.eye(1))
    grid = np.linspace(-4, 4, 80_001)[:, None]
    values = deviances(levels, predict(grid)) + grid[:, 0] ** 2
    assert mode.eta[0] == pytest.approx(grid[np.argmin(values), 0], abs=2e-4)
    assert mode.eta[0] < -1.0


@pytest.mark.parametrize("at", [0.2, -0.7])
def test_mode_on_a_kink_is_found_and_told(at: float) -> None:
    def predict(etas: Floats) -> Floats:
        # A level that is best met at the edge of |eta0 - at|, along a line in both etas.
        edge = np.abs(etas[:, 0] - at + 0.5 * etas[:, 1])
        return np.stack([5.0 + 4.0 * edge, 3.0 + 0.2 * etas[:, 1]], axis=1)

    levels = Measured(np.array([4.0, 3.1]), np.zeros(2, np.int64), np.zeros(2), np.full(2, 0.04), np.zeros(2))
    mode = find_mode(predict, levels, np.eye(2))
    # On the edge eta0 = at - eta1 / 2: what is left is a quadratic in eta1.
    line = np.linspace(-3, 3, 600_001)
    cost = (3.1 - 3.0 - 0.2 * line) ** 2 / 0.04 + line**2 + (at - 0.5 * line) ** 2
    best = line[np.argmin(cost)]
    np.testing.assert_allclose(mode.eta, [at - 0.5 * best, best], atol=2e-4)
    assert mode.status is Status.KINK


def test_same_inputs_give_the_same_bits() -> None:
    first, second = (find_mode(bolus, ERRORS["combined"], OMEGA) for _ in range(2))
    assert first.eta.tobytes() == second.eta.tobytes()
    assert first.covariance.tobytes() == second.covariance.tobytes()


def test_without_levels_the_mode_is_the_prior() -> None:
    nothing = Measured(np.zeros(0), np.zeros(0, np.int64), np.zeros(0), np.zeros(0), np.zeros(0))
    mode = find_mode(lambda etas: np.zeros((len(etas), 0)), nothing, OMEGA)
    assert mode.eta.tolist() == [0.0, 0.0]
    np.testing.assert_allclose(mode.covariance, OMEGA, rtol=1e-14)
    assert mode.objective == 0.0


def test_prediction_that_is_nowhere_a_number_has_no_mode() -> None:
    mode = find_mode(lambda etas: np.full((len(etas), LEVELS.size), np.nan), measured(additive=1.0), OMEGA)
    assert mode.status is Status.IMPOSSIBLE
    assert np.isnan(mode.eta).all()
    assert mode.objective == math.inf


def test_search_goes_round_points_where_nothing_can_be_predicted() -> None:
    def predict(etas: Floats) -> Floats:
        found = bolus(etas)
        found[etas[:, 0] > 0.25] = np.nan
        return found

    mode = find_mode(predict, ERRORS["proportional"], OMEGA)
    free = find_mode(bolus, ERRORS["proportional"], OMEGA)
    assert free.eta[0] < 0.25  # the edge is not in the way of the mode itself
    np.testing.assert_allclose(mode.eta, free.eta, atol=1e-6)


def test_prediction_of_exactly_nought_counts_as_one_in_the_product() -> None:
    levels = Measured(np.array([0.5]), np.zeros(1, np.int64), np.array([0.04]), np.zeros(1), np.zeros(1))
    assert deviances(levels, np.zeros((1, 1)))[0] == pytest.approx(0.25 / 0.04 + math.log(0.04), rel=1e-14)


def test_eleven_etas_are_more_than_the_table_of_points_has_and_still_found() -> None:
    random = np.random.default_rng(3)
    mixing = random.standard_normal((14, 11))
    levels = Measured(
        random.standard_normal(14), np.zeros(14, np.int64), np.zeros(14), np.full(14, 0.3), np.zeros(14)
    )
    mode = find_mode(lambda etas: etas @ mixing.T, levels, np.eye(11))
    # Linear and additive: ridge regression in closed form.
    expected = np.linalg.solve(mixing.T @ mixing / 0.3 + np.eye(11), mixing.T @ levels.value / 0.3)
    np.testing.assert_allclose(mode.eta, expected, atol=1e-7)
    np.testing.assert_allclose(
        mode.covariance, np.linalg.inv(mixing.T @ mixing / 0.3 + np.eye(11)), rtol=1e-6
    )


@pytest.mark.parametrize("size", [1, 2, 5])
def test_simplex_ends_at_the_corner_of_a_function_without_gradient(size: int) -> None:
    corner = np.arange(1.0, size + 1.0) / 3.0
    best, steps = descend(lambda x: np.abs(x - corner).sum(axis=1), np.zeros(size), np.eye(size))
    np.testing.assert_allclose(best, corner, atol=1e-3)
    assert steps > 0
