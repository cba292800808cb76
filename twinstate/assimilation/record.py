"""Parameters from the whole lab record: the prior updated by iterated posterior linearisation.

Every fit starts from N(0, prior covariance) and uses all levels at once, never an earlier posterior: the
estimate is a function of the record alone, whatever the order in which it arrived.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from twinstate.assimilation.analysis import analyse
from twinstate.assimilation.linear import (
    root,
    solve_lower,
    solve_lower_transposed,
    times_transposed,
)
from twinstate.assimilation.normal import LOG_SQRT_TWO_PI, density_over_cumulative, log_cumulative
from twinstate.assimilation.observation import (
    ETA_LIMIT,
    Labs,
    Linearisation,
    linearise,
    log_level,
)
from twinstate.errors import MathsError
from twinstate.kernels import kernel
from twinstate.pk.course import Course
from twinstate.pk.propagate import follow
from twinstate.pk.schedule import make_body
from twinstate.pk.steady_state import may_have_none

__all__ = ["NOT_FINITE", "STATUS", "Fit", "Labs", "fit_finite", "fit_record"]

Floats = NDArray[np.float64]

FULL_STEPS = 3
DAMPING = 0.7
TOLERANCE_SD = 1e-3
MOST_ITERATIONS = 20
# The fallback linearises over this share of the prior's variance: as good as a derivative.
DERIVATIVE_SHARE = 1e-6
MOST_HALVINGS = 8
MOST_FALLBACK_ITERATIONS = 50
# A censored level that says nothing stands for an observation so much more uncertain than its forecast.
UNINFORMATIVE = 1e6

CONVERGED, FALLEN_BACK, NOT_FINITE = 0, 1, 2
STATUS = ("converged", "damped", "not_finite")


class Fit(NamedTuple):
    """A Gaussian with the linear problem it solves.

    When converged, one Kalman step from N(0, prior) with these observations, operator and noise gives exactly
    mean and covariance.

    Attributes:
        mean: (eta,).
        covariance: (eta, eta).
        iterations: Linearisations taken.
        status: Index into `STATUS`.
        observed: Log-levels less the offset, (levels,); for censored levels what stands in for them.
        operator: (levels, eta).
        noise: (levels, levels).
        log_evidence: Log-density of the log-levels under the linear problem: how well prior and levels agree.
    """

    mean: Floats
    covariance: Floats
    iterations: int
    status: int
    observed: Floats
    operator: Floats
    noise: Floats
    log_evidence: float


@kernel
def stand_in_for_censored(
    prior: Floats, lines: Linearisation, labs: Labs, value: Floats, variance: Floats
) -> None:
    """Renew the normal observations that stand in for censored levels.

    A censored level is forecast from all others, its forecast cut off at the limit, and the stand-in chosen
    to give the cut-off forecast's mean and variance.

    Args:
        prior: Prior covariance, (eta, eta).
        lines: Linearised log-levels.
        labs: Levels, (levels,).
        value: Log-levels, (levels,); renewed where censored.
        variance: Their variance beyond the noise, (levels,): 0 where measured; renewed where censored.

    References:
        Minka (2001), Expectation propagation; Rasmussen, Williams (2006), eq. 5.12 (forecast without one
        level).
    """
    levels = value.size
    spread = times_transposed(lines.operator, times_transposed(lines.operator, prior))
    miss = np.empty(levels)
    for level in range(levels):
        miss[level] = value[level] - lines.offset[level]
        for column in range(levels):
            spread[level, column] += lines.noise[level, column]
        spread[level, level] += variance[level]
    factor = root(spread)
    solve_lower(factor, miss)
    solve_lower_transposed(factor, miss)
    precision = np.zeros(levels)
    for level in range(levels):
        if labs.censored[level] == 1:
            unit = np.zeros(levels)
            unit[level] = 1.0
            solve_lower(factor, unit)
            for row in range(levels):
                precision[level] += unit[row] * unit[row]
    for level in range(levels):
        if labs.censored[level] == 1:
            mean = value[level] - miss[level] / precision[level]
            total = 1.0 / precision[level] - variance[level]
            sd = math.sqrt(total)
            limit = (math.log(labs.value[level]) - mean) / sd
            pull = density_over_cumulative(limit)
            shrink = pull * (pull + limit)  # share of the variance that the limit takes away
            if shrink < 1.0 / UNINFORMATIVE:
                shrink = 1.0 / UNINFORMATIVE
            if shrink > 1.0 - 1.0 / UNINFORMATIVE:
                shrink = 1.0 - 1.0 / UNINFORMATIVE
            variance[level] = total * (1.0 - shrink) / shrink
            value[level] = mean - sd * pull / shrink


@kernel
def _cost(course: Course, labs: Labs, prior_factor: Floats, eta: Floats) -> float:
    """Minus twice the log-posterior of eta, up to a constant, with normal log-levels."""
    levels = labs.time_h.size
    concentration = np.empty(levels)
    area = np.empty(levels)
    second = np.empty(levels)
    follow(course, eta, labs.time_h, make_body(course), concentration, area, second)
    scaled = eta.copy()
    solve_lower(prior_factor, scaled)
    total = 0.0
    for index in range(eta.size):
        total += scaled[index] * scaled[index]
    for level in range(levels):
        prediction = second[level] if labs.second[level] == 1 else concentration[level]
        h, variance = log_level(prediction, labs, level)
        miss = math.log(labs.value[level]) - h
        if labs.censored[level] == 1:
            total -= 2.0 * log_cumulative(miss / math.sqrt(variance))
        else:
            total += miss * miss / variance + math.log(variance)
    return total


@kernel
def _log_evidence(innovation: Floats, spread: Floats) -> float:
    """Log-density of an innovation (levels,) under its covariance (levels, levels)."""
    factor = root(spread)
    scaled = innovation.copy()
    solve_lower(factor, scaled)
    total = 0.0
    for level in range(scaled.size):
        total -= 0.5 * scaled[level] * scaled[level] + math.log(factor[level, level]) + LOG_SQRT_TWO_PI
    return total


@kernel
def _in_sd(step: Floats, covariance: Floats) -> float:
    """Largest component of a step in posterior standard deviations; NaN if one is."""
    largest = 0.0
    for index in range(step.size):
        size = abs(step[index]) / math.sqrt(covariance[index, index])
        if math.isnan(size):
            return math.nan
        largest = max(largest, size)
    return largest


@kernel
def _update(
    course: Course,
    labs: Labs,
    prior: Floats,
    mean: Floats,
    covariance: Floats,
    value: Floats,
    variance: Floats,
    iteration: int,
) -> Fit:
    """Linearise over N(mean, covariance), update N(0, prior), renew the stand-ins in `value`, `variance`."""
    lines = linearise(course, labs, mean, covariance)
    if np.any(labs.censored == 1):
        stand_in_for_censored(prior, lines, labs, value, variance)
    for level in range(value.size):
        lines.noise[level, level] += variance[level]
    observed = value - lines.offset
    update = analyse(np.zeros(mean.size), prior, observed, lines.operator, lines.noise)
    status = CONVERGED if math.isfinite(_in_sd(update.mean, update.covariance)) else NOT_FINITE
    return Fit(
        update.mean,
        update.covariance,
        iteration,
        status,
        observed,
        lines.operator,
        lines.noise,
        _log_evidence(update.innovation, update.innovation_covariance),
    )


@kernel
def _fall_back(
    course: Course,
    labs: Labs,
    prior: Floats,
    start: Floats,
    value: Floats,
    variance: Floats,
) -> Fit:
    """Gauss-Newton steps to the mode, halved until the cost falls: the damped iterated extended filter."""
    prior_factor = root(prior)
    mean = start
    cost = _cost(course, labs, prior_factor, mean)
    iteration = MOST_ITERATIONS
    while True:
        iteration += 1
        fit = _update(course, labs, prior, mean, prior * DERIVATIVE_SHARE, value, variance, iteration)
        step = fit.mean - mean
        settled = iteration == MOST_ITERATIONS + MOST_FALLBACK_ITERATIONS
        settled = settled or _in_sd(step, fit.covariance) < TOLERANCE_SD
        if not settled and fit.status != NOT_FINITE:
            settled = True
            for _ in range(MOST_HALVINGS):
                there = np.minimum(ETA_LIMIT, np.maximum(-ETA_LIMIT, mean + step))
                cost_there = _cost(course, labs, prior_factor, there)
                if cost_there < cost:
                    settled = False
                    mean = there
                    cost = cost_there
                    break
                step *= 0.5
        if fit.status == NOT_FINITE:
            return fit
        if settled:
            return Fit(
                mean,
                fit.covariance,
                iteration,
                FALLEN_BACK,
                fit.observed,
                fit.operator,
                fit.noise,
                fit.log_evidence,
            )


@kernel
def _unseen(labs: Labs) -> tuple[Floats, Floats]:
    """Logarithms of the levels, and what is added to their variance: much for a censored one before the first fit."""
    value = np.log(labs.value)
    variance = np.zeros(value.size)
    for level in range(value.size):
        if labs.censored[level] == 1:
            variance[level] = UNINFORMATIVE
    return value, variance


@kernel
def fit_record(course: Course, labs: Labs, prior: Floats) -> Fit:
    """Update N(0, prior) with all levels by iterated posterior linearisation.

    Linearise over the present posterior, update the *prior* with the result, repeat: three full steps, then
    steps damped by `DAMPING`, until no mean moves by `TOLERANCE_SD` posterior standard deviations. A fit that
    does not settle in `MOST_ITERATIONS`, or meets parameters without the steady state declared, falls back on
    Gauss-Newton steps to the mode, halved until the cost falls.

    Args:
        course: The patient's course.
        labs: At least one level, (levels,).
        prior: Prior covariance of eta, (eta, eta).

    Returns:
        Posterior and the linear problem it solves; status `NOT_FINITE` when the arithmetic broke down.

    References:
        Garcia-Fernandez et al. (2015), IEEE Trans. Signal Process. 63:5561-5573.
        Raitoharju et al. (2018), IEEE Signal Process. Lett. 25:536-540 (damping).
    """
    etas = prior.shape[0]
    mean = np.zeros(etas)
    covariance = prior.copy()
    value, variance = _unseen(labs)
    for iteration in range(1, MOST_ITERATIONS + 1):
        fit = _update(course, labs, prior, mean, covariance, value, variance, iteration)
        step = fit.mean - mean
        size = _in_sd(step, fit.covariance)
        if not math.isfinite(size) and may_have_none(course):
            value, variance = _unseen(labs)
            break
        if not math.isfinite(size) or size < TOLERANCE_SD:
            return fit
        share = 1.0 if iteration <= FULL_STEPS else DAMPING
        mean = np.minimum(ETA_LIMIT, np.maximum(-ETA_LIMIT, mean + share * step))
        covariance = covariance + share * (fit.covariance - covariance)
    return _fall_back(course, labs, prior, mean, value, variance)


def fit_finite(course: Course, labs: Labs, prior_covariance: Floats) -> Fit:
    """`fit_record`, refusing what the arithmetic could not follow.

    Args:
        course: The patient's course.
        labs: At least one level, (levels,).
        prior_covariance: Covariance of eta, (eta, eta).

    Raises:
        MathsError: The arithmetic met a number that is not finite.
    """
    # A copy, because numba compiles anew for an array that may not be written to.
    fit = fit_record(course, labs, prior_covariance.copy())
    if fit.status == NOT_FINITE:
        raise MathsError(
            f"The update with {labs.time_h.size} levels met a number that is not finite in iteration "
            f"{fit.iterations}: a dose, covariate or level is outside what this model can follow. Correct or "
            "cancel the record; every further record tries again."
        )
    return fit
