"""The update with the whole lab record: fixed point, censoring, prior, many levels, failure."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from filterpy.kalman import update
from scipy.stats import norm, truncnorm

from tests.twinstate.patients import Model, draw_labs, levels_of, tacrolimus_like, vancomycin_like
from twinstate.assimilation.observation import linearise, log_likelihood
from twinstate.assimilation.record import CONVERGED, fit_finite
from twinstate.errors import MathsError
from twinstate.pk.propagate import solve_points

MODELS = [vancomycin_like, tacrolimus_like]


@pytest.mark.parametrize("make", MODELS)
@pytest.mark.parametrize("limit", [0.0, 10.0], ids=["measured", "some censored"])
def test_filterpy_reproduces_the_fixed_point(make: Callable[[], Model], limit: float) -> None:
    model = make()
    random = np.random.default_rng(11)
    converged = 0
    for _ in range(20):
        labs = draw_labs(model, random, 4, limit)
        fit = fit_finite(model.course, labs, model.prior)
        if fit.status != CONVERGED:
            continue
        converged += 1
        nought = np.zeros(len(model.prior))
        mean, covariance = update(nought, model.prior, fit.observed, fit.noise, fit.operator)[:2]
        np.testing.assert_allclose(fit.mean, mean, rtol=0, atol=1e-10)
        np.testing.assert_allclose(fit.covariance, covariance, rtol=0, atol=1e-10)
        # A fixed point: the line taken over the answer leads to the answer again.
        lines = linearise(model.course, labs, fit.mean, fit.covariance)
        measured = labs.censored == 0
        np.testing.assert_allclose(lines.operator[measured], fit.operator[measured], rtol=0.05, atol=0.02)
    assert converged >= 15


@pytest.mark.parametrize("make", MODELS)
def test_line_is_the_least_squares_line_through_the_cubature_points(make: Callable[[], Model]) -> None:
    # cov(h) - A P A^T plus mean noise, with A from a plain regression over the same points.
    model = make()
    labs = draw_labs(model, np.random.default_rng(3), 3)
    etas = len(model.prior)
    mean = 0.1 * np.arange(etas)
    lines = linearise(model.course, labs, mean, model.prior)
    factor = np.linalg.cholesky(model.prior) * np.sqrt(etas)
    points = np.concatenate([mean + factor.T, mean - factor.T])
    f, _, _ = solve_points(model.course, points, labs.time_h)
    f = np.maximum(f, 1e-3 * labs.value)
    variance = np.minimum(model.residual.proportional**2 + (model.residual.additive / f) ** 2, 4.0)
    h = np.log(f) - variance / 2
    slope = np.linalg.lstsq(points - mean, h - h.mean(axis=0), rcond=None)[0].T
    np.testing.assert_allclose(lines.operator, slope, atol=1e-9)
    np.testing.assert_allclose(lines.offset, h.mean(axis=0) - slope @ mean, atol=1e-9)
    left = np.cov(h.T, bias=True) - slope @ model.prior @ slope.T
    np.testing.assert_allclose(lines.noise, left + np.diag(variance.mean(axis=0)), atol=1e-9)


@pytest.mark.parametrize("make", MODELS)
def test_hundred_levels_are_one_record_like_any_other(make: Callable[[], Model]) -> None:
    model = make()
    labs = draw_labs(model, np.random.default_rng(5), 100, 3.0)
    found = fit_finite(model.course, labs, model.prior)
    assert (np.linalg.eigvalsh(found.covariance) > 0).all()
    assert (np.diag(found.covariance) < np.diag(model.prior)).all()


def test_censored_level_pulls_less_than_the_limit_taken_as_measured() -> None:
    model = vancomycin_like()
    low = fit_finite(model.course, levels_of(model, [59, 71], [18, 8], [0, 1]), model.prior)
    generous = fit_finite(model.course, levels_of(model, [59, 71], [18, 500], [0, 1]), model.prior)
    alone = fit_finite(model.course, levels_of(model, [59], [18]), model.prior)
    # "Below 500 mg/L" says nothing; "below 8 mg/L" says clearance is higher.
    np.testing.assert_allclose(generous.mean, alone.mean, atol=1e-4)
    np.testing.assert_allclose(generous.covariance, alone.covariance, atol=1e-5)
    assert low.mean[0] > alone.mean[0]


def test_censored_level_moves_the_gaussian_by_the_truncated_moments() -> None:
    model = vancomycin_like()
    labs = levels_of(model, [71], [9], [1])
    found = fit_finite(model.course, labs, model.prior)
    lines = linearise(model.course, labs, found.mean, found.covariance)
    forecast, spread = lines.offset[0], (lines.operator @ model.prior @ lines.operator.T + lines.noise)[0, 0]
    cut = truncnorm(-np.inf, (np.log(9.0) - forecast) / np.sqrt(spread), forecast, np.sqrt(spread))
    gain = model.prior @ lines.operator[0] / spread
    np.testing.assert_allclose(found.mean, gain * (cut.mean() - forecast), atol=1e-3)
    expected = model.prior - np.outer(gain, gain) * (spread - cut.var())
    np.testing.assert_allclose(found.covariance, expected, atol=1e-3 * model.prior[0, 0])


def test_level_far_beyond_belief_still_gives_a_finite_estimate() -> None:
    for make in MODELS:
        model = make()
        for value in (1e-3, 1e4):
            labs = levels_of(model, [2], [value])
            found = fit_finite(model.course, labs, model.prior)
            assert np.isfinite(found.mean).all()
            assert np.isfinite(found.covariance).all()


def test_level_before_any_dose_does_not_break_the_arithmetic() -> None:
    model = vancomycin_like()
    labs = levels_of(model, [-5, 20], [1, 15])
    found = fit_finite(model.course, labs, model.prior)
    assert np.isfinite(found.mean).all()


def test_number_that_is_not_finite_is_an_error_that_names_the_way_out() -> None:
    model = vancomycin_like()
    for value, dose in ((np.nan, 1000.0), (10.0, np.nan), (10.0, np.inf)):
        plan = model.course._replace(dose_mg=np.full(10, dose))
        labs = levels_of(model, [5], [value])
        with pytest.raises(MathsError, match="Correct or cancel"):
            fit_finite(plan, labs, model.prior)


def test_likelihood_of_a_measured_and_a_censored_level_is_scipys() -> None:
    model = vancomycin_like()
    f = np.array([12.0, 3.0])
    labs = levels_of(model, [1, 2], [10, 2], [0, 1])
    sd = np.hypot(0.12 * f, 0.6)
    expected = norm.logpdf(10.0, f[0], sd[0]) + norm.logcdf(2.0, f[1], sd[1])
    assert log_likelihood(f, np.zeros(2), labs) == pytest.approx(expected, rel=1e-12)
