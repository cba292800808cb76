"""What the windows of one wearable signal say of the drug's effect: a Kalman filter in event-time order.

Baseline, effect (Emax), the cosine and sine of the daily rhythm and the noise are estimated. The concentration comes
from the levels: its uncertainty counts, but the windows do not correct it (Schmidt's consider states). Every pass
starts from the prior.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from twinstate.assimilation.channel_model import (
    BASELINE,
    EFFECT,
    NOISE,
    STATES,
    ChannelModel,
    channel_model,
    fade,
    move_on,
    observe,
    occupancy,
)
from twinstate.assimilation.linear import root, symmetrise
from twinstate.assimilation.readings import DeviceWindow, Readings, devices_of, readings_of
from twinstate.assimilation.windows import WINDOWS_PER_HOUR
from twinstate.catalogue import Signal
from twinstate.drug import Channel
from twinstate.errors import MathsError
from twinstate.kernels import kernel
from twinstate.pk.course import Course
from twinstate.pk.propagate import solve_points

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
# So far from what was published no wearable moves a drug's effect, whatever it reads: in SD between subjects.
LARGEST_INFLUENCE_SD = 3.0
# A device that changed its mind is followed only when no other one, still trusted, was heard within an hour.
OTHERS_HEARD_WINDOWS = WINDOWS_PER_HOUR

LOST_BY = ("", "jump", "drift", "apart")
JUMP, DRIFT, APART = 1, 2, 3

VERDICTS = ("taken", "softened", "rejected", "unusable")
TAKEN, SOFTENED, REJECTED, UNUSABLE = 0, 1, 2, 3
NO_WINDOW = -1


class LastWindow(NamedTuple):
    """How the last window met its forecast.

    Attributes:
        window: Number since 1970; -1 before the first.
        reading: Median of its samples; NaN when it has none.
        forecast: What was expected, in the signal's unit; NaN when the window was unusable.
        sd: Of the expected reading.
        verdict: One of `VERDICTS`; empty before the first.
    """

    window: int
    reading: float
    forecast: float
    sd: float
    verdict: str


class ChannelState(NamedTuple):
    """The channel after the last window that ended at or before a time asked about.

    Attributes:
        time_h: Middle of that window, hours since 1970; the time asked about when no window came before it.
        mean: Of `STATES`, (5,).
        covariance: Of the standardised eta first, then `STATES`, (eta + 5, eta + 5). The standardised eta are
            z = L^-1 (eta - mean), L the lower Cholesky factor of the lab posterior's covariance; their block stays
            the identity, since windows do not correct them.
        scatter: Variance of the last usable window's median round the signal.
        counts: Windows so far by verdict, in the order of `VERDICTS`.
        last: The last window.
        distrusted: Devices that have lost trust among the windows that count, each `name:jump` (over half an hour far
            from every forecast), `name:drift` (small misses all of one sign) or `name:apart` (two devices drifted away
            from one another, and either may be wrong): their windows move baseline and noise, never the drug's effect.
    """

    time_h: float
    mean: Floats
    covariance: Floats
    scatter: float
    counts: tuple[int, int, int, int]
    last: LastWindow
    distrusted: tuple[str, ...] = ()

    @property
    def own_covariance(self) -> Floats:
        """Covariance of `STATES` alone, (5, 5)."""
        own = slice(-len(STATES), None)
        return np.ascontiguousarray(self.covariance[own, own])

    @property
    def heard(self) -> bool:
        """Whether any reading that counts was believed: else all there is to say is what was published."""
        return self.counts[TAKEN] + self.counts[SOFTENED] > 0

    @property
    def baseline(self) -> float:
        """Expected baseline, in the signal's unit."""
        return float(self.mean[BASELINE])

    @property
    def baseline_sd(self) -> float:
        """Its standard deviation."""
        return math.sqrt(self.own_covariance[BASELINE, BASELINE])

    @property
    def effect(self) -> float:
        """Expected largest effect of the drug, in the signal's unit, whichever way it goes."""
        return float(self.mean[EFFECT])

    @property
    def effect_sd(self) -> float:
        """Its standard deviation."""
        return math.sqrt(self.own_covariance[EFFECT, EFFECT])


