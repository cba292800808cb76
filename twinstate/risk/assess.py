"""From simulated exposure to the probability of a threshold being crossed.

A metric is one function and one row of `METRICS`: it turns an outlook into one number a point of the posterior.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from twinstate.assimilation.channel import ChannelState
from twinstate.assimilation.channel_extremes import extreme_ahead
from twinstate.assimilation.channel_forecast import chance_of_rise, rise_quantiles
from twinstate.assimilation.channel_model import ChannelModel, channel_model
from twinstate.assimilation.summary import chance_above, weighted_quantiles
from twinstate.drug import Threshold
from twinstate.errors import MathsError
from twinstate.outlook import LOOK_BACK_H, STEP_H, Outlook, dose_starts, followed

Metric = Callable[[Outlook, Threshold], "Risk | None"]


# Median first, as in `Interval`.
QUANTILES = np.array([0.5, 0.05, 0.95])


class Interval(NamedTuple):
    """Median and the 5 % and 95 % quantiles."""

    median: float
    low: float
    high: float


class Risk(NamedTuple):
    """Probability that a threshold is crossed within its horizon.

    Attributes:
        threshold: Name of the threshold's row.
        probability: Of crossing.
        error: Monte-Carlo standard error of the probability.
        metric: Distribution of the metric, in the threshold's unit.
    """

    threshold: str
    probability: float
    error: float
    metric: Interval


def interval(values: NDArray[np.float64], weights: NDArray[np.float64]) -> Interval:
    """Median and 90 % interval of weighted values, shape (points,)."""
    return Interval(*weighted_quantiles(values, weights, QUANTILES).tolist())


def peak_concentration(outlook: Outlook, horizon_h: float) -> NDArray[np.float64]:
    """Highest concentration from now to the horizon, mg/L, shape (points,)."""
    ahead = slice(outlook.now, _until(outlook, horizon_h))
    return np.asarray(outlook.concentration[:, ahead].max(axis=1))


def peak_driving(outlook: Outlook, horizon_h: float) -> NDArray[np.float64]:
    """Highest of what the channel's effect follows from now to the horizon, mg/L, shape (points,)."""
    ahead = slice(outlook.now, _until(outlook, horizon_h))
    return np.asarray(outlook.driving[:, ahead].max(axis=1))


def highest_auc24(outlook: Outlook, horizon_h: float) -> NDArray[np.float64]:
    """Highest AUC over 24 h among those that end between now and the horizon, mg*h/L, shape (points,)."""
    day = round(LOOK_BACK_H / STEP_H)
    ends = outlook.grid[day : day + round(horizon_h / STEP_H) + 1]
    starts = outlook.grid[: len(ends)]
    return np.asarray((outlook.auc[:, ends] - outlook.auc[:, starts]).max(axis=1))


def highest_trough(outlook: Outlook, threshold: Threshold) -> NDArray[np.float64]:
    """Highest concentration just before a dose to come, mg/L, shape (points,).

    Without one within the horizon, the concentration at its end stands for what the next dose would meet.
    """
    start, last = outlook.times_h[outlook.now], _until(outlook, threshold.horizon_h) - 1
    doses = np.searchsorted(outlook.times_h, dose_starts(outlook.course, start, outlook.times_h[last]))
    return np.asarray(outlook.concentration[:, doses if doses.size else [last]].max(axis=1))


def level_after(outlook: Outlook, threshold: Threshold) -> NDArray[np.float64]:
    """Highest concentration once a dose lies `after_h` back and the next is not given, mg/L, shape (points,).

    The level falls from then on, so that its first instant counts. Nought when no dose is so far within the horizon.
    """
    now, end = outlook.times_h[outlook.now], outlook.times_h[_until(outlook, threshold.horizon_h) - 1]
    instants = np.searchsorted(outlook.times_h, followed(outlook.course, threshold.after_h, now, end))
    if not instants.size:
        return np.zeros(len(outlook.concentration))
    return np.asarray(outlook.concentration[:, instants].max(axis=1))


