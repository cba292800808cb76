"""The refined posterior against a reference posterior of 100,000 random draws."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from scipy.stats import multivariate_normal, norm

from tests.twinstate.courses import START_H
from tests.twinstate.patients import (
    Model,
    draw_labs,
    levels_of,
    posterior_of,
    reference_posterior,
    tacrolimus_like,
    vancomycin_like,
)
from twinstate.assimilation import points as table
from twinstate.assimilation.observation import Labs
from twinstate.assimilation.record import Fit, fit_finite
from twinstate.assimilation.refine import Cloud, Proposal, refine, weighted_quantile
from twinstate.drug import Residual
from twinstate.errors import LibraryError, MathsError
from twinstate.pk.propagate import solve_points


def round_one(gaussian: Fit) -> Proposal:
    return Proposal(gaussian.mean[np.newaxis], gaussian.covariance[np.newaxis], np.ones(1))


def cloud_of(model: Model, labs: Labs) -> Cloud:
    if len(labs.time_h) == 0:
        return posterior_of(model, labs).cloud
    return refine(model.course, labs, model.prior, round_one(fit_finite(model.course, labs, model.prior)))


@pytest.mark.parametrize(
    ("make", "limit"),
    [(vancomycin_like, 0.0), (vancomycin_like, 12.0), (tacrolimus_like, 0.0), (tacrolimus_like, 6.0)],
)
def test_mean_and_intervals_agree_with_the_reference_posterior(
    make: Callable[[], Model], limit: float
) -> None:
    model = make()
    random = np.random.default_rng(2024)
    shifts, gaussian_shifts, auc_shifts, masses, auc_masses = [], [], [], [], []
    horizon = START_H + np.array([96.0, 120.0])
    for patient in range(9):
        labs = draw_labs(model, random, (1, 2, 4)[patient % 3], limit)
        gaussian = fit_finite(model.course, labs, model.prior)
        cloud = refine(model.course, labs, model.prior, round_one(gaussian))
        draws, weights = reference_posterior(model, labs, gaussian, seed=patient)
        assert 1 / (weights**2).sum() > 5000
        mean = weights @ draws
        sd = np.sqrt(weights @ (draws - mean) ** 2)
        shifts.append((cloud.mean - mean) / sd)
        gaussian_shifts.append((gaussian.mean - mean) / sd)
        for eta in range(len(mean)):
            low, high = (weighted_quantile(cloud.points[:, eta], cloud.weights, q) for q in (0.05, 0.95))
            masses.append(weights[(draws[:, eta] > low) & (draws[:, eta] < high)].sum())
        auc24 = np.diff(solve_points(model.course, cloud.points, horizon)[1])[:, 0]
        reference = np.diff(solve_points(model.course, draws, horizon)[1])[:, 0]
        spread = np.sqrt(weights @ (reference - weights @ reference) ** 2)
        auc_shifts.append((cloud.weights @ auc24 - weights @ reference) / spread)
        low, high = (weighted_quantile(auc24, cloud.weights, q) for q in (0.05, 0.95))
        auc_masses.append(weights[(reference > low) & (reference < high)].sum())
    assert np.sqrt(np.mean(np.square(np.concatenate(shifts)))) <= 0.08
    assert np.sqrt(np.mean(np.square(auc_shifts))) <= 0.08
    assert np.sqrt(np.mean(np.square(np.concatenate(gaussian_shifts)))) <= 0.25
    assert 0.88 <= np.mean(masses) <= 0.92
    assert 0.87 <= np.mean(auc_masses) <= 0.93


@pytest.mark.parametrize("make", [vancomycin_like, tacrolimus_like])
def test_cloud_is_made_of_at_least_a_hundred_effective_points(make: Callable[[], Model]) -> None:
    model = make()
    random = np.random.default_rng(8)
    for _ in range(30):
        cloud = cloud_of(model, draw_labs(model, random, 4))
        assert cloud.effective_size >= 100
        assert cloud.weights.sum() == pytest.approx(1.0, abs=1e-12)
        assert len(cloud.points) in (256, 512, 1024, 2048, 4096)
        np.testing.assert_allclose(cloud.mean, cloud.weights @ cloud.points, atol=1e-12)
        assert (np.linalg.eigvalsh(cloud.covariance) > 0).all()


@pytest.mark.parametrize("make", [vancomycin_like, tacrolimus_like])
def test_weights_are_posterior_over_proposal_written_longhand(make: Callable[[], Model]) -> None:
    model = make()
    labs = draw_labs(model, np.random.default_rng(21), 2, 3.0)
    gaussian = fit_finite(model.course, labs, model.prior)
    cloud = refine(model.course, labs, model.prior, round_one(gaussian))
    assert len(cloud.points) == 256  # so the proposal was never moved
    prior = multivariate_normal(np.zeros(len(model.prior)), model.prior).pdf(cloud.points)
    near = multivariate_normal(gaussian.mean, 1.4 * gaussian.covariance).pdf(cloud.points)
    predicted, _, _ = solve_points(model.course, cloud.points, labs.time_h)
    sd = np.hypot(model.residual.proportional * predicted, model.residual.additive)
    seen = norm.pdf(labs.value, predicted, sd)
    below = norm.cdf(labs.value, predicted, sd)
    likelihood = np.where(labs.censored == 1, below, seen).prod(axis=1)
    weights = prior * likelihood / (0.8 * near + 0.2 * prior)
    np.testing.assert_allclose(cloud.weights, weights / weights.sum(), rtol=1e-8, atol=1e-14)


def test_without_levels_the_cloud_is_the_priors() -> None:
    model = tacrolimus_like()
    cloud = cloud_of(model, levels_of(model, [], []))
    assert cloud.effective_size == 256
    np.testing.assert_array_equal(cloud.weights, 1 / 256)
    np.testing.assert_array_equal(cloud.covariance, model.prior)
    sd = np.sqrt(np.diag(model.prior))
    # Evenly spread points: far nearer than 1/sqrt(256) = 0.06.
    np.testing.assert_allclose(cloud.points.mean(axis=0) / sd, 0, atol=0.02)
    np.testing.assert_allclose(
        np.cov(cloud.points.T) / np.outer(sd, sd), model.prior / np.outer(sd, sd), atol=0.05
    )


def test_levels_that_nothing_explains_are_an_error_that_names_the_way_out() -> None:
    model = vancomycin_like()._replace(residual=Residual(0.1, 0.0))
    before = levels_of(model, [-5], [30])
    gaussian = fit_finite(model.course, before, model.prior)
    with pytest.raises(MathsError, match="Correct or cancel"):
        refine(model.course, before, model.prior, round_one(gaussian))


def test_table_with_another_hash_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    table.normal_points.cache_clear()
    monkeypatch.setattr(table, "SHA256", "0" * 64)
    with pytest.raises(LibraryError, match="make_points"):
        table.normal_points()
    table.normal_points.cache_clear()


def test_table_is_standard_normal_in_every_column_and_prefix() -> None:
    points = table.normal_points()
    assert points.shape == (4096, 17)
    for count in (256, 4096):
        np.testing.assert_allclose(points[:count].mean(axis=0), 0, atol=8 / count)
        np.testing.assert_allclose(points[:count].std(axis=0), 1, atol=5 / count)
    assert abs(np.corrcoef(points.T) - np.eye(17)).max() < 0.02