class Pass(NamedTuple):
    """One forward pass; a row for each end time.

    Attributes:
        mean: (ends, 5).
        covariance: (ends, eta + 5, eta + 5).
        time_h: Time of the state, (ends,); NaN where no window came before.
        scatter: Of the last usable window, (ends,).
        counts: By verdict, (ends, 4).
        last: Position of the last window, -1 before the first, (ends,).
        forecast: Mean and SD of every window's forecast, (windows, 2); NaN where none was made.
        verdict: Of every window, (windows,).
        lost: Of each device why it is no longer trusted, a position in `LOST_BY`, (ends, devices).
    """

    mean: Floats
    covariance: Floats
    time_h: Floats
    scatter: Floats
    counts: Integers
    last: Integers
    forecast: Floats
    verdict: Integers
    lost: Integers


@kernel
def considered_occupancy(
    course: Course, eta_mean: Floats, eta_factor: Floats, model: ChannelModel, time_h: Floats
) -> tuple[Floats, Floats]:
    """Occupancy at given times under the lab posterior, below 0 where the drug lowers the signal, and its slopes.

    Central differences over the posterior's own spread (the cubature points, sqrt(eta) standard deviations out), so
    that a wide posterior gives the slope across it and not at its middle.

    Args:
        course: The patient's course.
        eta_mean: (eta,).
        eta_factor: Lower Cholesky factor of the covariance, (eta, eta).
        model: What the occupancy follows, and how.
        time_h: Ascending, hours since 1970, (times,).

    Returns:
        Expected occupancy (times,) and its slope over each standardised eta (times, eta).

    References:
        Garcia-Fernandez, Svensson, Morelande, Sarkka (2015), Posterior linearization filter, IEEE TSP 63:5561.
    """
    etas = eta_mean.size
    reach = math.sqrt(float(etas))
    points = np.empty((2 * etas, etas))
    for column in range(etas):
        for eta in range(etas):
            points[2 * column, eta] = eta_mean[eta] + reach * eta_factor[eta, column]
            points[2 * column + 1, eta] = eta_mean[eta] - reach * eta_factor[eta, column]
    concentration, _, second = solve_points(course, points, time_h)
    if model.second == 1:
        concentration = second
    expected = np.zeros(time_h.size)
    slope = np.empty((time_h.size, etas))
    for time in range(time_h.size):
        for column in range(etas):
            above = model.sign * occupancy(concentration[2 * column, time], model)
            below = model.sign * occupancy(concentration[2 * column + 1, time], model)
            expected[time] += (above + below) / (2.0 * etas)
            slope[time, column] = (above - below) / (2.0 * reach)
    return expected, slope


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
        mean: (considered + 5,).
        covariance: (considered + 5, considered + 5).
        operator: How the states enter the reading, (considered + 5,).
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


@kernel
def _forecast(
    mean: Floats, covariance: Floats, operator: Floats, considered: int, noise: float
) -> tuple[float, float]:
    """Expected reading and its variance."""
    expected = 0.0
    variance = noise
    for row in range(mean.size):
        if row >= considered:
            expected += operator[row] * mean[row]
        for column in range(mean.size):
            variance += operator[row] * covariance[row, column] * operator[column]
    return expected, variance


@kernel
def _noise_between(model: ChannelModel, baseline: float, elapsed_h: float, scatter: float) -> float:
    """SD of a change by noise in a time, `SUDDEN_H` at most; `scatter` is the variance of both its ends."""
    sd = model.noise_cv * baseline
    kept = math.exp(-min(elapsed_h, SUDDEN_H) / model.noise_time_constant_h)
    return math.sqrt(2.0 * sd * sd * (1.0 - kept) + scatter)


