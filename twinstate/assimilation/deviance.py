"""What one patient's levels and prior cost at given etas: NONMEM's objective for posterior etas, term by term.

    O(eta) = sum of (y - f)^2 / V + ln V    over the levels, V at these etas,
           + eta' Omega^-1 eta

with V = proportional f^2 + additive; on a log-normal level ln y, ln f and a constant variance stand for y, f and V; a
censored level adds -2 ln Phi((limit - f) / sqrt V) (method M3). Constants are dropped. A prediction of exactly 0
counts as 1 in the product, as NONMEM control streams have it, so that a level before any absorption has a variance.

References:
    Wang (2007), J. Pharmacokinet. Pharmacodyn. 34:575-593 (FOCE with interaction).
    Beal (2001), J. Pharmacokinet. Pharmacodyn. 28:481-504 (M3).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from twinstate.assimilation.normal import density_over_cumulative, log_cumulative
from twinstate.kernels import kernel

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


class Measured(NamedTuple):
    """A patient's levels with their residual error, any unit of concentration.

    Attributes:
        value: The levels; the limit where censored, (levels,). Above 0 where log-normal.
        censored: 1 where the level is only known to lie below `value`, else 0, (levels,).
        proportional: Variance per squared prediction, (levels,).
        additive: Variance, squared concentration, (levels,).
        log_normal: Variance of the logarithm; above 0 the level is log-normal and the two above say nothing, (levels,).
    """

    value: Floats
    censored: Integers
    proportional: Floats
    additive: Floats
    log_normal: Floats


@kernel
def _standing(measured: Measured, level: int, f: float) -> tuple[float, float, float, float, float]:
    """The level, its prediction and variance on the scale of its error, and their slopes per unit of f."""
    if measured.log_normal[level] > 0.0:
        return (
            math.log(measured.value[level]),
            math.log(f) if f > 0.0 else math.nan,
            measured.log_normal[level],
            1.0 / f,
            0.0,
        )
    size = 1.0 if f == 0.0 else f
    variance = measured.proportional[level] * size * size + measured.additive[level]
    slope = 0.0 if f == 0.0 else 2.0 * measured.proportional[level] * f
    return measured.value[level], f, variance, 1.0, slope


@kernel
def deviances(measured: Measured, predicted: Floats) -> Floats:
    """The levels' part of the objective at each point.

    Args:
        measured: Levels, (levels,).
        predicted: Concentrations, (points, levels).

    Returns:
        (points,); infinite where a prediction is not finite or makes a level impossible.
    """
    points = predicted.shape[0]
    found = np.empty(points)
    for point in range(points):
        total = 0.0
        for level in range(measured.value.size):
            y, f, variance, _, _ = _standing(measured, level, predicted[point, level])
            if measured.censored[level] == 1:
                total -= 2.0 * log_cumulative((y - f) / math.sqrt(variance))
            else:
                total += (y - f) * (y - f) / variance + math.log(variance)
        found[point] = total if math.isfinite(total) else math.inf
    return found


@kernel
def deviance_slopes(measured: Measured, predicted: Floats, slopes: Floats) -> tuple[Floats, Floats]:
    """Gradient of the levels' part of the objective, and their first-order information.

    The information is Fisher's for a measured level, f' f'^T / V + V' V'^T / (2 V^2), and the curvature of
    -ln Phi along its argument for a censored one; second derivatives of the predictions do not enter.

    Args:
        measured: Levels, (levels,).
        predicted: (levels,).
        slopes: Derivatives of the predictions, (coordinates, levels).

    Returns:
        Gradient (coordinates,) and information (coordinates, coordinates): half the curvature of the objective.
    """
    coordinates = slopes.shape[0]
    gradient = np.zeros(coordinates)
    information = np.zeros((coordinates, coordinates))
    for level in range(measured.value.size):
        y, f, variance, per_f, variance_per_f = _standing(measured, level, predicted[level])
        miss = y - f
        if measured.censored[level] == 1:
            spread = math.sqrt(variance)
            reach = miss / spread
            # How the argument of Phi moves with f.
            turn = -per_f / spread - 0.5 * reach * variance_per_f / variance
            rise = density_over_cumulative(reach)
            along = -2.0 * rise * turn
            square = rise * (rise + reach) * turn * turn
        else:
            share = variance_per_f / variance
            along = -2.0 * miss * per_f / variance + share * (1.0 - miss * miss / variance)
            square = per_f * per_f / variance + 0.5 * share * share
        for row in range(coordinates):
            gradient[row] += along * slopes[row, level]
            for column in range(coordinates):
                information[row, column] += square * slopes[row, level] * slopes[column, level]
    return gradient, information