def total_auc(outlook: Outlook, threshold: Threshold) -> NDArray[np.float64]:
    """AUC from the first dose that counts to the horizon, mg*h/L, shape (points,)."""
    return np.asarray(outlook.auc[:, _until(outlook, threshold.horizon_h) - 1])


def highest_second(outlook: Outlook, threshold: Threshold) -> NDArray[np.float64]:
    """Highest second output from now to the horizon, in its unit, shape (points,)."""
    ahead = slice(outlook.now, _until(outlook, threshold.horizon_h))
    return np.asarray(outlook.second[:, ahead].max(axis=1))


def assess(outlook: Outlook, threshold: Threshold) -> Risk | None:
    """Probability that exposure, its effect or the signal itself crosses a threshold within its horizon.

    Returns:
        None for a threshold on the signal itself while no reading of it counts: what nobody has measured is not told
        ahead from what is usual in others.
    """
    return METRICS[threshold.metric](outlook, threshold)


def distrusted_by(outlook: Outlook, threshold: Threshold) -> tuple[str, ...]:
    """Devices that had lost trust among those whose signal a threshold rests on, each `name:why`, see `LOST_BY`."""
    if not threshold.of_the_signal or outlook.channel is None:
        return ()
    return outlook.channel.distrusted


def _exceedance(metric: Callable[[Outlook, Threshold], NDArray[np.float64]]) -> Metric:
    """A metric with one value a point: its probability is the weight above the limit."""

    def assess_metric(outlook: Outlook, threshold: Threshold) -> Risk:
        values = metric(outlook, threshold)
        weights = outlook.cloud.weights
        chance = chance_above(values, weights, threshold.limit)
        return Risk(threshold.name, chance.probability, chance.error, interval(values, weights))

    return assess_metric


def followed_channel(outlook: Outlook, what: str) -> tuple[ChannelState, ChannelModel]:
    """The channel's state and its model.

    Raises:
        MathsError: The model explains no signal, so `what` cannot be said.
    """
    channel = outlook.therapy.model.channel
    if channel is None or outlook.channel is None:
        raise MathsError(f"{outlook.therapy.model.model} explains no signal, so {what} cannot be assessed")
    return outlook.channel, channel_model(channel)


def effect_rise(outlook: Outlook, threshold: Threshold) -> Risk:
    """How far the drug moves the signal, whatever the baseline: the largest change ahead, in the signal's unit."""
    state, model = followed_channel(outlook, threshold.name)
    asked = (state, model, peak_driving(outlook, threshold.horizon_h), outlook.cloud.weights)
    chance = chance_of_rise(*asked, threshold.limit)
    metric = Interval(*(float(q) for q in rise_quantiles(*asked, QUANTILES)))
    return Risk(threshold.name, chance.probability, chance.error, metric)


def extreme_signal(outlook: Outlook, threshold: Threshold) -> Risk | None:
    """Highest, or lowest, value of the signal itself ahead; None while no reading of it counts."""
    state, model = followed_channel(outlook, threshold.name)
    if not state.heard:
        return None
    ahead = slice(outlook.now, _until(outlook, threshold.horizon_h))
    extreme = extreme_ahead(
        state,
        model,
        outlook.driving[:, ahead],
        outlook.cloud.weights,
        outlook.times_h[ahead],
        threshold.limit,
        QUANTILES,
        lowest=threshold.crossed == "below",
    )
    metric = Interval(*(float(q) for q in extreme.quantiles))
    return Risk(threshold.name, extreme.chance.probability, extreme.chance.error, metric)


METRICS: dict[str, Metric] = {
    "concentration": _exceedance(lambda outlook, row: peak_concentration(outlook, row.horizon_h)),
    "trough": _exceedance(highest_trough),
    "level_after": _exceedance(level_after),
    "auc24": _exceedance(lambda outlook, row: highest_auc24(outlook, row.horizon_h)),
    "auc_total": _exceedance(total_auc),
    "second": _exceedance(highest_second),
    "effect_rise": effect_rise,
    "signal_high": extreme_signal,
    "signal_low": extreme_signal,
}


def _until(outlook: Outlook, horizon_h: float) -> int:
    last = outlook.grid[round((LOOK_BACK_H + horizon_h) / STEP_H)]
    return int(last) + 1
