"""The posterior as weighted points under the exact likelihood: every interval and probability comes from it.

Importance sampling with a fixed table of points: four fifths round the Gaussians of the record, widened, and
one fifth from the prior, so that no region the prior allows is left without points.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from twinstate.assimilation.linear import root, solve_lower, times_transposed
from twinstate.assimilation.normal import LOG_SQRT_TWO_PI, cumulative
from twinstate.assimilation.observation import PREDICTION_FLOOR, Labs, log_density
from twinstate.assimilation.points import FEWEST_POINTS, MOST_ETAS, MOST_POINTS, normal_points
from twinstate.assimilation.summary import Chance, chance_above, predictive_quantiles, weighted_quantile
from twinstate.errors import MathsError
from twinstate.kernels import kernel
from twinstate.pk.course import Course
from twinstate.pk.propagate import follow
from twinstate.pk.schedule import make_body
from twinstate.pk.steady_state import may_have_none

__all__ = [
    "Chance",
    "Cloud",
    "Proposal",
    "chance_above",
    "moments",
    "predictive_quantiles",
    "refine",
    "refine_points",
    "weighted_quantile",
]

Floats = NDArray[np.float64]

PRIOR_SHARE = 0.2
WIDENING = 1.4  # of a Gaussian's covariance
ENOUGH = 100.0  # effective points
MOST_RECENTRINGS = 2
# How often a level is wrong altogether (drawn from the line, of another time or patient), and how far off the
# logarithm of such a level lies from the prediction.
WRONG_SHARE = 0.03
WRONG_LOG_SD = 1.2


class Proposal(NamedTuple):
    """Where points are looked for: Gaussians with their shares.

    Attributes:
        means: (parts, eta).
        covariances: (parts, eta, eta).
        shares: Adding up to 1, (parts,).
    """

    means: Floats
    covariances: Floats
    shares: Floats


class Cloud(NamedTuple):
    """Posterior of eta as weighted points.

    Attributes:
        points: (points, eta).
        weights: Adding up to 1, (points,).
        effective_size: 1 / sum of squared weights: how many equal points it is worth.
        mean: Weighted mean, (eta,).
        covariance: Weighted covariance, positive definite, (eta, eta).
        doubt: Probability that each level is wrong altogether, (levels,); 0 where that was not considered.
        log_evidence: Logarithm of the probability of the levels under the prior, up to a constant of the levels.
    """

    points: Floats
    weights: Floats
    effective_size: float
    mean: Floats
    covariance: Floats
    doubt: Floats
    log_evidence: float


@kernel
def _log_gaussian(point: Floats, mean: Floats, factor: Floats) -> float:
    """Logarithm of the density N(point; mean, factor factor^T)."""
    scaled = point - mean
    solve_lower(factor, scaled)
    total = 0.0
    for index in range(point.size):
        total -= 0.5 * scaled[index] * scaled[index] + math.log(factor[index, index]) + LOG_SQRT_TWO_PI
    return total


@kernel
def _propose(table: Floats, means: Floats, factors: Floats, shares: Floats, prior_factor: Floats) -> Floats:
    """Points (rows of `table`, eta): from the Gaussians by their shares, the last fifth from the prior."""
    etas = means.shape[1]
    points = np.zeros((table.shape[0], etas))
    for row in range(table.shape[0]):
        rest = cumulative(table[row, 0]) / (1.0 - PRIOR_SHARE)
        part = 0
        while part < shares.size and rest >= shares[part]:
            rest -= shares[part]
            part += 1
        if part == shares.size and cumulative(table[row, 0]) < 1.0 - PRIOR_SHARE:
            part -= 1  # the shares add up to 1 but for rounding
        for eta in range(etas):
            total = means[part, eta] if part < shares.size else 0.0
            for k in range(eta + 1):
                scale = factors[part, eta, k] if part < shares.size else prior_factor[eta, k]
                total += scale * table[row, 1 + k]
            points[row, eta] = total
    return points


@kernel
def _log_wrong(prediction: float, value: float) -> float:
    """Log-density of a level that is wrong altogether: broad round the prediction, on the log scale."""
    miss = (math.log(value) - math.log(max(prediction, PREDICTION_FLOOR * value))) / WRONG_LOG_SD
    return -0.5 * miss * miss - math.log(WRONG_LOG_SD * value) - LOG_SQRT_TWO_PI


@kernel
def _explain(concentration: Floats, second: Floats, labs: Labs, doubting: bool, wrong: Floats) -> float:
    """Log-likelihood of all levels when none, or one of them, is wrong altogether.

    Args:
        concentration: Predicted, (levels,).
        second: Predicted, (levels,).
        labs: Levels.
        doubting: Whether a wrong level is considered at all.
        wrong: Filled with the probability that each level is the wrong one, given this prediction, (levels,).
    """
    levels = labs.value.size
    wrong[:] = 0.0
    finite = 0.0
    impossible = 0
    each = np.empty(levels)
    for level in range(levels):
        each[level] = log_density(
            second[level] if labs.second[level] == 1 else concentration[level], labs, level
        )
        if each[level] == -math.inf:
            impossible += 1
        else:
            finite += each[level]
    right = -math.inf if impossible > 0 else finite
    if not doubting:
        return right
    odds = math.log(WRONG_SHARE / (1.0 - WRONG_SHARE))
    highest = right
    for level in range(levels):
        wrong[level] = -math.inf
        if labs.censored[level] == 0:
            alone = each[level] == -math.inf
            if impossible == 0 or (impossible == 1 and alone):
                prediction = second[level] if labs.second[level] == 1 else concentration[level]
                others = finite if alone else finite - each[level]
                wrong[level] = odds + others + _log_wrong(prediction, labs.value[level])
        highest = max(highest, wrong[level])
    if highest == -math.inf:
        return highest
    total = math.exp(right - highest)
    for level in range(levels):
        wrong[level] = math.exp(wrong[level] - highest)
        total += wrong[level]
    for level in range(levels):
        wrong[level] /= total
    return highest + math.log(total)


@kernel
def _weigh(
    course: Course,
    labs: Labs,
    points: Floats,
    means: Floats,
    factors: Floats,
    shares: Floats,
    prior_factor: Floats,
    doubting: bool,
) -> tuple[Floats, Floats, float]:
    """Weights (points,) adding up to 1, doubt (levels,) and log-evidence; NaN when nothing can be weighed."""
    count, etas = points.shape
    levels = labs.time_h.size
    nought = np.zeros(etas)
    body = make_body(course)
    impossible = may_have_none(course)
    concentration = np.empty(levels)
    area = np.empty(levels)
    second = np.empty(levels)
    wrong = np.empty((count, levels))
    weights = np.empty(count)
    parts = np.empty(shares.size + 1)
    highest = -math.inf
    for row in range(count):
        point = points[row]
        follow(course, point, labs.time_h, body, concentration, area, second)
        prior = _log_gaussian(point, nought, prior_factor)
        parts[shares.size] = prior + math.log(PRIOR_SHARE)
        highest_part = parts[shares.size]
        for part in range(shares.size):
            parts[part] = _log_gaussian(point, means[part], factors[part]) + math.log(
                (1.0 - PRIOR_SHARE) * shares[part]
            )
            highest_part = max(highest_part, parts[part])
        density = 0.0
        for part in range(parts.size):
            density += math.exp(parts[part] - highest_part)
        proposal = highest_part + math.log(density)
        weights[row] = prior + _explain(concentration, second, labs, doubting, wrong[row]) - proposal
        if impossible and math.isnan(weights[row]):
            weights[row] = -math.inf  # the steady state that was declared cannot be under these parameters
            wrong[row] = 0.0
        highest = max(highest, weights[row])  # passes over NaN, which the sum below does not
    total = 0.0
    for row in range(count):
        weights[row] = math.exp(weights[row] - highest)
        total += weights[row]
    doubt = np.zeros(levels)
    for row in range(count):
        weights[row] /= total
        for level in range(levels):
            doubt[level] += weights[row] * wrong[row, level]
    return weights, doubt, highest + math.log(total / count)


@kernel
def moments(points: Floats, weights: Floats) -> tuple[Floats, Floats, float]:
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
    course: Course, labs: Labs, prior: Floats, proposal: Proposal, doubting: bool, table: Floats
) -> Cloud:
    """Weigh the table's points under the exact likelihood, with more of them until enough are effective.

    A round that falls short doubles the points and, twice at most, moves the proposal's first part to the weighted
    moments. With few effective points those moments are themselves uncertain, so they are drawn towards the
    part's own by as many pseudo-points as there are etas and one.

    Args:
        course: The patient's course.
        labs: At least one level, (levels,).
        prior: Prior covariance, (eta, eta).
        proposal: Where to look.
        doubting: Whether one of the levels may be wrong altogether.
        table: Standard normal points (rows, at least 1 + eta).

    Returns:
        The cloud; NaN throughout when a prediction is not finite or no point can explain the levels.

    References:
        Owen, Zhou (2000), J. Am. Stat. Assoc. 95:135-143 (mixtures with a defensive part).
    """
    prior_factor = root(prior)
    means = proposal.means.copy()
    covariances = proposal.covariances.copy()
    shares = proposal.shares
    factors = np.empty(covariances.shape)
    count = FEWEST_POINTS
    recentrings = 0
    while True:
        for part in range(shares.size):
            factors[part] = root(covariances[part] * WIDENING)
        points = _propose(table[:count], means, factors, shares, prior_factor)
        weights, doubt, evidence = _weigh(
            course, labs, points, means, factors, shares, prior_factor, doubting
        )
        weighted_mean, weighted_covariance, effective = moments(points, weights)
        if not effective < ENOUGH or count == MOST_POINTS:
            safe = root(weighted_covariance)
            covariance = times_transposed(safe, safe)
            return Cloud(points, weights, effective, weighted_mean, covariance, doubt, evidence)
        count *= 2
        if recentrings < MOST_RECENTRINGS:
            recentrings += 1
            pseudo = means.shape[1] + 1.0
            means[0] = (effective * weighted_mean + pseudo * means[0]) / (effective + pseudo)
            covariances[0] = (effective * weighted_covariance + pseudo * covariances[0]) / (
                effective + pseudo
            )


def refine(
    course: Course, labs: Labs, prior_covariance: Floats, proposal: Proposal, *, doubting: bool = False
) -> Cloud:
    """The posterior of eta as weighted points under the exact likelihood.

    Args:
        course: The patient's course.
        labs: Levels in order of (time drawn, id), (levels,); none gives the prior's own cloud, equally
            weighted.
        prior_covariance: Covariance of eta, (eta, eta).
        proposal: Gaussians that were made of the same record.
        doubting: Whether one of the levels may be wrong altogether.

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
        nothing = np.empty(0)
        covariance = prior_covariance.copy()
        return Cloud(points, weights, float(FEWEST_POINTS), np.zeros(etas), covariance, nothing, 0.0)
    cloud = refine_points(course, labs, prior_covariance.copy(), proposal, doubting, table)
    if not math.isfinite(cloud.effective_size):
        raise MathsError(
            f"Refinement with {labs.time_h.size} levels: a prediction is not finite, or no parameters the "
            "prior allows can explain the levels. Correct or cancel the record; every further one tries again."
        )
    return cloud