@kernel
def _meet(
    model: ChannelModel, baseline: float, covariance: Floats, seen: Integers, device: int, differs: int
) -> None:
    """Hear a further device: it may read another baseline, and each is wrong in a way of its own; in place.

    The device heard first says what the baseline is. Its own errors were part of the noise as long as it was alone.
    """
    misreads = differs + seen.size
    offset, error = model.noise_cv * baseline, model.device_cv * baseline
    covariance[differs + device, differs + device] = offset * offset
    covariance[misreads + device, misreads + device] = error * error
    if seen.sum() == 1:
        first = misreads + int(np.argmax(seen))
        covariance[first, first] = error * error


@kernel
def _lose_by_drift(lost: Integers, drift: Floats, device: int, unheard: Integers) -> None:
    """Trust a device no longer that drifted, nor the only other one if that drifted the other way; in place.

    Which of two devices that move apart is the wrong one, they cannot tell.

    Args:
        lost: Why each is no longer trusted, (devices,).
        drift: Cumulative sums upwards and downwards, (devices, 2).
        device: Whose sum passed its limit.
        unheard: Windows since each was heard as expected, (devices,).
    """
    lost[device] = DRIFT
    way = int(np.argmax(drift[device]))
    others = 0
    against = device
    for other in range(lost.size):
        if other != device and lost[other] == 0 and unheard[other] < OTHERS_HEARD_WINDOWS:
            others += 1
            if drift[other, 1 - way] > drift[other, way]:
                against = other
    if others == 1 and against != device:
        lost[device] = lost[against] = APART


