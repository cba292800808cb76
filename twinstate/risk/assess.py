"""From simulated exposure to the probability of a threshold being crossed.

A metric is one function and one row of `METRICS`: it turns an outlook into one number a point of the posterior.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from twinstate.assimilation.channel_forecast import chance_of_rise, rise_quantiles
from twinstate.assimilation.summary import chance_above, weighted_quantile
from twinstate.drug import Threshold
from twinstate.errors import MathsError
from twinstate.outlook import LOOK_BACK_H, STEP_H, Outlook

Metric = Callable[[Outlook, Threshold], "Risk"]


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
    return Interval(*(weighted_quantile(values, weights, q) for q in (0.5, 0.05, 0.95)))


def peak_concentration(outlook: Outlook, horizon_h: float) -> NDArray[np.float64]:
    """Highest concentration from now to the horizon, mg/L, shape (points,)."""
    ahead = slice(outlook.now, _until(outlook, horizon_h))
    return np.asarray(outlook.concentration[:, ahead].max(axis=1))


def highest_auc24(outlook: Outlook, horizon_h: float) -> NDArray[np.float64]:
    """Highest AUC over 24 h among those that end between now and the horizon, mg*h/L, shape (points,)."""
    day = round(LOOK_BACK_H / STEP_H)
    ends = outlook.grid[day : day + round(horizon_h / STEP_H) + 1]
    starts = outlook.grid[: len(ends)]
    return np.asarray((outlook.auc[:, ends] - outlook.auc[:, starts]).max(axis=1))


def assess(outlook: Outlook, threshold: Threshold) -> Risk:
    """Probability that exposure, or its effect, crosses a threshold within its horizon."""
    return METRICS[threshold.metric](outlook, threshold)


def _exceedance(metric: Callable[[Outlook, float], NDArray[np.float64]]) -> Metric:
    """A metric with one value a point: its probability is the weight above the limit."""

    def assess_metric(outlook: Outlook, threshold: Threshold) -> Risk:
        values = metric(outlook, threshold.horizon_h)
        weights = outlook.cloud.weights
        chance = chance_above(values, weights, threshold.limit)
        return Risk(threshold.name, chance.probability, chance.error, interval(values, weights))

    return assess_metric


def effect_rise(outlook: Outlook, threshold: Threshold) -> Risk:
    """How far the drug lifts the signal, whatever the baseline: the highest rise ahead, in the signal's unit."""
    channel = outlook.therapy.model.channel
    if channel is None or outlook.channel is None:
        raise MathsError(
            f"{outlook.therapy.model.model} explains no signal, so {threshold.name} cannot be assessed"
        )
    cloud = outlook.cloud
    peak = peak_concentration(outlook, threshold.horizon_h)
    asked = (outlook.channel, channel.ec50_mg_L, peak, cloud.weights)
    chance = chance_of_rise(*asked, threshold.limit)
    metric = Interval(*(float(q) for q in rise_quantiles(*asked, QUANTILES)))
    return Risk(threshold.name, chance.probability, chance.error, metric)


METRICS: dict[str, Metric] = {
    "concentration": _exceedance(peak_concentration),
    "auc24": _exceedance(highest_auc24),
    "effect_rise": effect_rise,
}


def _until(outlook: Outlook, horizon_h: float) -> int:
    last = outlook.grid[round((LOOK_BACK_H + horizon_h) / STEP_H)]
    return int(last) + 1
