"""The rise by the drug and the signal ahead, against closed forms and Monte Carlo."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.optimize import brentq  # type: ignore[import-untyped]  # ships no types
from scipy.stats import norm  # type: ignore[import-untyped]  # ships no types

from tests.twinstate.channels import (
    CHANNEL,
    ETA_COVARIANCE,
    FIRST,
    MODEL,
    QTC,
    infusions,
    operator_at,
    windows_of,
)
from tests.twinstate.courses import START_H
from twinstate.assimilation.channel import ChannelState, LastWindow, assimilate_windows
from twinstate.assimilation.channel_forecast import (
    chance_of_rise,
    forecast_channel,
    mixture_quantile,
    rise_quantiles,
)
from twinstate.assimilation.windows import window_start_h

Floats = NDArray[np.float64]


def state(mean: Floats, covariance: Floats) -> ChannelState:
    """A state without considered eta."""
    return ChannelState(
        START_H, mean, covariance, 2.0, (0, 0, 0, 0), LastWindow(-1, math.nan, math.nan, math.nan, "")
    )


PRIOR = state(MODEL.mean, MODEL.covariance)


def test_the_chance_of_a_rise_is_the_gaussian_tail_when_the_level_is_known() -> None:
    chance = chance_of_rise(PRIOR, MODEL, np.full(8, 3.0), np.full(8, 0.125), 15.0)
    share = 3.0 / 6.92
    expected = norm.sf((15.0 - MODEL.mean[1] * share) / (math.sqrt(MODEL.covariance[1, 1]) * share))
    assert chance.probability == pytest.approx(expected, rel=1e-12)
    assert chance.error == pytest.approx(0.0, abs=1e-15)


def test_the_chance_weighs_the_points_and_its_error_is_theirs() -> None:
    peak, weights = np.array([1.0, 3.0, 6.0]), np.array([0.5, 0.3, 0.2])
    share = peak / (3.92 + peak)
    each = norm.sf((15.0 - MODEL.mean[1] * share) / (math.sqrt(MODEL.covariance[1, 1]) * share))
    chance = chance_of_rise(PRIOR, MODEL, peak, weights, 15.0)
    assert chance.probability == pytest.approx(float(weights @ each), rel=1e-12)
    expected = math.sqrt(float(np.sum((weights * (each - weights @ each)) ** 2)))
    assert chance.error == pytest.approx(expected, rel=1e-9)


def test_without_drug_in_the_body_there_is_no_rise() -> None:
    assert chance_of_rise(PRIOR, MODEL, np.zeros(4), np.full(4, 0.25), 1e-9).probability == 0.0


def test_a_high_baseline_is_not_taken_for_a_rise_by_the_drug() -> None:
    """Published typical patient, true rise 15 ms, baseline 50 ms above the typical one."""
    therapy = infusions(160.0)  # 2.7 mg/L at its end
    hours = np.arange(288) / 12.0
    level = np.array([2.7 * math.exp(-4.5 / 58.0 * max(h - 1.0, 0.0)) * min(h, 1.0) for h in hours])
    value = 456.0 + 34.7 * level / (3.92 + level)
    weights = np.full(4, 0.25)
    asked = np.array([window_start_h(FIRST + n) for n in (12, 36, 144, 288)])
    for after in assimilate_windows(
        windows_of(value), QTC, CHANNEL, therapy, np.zeros(2), ETA_COVARIANCE, asked
    ):
        assert chance_of_rise(after, MODEL, np.full(4, 2.7), weights, 30.0).probability < 0.05


def test_quantiles_of_a_mixture_are_where_its_distribution_function_says() -> None:
    mean, sd = np.array([1.0, 4.0, 9.0]), np.array([0.5, 2.0, 1.0])
    weights = np.array([0.2, 0.5, 0.3])
    for q in (0.05, 0.5, 0.95):
        expected = brentq(
            lambda x, q=q: float(weights @ norm.cdf((x - mean) / sd)) - q, -50.0, 50.0, xtol=1e-12
        )
        assert mixture_quantile(mean, sd, weights, q) == pytest.approx(expected, abs=1e-4)


def test_a_mixture_with_certain_points_steps_at_them() -> None:
    mean, sd = np.array([0.0, 10.0]), np.array([0.0, 0.0])
    weights = np.array([0.6, 0.4])
    assert mixture_quantile(mean, sd, weights, 0.5) == pytest.approx(0.0, abs=1e-4)
    assert mixture_quantile(mean, sd, weights, 0.7) == pytest.approx(10.0, abs=1e-4)


def test_a_mixture_that_is_not_finite_has_no_quantile() -> None:
    assert math.isnan(mixture_quantile(np.array([math.nan, 1.0]), np.ones(2), np.full(2, 0.5), 0.5))


def test_the_rise_has_the_quantiles_of_effect_times_occupancy() -> None:
    dice = np.random.default_rng(3)
    peak = np.exp(dice.normal(1.0, 0.3, 512))
    effect = dice.normal(MODEL.mean[1], math.sqrt(MODEL.covariance[1, 1]), (4000, 512))
    drawn = np.quantile(effect * peak / (3.92 + peak), [0.05, 0.5, 0.95])
    found = rise_quantiles(PRIOR, MODEL, peak, np.full(512, 1.0 / 512), np.array([0.05, 0.5, 0.95]))
    np.testing.assert_allclose(
        found, drawn, atol=0.05
    )  # Monte-Carlo error of two million draws, and to spare


def test_the_forecast_agrees_with_drawing_states_noise_and_points() -> None:
    dice = np.random.default_rng(9)
    points, draws = 64, 200_000
    time_h = START_H + np.array([0.0, 1.5, 9.0])
    concentration = np.exp(dice.normal(0.8, 0.3, (points, 3)))
    weights = dice.uniform(0.5, 1.5, points)
    weights /= weights.sum()
    mean = MODEL.mean + np.array([12.0, -4.0, 1.0, 0.5, 5.0])
    root = np.linalg.cholesky(MODEL.covariance)
    covariance = 0.2 * MODEL.covariance
    forecast = forecast_channel(state(mean, covariance), MODEL, concentration, weights, time_h)
    drawn = mean + math.sqrt(0.2) * dice.standard_normal((draws, 5)) @ root.T
    which = dice.choice(points, draws, p=weights)
    for i, elapsed in enumerate((0.0, 1.5, 9.0)):
        fade = math.exp(-elapsed / 2.0)
        level = concentration[which, i]
        at = operator_at(time_h[i], 0.0)
        underlying = drawn[:, :4] @ at[:4] + drawn[:, 1] * level / (3.92 + level)
        underlying += 0.73 * math.sqrt(elapsed) * dice.standard_normal(draws)
        fresh = math.sqrt((0.0152 * mean[0]) ** 2 * (1.0 - fade**2) + 2.0)
        reading = underlying + fade * drawn[:, 4] + fresh * dice.standard_normal(draws)
        # Standard error of a 5 % quantile of 200,000 draws: 0.005 SD, here below 0.06 ms.
        np.testing.assert_allclose(
            forecast.underlying[i], np.quantile(underlying, [0.05, 0.5, 0.95]), atol=0.2
        )
        np.testing.assert_allclose(forecast.reading[i], np.quantile(reading, [0.05, 0.5, 0.95]), atol=0.2)


def test_a_reading_is_never_more_certain_than_the_signal_under_it() -> None:
    time_h = START_H + np.arange(0.0, 24.0, 2.0)
    forecast = forecast_channel(PRIOR, MODEL, np.full((4, 12), 2.0), np.full(4, 0.25), time_h)
    width = forecast.reading[:, 2] - forecast.reading[:, 0]
    assert np.all(width > forecast.underlying[:, 2] - forecast.underlying[:, 0])
    assert np.all(np.diff(forecast.underlying, axis=1) > 0.0)