@kernel
def filter_windows(
    model: ChannelModel,
    readings: Readings,
    expected: Floats,
    slope: Floats,
    end_h: Floats,
) -> Pass:
    """Take every window in event-time order, from the prior.

    Args:
        model: Prior and dynamics.
        readings: One reading a window, (windows,).
        expected: Expected occupancy at each window, below 0 where the drug lowers the signal, (windows,).
        slope: Its slope over each standardised eta, (windows, eta).
        end_h: Times asked about, ascending, hours since 1970, (ends,).
    """
    considered = slope.shape[1]
    own = slice(considered, considered + 5)
    ends = end_h.size
    windows = readings.time_h.size
    devices = readings.device.max() + 1 if windows else 0
    # Behind the states of the body, where there is more than one device: how each differs from the one heard first, and
    # what it alone misreads for a while.
    differs, misreads = considered + 5, considered + 5 + devices
    states = considered + 5 + (2 * devices if devices > 1 else 0)
    result = Pass(
        np.empty((ends, 5)),
        np.empty((ends, considered + 5, considered + 5)),
        np.full(ends, np.nan),
        np.empty(ends),
        np.zeros((ends, 4), np.int64),
        np.empty(ends, np.int64),
        np.full((windows, 2), np.nan),
        np.full(windows, UNUSABLE, np.int64),
        np.zeros((ends, devices), np.int64),
    )
    mean = np.zeros(states)
    mean[own] = model.mean
    covariance = np.zeros((states, states))
    for state in range(considered):
        covariance[state, state] = 1.0
    covariance[own, own] = model.covariance
    operator = np.zeros(states)
    lost = np.zeros(devices, np.int64)
    seen = np.zeros(devices, np.int64)
    agreed = np.full(devices, -OTHERS_HEARD_WINDOWS, np.int64)  # last within `SOFTEN_SD` of its forecast
    # On end, to either side; where motion is modelled, rises are counted apart.
    rejections = np.zeros((devices, 2), np.int64)
    drift = np.zeros((devices, 2))
    before_h, before_value, before_scatter = np.full(devices, np.nan), np.zeros(devices), np.zeros(devices)
    furthest = LARGEST_INFLUENCE_SD * math.sqrt(model.covariance[EFFECT, EFFECT])
    counts = np.zeros(4, np.int64)
    scatter = model.scatter_sd * model.scatter_sd
    now_h = np.nan
    window = 0
    for end in range(ends):
        while window < windows and readings.end_h[window] <= end_h[end]:
            time_h = readings.time_h[window]
            if window > 0:
                move_on(model, mean[own], covariance, considered, time_h - now_h)
                for other in range(devices if seen.sum() > 1 else 0):
                    sd = seen[other] * model.device_cv * mean[considered + BASELINE]
                    elapsed = (time_h - now_h) / model.noise_time_constant_h
                    mean[misreads + other] *= fade(covariance, misreads + other, elapsed, sd)
            now_h = time_h
            verdict = UNUSABLE
            if readings.usable[window] == 1:
                device = readings.device[window]
                if seen[device] == 0 and seen.sum() > 0:
                    _meet(model, mean[considered + BASELINE], covariance, seen, device, differs)
                seen[device] = 1
                observe(model, time_h, operator[own])
                operator[considered + EFFECT] = expected[window]
                if devices > 1:
                    operator[differs:] = 0.0
                    operator[differs + device] = operator[misreads + device] = 1.0
                for eta in range(considered):
                    operator[eta] = mean[considered + EFFECT] * slope[window, eta]
                scatter = readings.scatter[window]
                noise = scatter
                # The considered states stand at 0: their part of the forecast is nothing.
                forecast, variance = _forecast(mean, covariance, operator, considered, noise)
                innovation = readings.value[window] - forecast
                result.forecast[window, 0] = forecast
                result.forecast[window, 1] = math.sqrt(variance)
                miss = abs(innovation) / math.sqrt(variance)
                verdict = TAKEN
                longest = LONGEST_REJECTION
                side = 0
                doubted = False
                if innovation < 0.0 and model.sign < 0.0 and model.longest_activity > 0:
                    longest = LONGEST_REJECTED_FALL
                    doubted = rejections[device, 0] > 0 and miss > SOFTEN_SD  # the fall goes on
                elif innovation > 0.0 and model.longest_activity > 0:
                    longest = model.longest_activity
                    side = 1
                    if not math.isnan(before_h[device]):
                        between = _noise_between(
                            model,
                            mean[considered + BASELINE],
                            time_h - before_h[device],
                            scatter + before_scatter[device],
                        )
                        rise = min(innovation, readings.value[window] - before_value[device])
                        bar = SUDDEN_RISE_SD if rejections[device, 1] == 0 else LASTING_RISE_SD
                        doubted = rise > bar * between
                if miss > REJECT_SD or doubted:
                    rejections[device, side] += 1
                    if side == 1:
                        rejections[device, 0] = 0  # a fall counts only in windows on end
                    verdict = REJECTED
                    others = False
                    for other in range(devices):
                        if other != device and lost[other] == 0:
                            others |= readings.window[window] - agreed[other] < OTHERS_HEARD_WINDOWS
                    if rejections[device, side] > longest:
                        lost[device] = lost[device] or JUMP
                        if not others:
                            verdict = SOFTENED
                            rejections[device, side] = 0
                            covariance[considered + BASELINE, considered + BASELINE] += (
                                innovation * innovation
                            )
                else:
                    rejections[device, 0] = 0
                    # A rise that lasts dips at times; a bout that is over is forgotten window by window.
                    rejections[device, 1] = max(0, rejections[device, 1] - 1)
                    if miss > SOFTEN_SD:
                        verdict = SOFTENED
                        noise += variance * ((miss / SOFTEN_SD) * (miss / SOFTEN_SD) - 1.0)
                    else:
                        agreed[device] = readings.window[window]
                    if lost[device] == 0:
                        lean = min(max(innovation / math.sqrt(variance), -SOFTEN_SD), SOFTEN_SD)
                        drift[device, 0] = max(0.0, drift[device, 0] + lean - model.drift_allowance_sd)
                        drift[device, 1] = max(0.0, drift[device, 1] - lean - model.drift_allowance_sd)
                        if drift[device].max() > model.drift_limit_sd:
                            _lose_by_drift(lost, drift, device, readings.window[window] - agreed)
                            if model.longest_activity > 0:
                                # What the noise had to hold is the baseline's from now on.
                                held = mean[considered + NOISE]
                                covariance[considered + BASELINE, considered + BASELINE] += held * held
                if verdict != REJECTED:
                    if rejections[device, 1] == 0:  # else still what was read before the rise
                        before_h[device] = time_h
                        before_value[device] = readings.value[window]
                        before_scatter[device] = scatter
                    before = mean.copy()
                    spread = covariance.copy()
                    moved = correct(
                        mean, covariance, operator, innovation, noise, considered, lost[device] > 0
                    )
                    if moved != 0.0 and abs(mean[considered + EFFECT] - model.mean[EFFECT]) > furthest:
                        mean[:] = before
                        covariance[:] = spread
                        correct(mean, covariance, operator, innovation, noise, considered, True)
                        verdict = SOFTENED
            result.verdict[window] = verdict
            counts[verdict] += 1
            window += 1
        result.mean[end] = mean[own]
        result.covariance[end] = covariance[: considered + 5, : considered + 5]
        result.time_h[end] = now_h
        result.scatter[end] = scatter
        result.counts[end] = counts
        result.last[end] = window - 1
        result.lost[end] = lost
    return result


