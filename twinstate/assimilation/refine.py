"""The posterior as weighted points under the exact likelihood: every interval and probability comes from it.

Importance sampling with a fixed table of points: four fifths round the Gaussian of the record, widened, and
one fifth from the prior, so that no region the prior allows is left without points.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from twinstate.assimilation.linear import root, solve_lower, times_transposed
from twinstate.assimilation.normal import LOG_SQRT_TWO_PI
from twinstate.assimilation.observation import Labs, Residual, log_likelihood
from twinstate.assimilation.points import FEWEST_POINTS, MOST_ETAS, MOST_POINTS, normal_points
from twinstate.assimilation.record import Gaussian
from twinstate.assimilation.summary import Chance, chance_above, predictive_quantiles, weighted_quantile
from twinstate.errors import MathsError
from twinstate.kernels import kernel
from twinstate.pk.course import Course
from twinstate.pk.propagate import follow
from twinstate.pk.schedule import make_body

__all__ = [
    "Chance",
    "Cloud",
    "chance_above",
    "predictive_quantiles",
    "refine",
    "refine_points",
    "weighted_quantile",
]

Floats = NDArray[np.float64]

PRIOR_SHARE = 0.2
# Standard normal quantile of 1 - PRIOR_SHARE: column 0 of the table below it takes the Gaussian.
CHOICE = 0.8416212335729143
WIDENING = 1.4  # of the Gaussian's covariance
ENOUGH = 100.0  # effective points
MOST_RECENTRINGS = 2


class Cloud(NamedTuple):
    """Posterior of eta as weighted points.

    Attributes:
        points: (points, eta).
        weights: Adding up to 1, (points,).
        effective_size: 1 / sum of squared weights: how many equal points it is worth.
        mean: Weighted mean, (eta,).
        covariance: Weighted covariance, positive definite, (eta, eta).
    """

    points: Floats
    weights: Floats
    effective_size: float
    mean: Floats
    covariance: Floats


@kernel
def _log_density(point: Floats, mean: Floats, factor: Floats) -> float:
    """Logarithm of the density N(point; mean, factor factor^T)."""
    scaled = point - mean
    solve_lower(factor, scaled)
    total = 0.0
    for index in range(point.size):
        total -= 0.5 * scaled[index] * scaled[index] + math.log(factor[index, index]) + LOG_SQRT_TWO_PI
    return total


@kernel
def _propose(table: Floats, mean: Floats, factor: Floats, prior_factor: Floats) -> Floats:
    """Points (rows of `table`, eta): most from N(mean, factor factor^T), the rest from the prior."""
    etas = mean.size
    points = np.zeros((table.shape[0], etas))
    for row in range(table.shape[0]):
        from_gaussian = table[row, 0] < CHOICE
        for eta in range(etas):
            total = mean[eta] if from_gaussian else 0.0
            for k in range(eta + 1):
                scale = factor[eta, k] if from_gaussian else prior_factor[eta, k]
                total += scale * table[row, 1 + k]
            points[row, eta] = total
    return points


@kernel
def _weigh(
    course: Course,
    labs: Labs,
    residual: Residual,
    points: Floats,
    mean: Floats,
    factor: Floats,
    prior_factor: Floats,
) -> Floats:
    """Weights (points,) adding up to 1; NaN when a prediction is not finite or no point is possible."""
    count = points.shape[0]
    nought = np.zeros(mean.size)
    body = make_body(course)
    concentration = np.empty(labs.time_h.size)
    area = np.empty(labs.time_h.size)
    second = np.empty(labs.time_h.size)
    weights = np.empty(count)
    highest = -math.inf
    for row in range(count):
        point = points[row]
        follow(course, point, labs.time_h, body, concentration, area, second)
        prior = _log_density(point, nought, prior_factor)
        gaussian = _log_density(point, mean, factor)
        highest_part = max(prior, gaussian)
        proposal = highest_part + math.log(
            (1.0 - PRIOR_SHARE) * math.exp(gaussian - highest_part)
            + PRIOR_SHARE * math.exp(prior - highest_part)
        )
        weights[row] = prior + log_likelihood(concentration, labs, residual) - proposal
        highest = max(highest, weights[row])  # passes over NaN, which the sum below does not
    total = 0.0
    for row in range(count):
        weights[row] = math.exp(weights[row] - highest)
        total += weights[row]
    for row in range(count):
        weights[row] /= total
    return weights


@kernel
def _moments(points: Floats, weights: Floats) -> tuple[Floats, Floats, float]:
    """Weighted mean (eta,), covariance (eta, eta) and effective size of points (points, eta)."""
    count, etas = points.shape
    mean = np.zeros(etas)
    covariance = np.zeros((etas, etas))
    squares = 0.0
    for row in range(count):
        squares += weights[row] * weights[row]
        for eta in range(etas):
            mean[eta] += weights[row] * points[row, eta]
    for row in range(count):
        for eta in range(etas):
            for other in range(eta + 1):
                product = (points[row, eta] - mean[eta]) * (points[row, other] - mean[other])
                covariance[eta, other] += weights[row] * product
    for eta in range(etas):
        for other in range(eta):
            covariance[other, eta] = covariance[eta, other]
    return mean, covariance, 1.0 / squares


@kernel
def refine_points(
    course: Course,
    labs: Labs,
    prior: Floats,
    residual: Residual,
    mean: Floats,
    covariance: Floats,
    table: Floats,
) -> Cloud:
    """Weigh the table's points under the exact likelihood, with more of them until enough are effective.

    A round that falls short doubles the points and, twice at most, moves the proposal to the weighted
    moments. With few effective points those moments are themselves uncertain, so they are drawn towards the
    proposal's by as many pseudo-points as there are etas and one.

    Args:
        course: The patient's course.
        labs: At least one level, (levels,).
        prior: Prior covariance, (eta, eta).
        residual: Residual error of a level.
        mean: Centre of the proposal, (eta,).
        covariance: Covariance of the Gaussian, (eta, eta).
        table: Standard normal points (rows, at least 1 + eta).

    Returns:
        The cloud; NaN throughout when a prediction is not finite or no point can explain the levels.

    References:
        Owen, Zhou (2000), J. Am. Stat. Assoc. 95:135-143 (mixtures with a defensive part).
    """
    prior_factor = root(prior)
    count = FEWEST_POINTS
    recentrings = 0
    while True:
        factor = root(covariance * WIDENING)
        points = _propose(table[:count], mean, factor, prior_factor)
        weights = _weigh(course, labs, residual, points, mean, factor, prior_factor)
        weighted_mean, weighted_covariance, effective = _moments(points, weights)
        if not effective < ENOUGH or count == MOST_POINTS:
            safe = root(weighted_covariance)
            return Cloud(points, weights, effective, weighted_mean, times_transposed(safe, safe))
        count *= 2
        if recentrings < MOST_RECENTRINGS:
            recentrings += 1
            pseudo = mean.size + 1.0
            mean = (effective * weighted_mean + pseudo * mean) / (effective + pseudo)
            covariance = (effective * weighted_covariance + pseudo * covariance) / (effective + pseudo)


def refine(
    course: Course, labs: Labs, prior_covariance: Floats, residual: Residual, gaussian: Gaussian
) -> Cloud:
    """The posterior of eta as weighted points under the exact likelihood.

    Args:
        course: The patient's course.
        labs: Levels in order of (time drawn, id), (levels,); none gives the prior's own cloud, equally
            weighted.
        prior_covariance: Between-subject covariance of eta, (eta, eta).
        residual: Residual error of a level.
        gaussian: What `assimilate_record` made of the same record.

    Returns:
        256 points or more, at most 4096, with weights, effective size and moments.

    Raises:
        MathsError: A prediction is not finite, or the levels are impossible under the model.
    """
    etas = prior_covariance.shape[0]
    if etas > MOST_ETAS:
        raise MathsError(
            f"The model has {etas} etas, the table of points columns for {MOST_ETAS}: regenerate the "
            "table with more columns (bench/_make_points.py)."
        )
    table = normal_points()
    if labs.time_h.size == 0:
        factor = root(prior_covariance)
        points = times_transposed(table[:FEWEST_POINTS, 1 : etas + 1], factor)
        weights = np.full(FEWEST_POINTS, 1.0 / FEWEST_POINTS)
        return Cloud(points, weights, float(FEWEST_POINTS), np.zeros(etas), prior_covariance.copy())
    prior = prior_covariance.copy()
    cloud = refine_points(course, labs, prior, Residual(*residual), gaussian.mean, gaussian.covariance, table)
    if not math.isfinite(cloud.effective_size):
        raise MathsError(
            f"Refinement with {labs.time_h.size} levels: a prediction is not finite, or no parameters the "
            "prior allows can explain the levels. Correct or cancel the record; every further one tries again."
        )
    return cloud
