"""Whether a device counts every breath twice: the second filter against filterpy, and what it takes for it to win."""

from __future__ import annotations

import numba
import numpy as np
import pytest
from filterpy.kalman import KalmanFilter  # type: ignore[import-untyped]  # ships no types
from numpy.typing import NDArray
from scipy import stats

from tests.twinstate.channels import readings
from tests.twinstate.library.configs import CONFIG
from twinstate.assimilation.channel import filter_windows
from twinstate.assimilation.channel_model import BASELINE, EFFECT, NOISE, ChannelModel, channel_model
from twinstate.assimilation.device_trust import (
    LOST_BY,
    MOST_ONE_WINDOW_SAYS,
    SOFTEN_SD,
    SPREAD_FREEDOM,
    SPREAD_KNOWN_WINDOWS,
    SPREAD_RENEWED,
    TWICE_BEHIND,
    Trust,
    ask_whether_twice,
    start_twice,
    trust_all,
)
from twinstate.assimilation.readings import Readings
from twinstate.library import load_library

Floats = NDArray[np.float64]

STEP = 144


@pytest.fixture(scope="module")
def breath() -> ChannelModel:
    channel = load_library(CONFIG).drugs["fentanyl"].channel
    assert channel is not None
    return channel_model(channel)


@numba.njit(error_model="numpy")
def _ask(model: ChannelModel, trust: Trust, told: Readings, window: int, operator: Floats) -> None:
    heard = np.ones(1, np.int64)
    innovation = told.value[window] - 7.0
    ask_whether_twice(model, trust, told, window, operator, np.zeros(0), heard, innovation, 4.0)


def asked(model: ChannelModel, trust: Trust, told: Readings, window: int, operator: Floats) -> None:
    """One window whose forecast by the first filter is 7 /min with an SD of 2."""
    _ask(model, trust, told, window, operator)


def test_the_odds_are_those_of_two_filters_of_which_one_reads_twice(breath: ChannelModel) -> None:
    told = readings(np.array([7.0, 9.5, 12.5, 11.0]), scatter=0.3, every=2)
    trust = trust_all(1, 5)
    trust.spread_of[0] = SPREAD_KNOWN_WINDOWS
    trust.odds[0] = TWICE_BEHIND - 1.0
    mean, covariance = breath.mean / 2.0, breath.covariance / 100.0
    start_twice(breath, trust, told, 0, mean, covariance)
    twice = KalmanFilter(dim_x=5, dim_z=1)
    twice.x, twice.P = mean.reshape(5, 1).copy(), covariance.copy()
    operator = np.array([1.0, -0.4, 0.2, -0.1, 1.0])
    odds = 0.0
    for window in (1, 2, 3):
        elapsed_h = told.time_h[window] - told.time_h[window - 1]
        fade = np.exp(-elapsed_h / breath.noise_time_constant_h)
        noise_sd = breath.noise_cv * twice.x[BASELINE, 0]
        drift = breath.drift_per_sqrt_h**2 * elapsed_h
        twice.predict(
            F=np.diag([1.0, 1.0, 1.0, 1.0, fade]),
            Q=np.diag([drift, 0.0, 0.0, 0.0, noise_sd**2 * (1.0 - fade**2)]),
        )
        reads = 2.0 * operator
        reads[NOISE] = 1.0
        twice.update(told.value[window], R=0.3, H=reads.reshape(1, 5))
        assert abs(twice.y[0, 0]) < SOFTEN_SD * np.sqrt(twice.S[0, 0])
        odds += twice.log_likelihood - stats.norm.logpdf(told.value[window], 7.0, 2.0)
        asked(breath, trust, told, window, operator)
        assert trust.odds[0] == pytest.approx(odds, rel=1e-9)
        np.testing.assert_allclose(trust.twice_mean[0], twice.x[:, 0], rtol=1e-9)


def test_the_spread_of_a_window_says_what_a_chi_square_of_its_freedom_says(breath: ChannelModel) -> None:
    usual = 4.0 * breath.scatter_sd**2
    odds = []
    for spread in (np.nan, usual, 4.0 * usual):
        unseen = readings(np.array([7.0, 9.5]), scatter=0.3)
        told = unseen._replace(spread=np.full(2, spread))
        trust = trust_all(1, 5)
        trust.spread_of[0], trust.spread[0] = SPREAD_KNOWN_WINDOWS, usual
        trust.odds[0] = TWICE_BEHIND - 1.0
        start_twice(breath, trust, unseen, 0, breath.mean / 3.0, breath.covariance)
        asked(breath, trust, told, 1, np.array([1.0, 0.0, 0.0, 0.0, 1.0]))
        odds.append(float(trust.odds[0]))
    by_level, *by_both = odds

    def density(spread: float, variance: float) -> float:
        return float(stats.chi2.logpdf(SPREAD_FREEDOM * spread / variance, SPREAD_FREEDOM) - np.log(variance))

    expected = [density(spread, 4.0 * usual) - density(spread, usual) for spread in (usual, 4.0 * usual)]
    assert [one - by_level for one in by_both] == pytest.approx(expected)


