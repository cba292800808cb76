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
from twinstate.drug import Residual
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
    """A patient's levels of one drug, in order of (time drawn, id), each with its own spread.

    A level is normal round the prediction f with variance (proportional f)^2 + additive^2; where
    `logarithmic` is 1 its logarithm is normal round ln f with standard deviation `proportional`.

    Attributes:
        time_h: Hours since 1970, ascending, (levels,).
        value: Levels above 0, in the unit of what they measure; the limit where censored, (levels,).
        censored: 1 where the level is only known to lie below `value`, else 0, (levels,).
        second: 1 where it measures the second output, 0 where the concentration in mg/L, (levels,).
        proportional: Standard deviation as a share of the prediction, or of the logarithm, (levels,).
        additive: Standard deviation in the level's unit, (levels,).
        logarithmic: 1 or 0, (levels,).
    """

    time_h: Floats
    value: Floats
    censored: Integers
    second: Integers
    proportional: Floats
    additive: Floats
    logarithmic: Integers


def labs_under(
    residual: Residual, time_h: Floats, value: Floats, censored: Integers, second: int = 0
) -> Labs:
    """Levels that all have the residual error of one model.

    Args:
        residual: Residual error.
        time_h: Hours since 1970, ascending, (levels,).
        value: Levels above 0; the limit where censored, (levels,).
        censored: 1 or 0, (levels,).
        second: 1 when they measure the second output.
    """
    levels = len(time_h)
    return Labs(
        time_h,
        value,
        censored,
        np.full(levels, second, dtype=np.int64),
        np.full(levels, residual.proportional),
        np.full(levels, residual.additive),
        np.full(levels, int(residual.logarithmic), dtype=np.int64),
    )


def first_levels(labs: Labs, count: int) -> Labs:
    """The first `count` levels, as arrays of their own."""
    return Labs._make(np.array(part[:count]) for part in labs)


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
def log_level(prediction: float, labs: Labs, level: int) -> tuple[float, float]:
    """Mean and variance of the logarithm of one level, given its prediction.

    Args:
        prediction: In the level's unit.
        labs: Levels; the value sets how small a prediction is told from nought.
        level: Which.
    """
    predicted = prediction
    if predicted < PREDICTION_FLOOR * labs.value[level]:  # false for NaN, which shall pass
        predicted = PREDICTION_FLOOR * labs.value[level]
    variance = labs.proportional[level] * labs.proportional[level]
    if labs.logarithmic[level] == 1:
        return math.log(predicted), variance
    share = labs.additive[level] / predicted
    variance += share * share
    if variance > LOG_VARIANCE_CAP:
        variance = LOG_VARIANCE_CAP
    return math.log(predicted) - 0.5 * variance, variance


@kernel
def linearise(course: Course, labs: Labs, mean: Floats, covariance: Floats) -> Linearisation:
    """The line through the log-levels that fits best over N(mean, covariance), by cubature points.

    The noise is the covariance of what the line leaves over at the points plus the mean residual variance. As
    the line is the least-squares one this equals cov(h) - A P A^T, and being a sum of squares it cannot lose
    positivity to rounding; no eigenvalue has to be clipped.

    Args:
        course: The patient's course.
        labs: Levels, (levels,).
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
            prediction = second[level] if labs.second[level] == 1 else concentration[level]
            h, spread = log_level(prediction, labs, level)
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
def log_density(prediction: float, labs: Labs, level: int) -> float:
    """Exact log-likelihood of one level, given its prediction in the level's unit.

    A censored level contributes ln P(level < limit), known as method M3. NaN where the prediction is NaN, minus
    infinity where the level is impossible.

    References:
        Beal (2001), J. Pharmacokinet. Pharmacodyn. 28:481-504 (M3).
    """
    value: float = labs.value[level]
    constant = LOG_SQRT_TWO_PI
    if labs.logarithmic[level] == 1:
        if prediction <= 0.0:
            return 0.0 if labs.censored[level] == 1 else -math.inf
        sd = labs.proportional[level]
        miss: float = (math.log(value) - math.log(prediction)) / sd
        constant += math.log(value)
    else:
        share = labs.proportional[level] * prediction
        sd = math.sqrt(share * share + labs.additive[level] * labs.additive[level])
        if sd == 0.0:  # a prediction of nought without additive noise: only "below the limit" can be true
            return 0.0 if labs.censored[level] == 1 else -math.inf
        miss = (value - prediction) / sd
    if labs.censored[level] == 1:
        return log_cumulative(miss)
    return -0.5 * miss * miss - math.log(sd) - constant


@kernel
def log_likelihood(concentration: Floats, second: Floats, labs: Labs) -> float:
    """Exact log-likelihood of all levels given the predicted outputs at their times, (levels,) each."""
    total = 0.0
    for level in range(labs.value.size):
        prediction = second[level] if labs.second[level] == 1 else concentration[level]
        total += log_density(prediction, labs, level)
    return total
