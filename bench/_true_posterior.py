"""The true posterior of a simulated patient, by importance sampling from a defensive mixture.

Nothing of the estimate's own arithmetic but its predictions is used: densities are written anew.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_ndtr

from bench._four_models import Model, outputs
from twinstate.assimilation.observation import Labs
from twinstate.assimilation.posterior import TELLING_LEVELS, Posterior
from twinstate.assimilation.refine import WRONG_LOG_SD, WRONG_SHARE

Floats = NDArray[np.float64]


def log_normal(x: Floats, mean: Floats, covariance: Floats) -> Floats:
    """Log-density of a Gaussian at the rows of x, up to ln 2 pi."""
    factor = np.linalg.cholesky(covariance)
    scaled = np.linalg.solve(factor, (x - mean).T)
    return np.asarray(-0.5 * (scaled**2).sum(axis=0) - np.log(np.diag(factor)).sum())


class Reference(NamedTuple):
    """The true posterior as weighted draws.

    Attributes:
        draws: Of eta, (draws, eta).
        weights: Adding up to 1, where one level may be wrong altogether as the estimate assumes, (draws,).
        told: The same where all levels are known to be right, (draws,).
    """

    draws: Floats
    weights: Floats
    told: Floats


def reference(model: Model, labs: Labs, near: Posterior, random: np.random.Generator) -> Reference:
    """Draws and weights of the true posterior; its density is written anew."""
    mean, covariance = near.cloud.mean, near.cloud.covariance
    nought = np.zeros(len(model.omega))
    for count in (16_000, 64_000, 256_000):
        parts = [
            (0.5, mean, 1.2 * covariance),
            (0.25, mean, 4.0 * covariance),
            (0.25, nought, model.omega),
        ]
        draws = np.concatenate(
            [random.multivariate_normal(m, c, int(count * share)) for share, m, c in parts]
        )
        densities = [np.log(share) + log_normal(draws, m, c) for share, m, c in parts]
        f = outputs(model, draws, labs.time_h)
        sd = np.hypot(model.residual.proportional * f, model.residual.additive)
        scaled = (labs.value - f) / sd
        each = np.where(labs.censored == 1, log_ndtr(scaled), -0.5 * scaled**2 - np.log(sd))
        other = log_normal(draws, nought, model.omega) - np.logaddexp.reduce(densities, axis=0)
        told = _normalised(other + each.sum(axis=1))
        weights = (
            _normalised(other + _one_may_be_wrong(each, f, labs)) if len(f[0]) >= TELLING_LEVELS else told
        )
        size = min(1.0 / (one**2).sum() for one in (weights, told))
        if size >= 5000:
            return Reference(draws, weights, told)
        mean = weights @ draws
        covariance = (draws - mean).T * weights @ (draws - mean) + 1e-9 * np.eye(len(mean))
    raise RuntimeError(f"the reference posterior reached an effective size of {size:.0f} only")


def _one_may_be_wrong(each: Floats, f: Floats, labs: Labs) -> Floats:
    """Log-likelihood (draws,) when none or one level is wrong altogether, from that of each level (draws, levels)."""
    miss = (np.log(labs.value) - np.log(np.maximum(f, 1e-12))) / WRONG_LOG_SD
    wrong = -0.5 * miss**2 - np.log(WRONG_LOG_SD * labs.value)
    right = each.sum(axis=1)
    odds = np.log(WRONG_SHARE / (1.0 - WRONG_SHARE))
    swapped = np.where(labs.censored == 1, -np.inf, odds + right[:, np.newaxis] - each + wrong)
    return np.asarray(np.logaddexp(right, np.logaddexp.reduce(swapped, axis=1)))


def _normalised(log_weight: Floats) -> Floats:
    weights = np.exp(log_weight - log_weight.max())
    return np.asarray(weights / weights.sum())
