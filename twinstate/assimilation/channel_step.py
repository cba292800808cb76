"""One step of a channel's filter: carry the state on, forecast a reading, correct by it.

Behind the body's `STATES` stand, where there is more than one device, how each differs from the one heard first, and
then what each alone misreads for a while. In front stand the considered states, which keep their mean.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from twinstate.assimilation.channel_model import BASELINE, EFFECT, STATES, ChannelModel, fade, move_on
from twinstate.assimilation.linear import symmetrise
from twinstate.kernels import inner_kernel, kernel

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

BODY = len(STATES)


@inner_kernel
def states_of(considered: int, devices: int) -> int:
    """How many states a channel with so many considered ones and devices has."""
    return considered + BODY + (2 * devices if devices > 1 else 0)


@inner_kernel
def carry_on(
    model: ChannelModel, mean: Floats, covariance: Floats, considered: int, heard: Integers, elapsed_h: float
) -> None:
    """Forecast the state over a time without windows, in place.

    Args:
        model: Dynamics.
        mean: (states,).
        covariance: (states, states).
        considered: Leading states that are only considered.
        heard: 1 for every device heard so far, (devices,).
        elapsed_h: At least 0.
    """
    move_on(model, mean[considered : considered + BODY], covariance, considered, elapsed_h)
    if heard.sum() > 1:
        misreads = considered + BODY + heard.size
        for device in range(heard.size):
            sd = heard[device] * model.device_cv * mean[considered + BASELINE]
            elapsed = elapsed_h / model.noise_time_constant_h
            mean[misreads + device] *= fade(covariance, misreads + device, elapsed, sd)


@inner_kernel
def meet(
    model: ChannelModel, mean: Floats, covariance: Floats, considered: int, heard: Integers, device: int
) -> None:
    """Hear a device for the first time, in place.

    A further one may read another baseline, and each is wrong in a way of its own. The device heard first says what the
    baseline is; its own errors were part of the noise as long as it was alone.
    """
    if heard[device] == 0 and heard.sum() > 0:
        differs = considered + BODY
        misreads = differs + heard.size
        baseline = mean[considered + BASELINE]
        offset, error = model.noise_cv * baseline, model.device_cv * baseline
        covariance[differs + device, differs + device] = offset * offset
        covariance[misreads + device, misreads + device] = error * error
        if heard.sum() == 1:
            first = misreads + int(np.argmax(heard))
            covariance[first, first] = error * error
    heard[device] = 1


@inner_kernel
def point_at(operator: Floats, considered: int, devices: int, device: int) -> None:
    """Let the states of one device, and of no other, enter a reading; in place."""
    if devices > 1:
        differs = considered + BODY
        operator[differs:] = 0.0
        operator[differs + device] = operator[differs + devices + device] = 1.0


@inner_kernel
def forecast(
    mean: Floats, covariance: Floats, operator: Floats, considered: int, noise: float
) -> tuple[float, float]:
    """Expected reading and its variance; the considered states stand at 0 and add nothing to what is expected."""
    expected = 0.0
    variance = noise
    for row in range(mean.size):
        if row >= considered:
            expected += operator[row] * mean[row]
        for column in range(mean.size):
            variance += operator[row] * covariance[row, column] * operator[column]
    return expected, variance


@kernel
def correct(
    mean: Floats,
    covariance: Floats,
    operator: Floats,
    innovation: float,
    noise: float,
    considered: int,
    hold_effect: bool,
) -> float:
    """Correct the state with one reading, in place; Joseph's form, which holds for any gain.

    Args:
        mean: (states,).
        covariance: (states, states).
        operator: How the states enter the reading, (states,).
        innovation: Reading less its forecast.
        noise: Variance of the reading round the signal.
        considered: Leading states that keep their mean.
        hold_effect: The drug's effect keeps its mean too: its uncertainty counts, the reading does not correct it.

    Returns:
        How far the effect's mean moved.
    """
    states = mean.size
    cross = np.empty(states)
    variance = noise
    for row in range(states):
        cross[row] = 0.0
        for column in range(states):
            cross[row] += covariance[row, column] * operator[column]
        variance += operator[row] * cross[row]
    gain = cross / variance
    gain[:considered] = 0.0
    if hold_effect:
        gain[considered + EFFECT] = 0.0
    across = np.empty(states)
    for row in range(states):
        mean[row] += gain[row] * innovation
        across[row] = 0.0
        for column in range(states):
            covariance[row, column] -= gain[row] * cross[column]
            across[row] += covariance[row, column] * operator[column]
    for row in range(states):
        for column in range(states):
            covariance[row, column] += (noise * gain[row] - across[row]) * gain[column]
    symmetrise(covariance)
    return float(gain[considered + EFFECT] * innovation)
