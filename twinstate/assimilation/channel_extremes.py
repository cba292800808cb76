"""How high or low a wearable signal will go: its probability of passing a limit within a horizon.

The signal is baseline with its random walk, rhythms and the drug's effect; noise and scatter are left out, as one
reading is no event. Every point of the lab posterior is met with draws of the channel's state: effect, rhythm and walk
from the checked-in table, and of the baseline, given those, the exact probability. A walk is the first terms of its
Karhunen-Loeve series, so that one draw is a whole path.
"""

from __future__ import annotations

import functools
import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from twinstate.assimilation.channel import ChannelState
from twinstate.assimilation.channel_model import (
    BASELINE,
    COSINE,
    EFFECT,
    SINE,
    ChannelModel,
    observe,
    occupancy,
)
from twinstate.assimilation.linear import root
from twinstate.assimilation.normal import cumulative
from twinstate.assimilation.points import MOST_ETAS, MOST_POINTS, normal_points
from twinstate.assimilation.summary import Chance, weighted_quantiles
from twinstate.kernels import folded_kernel, kernel

Floats = NDArray[np.float64]

# The states in the order they are drawn: the baseline last, so that the others' draws leave it a normal distribution.
DRAWN = np.array([EFFECT, COSINE, SINE, BASELINE])
# Columns of the table: three states, the baseline, and what is left for the walk (98.4 % of its variance at the end).
WALK_TERMS = 1 + MOST_ETAS - len(DRAWN)
# At least so many pairs of a point and a draw.
LEAST_PAIRS = 1024
# The points of the posterior come from the first rows of the same table. An odd stride leads through all rows in an
# order of its own, so that a pair's two halves have nothing to do with one another.
STRIDE, FIRST_ROW = 2531, 911
# Sets of walks in memory: 0.4 MB each for 24 h ahead.
WALKS_KEPT = 16


class Extreme(NamedTuple):
    """The signal's highest or lowest value ahead.

    Attributes:
        chance: Of passing the limit, with the Monte-Carlo error of the points.
        quantiles: As asked for, in the signal's unit, (quantiles,).
    """

    chance: Chance
    quantiles: Floats


@kernel
def _fill_walks(drift_per_sqrt_h: float, elapsed_h: Floats, pairs: int, table: Floats) -> Floats:
    """The baseline's walk of each pair at each time, in the signal's unit, (pairs, times)."""
    times = elapsed_h.size
    horizon = elapsed_h[times - 1]
    basis = np.empty((times, WALK_TERMS))
    for time in range(times):
        for term in range(WALK_TERMS):
            rate = (term + 0.5) * math.pi
            basis[time, term] = 0.0
            if horizon > 0.0:
                reach = drift_per_sqrt_h * math.sqrt(2.0 * horizon) / rate
                basis[time, term] = reach * math.sin(rate * elapsed_h[time] / horizon)
    walks = np.empty((pairs, times))
    for pair in range(pairs):
        row = table[(pair * STRIDE + FIRST_ROW) % MOST_POINTS]
        for time in range(times):
            walk = 0.0
            for term in range(WALK_TERMS):
                walk += basis[time, term] * row[4 + term]
            walks[pair, time] = walk
    return walks


@functools.lru_cache(maxsize=WALKS_KEPT)
def _walks(drift_per_sqrt_h: float, elapsed_h: bytes, pairs: int) -> Floats:
    """`_fill_walks`, kept: at the end of every hour every patient of one drug has the same ones before him."""
    walks = _fill_walks(drift_per_sqrt_h, np.frombuffer(elapsed_h), pairs, normal_points())
    walks.setflags(write=False)
    return walks


@folded_kernel
def _least(values: Floats) -> float:
    """Least of (n,) values, by two halves, neither of which waits for the other; NaN counts for nothing."""
    one, other = math.inf, math.inf
    half = values.size // 2
    for place in range(half):
        one = min(one, values[place])
        other = min(other, values[half + place])
    if 2 * half < values.size:
        one = min(one, values[2 * half])
    return min(one, other)


