"""Exposure simulated from the posterior, and what is read off it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from streams.oracle.known import Known, as_labs
from twinstate.assimilation.channel import ChannelState, assimilate_windows
from twinstate.assimilation.channel_extremes import extreme_ahead
from twinstate.assimilation.channel_forecast import chance_of_rise, rise_quantiles
from twinstate.assimilation.channel_model import channel_model
from twinstate.assimilation.posterior import Posterior, assimilate, carry_forward
from twinstate.assimilation.readings import DeviceWindow
from twinstate.assimilation.refine import Cloud
from twinstate.assimilation.summary import chance_above, weighted_quantile
from twinstate.drug import DrugModel, Threshold
from twinstate.errors import MathsError
from twinstate.library import Library
from twinstate.pk.course import EFFECT_SITE, INTO_CENTRAL, STRUCTURAL_PARAMETERS, ZERO_ORDER_ORAL, Course
from twinstate.pk.propagate import solve_points
from twinstate.risk.assess import Interval, Risk
from twinstate.types import hours

# The grid: half hours from a day before to the horizon, and the instants just after the ends of doses to come.
GRID_H = 0.5
DAY = 48  # steps
AFTER_H = 1e-6
# Median first, then the interval.
QUANTILES = np.array([0.5, 0.05, 0.95])


@dataclass
class Exposure:
    """Trajectories of the posterior's points.

    Attributes:
        posterior: Of the levels.
        cloud: With what may have changed since, which was simulated.
        course: The doses given and to come, with the occasions.
        grid: Columns of the half-hourly grid; the one at `DAY` is now.
        concentration: mg/L, (points, times).
        auc: mg*h/L since the first dose, (points, times).
        channel: The signal the model explains; None when it explains none.
        second: The second output, (points, times).
        times_h: Hours since 1970 of all columns.
        doses_h: When each dose is given, those planned within the horizon included.
    """

    posterior: Posterior
    cloud: Cloud
    course: Course
    grid: list[int]
    concentration: NDArray[np.float64]
    auc: NDArray[np.float64]
    channel: ChannelState | None
    second: NDArray[np.float64]
    times_h: list[float]
    doses_h: list[float]


def horizon_of(model: DrugModel) -> float:
    """How far ahead this model's thresholds look, h."""
    return max([threshold.horizon_h for threshold in model.thresholds], default=24.0)


def fit(course: Course, model: DrugModel, known: Known, levels: int) -> Posterior:
    """Fit the first `levels` levels, from the prior.

    Raises:
        MathsError: The fit is not finite.
    """
    posterior = assimilate(course, as_labs(known.levels[:levels], model), model.omega, model.variation)
    cloud = posterior.cloud
    finite = np.isfinite(cloud.mean).all() and np.isfinite(cloud.covariance).all()
    if not (finite and cloud.effective_size > 0):
        raise MathsError(f"the fit of {levels} levels to {model.model} is not finite")
    return posterior


def expose(
    model: DrugModel, known: Known, at: int, horizon_h: float, windows: list[DeviceWindow], library: Library
) -> Exposure:
    """Simulate from 24 h before `at` (UTC ns) to `horizon_h` after it.

    Raises:
        MathsError: The fit or a trajectory is not finite.
    """
    posterior = fit(known.given, model, known, len(known.levels))
    now = hours(at)
    course, cloud = carry_forward(posterior, known.ahead, model.variation, now)
    steps = DAY + round(horizon_h / GRID_H)
    grid_h = [now + GRID_H * (step - DAY) for step in range(steps + 1)]
    ends_h = [end for end in _ends_of_doses(known.ahead) if now < end < grid_h[-1]]
    doses_h = [float(time) for time in known.ahead.dose_time_h]
    times_h = sorted({*grid_h, *ends_h, *_instants(model, doses_h, now, grid_h[-1])})
    concentration, auc, second = solve_points(course, cloud.points, np.array(times_h, dtype=np.float64))
    if not all(np.isfinite(found).all() for found in (concentration, auc, second)):
        raise MathsError(f"the simulated exposure of {model.model} is not finite")
    channel = None
    if model.channel is not None:
        signal = library.signals[model.channel.signal]
        instant = np.array([now], dtype=np.float64)
        given, _ = carry_forward(posterior, known.given, model.variation, now)
        [channel] = assimilate_windows(
            windows,
            signal,
            model.channel,
            given,
            cloud.mean,
            cloud.covariance,
            instant,
        )
    columns = [times_h.index(time) for time in grid_h]
    return Exposure(posterior, cloud, course, columns, concentration, auc, channel, second, times_h, doses_h)


