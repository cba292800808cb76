"""Simulated patients of two models, and a reference posterior by importance sampling with many random draws."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_ndtr

from tests.twinstate.courses import START_H, Given, course, log_parameters
from twinstate.assimilation.observation import Labs, labs_under
from twinstate.assimilation.posterior import Posterior, assimilate
from twinstate.assimilation.record import Fit
from twinstate.drug import Residual
from twinstate.pk.course import INTO_DEPOT, Course
from twinstate.pk.propagate import solve, solve_points

Floats = NDArray[np.float64]
DRAWS = 100_000


class Model(NamedTuple):
    """A population to draw patients from."""

    course: Course
    prior: Floats
    residual: Residual


def vancomycin_like() -> Model:
    """Model A: one compartment, infusions; clearance and volume vary, correlated."""
    sd = np.array([0.30, 0.20])
    prior = np.outer(sd, sd) * np.array([[1.0, 0.3], [0.3, 1.0]])
    row = log_parameters(clearance=4.0, central_volume=50.0)
    doses = [Given(12.0 * k, 1000, duration=1.0) for k in range(10)]
    index = (0, 1, -1, -1, -1, -1, -1, -1)
    return Model(course(1, doses, [(0.0, row)], index), prior, Residual(0.12, 0.6))


def tacrolimus_like() -> Model:
    """Model B: two compartments, oral with lag; clearance, central volume, absorption, exchange and lag vary."""
    sd = np.array([0.5, 0.5, 0.7, 0.4, 0.3])
    correlation = np.eye(5)
    correlation[0, 1] = correlation[1, 0] = 0.4
    row = log_parameters(
        clearance=20.0,
        central_volume=100.0,
        intercompartmental_clearance=30.0,
        peripheral_volume=300.0,
        absorption_rate=1.2,
        lag=0.4,
        bioavailability=1.0,
    )
    doses = [Given(12.0 * k, 4000, INTO_DEPOT) for k in range(10)]
    index = (0, 1, 3, -1, 2, 4, -1, -1)
    prior = np.outer(sd, sd) * correlation
    return Model(course(2, doses, [(0.0, row)], index), prior, Residual(0.12, 0.3))


def levels_of(
    model: Model, hours: Sequence[float], values: Sequence[float], censored: Sequence[int] = ()
) -> Labs:
    """Levels at hours after `START_H`; `censored` says which lie below their value."""
    below = np.array(censored if len(censored) else [0] * len(hours), dtype=np.int64)
    return labs_under(
        model.residual, START_H + np.array(hours, dtype=float), np.array(values, dtype=float), below
    )


def posterior_of(model: Model, labs: Labs) -> Posterior:
    """The product's estimate."""
    return assimilate(model.course, labs, model.prior)


def draw_labs(model: Model, random: np.random.Generator, levels: int, limit: float = 0.0) -> Labs:
    """Levels of one patient drawn from the model; those below `limit` mg/L are censored."""
    eta = random.multivariate_normal(np.zeros(len(model.prior)), model.prior)
    time_h = START_H + np.sort(random.uniform(1.0, 110.0, levels))
    concentration, _, _ = solve(model.course, eta, time_h)
    sd = np.hypot(model.residual.proportional * concentration, model.residual.additive)
    value = np.maximum(concentration + sd * random.normal(size=levels), 0.05)
    return labs_under(model.residual, time_h, np.maximum(value, limit), (value < limit).astype(np.int64))


def _log_normal_density(x: Floats, mean: Floats, covariance: Floats) -> Floats:
    factor = np.linalg.cholesky(covariance)
    scaled = np.linalg.solve(factor, (x - mean).T)
    constant = np.log(np.diag(factor)).sum() + 0.5 * len(mean) * np.log(2 * np.pi)
    return np.asarray(-0.5 * (scaled**2).sum(axis=0) - constant)


def reference_posterior(model: Model, labs: Labs, near: Fit, seed: int) -> tuple[Floats, Floats]:
    """Draws (draws, eta) and weights (draws,) from a defensive mixture; its likelihood is written anew."""
    random = np.random.default_rng(seed)
    etas = len(model.prior)
    parts = [
        (0.4, near.mean, 1.3 * near.covariance),
        (0.3, near.mean, 4.0 * near.covariance),
        (0.3, np.zeros(etas), model.prior),
    ]
    draws = np.concatenate(
        [
            random.multivariate_normal(mean, covariance, int(DRAWS * share))
            for share, mean, covariance in parts
        ]
    )
    densities = [np.log(share) + _log_normal_density(draws, *moments) for share, *moments in parts]
    predicted, _, _ = solve_points(model.course, draws, labs.time_h)
    sd = np.hypot(model.residual.proportional * predicted, model.residual.additive)
    scaled = (labs.value - predicted) / sd
    log_likelihood = np.where(labs.censored == 1, log_ndtr(scaled), -0.5 * scaled**2 - np.log(sd)).sum(axis=1)
    log_weight = _log_normal_density(draws, np.zeros(etas), model.prior) + log_likelihood
    log_weight -= np.logaddexp.reduce(densities, axis=0)
    weights = np.exp(log_weight - log_weight.max())
    return draws, weights / weights.sum()
