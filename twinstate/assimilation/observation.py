"""What a level says of the parameters: observation operator and noise, limits of quantification included.

A level is normal round the concentration f with variance (proportional f)^2 + additive^2; censored, it is
only known to lie below its value. The Kalman iteration sees its logarithm, the refinement the likelihood as
it stands.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from twinstate.assimilation.linear import root, solve_lower_transposed
from twinstate.assimilation.normal import LOG_SQRT_TWO_PI, log_cumulative
from twinstate.kernels import kernel
from twinstate.pk.course import Course
from twinstate.pk.propagate import follow
from twinstate.pk.schedule import make_body

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

# Variance of a log-level is held to this: a prediction lost in the additive noise says nothing finer.
LOG_VARIANCE_CAP = 4.0
# A prediction below this share of the level counts as this share: how far below says nothing more.
PREDICTION_FLOOR = 1e-3
# A log-parameter this far out (a factor of 3000) is held there.
ETA_LIMIT = 8.0


class Labs(NamedTuple):
    """A patient's levels of one drug, in order of (time drawn, id).

    Attributes:
        time_h: Hours since 1970, ascending, (levels,).
        value_mg_L: Levels above 0, mg/L; the limit where censored, (levels,).
        censored: 1 where the level is only known to lie below `value_mg_L`, else 0, (levels,).
    """

    time_h: Floats
    value_mg_L: Floats
    censored: Integers


class Residual(NamedTuple):
    """Residual error of a level: variance (proportional * f)^2 + additive^2.

    Attributes:
        proportional: Standard deviation as a share of the concentration.
        additive_mg_L: Standard deviation, mg/L.
    """

    proportional: float
    additive_mg_L: float


class Linearisation(NamedTuple):
    """Log-levels as a linear function of eta, with what the line leaves out as noise.

    Attributes:
        operator: (levels, eta).
        offset: (levels,), ln(mg/L).
        noise: Residual and linearisation error, (levels, levels).
    """

    operator: Floats
    offset: Floats
    noise: Floats


@kernel
def log_level(concentration: float, value: float, residual: Residual) -> tuple[float, float]:
    """Mean and variance of the logarithm of a level of this concentration.

    Args:
        concentration: Predicted, mg/L.
        value: The level, mg/L; it sets how small a prediction is told from nought.
        residual: Residual error.
    """
    predicted = concentration
    if predicted < PREDICTION_FLOOR * value:  # false for NaN, which shall pass
        predicted = PREDICTION_FLOOR * value
    share = residual.additive_mg_L / predicted
    variance = residual.proportional * residual.proportional + share * share
    if variance > LOG_VARIANCE_CAP:
        variance = LOG_VARIANCE_CAP
    return math.log(predicted) - 0.5 * variance, variance


@kernel
def linearise(
    course: Course, labs: Labs, residual: Residual, mean: Floats, covariance: Floats
) -> Linearisation:
    """The line through the log-levels that fits best over N(mean, covariance), by cubature points.

    The noise is the covariance of what the line leaves over at the points plus the mean residual variance. As
    the line is the least-squares one this equals cov(h) - A P A^T, and being a sum of squares it cannot lose
    positivity to rounding; no eigenvalue has to be clipped.

    Args:
        course: The patient's course.
        labs: Levels, (levels,).
        residual: Residual error.
        mean: (eta,).
        covariance: (eta, eta).

    Returns:
        Operator, offset and noise of the log-levels.

    References:
        Garcia-Fernandez et al. (2015), IEEE Trans. Signal Process. 63:5561-5573 (posterior linearisation).
        Arasaratnam, Haykin (2009), IEEE Trans. Automat. Contr. 54:1254-1269 (cubature points).
    """
    etas = mean.size
    levels = labs.time_h.size
    factor = root(covariance)
    reach = math.sqrt(etas)
    body = make_body(course)
    concentration = np.empty(levels)
    area = np.empty(levels)
    second = np.empty(levels)
    point = np.empty(etas)
    log_levels = np.empty((2 * etas, levels))
    middle = np.zeros(levels)
    variance = np.zeros(levels)
    for index in range(2 * etas):
        column = index // 2
        side = reach if index % 2 == 0 else -reach
        for row in range(etas):
            point[row] = min(max(mean[row] + side * factor[row, column], -ETA_LIMIT), ETA_LIMIT)
        follow(course, point, labs.time_h, body, concentration, area, second)
        for level in range(levels):
            h, spread = log_level(concentration[level], labs.value_mg_L[level], residual)
            log_levels[index, level] = h
            middle[level] += h / (2 * etas)
            variance[level] += spread / (2 * etas)
    operator = np.empty((levels, etas))
    offset = np.empty(levels)
    left = np.empty((levels, 2 * etas))
    for level in range(levels):
        for column in range(etas):
            rise = log_levels[2 * column, level] - log_levels[2 * column + 1, level]
            operator[level, column] = rise / (2.0 * reach)
        for index in range(2 * etas):
            side = reach if index % 2 == 0 else -reach
            left[level, index] = log_levels[index, level] - middle[level] - side * operator[level, index // 2]
        # So far per unit of the factor's columns; now per unit of eta.
        solve_lower_transposed(factor, operator[level])
        offset[level] = middle[level]
        for column in range(etas):
            offset[level] -= operator[level, column] * mean[column]
    noise = np.empty((levels, levels))
    for row in range(levels):
        for column in range(row + 1):
            total = 0.0
            for index in range(2 * etas):
                total += left[row, index] * left[column, index]
            noise[row, column] = total / (2 * etas)
            noise[column, row] = noise[row, column]
        noise[row, row] += variance[row]
    return Linearisation(operator, offset, noise)


@kernel
def log_likelihood(concentration: Floats, labs: Labs, residual: Residual) -> float:
    """Exact log-likelihood of the levels given predicted concentrations (levels,) in mg/L.

    Normal with variance (proportional f)^2 + additive^2; a censored level contributes ln P(level < limit),
    known as method M3. NaN where a prediction is NaN.

    References:
        Beal (2001), J. Pharmacokinet. Pharmacodyn. 28:481-504 (M3).
    """
    total = 0.0
    for level in range(labs.value_mg_L.size):
        f = concentration[level]
        proportional = residual.proportional * f
        additive = residual.additive_mg_L
        variance = proportional * proportional + additive * additive
        if (
            variance == 0.0
        ):  # a prediction of nought without additive noise: only "below the limit" can be true
            if labs.censored[level] == 0:
                return -math.inf
        elif labs.censored[level] == 1:
            total += log_cumulative((labs.value_mg_L[level] - f) / math.sqrt(variance))
        else:
            miss = labs.value_mg_L[level] - f
            total -= 0.5 * (miss * miss / variance + math.log(variance)) + LOG_SQRT_TWO_PI
    return total
