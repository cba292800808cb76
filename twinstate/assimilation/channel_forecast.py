"""What a channel's state and the points of the lab posterior say of the hours ahead: the drug's effect, the signal.

Each point of the posterior takes the same Gaussian of the channel's states, whatever its eta. The correlation that the
windows leave between effect and eta could narrow the rise's 90 % interval from 9.8 to 9.1 ms, but it would then cover
88 % instead of 91 %, and its probabilities would score no better (800 patients of `bench/wearables.py`).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from twinstate.assimilation.channel import ChannelState
from twinstate.assimilation.channel_model import (
    EFFECT,
    NOISE,
    ChannelModel,
    move_on,
    observe,
    occupancy,
)
from twinstate.assimilation.normal import cumulative
from twinstate.assimilation.summary import Chance
from twinstate.kernels import kernel

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
    total = 0.0
    for point in range(mean.size):
        low = min(low, mean[point] - REACH_SD * sd[point])
        high = max(high, mean[point] + REACH_SD * sd[point])
        total += mean[point] + sd[point]
    width = high - low
    if not math.isfinite(total):
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
def _chance_above(mean: Floats, sd: Floats, weights: Floats, limit: float) -> tuple[float, float]:
    """Weight of a mixture of normals above a limit, and the Monte-Carlo standard error of its points."""
    chance = np.empty(weights.size)
    probability = 0.0
    for point in range(weights.size):
        chance[point] = 1.0 if mean[point] > limit else 0.0
        if sd[point] > 0.0:
            chance[point] = cumulative((mean[point] - limit) / sd[point])
        probability += weights[point] * chance[point]
    error = 0.0
    for point in range(weights.size):
        part = weights[point] * (chance[point] - probability)
        error += part * part
    return probability, math.sqrt(error)


@kernel
def _rise(effect: float, effect_sd: float, model: ChannelModel, peak: Floats) -> tuple[Floats, Floats]:
    """Mean and SD of effect * g(peak) at each point, (points,) each."""
    mean = np.empty(peak.size)
    sd = np.empty(peak.size)
    for point in range(peak.size):
        share = occupancy(peak[point], model)
        mean[point] = effect * share
        sd[point] = effect_sd * share
    return mean, sd


@kernel
def _signal_ahead(
    model: ChannelModel,
    mean: Floats,
    covariance: Floats,
    scatter: float,
    concentration: Floats,
    weights: Floats,
    elapsed_h: Floats,
    time_h: Floats,
    quantiles: Floats,
) -> tuple[Floats, Floats]:
    """Quantiles of the underlying signal and of a new window's reading, (times, quantiles) each.

    Args:
        model: Dynamics.
        mean: Of the states, (5,).
        covariance: Of the states alone, (5, 5).
        scatter: Variance of a window's median round the signal.
        concentration: What the effect follows, mg/L, (points, times).
        weights: Adding up to 1, (points,).
        elapsed_h: Since the state's time, at least 0, (times,).
        time_h: Hours since 1970, (times,).
        quantiles: Between 0 and 1, (quantiles,).
    """
    states = mean.size
    points = weights.size
    wanted = (np.empty((time_h.size, quantiles.size)), np.empty((time_h.size, quantiles.size)))
    ahead = np.empty(states)
    moved = np.empty((states, states))
    operator = np.empty(states)
    value = np.empty(points)
    sd = np.empty(points)
    for time in range(time_h.size):
        ahead[:] = mean
        moved[:] = covariance
        move_on(model, ahead, moved, 0, elapsed_h[time])
        observe(model, time_h[time], operator)
        for kind in range(2):
            operator[NOISE] = float(kind)
            for point in range(points):
                operator[EFFECT] = model.sign * occupancy(concentration[point, time], model)
                total = 0.0
                variance = scatter * kind
                for row in range(states):
                    total += operator[row] * ahead[row]
                    for column in range(states):
                        variance += operator[row] * moved[row, column] * operator[column]
                value[point] = total
                sd[point] = math.sqrt(max(variance, 0.0))
            for q in range(quantiles.size):
                wanted[kind][time, q] = mixture_quantile(value, sd, weights, quantiles[q])
    return wanted


def chance_of_rise(
    state: ChannelState, model: ChannelModel, peak: Floats, weights: Floats, limit: float
) -> Chance:
    """Probability that the drug moves the signal by more than a limit: the effect alone, whatever the baseline.

    Args:
        state: The channel as of now.
        model: Of the channel.
        peak: Highest of what the effect follows over the horizon, at each point, mg/L, (points,).
        weights: Of the lab posterior's points, adding up to 1, (points,).
        limit: In the signal's unit.

    Returns:
        The probability, with the Monte-Carlo error of the points.
    """
    mean, sd = _rise(state.effect, state.effect_sd, model, np.ascontiguousarray(peak))
    return Chance(*_chance_above(mean, sd, np.ascontiguousarray(weights), limit))


def rise_quantiles(
    state: ChannelState, model: ChannelModel, peak: Floats, weights: Floats, quantiles: Floats
) -> Floats:
    """Quantiles of the largest change of the signal by the drug, in the signal's unit, (quantiles,).

    The effect has one direction: what the Gaussian puts below 0 counts as no change.

    Args:
        state: The channel as of now.
        model: Of the channel.
        peak: Highest of what the effect follows over the horizon, at each point, mg/L, (points,).
        weights: Of the lab posterior's points, adding up to 1, (points,).
        quantiles: Between 0 and 1, (quantiles,).
    """
    mean, sd = _rise(state.effect, state.effect_sd, model, np.ascontiguousarray(peak))
    ordered = np.ascontiguousarray(weights)
    return np.array([max(mixture_quantile(mean, sd, ordered, float(q)), 0.0) for q in quantiles])


def forecast_channel(
    state: ChannelState, model: ChannelModel, concentration: Floats, weights: Floats, time_h: Floats
) -> ChannelForecast:
    """Forecast the signal at given times.

    Args:
        state: The channel as of now.
        model: Its dynamics.
        concentration: What the effect follows, of each point at `time_h`, mg/L, (points, times).
        weights: Of the lab posterior's points, adding up to 1, (points,).
        time_h: Hours since 1970, (times,); a time before the state's is taken with the state as it stands.
    """
    underlying, reading = _signal_ahead(
        model,
        state.mean,
        state.own_covariance,
        state.scatter,
        np.ascontiguousarray(concentration),
        np.ascontiguousarray(weights),
        np.maximum(time_h - state.time_h, 0.0),
        np.ascontiguousarray(time_h),
        QUANTILES,
    )
    return ChannelForecast(underlying, reading)
