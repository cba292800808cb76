"""Which readings and devices a channel believes: rules on how readings meet their forecasts, kept for each device.

A reading may be left out; a device may lose trust, of which `docs/decisions/0006` tells why and what follows.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from twinstate.assimilation.channel_model import EFFECT, NOISE, ChannelModel
from twinstate.assimilation.channel_step import carry_on, correct, forecast
from twinstate.assimilation.readings import Readings
from twinstate.assimilation.windows import WINDOWS_PER_HOUR
from twinstate.kernels import folded_kernel, inner_kernel, kernel

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

# An innovation beyond so many SD is softened (its noise raised until it is just that many); beyond the second bound
# the window is left out, but not for more than half an hour on end: what lasts is a change, not an artefact. The
# device is not trusted from then on, and the change is laid at the baseline's door.
SOFTEN_SD = 3.0
REJECT_SD = 5.0
LONGEST_REJECTION = 6
# A heart or a breath that falls where the drug makes it fall is the event to be seen: two windows are doubted, no more.
# Only where motion is modelled: else the end of a bout that was half believed is such a fall.
LONGEST_REJECTED_FALL = 2
# Motion lifts heart rate and breathing at once, a drug that wears off does it slowly: a rise since the window taken
# last by so many SD of what noise does in that time is motion's and left out, as long as motion may last.
SUDDEN_RISE_SD = 2.0
# A rise goes on while the signal stays by so many SD above what was read before it.
LASTING_RISE_SD = 1.5
# What the signal did in a longer time than this is no sudden rise: so much noise is granted to a bout, however long.
SUDDEN_H = 0.25
# A device that changed its mind is followed only when no other one, still trusted, was heard within an hour.
OTHERS_HEARD_WINDOWS = WINDOWS_PER_HOUR

# A device that counts every beat or breath twice reads twice the signal, its scatter included. A second filter takes
# it so. It starts from the first whenever it has fallen behind; when it has been ahead for longer than motion lasts and
# its odds are e^10 (22,000 to 1), the device is not trusted. No window says more than e^4, and nothing counts beyond
# the limit: what a bout of motion said is soon unsaid. The figures were chosen on simulated days (docs/decisions/0006).
TWICE_LIMIT = 10.0
TWICE_BEHIND = -3.0
MOST_ONE_WINDOW_SAYS = 4.0
# Of the four degrees of freedom of five samples, a median deviation has about half. More samples are not more
# independent: no window counts for more.
SPREAD_FREEDOM = 2.0
# A device's usual spread within a window is known after an hour, and remembers about twenty windows.
SPREAD_KNOWN_WINDOWS = WINDOWS_PER_HOUR
SPREAD_RENEWED = 0.05

LOST_BY = ("", "jump", "drift", "apart", "twice")
JUMP, DRIFT, APART, TWICE = 1, 2, 3, 4
FALLS, RISES = 0, 1


class Trust(NamedTuple):
    """What is kept of each device from window to window; a row a device, changed in place.

    Attributes:
        lost: Why it is no longer trusted, a position in `LOST_BY`, (devices,).
        agreed: Window last read within `SOFTEN_SD` of its forecast, (devices,).
        rejections: Readings left out on end; where motion is modelled, rises are counted apart, (devices, 2).
        drift: Cumulative sums of innovations upwards and downwards, in SD, (devices, 2).
        before: Time, value and scatter of what was read before a rise, (devices, 3); NaN before the first.
        twice_mean: State if it reads twice the signal, (devices, states).
        twice_covariance: Its covariance, (devices, states, states).
        twice_h: Its time, (devices,); NaN before the first window.
        odds: Logarithm of how much more the second filter expected of what was read, (devices,).
        ahead: Windows on end with odds above 0, (devices,).
        spread: Usual variance of its samples within a window, (devices,).
        spread_of: From how many windows that is known, (devices,).
    """

    lost: Integers
    agreed: Integers
    rejections: Integers
    drift: Floats
    before: Floats
    twice_mean: Floats
    twice_covariance: Floats
    twice_h: Floats
    odds: Floats
    ahead: Integers
    spread: Floats
    spread_of: Integers


@kernel
def trust_all(devices: int, states: int) -> Trust:
    """Every device is trusted until it gives reason not to be."""
    return Trust(
        np.zeros(devices, np.int64),
        np.full(devices, -OTHERS_HEARD_WINDOWS, np.int64),
        np.zeros((devices, 2), np.int64),
        np.zeros((devices, 2)),
        np.full((devices, 3), np.nan),
        np.zeros((devices, states)),
        np.zeros((devices, states, states)),
        np.full(devices, np.nan),
        np.zeros(devices),
        np.zeros(devices, np.int64),
        np.zeros(devices),
        np.zeros(devices, np.int64),
    )


@inner_kernel
def others_heard(trust: Trust, device: int, window: int) -> int:
    """How many others that are trusted were heard as expected within the hour."""
    others = 0
    for other in range(trust.lost.size):
        if other != device and trust.lost[other] == 0 and window - trust.agreed[other] < OTHERS_HEARD_WINDOWS:
            others += 1
    return others


@inner_kernel
def is_left_out(
    model: ChannelModel,
    trust: Trust,
    readings: Readings,
    window: int,
    baseline: float,
    innovation: float,
    sd: float,
) -> bool:
    """Whether a reading is too far from its forecast, or where motion is modelled rises at once, to be believed yet."""
    device = readings.device[window]
    miss = abs(innovation) / sd
    if miss > REJECT_SD:
        return True
    if model.longest_activity == 0:
        return False
    if innovation < 0.0:  # a fall that was doubted goes on
        return bool(model.sign < 0.0 and trust.rejections[device, FALLS] > 0 and miss > SOFTEN_SD)
    time_h, value, scatter = trust.before[device, 0], trust.before[device, 1], trust.before[device, 2]
    if math.isnan(time_h):
        return False
    between = _noise_between(
        model, baseline, readings.time_h[window] - time_h, readings.scatter[window] + scatter
    )
    bar = SUDDEN_RISE_SD if trust.rejections[device, RISES] == 0 else LASTING_RISE_SD
    return bool(min(innovation, readings.value[window] - value) > bar * between)


@inner_kernel
def _noise_between(model: ChannelModel, baseline: float, elapsed_h: float, scatter: float) -> float:
    """SD of a change by noise in a time, `SUDDEN_H` at most; `scatter` is the variance of both its ends."""
    sd = model.noise_cv * baseline
    kept = math.exp(-min(elapsed_h, SUDDEN_H) / model.noise_time_constant_h)
    return math.sqrt(2.0 * sd * sd * (1.0 - kept) + scatter)


@inner_kernel
def has_changed(model: ChannelModel, trust: Trust, device: int, window: int, innovation: float) -> bool:
    """Count a reading left out; whether so many on end are a change that must be followed.

    It costs the device its trust, and is not followed while another trusted one was heard.
    """
    rises = model.longest_activity > 0 and innovation > 0.0
    side = RISES if rises else FALLS
    longest = LONGEST_REJECTION
    if rises:
        longest = model.longest_activity
        trust.rejections[device, FALLS] = 0  # a fall counts only in windows on end
    elif model.longest_activity > 0 and model.sign < 0.0:
        longest = LONGEST_REJECTED_FALL
    trust.rejections[device, side] += 1
    if trust.rejections[device, side] <= longest:
        return False
    trust.lost[device] = trust.lost[device] or JUMP
    if others_heard(trust, device, window) > 0:
        return False
    trust.rejections[device, side] = 0
    return True


@inner_kernel
def has_drifted(
    model: ChannelModel, trust: Trust, device: int, window: int, innovation: float, sd: float
) -> bool:
    """Count a reading that is believed; whether it is one too many of those that miss a little to the same side."""
    trust.rejections[device, FALLS] = 0
    # A rise that lasts dips at times; a bout that is over is forgotten window by window.
    trust.rejections[device, RISES] = max(0, trust.rejections[device, RISES] - 1)
    if abs(innovation) / sd <= SOFTEN_SD:
        trust.agreed[device] = window
    if trust.lost[device] > 0:
        return False
    drift = trust.drift
    lean = min(max(innovation / sd, -SOFTEN_SD), SOFTEN_SD)
    drift[device, 0] = max(0.0, drift[device, 0] + lean - model.drift_allowance_sd)
    drift[device, 1] = max(0.0, drift[device, 1] - lean - model.drift_allowance_sd)
    if max(drift[device, 0], drift[device, 1]) <= model.drift_limit_sd:
        return False
    _lose_by_drift(trust, device, window)
    return True


@inner_kernel
def _lose_by_drift(trust: Trust, device: int, window: int) -> None:
    """Trust a device no longer, nor the only other one if that drifted the other way.

    Which of two devices that move apart is the wrong one, they cannot tell.
    """
    alone = others_heard(trust, device, window) != 1
    trust.lost[device] = DRIFT
    if alone:
        return
    way = int(trust.drift[device, 1] > trust.drift[device, 0])
    for other in range(trust.lost.size):
        heard = trust.lost[other] == 0 and window - trust.agreed[other] < OTHERS_HEARD_WINDOWS
        if heard and trust.drift[other, 1 - way] > trust.drift[other, way]:
            trust.lost[device] = trust.lost[other] = APART


@inner_kernel
def keep_before(trust: Trust, readings: Readings, window: int) -> None:
    """Remember a reading that is believed, unless a rise goes on: then what was read before it still counts."""
    device = readings.device[window]
    if trust.rejections[device, RISES] == 0:
        trust.before[device, 0] = readings.time_h[window]
        trust.before[device, 1] = readings.value[window]
        trust.before[device, 2] = readings.scatter[window]


@folded_kernel
def ask_whether_twice(
    model: ChannelModel,
    trust: Trust,
    readings: Readings,
    window: int,
    operator: Floats,
    slope: Floats,
    heard: Integers,
    innovation: float,
    variance: float,
) -> None:
    """Weigh a reading's odds under either filter; the device loses trust when it reads twice the signal.

    Only where motion is modelled: elsewhere twice the signal is a jump.

    Args:
        model: Dynamics.
        trust: Of all devices, changed in place.
        readings: All of them.
        window: Which.
        operator: How the states enter it when it reads once, (states,).
        slope: Of the expected occupancy over the considered states, (considered,).
        heard: 1 for every device heard so far, (devices,).
        innovation: Of the first filter.
        variance: Of that innovation.
    """
    device = readings.device[window]
    if (
        model.longest_activity == 0
        or trust.lost[device] > 0
        or trust.spread_of[device] < SPREAD_KNOWN_WINDOWS
    ):
        return
    mean, covariance = trust.twice_mean[device], trust.twice_covariance[device]
    considered = slope.size
    time_h, scatter = readings.time_h[window], readings.scatter[window]
    carry_on(model, mean, covariance, considered, heard, time_h - trust.twice_h[device])
    trust.twice_h[device] = time_h
    twice = 2.0 * operator
    twice[considered + NOISE] = 1.0  # noise is mostly what motion left, and is learnt anew
    for eta in range(considered):
        twice[eta] = 2.0 * mean[considered + EFFECT] * slope[eta]
    expected, spread = forecast(mean, covariance, twice, considered, scatter)
    other = readings.value[window] - expected
    miss = abs(other) / math.sqrt(spread)
    noise = scatter + (spread * ((miss / SOFTEN_SD) * (miss / SOFTEN_SD) - 1.0) if miss > SOFTEN_SD else 0.0)
    correct(mean, covariance, twice, other, noise, considered, False)
    said = _log_density(other, spread) - _log_density(innovation, variance)
    said += _spread_says(model, trust, device, readings.spread[window])
    said = min(max(said, -MOST_ONE_WINDOW_SAYS), MOST_ONE_WINDOW_SAYS)
    trust.odds[device] = min(trust.odds[device] + said, TWICE_LIMIT)
    trust.ahead[device] = trust.ahead[device] + 1 if trust.odds[device] > 0.0 else 0
    if trust.ahead[device] > model.longest_activity and trust.odds[device] >= TWICE_LIMIT:
        trust.lost[device] = TWICE


@inner_kernel
def _log_density(miss: float, variance: float) -> float:
    """Of a normal distribution; without the constant, which all share."""
    return -0.5 * (miss * miss / variance + math.log(variance))


@inner_kernel
def _spread_says(model: ChannelModel, trust: Trust, device: int, spread: float) -> float:
    """Log odds that samples which scatter so have four times the device's usual variance, not once."""
    if math.isnan(spread):
        return 0.0
    ratio = max(spread, model.scatter_sd * model.scatter_sd) / trust.spread[device]
    return float(SPREAD_FREEDOM * 0.5 * (0.75 * ratio - math.log(4.0)))