def _instants(model: DrugModel, doses_h: list[float], now: float, end: float) -> list[float]:
    """When a threshold on a trough, or on a level some hours after a dose, looks."""
    instants: list[float] = []
    for row in model.thresholds:
        if row.metric == "trough":
            instants += [time for time in doses_h if now <= time <= end]
        if row.metric == "level_after":
            instants += [time for _, time in _late_after(doses_h, row.after_h, now, end)]
    return instants


def _late_after(doses_h: list[float], delay_h: float, now: float, end: float) -> list[tuple[float, float]]:
    """Each dose with the first instant, from now to the end, at which it lies so far back and none has followed it."""
    found = []
    for place, dose in enumerate(doses_h):
        instant = dose + delay_h
        if instant < now:
            instant = now
        followed_by = doses_h[place + 1] if place + 1 < len(doses_h) else end
        if instant <= end and instant <= followed_by:
            found.append((dose, instant))
    return found


def contradictory(exposure: Exposure, known: Known) -> bool:
    """Whether hardly any point explains the levels: fewer than 20 effective ones."""
    return bool(known.levels) and exposure.cloud.effective_size < 20.0


def peak(exposure: Exposure, horizon_h: float) -> NDArray[np.float64]:
    """Highest concentration from now to the horizon, mg/L, (points,)."""
    return _highest(exposure.concentration, exposure, horizon_h)


def _highest(output: NDArray[np.float64], exposure: Exposure, horizon_h: float) -> NDArray[np.float64]:
    """Highest value of an output, (points, times), from now to the horizon, (points,)."""
    last = exposure.grid[DAY + round(horizon_h / GRID_H)]
    return np.asarray(output[:, exposure.grid[DAY] : last + 1].max(axis=1))


def driving(exposure: Exposure, model: DrugModel) -> NDArray[np.float64]:
    """What the effect on the signal follows, at every column of the grid, (points, times)."""
    assert model.channel is not None
    return exposure.second if model.channel.follows == "second" else exposure.concentration


def highest_day(exposure: Exposure, horizon_h: float) -> NDArray[np.float64]:
    """Highest area over 24 h that end from now to the horizon, mg*h/L, (points,)."""
    highest = np.full(len(exposure.auc), -np.inf)
    for step in range(round(horizon_h / GRID_H) + 1):
        day = exposure.auc[:, exposure.grid[DAY + step]] - exposure.auc[:, exposure.grid[step]]
        highest = np.maximum(highest, day)
    return highest


def interval(values: NDArray[np.float64], weights: NDArray[np.float64]) -> Interval:
    """Median, 5 % and 95 % quantile of weighted values."""
    return Interval(
        median=weighted_quantile(values, weights, 0.5),
        low=weighted_quantile(values, weights, 0.05),
        high=weighted_quantile(values, weights, 0.95),
    )


def rise_ahead(exposure: Exposure, model: DrugModel, horizon_h: float) -> Interval:
    """Largest change of the signal by the drug from now to the horizon, in the signal's unit."""
    assert model.channel is not None
    assert exposure.channel is not None
    quantiles = rise_quantiles(
        exposure.channel,
        channel_model(model.channel),
        _highest(driving(exposure, model), exposure, horizon_h),
        exposure.cloud.weights,
        QUANTILES,
    )
    return Interval(*(float(quantile) for quantile in quantiles))