def test_no_window_says_more_than_it_may_however_far_off_it_is(breath: ChannelModel) -> None:
    unseen = readings(np.array([7.0, 9.5]), scatter=0.3)
    trust = trust_all(1, 5)
    trust.spread_of[0], trust.spread[0] = SPREAD_KNOWN_WINDOWS, breath.scatter_sd**2
    trust.odds[0] = TWICE_BEHIND - 1.0
    start_twice(breath, trust, unseen, 0, breath.mean / 3.0, breath.covariance)
    asked(breath, trust, unseen._replace(spread=np.full(2, 1e4)), 1, np.array([1.0, 0.0, 0.0, 0.0, 1.0]))
    assert trust.odds[0] == MOST_ONE_WINDOW_SAYS


def test_one_wild_window_hardly_moves_the_usual_spread(breath: ChannelModel) -> None:
    trust = trust_all(1, 5)
    usual = 2.0 * breath.scatter_sd**2
    trust.spread_of[0], trust.spread[0] = 200, usual
    trust.odds[0] = TWICE_BEHIND - 1.0
    wild = readings(np.array([7.0]), scatter=0.3)._replace(spread=np.full(1, 1e4))
    start_twice(breath, trust, wild, 0, breath.mean, breath.covariance)
    assert trust.spread[0] == pytest.approx(usual * (1.0 + 3.0 * SPREAD_RENEWED))


def slow_breaths(gain: float, spread_gain: float) -> Readings:
    """Half a day of 4 /min, then as many windows of what a gain makes of it."""
    dice = np.random.default_rng(8)
    value = 4.0 + 0.4 * dice.standard_normal(2 * STEP)
    spread = np.full(2 * STEP, 1.5)
    value[STEP:] *= gain
    spread[STEP:] *= spread_gain**2
    return readings(value, scatter=0.5)._replace(spread=spread)


def lost_to(model: ChannelModel, told: Readings, at: int) -> str:
    """Why trust had been lost after a window; empty while it is kept."""
    nothing = np.zeros(told.value.size)
    result = filter_windows(model, told, nothing, np.zeros((nothing.size, 1)), told.end_h)
    return LOST_BY[int(result.lost[at, 0])]


def test_slow_breaths_counted_twice_cost_trust_within_three_hours(breath: ChannelModel) -> None:
    told = slow_breaths(2.0, 2.0)
    assert lost_to(breath, told, STEP - 1) == ""
    assert lost_to(breath, told, STEP + breath.longest_activity - 1) == ""  # motion may last so long
    assert lost_to(breath, told, STEP + 36) == "twice"


@pytest.mark.parametrize(("gain", "spread_gain"), [(1.0, 2.0), (1.5, 1.0), (0.5, 0.5)])
def test_what_is_not_twice_in_level_and_scatter_costs_no_trust_by_that(
    breath: ChannelModel, gain: float, spread_gain: float
) -> None:
    assert lost_to(breath, slow_breaths(gain, spread_gain), -1) != "twice"


def test_a_device_with_too_few_samples_to_show_its_scatter_is_not_asked(breath: ChannelModel) -> None:
    told = slow_breaths(2.0, 2.0)
    told = told._replace(spread=np.full(told.value.size, np.nan))
    assert lost_to(breath, told, STEP + 36) != "twice"


def test_breaths_that_come_back_as_a_drug_wears_off_cost_no_trust(breath: ChannelModel) -> None:
    back = np.minimum(np.arange(STEP) * 4.0 / 72.0, 4.0)
    told = slow_breaths(1.0, 1.0)
    told.value[STEP:] += back
    occupied = np.full(told.value.size, -0.7)
    occupied[STEP:] += back / breath.mean[EFFECT]
    result = filter_windows(breath, told, occupied, np.zeros((occupied.size, 1)), told.end_h)
    assert not result.lost.any()


def test_a_bout_as_long_as_motion_may_last_is_soon_unsaid(breath: ChannelModel) -> None:
    sound, bout = slow_breaths(1.0, 1.0), slow_breaths(2.0, 2.0)
    lasts = slice(STEP, STEP + breath.longest_activity - 1)
    sound.value[lasts], sound.spread[lasts] = bout.value[lasts], bout.spread[lasts]
    assert lost_to(breath, sound, -1) == ""


def test_where_motion_is_not_modelled_nothing_is_asked(breath: ChannelModel) -> None:
    still = breath._replace(longest_activity=0)
    assert lost_to(still, slow_breaths(2.0, 2.0), STEP + 36) != "twice"


def test_the_effect_of_a_device_that_reads_twice_is_held(breath: ChannelModel) -> None:
    told = slow_breaths(2.0, 2.0)
    occupied = np.full(told.value.size, -0.5)
    result = filter_windows(breath, told, occupied, np.zeros((occupied.size, 1)), told.end_h)
    first = int(np.flatnonzero(result.lost[:, 0])[0])
    assert (result.mean[first:, EFFECT] == result.mean[first, EFFECT]).all()
