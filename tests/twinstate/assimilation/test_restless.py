"""Signals that night and motion move: what is motion's, what the device's, and what must be seen at once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.twinstate.channels import readings
from tests.twinstate.courses import START_H
from twinstate.assimilation.channel import (
    REJECTED,
    ChannelState,
    LastWindow,
    Pass,
    filter_windows,
)
from twinstate.assimilation.channel_forecast import rise_quantiles
from twinstate.assimilation.channel_model import BASELINE, COSINE, EFFECT, SINE, ChannelModel, channel_model
from twinstate.assimilation.readings import FLAT_LINE, OFF_BODY, UNUSABLE_MARKS, from_device, readings_of
from twinstate.assimilation.windows import WINDOW_NS, fold_frame
from twinstate.library import Library, load_library
from twinstate.types import NS_PER_MINUTE

Floats = NDArray[np.float64]

CONFIG = Path(__file__).parents[3] / "config"


@pytest.fixture(scope="module")
def library() -> Library:
    return load_library(CONFIG)


@pytest.fixture(scope="module")
def heart(library: Library) -> ChannelModel:
    channel = library.drugs["carvedilol"].channel
    assert channel is not None
    return channel_model(channel)


@pytest.fixture(scope="module")
def breath(library: Library) -> ChannelModel:
    channel = library.drugs["fentanyl"].channel
    assert channel is not None
    return channel_model(channel)


def quiet(level: float, sd: float, windows: int = 144) -> Floats:
    """Half a day round a level, with a little noise, so that no device seems to hang."""
    return np.asarray(level + sd * np.random.default_rng(3).standard_normal(windows))


def heard(model: ChannelModel, value: Floats) -> Pass:
    """The filter over these windows of a device that no drug moves, asked after each."""
    told = readings(value, scatter=0.5)
    nothing = np.zeros(value.size)
    return filter_windows(model, told, nothing, np.zeros((value.size, 1)), told.end_h)


def test_the_open_rhythm_is_as_likely_to_peak_at_any_hour_and_has_the_amplitude_told(
    heart: ChannelModel,
) -> None:
    assert heart.mean[COSINE] == heart.mean[SINE] == 0.0
    assert heart.covariance[COSINE, SINE] == 0.0
    # Root mean square amplitude: the square root of both variances' sum, 8 % of 60.4 /min.
    rms = np.sqrt(heart.covariance[COSINE, COSINE] + heart.covariance[SINE, SINE])
    assert rms == pytest.approx(0.08 * 60.4)


def test_a_bout_of_motion_is_left_out_and_costs_no_trust(heart: ChannelModel) -> None:
    calm = quiet(62.0, 1.0)
    bout = calm.copy()
    bout[100:109] += 22.0
    told, sound = heard(heart, bout), heard(heart, calm)
    assert set(told.verdict[100:109].tolist()) == {REJECTED}
    assert not told.lost.any()
    assert told.mean[-1, BASELINE] == pytest.approx(sound.mean[-1, BASELINE], abs=0.5)


def test_a_gain_of_two_that_lasts_longer_than_motion_costs_trust_within_three_hours(
    heart: ChannelModel,
) -> None:
    doubled = quiet(62.0, 3.0)
    doubled[100:] *= 2.0
    doubled[[108, 117, 126, 135]] -= 50.0  # a low moment now and then must not hide it
    told = heard(heart, doubled)
    assert not told.lost[99].any()
    assert told.lost[136].all()


def test_a_heart_that_falls_at_once_is_followed_at_the_third_window(heart: ChannelModel) -> None:
    fallen = quiet(75.0, 1.0)
    fallen[100:] = 30.0 + quiet(0.0, 1.0)[100:]
    told = heard(heart, fallen)
    assert told.verdict[100:102].tolist() == [REJECTED, REJECTED]
    assert told.verdict[102] != REJECTED
    assert told.mean[103, BASELINE] < 45.0
    assert told.lost[102].all()


def test_an_apnoea_is_read_as_breaths_of_nought_and_not_taken_for_a_device_that_hangs(
    library: Library, breath: ChannelModel
) -> None:
    signal = library.signals["respiratory_rate"]
    start = round(START_H * 3600e9) // WINDOW_NS * WINDOW_NS
    minutes = np.arange(180)
    dice = np.random.default_rng(5)
    value = np.where(minutes < 120, 14.0 + dice.normal(0.0, 0.5, minutes.size), 0.0)
    windows = fold_frame(value, start + minutes * NS_PER_MINUTE, signal)
    told = readings_of(from_device("belt", windows), signal, breath.scatter_sd)
    assert not (told.marks & UNUSABLE_MARKS).any()
    nothing = np.zeros(told.value.size)
    result = filter_windows(breath, told, nothing, np.zeros((nothing.size, 1)), told.end_h)
    assert result.mean[26, BASELINE] < 4.0  # a quarter of an hour after the last breath
    # A device that hangs at any other value still does, and one that reads nothing lies on a table.
    hung = fold_frame(np.full(60, 14.0), start + np.arange(60) * NS_PER_MINUTE, signal)
    nulls = fold_frame(np.full(60, np.nan), start + np.arange(60) * NS_PER_MINUTE, signal)
    assert readings_of(from_device("belt", hung), signal, 0.5).marks[-1] & FLAT_LINE
    assert readings_of(from_device("belt", nulls), signal, 0.5).marks[-1] & OFF_BODY


def test_a_fall_counts_only_in_windows_on_end(heart: ChannelModel) -> None:
    value = quiet(62.0, 2.0, 288)
    value[150:152] -= 40.0  # two windows that are doubted
    value[156] -= 42.0  # far, but not beyond belief by itself
    between = value.copy()
    between[152:156] += 40.0  # motion, left out
    assert heard(heart, value).verdict[150:152].tolist() == [REJECTED] * 2
    told = heard(heart, between)
    assert told.verdict[150:156].tolist() == [REJECTED] * 6
    assert told.verdict[156] != REJECTED
    assert not told.lost.any()
    # The same low window at once after the two is the third of a fall, and is followed at the price of trust.
    value[152] -= 42.0
    assert heard(heart, value).lost[152:].any()


def test_a_slow_ramp_costs_trust_and_a_night_that_is_lower_by_a_step_does_not(heart: ChannelModel) -> None:
    night = quiet(62.0, 2.0, 288)
    night[150:246] -= 10.0
    ramp = quiet(62.0, 2.0, 288)
    ramp[100:] *= 1.0 - 0.05 * np.arange(188) / 12.0
    assert not heard(heart, night).lost.any()
    lost = np.flatnonzero(heard(heart, ramp).lost.any(axis=1))
    assert lost.size
    assert 100 < lost[0] < 100 + 12 * 12


def test_what_a_drug_that_only_lowers_a_signal_may_do_is_never_told_below_nought(
    heart: ChannelModel,
) -> None:
    covariance = heart.covariance.copy()
    covariance[EFFECT, EFFECT] = 25.0
    mean = heart.mean.copy()
    mean[EFFECT] = 2.0
    nobody = LastWindow(-1, np.nan, np.nan, np.nan, "")
    state = ChannelState(START_H, mean, covariance, 0.0, (1, 0, 0, 0), nobody)
    peak, weights = np.full(4, 1e3), np.full(4, 0.25)
    low, middle, high = rise_quantiles(state, heart, peak, weights, np.array([0.05, 0.5, 0.95]))
    assert low == 0.0
    assert middle == pytest.approx(2.0, abs=1e-3)
    assert high == pytest.approx(2.0 + 1.6448536 * 5.0, abs=1e-2)


def test_signals_without_motion_keep_the_bounds_they_had(library: Library) -> None:
    channel = library.drugs["moxifloxacin"].channel
    assert channel is not None
    model = channel_model(channel)
    assert (model.longest_activity, model.drift_allowance_sd, model.drift_limit_sd) == (0, 0.5, 9.0)
    assert model.noise_cv == channel.residual_cv
