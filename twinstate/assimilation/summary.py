"""What is read off weighted points: quantiles, intervals of a new level, probabilities with their error."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from twinstate.assimilation.normal import cumulative
from twinstate.drug import Residual
from twinstate.kernels import kernel

Floats = NDArray[np.float64]

BISECTION_TOLERANCE = 1e-10  # mg/L
MOST_BISECTIONS = 200
REACH_SD = 10.0


class Chance(NamedTuple):
    """A probability and the Monte-Carlo standard error of the points it was read from."""

    probability: float
    error: float


def weighted_quantile(values: Floats, weights: Floats, q: float) -> float:
    """Quantile of weighted points.

    A value stands at the middle of its weight; between two values the quantile runs straight.

    Args:
        values: (points,), any unit.
        weights: Adding up to 1, (points,).
        q: Between 0 and 1.

    Returns:
        In the unit of `values`.
    """
    return float(weighted_quantiles(values, weights, np.array([q]))[0])


def weighted_quantiles(values: Floats, weights: Floats, qs: Floats) -> Floats:
    """`weighted_quantile` for several `qs`, (quantiles,), the points sorted once."""
    order = np.argsort(values, kind="stable")
    sorted_weights = weights[order]
    middle = np.cumsum(sorted_weights) - 0.5 * sorted_weights
    return np.asarray(np.interp(qs, middle, values[order]))


def chance_above(values: Floats, weights: Floats, limit: float) -> Chance:
    """Probability that a value lies above a limit.

    Args:
        values: (points,), any unit.
        weights: Adding up to 1, (points,).
        limit: In the unit of `values`.

    Returns:
        The weight above the limit and its standard error as a self-normalised importance estimate.

    References:
        Owen (2013), Monte Carlo theory, methods and examples, eq. 9.9.
    """
    above = values > limit
    probability = math.fsum(weights[above])
    error = math.sqrt(math.fsum((weights * (above - probability)) ** 2))
    return Chance(probability, error)


@kernel
def _predictive_quantile(predicted: Floats, weights: Floats, residual: Residual, q: float) -> float:
    """One quantile of the mixture of normals, mg/L."""
    spread = np.empty(predicted.size)
    low = math.inf
    high = -math.inf
    for index in range(predicted.size):
        share = residual.proportional * predicted[index]
        spread[index] = math.sqrt(share * share + residual.additive * residual.additive)
        if not math.isfinite(spread[index]):
            return math.nan
        low = min(low, predicted[index] - REACH_SD * spread[index])
        high = max(high, predicted[index] + REACH_SD * spread[index])
    for _ in range(MOST_BISECTIONS):
        if not high - low > BISECTION_TOLERANCE:
            break
        middle = 0.5 * (low + high)
        below = 0.0
        for index in range(predicted.size):
            if spread[index] > 0.0:
                below += weights[index] * cumulative((middle - predicted[index]) / spread[index])
            elif predicted[index] <= middle:
                below += weights[index]
        if below < q:
            low = middle
        else:
            high = middle
    return 0.5 * (low + high)


def predictive_quantiles(predicted: Floats, weights: Floats, residual: Residual, qs: Floats) -> Floats:
    """Quantiles of a level yet to be measured: parameters' and residual uncertainty together.

    Args:
        predicted: Concentration at each point, (points,), mg/L.
        weights: Adding up to 1, (points,).
        residual: Residual error of a level.
        qs: Between 0 and 1, (quantiles,).

    Returns:
        (quantiles,) mg/L, to 1e-10; NaN when a prediction is not finite. May lie below 0 where the additive
        error is large against the prediction.
    """
    if residual.logarithmic:
        of_logarithm = Residual(0.0, residual.proportional)
        column = np.log(np.ascontiguousarray(predicted))
        return np.exp([_predictive_quantile(column, weights, of_logarithm, float(q)) for q in qs])
    plain = Residual(*residual)
    column = np.ascontiguousarray(predicted)
    return np.array([_predictive_quantile(column, weights, plain, float(q)) for q in qs])
