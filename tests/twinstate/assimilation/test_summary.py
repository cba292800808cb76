"""Quantiles and probabilities of weighted points."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import brentq
from scipy.stats import norm

from twinstate.assimilation.refine import chance_above, predictive_quantiles, weighted_quantile
from twinstate.drug import Residual

QS = np.array([0.05, 0.5, 0.95])


def test_equally_weighted_quantile_is_hazens() -> None:
    values = np.random.default_rng(1).normal(size=101)
    weights = np.full(101, 1 / 101)
    for q in QS:
        expected = np.quantile(values, q, method="hazen")
        assert weighted_quantile(values, weights, q) == pytest.approx(expected, rel=1e-12)


def test_quantile_of_normal_points_under_a_tilt_is_that_of_the_tilted_normal() -> None:
    # exp(x - 1/2) tilts N(0, 1) to N(1, 1).
    values = norm.ppf((np.arange(4000) + 0.5) / 4000)
    weights = np.exp(values) / np.exp(values).sum()
    for q in QS:
        assert weighted_quantile(values, weights, q) == pytest.approx(1 + norm.ppf(q), abs=0.01)


def test_one_point_without_uncertainty_gives_the_normal_of_the_residual() -> None:
    found = predictive_quantiles(np.array([10.0]), np.array([1.0]), Residual(0.1, 2.0), QS)
    np.testing.assert_allclose(found, 10 + np.hypot(1.0, 2.0) * norm.ppf(QS), atol=1e-9)


def test_predictive_quantiles_invert_the_mixtures_distribution() -> None:
    random = np.random.default_rng(4)
    predicted, weights = random.lognormal(2, 0.4, 300), random.dirichlet(np.ones(300))
    sd = np.hypot(0.15 * predicted, 0.5)
    found = predictive_quantiles(predicted, weights, Residual(0.15, 0.5), QS)
    for q, value in zip(QS, found, strict=True):
        expected = brentq(lambda y, q=q: weights @ norm.cdf((y - predicted) / sd) - q, -10, 100, xtol=1e-13)
        assert value == pytest.approx(expected, abs=1e-9)


def test_predictive_quantile_without_residual_error_is_a_point() -> None:
    found = predictive_quantiles(
        np.array([1.0, 2.0, 3.0]), np.full(3, 1 / 3), Residual(0.0, 0.0), np.array([0.5])
    )
    assert found[0] == pytest.approx(2.0, abs=1e-9)


def test_prediction_that_is_not_a_number_has_no_quantile() -> None:
    assert np.isnan(
        predictive_quantiles(np.array([1.0, np.nan]), np.full(2, 0.5), Residual(0.1, 1.0), QS)
    ).all()


def test_error_of_a_chance_is_the_binomial_one_for_equal_weights() -> None:
    values = np.arange(200.0)
    found = chance_above(values, np.full(200, 1 / 200), 149.5)
    assert found.probability == pytest.approx(0.25, rel=1e-12)
    assert found.error == pytest.approx(np.sqrt(0.25 * 0.75 / 200), rel=1e-12)


def test_error_of_a_chance_matches_the_scatter_of_many_estimates() -> None:
    # Importance points for N(1, 1) drawn from N(0, 1); truth P(X > 1.5) = 0.3085.
    random = np.random.default_rng(6)
    estimates, errors = [], []
    for _ in range(400):
        values = random.normal(size=256)
        weights = np.exp(values) / np.exp(values).sum()
        chance = chance_above(values, weights, 1.5)
        estimates.append(chance.probability)
        errors.append(chance.error)
    assert np.mean(estimates) == pytest.approx(norm.sf(0.5), abs=0.01)
    assert np.mean(errors) == pytest.approx(np.std(estimates), rel=0.15)
