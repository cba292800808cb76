"""What a channel's state and the points of the lab posterior say of the hours ahead: the drug's effect, the signal.

The windows leave effect and eta correlated: if the level is really higher than thought, the effect is really smaller.
So each point of the cloud takes the Gaussian of the channel's states given that point; without this their product, the
rise, which is what the windows show, would look less certain than it is.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from twinstate.assimilation.channel import ChannelState
from twinstate.assimilation.channel_model import EFFECT, NOISE, ChannelModel, observe, occupancy
from twinstate.assimilation.linear import solve_lower, times_transposed
from twinstate.assimilation.normal import cumulative
from twinstate.assimilation.summary import Chance
from twinstate.types import kernel

Floats = NDArray[np.float64]

QUANTILES = np.array([0.05, 0.5, 0.95])
BISECTION_TOLERANCE = 1e-6  # of the mixture's width
REACH_SD = 10.0


class ChannelForecast(NamedTuple):
    """The signal ahead, in its unit: 5 %, 50 % and 95 % quantiles.

    Attributes:
        underlying: Baseline, rhythms and effect of the drug, (times, 3).
        reading: What a new window would read, noise and scatter included, (times, 3).
    """

    underlying: Floats
    reading: Floats


@kernel
def states_given_points(
    mean: Floats, covariance: Floats, eta_mean: Floats, eta_factor: Floats, points: Floats
) -> tuple[Floats, Floats]:
    """Gaussian of the channel's states given each eta vector.

    Args:
        mean: Of the states, (5,).
        covariance: Standardised eta first, (eta + 5, eta + 5).
        eta_mean: (eta,).
        eta_factor: Lower Cholesky factor, (eta, eta).
        points: (points, eta).

    Returns:
        Means (points, 5) and the covariance (5, 5), the same for all points.
    """
    etas = eta_mean.size
    states = mean.size
    cross = covariance[etas:, :etas].copy()
    given = covariance[etas:, etas:] - times_transposed(cross, cross)
    means = np.empty((points.shape[0], states))
    for point in range(points.shape[0]):
        standardised = points[point] - eta_mean
        solve_lower(eta_factor, standardised)
        for state in range(states):
            total = mean[state]
            for eta in range(etas):
                total += cross[state, eta] * standardised[eta]
            means[point, state] = total
    return means, given


@kernel
def mixture_quantile(mean: Floats, sd: Floats, weights: Floats, q: float) -> float:
    """Quantile of a mixture of normals; an SD of 0 is a step.

    Args:
        mean: (points,).
        sd: (points,).
        weights: Adding up to 1, (points,).
        q: Between 0 and 1.

    Returns:
        In the unit of `mean`, to a millionth of the mixture's width; NaN when a component is not finite.
    """
    low = math.inf
    high = -math.inf
    for point in range(mean.size):
        low = min(low, mean[point] - REACH_SD * sd[point])
        high = max(high, mean[point] + REACH_SD * sd[point])
    width = high - low
    if not math.isfinite(width):
        return math.nan
    while high - low > BISECTION_TOLERANCE * width:
        middle = 0.5 * (low + high)
        below = 0.0
        for point in range(mean.size):
            if sd[point] > 0.0:
                below += weights[point] * cumulative((middle - mean[point]) / sd[point])
            elif mean[point] <= middle:
                below += weights[point]
        if below < q:
            low = middle
        else:
            high = middle
    return 0.5 * (low + high)


@kernel
def rise_above(
    effect: Floats, effect_sd: float, peak: Floats, ec50: float, weights: Floats, limit: float
) -> tuple[float, float]:
    """Probability that effect * g(peak) exceeds a limit above 0, and its Monte-Carlo standard error.

    Args:
        effect: Expected effect at each point, (points,).
        effect_sd: SD of the effect given a point.
        peak: Highest concentration ahead, mg/L, (points,).
        ec50: mg/L.
        weights: Adding up to 1, (points,).
        limit: In the unit of `effect`.
    """
    chance = np.zeros(weights.size)
    probability = 0.0
    for point in range(weights.size):
        share = occupancy(peak[point], ec50)
        if share > 0.0:
            chance[point] = cumulative((effect[point] * share - limit) / (effect_sd * share))
        probability += weights[point] * chance[point]
    error = 0.0
    for point in range(weights.size):
        part = weights[point] * (chance[point] - probability)
        error += part * part
    return probability, math.sqrt(error)


@kernel
def signal_ahead(
    model: ChannelModel,
    means: Floats,
    covariance: Floats,
    weights: Floats,
    concentration: Floats,
    elapsed_h: Floats,
    time_h: Floats,
    scatter: float,
    quantiles: Floats,
) -> tuple[Floats, Floats]:
    """Quantiles of the underlying signal and of a new window's reading, (times, quantiles) each.

    Args:
        model: Dynamics.
        means: Of the states given each point, (points, 5).
        covariance: Of the states given a point, (5, 5).
        weights: Adding up to 1, (points,).
        concentration: mg/L, (points, times).
        elapsed_h: Since the state's time, at least 0, (times,).
        time_h: Hours since 1970, (times,).
        scatter: Variance of a window's median round the signal.
        quantiles: Between 0 and 1, (quantiles,).
    """
    count, states = means.shape
    underlying = np.empty((time_h.size, quantiles.size))
    reading = np.empty((time_h.size, quantiles.size))
    operator = np.empty(states)
    value = np.empty((2, count))
    sd = np.empty((2, count))
    for time in range(time_h.size):
        observe(model, time_h[time], operator)
        fade = math.exp(-elapsed_h[time] / model.noise_time_constant_h)
        drift = model.drift_per_sqrt_h * model.drift_per_sqrt_h * elapsed_h[time]
        for point in range(count):
            operator[EFFECT] = occupancy(concentration[point, time], model.ec50_mg_L)
            noise_sd = model.noise_cv * means[point, 0]
            fresh = noise_sd * noise_sd * (1.0 - fade * fade) + scatter
            for kind in range(2):
                operator[NOISE] = fade * kind
                total = 0.0
                variance = drift + fresh * kind
                for row in range(states):
                    total += operator[row] * means[point, row]
                    for column in range(states):
                        variance += operator[row] * covariance[row, column] * operator[column]
                value[kind, point] = total
                sd[kind, point] = math.sqrt(max(variance, 0.0))
        for q in range(quantiles.size):
            underlying[time, q] = mixture_quantile(value[0], sd[0], weights, quantiles[q])
            reading[time, q] = mixture_quantile(value[1], sd[1], weights, quantiles[q])
    return underlying, reading


def chance_of_rise(
    state: ChannelState, ec50_mg_L: float, points: Floats, weights: Floats, peak: Floats, limit: float
) -> Chance:
    """Probability that the drug lifts the signal by more than a limit: the effect alone, whatever the baseline.

    Args:
        state: The channel as of now.
        ec50_mg_L: Level of half the effect, mg/L.
        points: Lab posterior's points, (points, eta).
        weights: Adding up to 1, (points,).
        peak: Highest concentration of each point over the horizon, mg/L, (points,): the effect grows with it.
        limit: Above 0, in the signal's unit.

    Returns:
        The probability, with the Monte-Carlo error of the points.
    """
    means, covariance = _given(state, points)
    effect_sd = math.sqrt(max(float(covariance[EFFECT, EFFECT]), 0.0))
    effect = np.ascontiguousarray(means[:, EFFECT])
    return Chance(*rise_above(effect, effect_sd, np.ascontiguousarray(peak), ec50_mg_L, weights, limit))


def rise_quantiles(
    state: ChannelState, ec50_mg_L: float, points: Floats, weights: Floats, peak: Floats, quantiles: Floats
) -> Floats:
    """Quantiles of the highest rise by the drug, in the signal's unit, (quantiles,).

    Args:
        state: The channel as of now.
        ec50_mg_L: Level of half the effect, mg/L.
        points: Lab posterior's points, (points, eta).
        weights: Adding up to 1, (points,).
        peak: Highest concentration of each point over the horizon, mg/L, (points,).
        quantiles: Between 0 and 1, (quantiles,).
    """
    means, covariance = _given(state, points)
    effect_sd = math.sqrt(max(float(covariance[EFFECT, EFFECT]), 0.0))
    share = np.array([occupancy(float(level), ec50_mg_L) for level in peak])
    value = means[:, EFFECT] * share
    return np.array([mixture_quantile(value, effect_sd * share, weights, float(q)) for q in quantiles])


def forecast_channel(
    state: ChannelState,
    model: ChannelModel,
    points: Floats,
    weights: Floats,
    concentration: Floats,
    time_h: Floats,
) -> ChannelForecast:
    """Forecast the signal at given times.

    Args:
        state: The channel as of now.
        model: Its dynamics.
        points: Lab posterior's points, (points, eta).
        weights: Adding up to 1, (points,).
        concentration: Of each point at `time_h`, mg/L, (points, times).
        time_h: Hours since 1970, (times,); a time before the state's is taken with the state as it stands.
    """
    means, covariance = _given(state, points)
    underlying, reading = signal_ahead(
        model,
        means,
        covariance,
        weights,
        np.ascontiguousarray(concentration),
        np.maximum(time_h - state.time_h, 0.0),
        time_h,
        state.scatter,
        QUANTILES,
    )
    return ChannelForecast(underlying, reading)


def _given(state: ChannelState, points: Floats) -> tuple[Floats, Floats]:
    return states_given_points(
        state.mean, state.covariance, state.eta_mean, state.eta_factor, np.ascontiguousarray(points)
    )