@inner_kernel
def start_twice(
    model: ChannelModel, trust: Trust, readings: Readings, window: int, mean: Floats, covariance: Floats
) -> None:
    """Start the second filter from the first where it has fallen behind: until here the device read once."""
    device = readings.device[window]
    known = trust.spread_of[device] >= SPREAD_KNOWN_WINDOWS
    if model.longest_activity == 0 or (known and trust.odds[device] >= TWICE_BEHIND):
        return
    _learn_spread(model, trust, device, readings.spread[window])
    for row in range(mean.size):
        trust.twice_mean[device, row] = mean[row]
        for column in range(mean.size):
            trust.twice_covariance[device, row, column] = covariance[row, column]
    trust.twice_h[device] = readings.time_h[window]
    trust.odds[device] = 0.0
    trust.ahead[device] = 0


@inner_kernel
def _learn_spread(model: ChannelModel, trust: Trust, device: int, spread: float) -> None:
    if math.isnan(spread):
        return
    spread = max(spread, model.scatter_sd * model.scatter_sd)
    trust.spread_of[device] += 1
    usual = trust.spread[device] if trust.spread_of[device] > 1 else spread
    renewed = max(SPREAD_RENEWED, 1.0 / trust.spread_of[device])
    trust.spread[device] = usual + renewed * (min(spread, 4.0 * usual) - usual)