@kernel
def _pairs(
    model: ChannelModel,
    middle: Floats,
    factor: Floats,
    concentration: Floats,
    time_h: Floats,
    walks: Floats,
    table: Floats,
    draws: int,
    limit: float,
    lowest: bool,
) -> tuple[Floats, Floats]:
    """Chance of passing the limit, (points,), and the extreme of each pair, (points * draws,).

    Args:
        model: Of the channel.
        middle: Means of `DRAWN`, (4,).
        factor: Lower factor of their covariance, (4, 4).
        concentration: What the effect follows, mg/L, (points, times).
        time_h: Hours since 1970, ascending, (times,).
        walks: Of each pair's baseline, (points * draws, times).
        table: Standard normal, (rows, 17).
        draws: Of the state, for each point.
        limit: In the signal's unit.
        lowest: Whether the lowest value counts, and the limit is passed below it.
    """
    points, times = concentration.shape
    height = np.empty(times)  # how the baseline enters, its shorter rhythms included
    cosine = np.empty(times)
    sine = np.empty(times)
    operator = np.empty(5)
    for time in range(times):
        observe(model, time_h[time], operator)
        height[time], cosine[time], sine[time] = operator[BASELINE], operator[COSINE], operator[SINE]
    share = np.empty(times)
    needed = np.empty(times)  # the least baseline that passes the limit (of a low one, with its sign turned)
    short = np.empty(times)  # minus the signal (of a low limit, the signal)
    chance = np.zeros(points)
    extreme = np.empty(points * draws)
    sd = factor[3, 3]
    side = -1.0 if lowest else 1.0
    for point in range(points):
        for time in range(times):
            share[time] = model.sign * occupancy(concentration[point, time], model)
        for draw in range(draws):
            pair = point * draws + draw
            row = table[(pair * STRIDE + FIRST_ROW) % MOST_POINTS]
            # The effect has one direction; below 0 lies only what the Gaussian adds.
            effect = max(middle[0] + factor[0, 0] * row[0], 0.0)
            along = middle[1] + factor[1, 0] * row[0] + factor[1, 1] * row[1]
            across = middle[2] + factor[2, 0] * row[0] + factor[2, 1] * row[1] + factor[2, 2] * row[2]
            baseline = middle[3] + factor[3, 0] * row[0] + factor[3, 1] * row[1] + factor[3, 2] * row[2]
            drawn = baseline + sd * row[3]
            for time in range(times):
                rest = height[time] * walks[pair, time] + share[time] * effect
                rest = rest + cosine[time] * along + sine[time] * across
                needed[time] = side * (limit - rest) / height[time]
                short[time] = -side * (height[time] * drawn + rest)
            nearest = _least(needed)
            if sd > 0.0:
                chance[point] += cumulative((side * baseline - nearest) / sd) / draws
            elif side * baseline > nearest:
                chance[point] += 1.0 / draws
            extreme[pair] = -side * _least(short)
    return chance, extreme


@kernel
def _weigh(chance: Floats, weights: Floats) -> tuple[float, float]:
    """Weighted mean of the points' chances, and its Monte-Carlo standard error."""
    probability = 0.0
    for point in range(weights.size):
        probability += weights[point] * chance[point]
    error = 0.0
    for point in range(weights.size):
        part = weights[point] * (chance[point] - probability)
        error += part * part
    return probability, math.sqrt(error)


def extreme_ahead(
    state: ChannelState,
    model: ChannelModel,
    concentration: Floats,
    weights: Floats,
    time_h: Floats,
    limit: float,
    quantiles: Floats,
    *,
    lowest: bool,
) -> Extreme:
    """Chance that the signal passes a limit at any of the given times, and how far it goes.

    Args:
        state: The channel as of now.
        model: Its prior and dynamics.
        concentration: What the effect follows, of each point at `time_h`, mg/L, (points, times).
        weights: Of the lab posterior's points, adding up to 1, (points,).
        time_h: Hours since 1970, ascending, (times,).
        limit: In the signal's unit.
        quantiles: Asked of the highest (lowest) value, between 0 and 1, (quantiles,).
        lowest: Whether falling below the limit counts, instead of rising above it.

    References:
        Casella, Robert (1996), Biometrika 83:81-94 (the baseline integrated exactly, given the other draws).
    """
    points = len(weights)
    draws = max(1, LEAST_PAIRS // points)
    own = state.own_covariance
    chance, extreme = _pairs(
        model,
        np.ascontiguousarray(state.mean[DRAWN]),
        root(np.ascontiguousarray(own[np.ix_(DRAWN, DRAWN)])),
        np.ascontiguousarray(concentration),
        np.ascontiguousarray(time_h),
        _walks(model.drift_per_sqrt_h, np.maximum(time_h - state.time_h, 0.0).tobytes(), points * draws),
        normal_points(),
        draws,
        limit,
        lowest,
    )
    ordered = np.ascontiguousarray(weights)
    each = np.repeat(ordered / draws, draws)
    return Extreme(
        Chance(*_weigh(chance, ordered)),
        weighted_quantiles(extreme, each, quantiles),
    )