def assimilate_windows(
    windows: Iterable[DeviceWindow],
    signal: Signal,
    channel: Channel,
    course: Course,
    eta_mean: Floats,
    eta_covariance: Floats,
    end_h: Floats,
) -> tuple[ChannelState, ...]:
    """Estimate a channel from its windows, as of several times under one lab posterior.

    Args:
        windows: Those that count, one for each index and device, in any order.
        signal: Of the channel.
        channel: How the drug moves the signal.
        course: Doses given.
        eta_mean: Lab posterior's mean, (eta,).
        eta_covariance: Its covariance, (eta, eta).
        end_h: Times asked about, ascending, hours since 1970, (ends,); a window counts from its end on.

    Returns:
        One state for each time asked about; a pure function of the arguments.

    Raises:
        MathsError: The estimate is not finite.
    """
    heard = tuple(windows)
    model = channel_model(channel)
    readings = readings_of(heard, signal, model.scatter_sd)
    return assimilate_model(model, readings, course, eta_mean, eta_covariance, end_h, devices_of(heard))


def assimilate_model(
    model: ChannelModel,
    readings: Readings,
    course: Course,
    eta_mean: Floats,
    eta_covariance: Floats,
    end_h: Floats,
    devices: Sequence[str] = ("device",),
) -> tuple[ChannelState, ...]:
    """`assimilate_windows` once its windows are read and its channel is numbers; `devices` names `readings.device`.

    Raises:
        MathsError: The estimate is not finite.
    """
    factor = root(np.ascontiguousarray(eta_covariance))
    centre = np.ascontiguousarray(eta_mean)
    expected, slope = considered_occupancy(course, centre, factor, model, readings.time_h)
    result = filter_windows(model, readings, expected, slope, np.ascontiguousarray(end_h))
    if not (np.isfinite(result.mean).all() and np.isfinite(result.covariance).all()):
        raise MathsError(
            f"The estimate of a wearable channel from {len(readings.window)} windows is not finite. "
            "Cancel or correct the record that made it so; every further record tries again."
        )
    return tuple(
        ChannelState(
            time_h=float(end_h[end] if math.isnan(result.time_h[end]) else result.time_h[end]),
            mean=result.mean[end],
            covariance=result.covariance[end],
            scatter=float(result.scatter[end]),
            counts=(
                int(result.counts[end, TAKEN]),
                int(result.counts[end, SOFTENED]),
                int(result.counts[end, REJECTED]),
                int(result.counts[end, UNUSABLE]),
            ),
            last=_last_window(readings, result, int(result.last[end])),
            distrusted=tuple(
                f"{devices[device]}:{LOST_BY[cause]}"
                for device, cause in enumerate(result.lost[end])
                if cause
            ),
        )
        for end in range(len(end_h))
    )


def _last_window(readings: Readings, result: Pass, position: int) -> LastWindow:
    if position == NO_WINDOW:
        return LastWindow(NO_WINDOW, math.nan, math.nan, math.nan, "")
    return LastWindow(
        window=int(readings.window[position]),
        reading=float(readings.value[position]),
        forecast=float(result.forecast[position, 0]),
        sd=float(result.forecast[position, 1]),
        verdict=VERDICTS[int(result.verdict[position])],
    )
