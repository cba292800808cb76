"""One Kalman step: a Gaussian state corrected by a linear observation, for labs and wearable windows."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from twinstate.assimilation.linear import (
    root,
    solve_lower,
    solve_lower_transposed,
    symmetrise,
    times_transposed,
)
from twinstate.kernels import kernel

Floats = NDArray[np.float64]


class Analysis(NamedTuple):
    """What one Kalman step gives.

    Attributes:
        mean: Posterior mean, (state,).
        covariance: Posterior covariance, (state, state).
        innovation: Observed minus forecast, (channels,).
        innovation_covariance: Its covariance under the forecast, (channels, channels).
        gain: (state, channels).
    """

    mean: Floats
    covariance: Floats
    innovation: Floats
    innovation_covariance: Floats
    gain: Floats


@kernel
def analyse(
    mean: Floats, covariance: Floats, observed: Floats, operator: Floats, noise: Floats, considered: int = 0
) -> Analysis:
    """Correct a forecast with one vector of observations.

    The covariance is updated in Joseph's form, (I - K H) P (I - K H)^T + K R K^T, which stays symmetric and
    positive and holds for any gain; so the first `considered` states may keep their mean (Schmidt's consider
    states) while their uncertainty still counts.

    Args:
        mean: Forecast mean, (state,).
        covariance: Forecast covariance P, (state, state).
        observed: (channels,), in the operator's units.
        operator: Observation operator H, (channels, state).
        noise: Observation noise R, (channels, channels).
        considered: How many leading states are considered but not corrected.

    Returns:
        Posterior, innovation and gain; NaN throughout when the innovation covariance is not positive definite
        beyond repair.

    References:
        Bierman (1977), Factorization Methods for Discrete Sequential Estimation (Joseph form, consider
        states).
    """
    states = mean.size
    channels = observed.size
    cross = times_transposed(covariance, operator)  # P H^T
    spread = times_transposed(operator, cross.T)
    innovation = np.empty(channels)
    for row in range(channels):
        forecast = 0.0
        for state in range(states):
            forecast += operator[row, state] * mean[state]
        innovation[row] = observed[row] - forecast
        for column in range(channels):
            spread[row, column] += noise[row, column]
    symmetrise(spread)
    factor = root(spread)
    gain = cross.copy()
    for state in range(states):
        if state < considered:
            gain[state, :] = 0.0
        else:
            solve_lower(factor, gain[state])
            solve_lower_transposed(factor, gain[state])
    posterior_mean = mean.copy()
    kept = -times_transposed(gain, operator.T)  # I - K H
    for state in range(states):
        kept[state, state] += 1.0
        for channel in range(channels):
            posterior_mean[state] += gain[state, channel] * innovation[channel]
    posterior = times_transposed(times_transposed(kept, covariance), kept)
    posterior += times_transposed(times_transposed(gain, noise), gain)
    symmetrise(posterior)
    return Analysis(posterior_mean, posterior, innovation, spread, gain)