def risk_of(exposure: Exposure, model: DrugModel, threshold: Threshold) -> Risk | None:
    """Probability that the threshold is crossed within its horizon; None of a signal that nobody has read."""
    weights = exposure.cloud.weights
    if threshold.metric in ("effect_rise", "signal_high", "signal_low"):
        if model.channel is None or exposure.channel is None:
            raise MathsError(f"{model.model} explains no signal, so {threshold.name} cannot be assessed")
        followed = driving(exposure, model)
        numbers = channel_model(model.channel)
        if threshold.metric == "effect_rise":
            highest = _highest(followed, exposure, threshold.horizon_h)
            chance = chance_of_rise(exposure.channel, numbers, highest, weights, threshold.limit)
            rise = rise_ahead(exposure, model, threshold.horizon_h)
            return Risk(threshold.name, chance.probability, chance.error, rise)
        taken, softened, _, _ = exposure.channel.counts
        if taken + softened == 0:
            return None
        first, last = exposure.grid[DAY], _end(exposure, threshold)
        extreme = extreme_ahead(
            exposure.channel,
            numbers,
            followed[:, first : last + 1],
            weights,
            np.array(exposure.times_h[first : last + 1], dtype=np.float64),
            threshold.limit,
            QUANTILES,
            lowest=threshold.metric == "signal_low",
        )
        reach = Interval(*(float(quantile) for quantile in extreme.quantiles))
        return Risk(threshold.name, extreme.chance.probability, extreme.chance.error, reach)
    if threshold.metric == "concentration":
        values = peak(exposure, threshold.horizon_h)
    elif threshold.metric == "auc24":
        values = highest_day(exposure, threshold.horizon_h)
    elif threshold.metric == "auc_total":
        values = exposure.auc[:, _end(exposure, threshold)]
    elif threshold.metric == "second":
        ahead = exposure.second[:, exposure.grid[DAY] : _end(exposure, threshold) + 1]
        values = np.asarray(ahead.max(axis=1))
    elif threshold.metric in ("trough", "level_after"):
        values = _at_instants(exposure, threshold)
    else:
        raise KeyError(f"the oracle knows no metric {threshold.metric}")
    chance = chance_above(values, weights, threshold.limit)
    return Risk(threshold.name, chance.probability, chance.error, interval(values, weights))


def _end(exposure: Exposure, threshold: Threshold) -> int:
    """Column of the threshold's horizon."""
    return exposure.grid[DAY + round(threshold.horizon_h / GRID_H)]


def _at_instants(exposure: Exposure, threshold: Threshold) -> NDArray[np.float64]:
    """Highest level at the instants a trough or a late level is read."""
    now, end = exposure.times_h[exposure.grid[DAY]], exposure.times_h[_end(exposure, threshold)]
    if threshold.metric == "trough":
        instants = [time for time in exposure.doses_h if now <= time <= end] or [end]
    else:
        instants = [time for _, time in _late_after(exposure.doses_h, threshold.after_h, now, end)]
    highest = np.zeros(len(exposure.concentration))
    for time in instants:
        highest = np.maximum(highest, exposure.concentration[:, exposure.times_h.index(time)])
    return highest


def _ends_of_doses(course: Course) -> list[float]:
    typical = np.exp(course.log_typical[-1])
    oral_h = (
        typical[STRUCTURAL_PARAMETERS.index("lag")] + typical[STRUCTURAL_PARAMETERS.index("input_duration")]
    )
    ends = []
    for dose in range(len(course.dose_time_h)):
        length_h = 0.0
        if course.dose_route[dose] == INTO_CENTRAL:
            length_h = float(course.dose_duration_h[dose])
        if course.dose_route[dose] == ZERO_ORDER_ORAL:
            length_h = float(oral_h)
        ends.append(float(course.dose_time_h[dose]) + length_h + AFTER_H)
    if course.structure.second == EFFECT_SITE:
        # The effect site peaks some minutes later: a quarter, half, one and two of its time constants.
        rate = float(typical[STRUCTURAL_PARAMETERS.index("effect_rate")])
        ends += [end + constants / rate for end in tuple(ends) for constants in (0.25, 0.5, 1.0, 2.0)]
    return ends
