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
    observe,
    occupancy,
)
from twinstate.assimilation.channel_step import BODY, carry_on, correct, forecast, meet, point_at, states_of
from twinstate.assimilation.device_trust import (
    LOST_BY,
    SOFTEN_SD,
    Trust,
    ask_whether_twice,
    has_changed,
    has_drifted,
    is_left_out,
    keep_before,
    start_twice,
    trust_all,
)
from twinstate.assimilation.linear import root
from twinstate.assimilation.readings import DeviceWindow, Readings, devices_of, readings_of
from twinstate.catalogue import Signal
from twinstate.drug import Channel
from twinstate.errors import MathsError
from twinstate.kernels import folded_kernel, kernel
from twinstate.pk.course import Course
from twinstate.pk.propagate import solve_points

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

# So far from what was published no wearable moves a drug's effect, whatever it reads: in SD between subjects.
LARGEST_INFLUENCE_SD = 3.0
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
            from every forecast), `name:drift` (small misses all of one sign), `name:apart` (two devices drifted away
            from one another, and either may be wrong) or `name:twice` (it counts every beat or breath twice): their
            windows move baseline and noise, never the drug's effect.
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


@folded_kernel
def _take(
    model: ChannelModel,
    trust: Trust,
    readings: Readings,
    window: int,
    operator: Floats,
    slope: Floats,
    heard: Integers,
    mean: Floats,
    covariance: Floats,
    foretold: Floats,
) -> int:
    """Take one usable reading as far as it is believed, in place; returns the verdict.

    Args:
        model: Prior and dynamics.
        trust: Of all devices.
        readings: All of them.
        window: Which.
        operator: How the states enter it, (states,).
        slope: Of the expected occupancy over the considered states, (considered,).
        heard: 1 for every device heard so far, (devices,).
        mean: Forecast for the reading's time, (states,).
        covariance: Its covariance, (states, states).
        foretold: Receives the reading's forecast and its SD, (2,).
    """
    considered = slope.size
    device, value, noise = readings.device[window], readings.value[window], readings.scatter[window]
    expected, variance = forecast(mean, covariance, operator, considered, noise)
    sd = math.sqrt(variance)
    foretold[0], foretold[1] = expected, sd
    innovation = value - expected
    ask_whether_twice(model, trust, readings, window, operator, slope, heard, innovation, variance)
    baseline = considered + BASELINE
    if is_left_out(model, trust, readings, window, mean[baseline], innovation, sd):
        verdict = REJECTED
        if has_changed(model, trust, device, readings.window[window], innovation):
            verdict = SOFTENED
            covariance[baseline, baseline] += innovation * innovation
    else:
        verdict = TAKEN
        miss = abs(innovation) / sd
        if miss > SOFTEN_SD:
            verdict = SOFTENED
            noise += variance * ((miss / SOFTEN_SD) * (miss / SOFTEN_SD) - 1.0)
        if (
            has_drifted(model, trust, device, readings.window[window], innovation, sd)
            and model.longest_activity > 0
        ):
            # What the noise had to hold is the baseline's from now on.
            held = mean[considered + NOISE]
            covariance[baseline, baseline] += held * held
    if verdict != REJECTED:
        keep_before(trust, readings, window)
        if not _learn(
            model, mean, covariance, operator, innovation, noise, considered, trust.lost[device] > 0
        ):
            verdict = SOFTENED
    start_twice(model, trust, readings, window, mean, covariance)
    return verdict


@folded_kernel
def _learn(
    model: ChannelModel,
    mean: Floats,
    covariance: Floats,
    operator: Floats,
    innovation: float,
    noise: float,
    considered: int,
    hold_effect: bool,
) -> bool:
    """Correct the state, in place, the effect to `LARGEST_INFLUENCE_SD` at most; whether that left it free."""
    before = mean.copy()
    spread = covariance.copy()
    moved = correct(mean, covariance, operator, innovation, noise, considered, hold_effect)
    furthest = LARGEST_INFLUENCE_SD * math.sqrt(model.covariance[EFFECT, EFFECT])
    if moved == 0.0 or abs(mean[considered + EFFECT] - model.mean[EFFECT]) <= furthest:
        return True
    mean[:] = before
    covariance[:] = spread
    correct(mean, covariance, operator, innovation, noise, considered, True)
    return False


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
    ends = end_h.size
    windows = readings.time_h.size
    devices = readings.device.max() + 1 if windows else 0
    states = states_of(considered, devices)
    result = Pass(
        np.empty((ends, BODY)),
        np.empty((ends, considered + BODY, considered + BODY)),
        np.full(ends, np.nan),
        np.empty(ends),
        np.zeros((ends, 4), np.int64),
        np.empty(ends, np.int64),
        np.full((windows, 2), np.nan),
        np.full(windows, UNUSABLE, np.int64),
        np.zeros((ends, devices), np.int64),
    )
    own = slice(considered, considered + BODY)
    mean = np.zeros(states)
    mean[own] = model.mean
    covariance = np.zeros((states, states))
    for state in range(considered):
        covariance[state, state] = 1.0
    covariance[own, own] = model.covariance
    operator = np.zeros(states)
    heard = np.zeros(devices, np.int64)
    trust = trust_all(devices, states)
    counts = np.zeros(4, np.int64)
    scatter = model.scatter_sd * model.scatter_sd
    now_h = np.nan
    window = 0
    for end in range(ends):
        while window < windows and readings.end_h[window] <= end_h[end]:
            time_h = readings.time_h[window]
            if window > 0:
                carry_on(model, mean, covariance, considered, heard, time_h - now_h)
            now_h = time_h
            if readings.usable[window] == 1:
                device = readings.device[window]
                scatter = readings.scatter[window]
                meet(model, mean, covariance, considered, heard, device)
                observe(model, time_h, operator[own])
                operator[considered + EFFECT] = expected[window]
                point_at(operator, considered, devices, device)
                for eta in range(considered):
                    operator[eta] = mean[considered + EFFECT] * slope[window, eta]
                result.verdict[window] = _take(
                    model,
                    trust,
                    readings,
                    window,
                    operator,
                    slope[window],
                    heard,
                    mean,
                    covariance,
                    result.forecast[window],
                )
            counts[result.verdict[window]] += 1
            window += 1
        result.mean[end] = mean[own]
        result.covariance[end] = covariance[: considered + BODY, : considered + BODY]
        result.time_h[end] = now_h
        result.scatter[end] = scatter
        result.counts[end] = counts
        result.last[end] = window - 1
        result.lost[end] = trust.lost
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
