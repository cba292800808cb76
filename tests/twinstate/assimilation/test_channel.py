"""One channel's filter: against filterpy, a longhand Schmidt update, and what it promises."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from filterpy.kalman import KalmanFilter  # type: ignore[import-untyped]  # ships no types
from numpy.typing import NDArray

from tests.twinstate.channels import (
    CHANNEL,
    ETA_COVARIANCE,
    FIRST,
    MODEL,
    QTC,
    infusions,
    operator_at,
    readings,
    windows_of,
)
from tests.twinstate.courses import START_H
from tests.twinstate.library.configs import CONFIG
from twinstate.assimilation.channel import (
    LARGEST_INFLUENCE_SD,
    ChannelState,
    assimilate_model,
    assimilate_windows,
    considered_occupancy,
    filter_windows,
)
from twinstate.assimilation.channel_model import (
    ACROPHASE_SD_H,
    AMPLITUDE_CV,
    BASELINE,
    COSINE,
    EFFECT,
    NOISE,
    SINE,
    channel_model,
)
from twinstate.assimilation.device_trust import LONGEST_REJECTION
from twinstate.assimilation.readings import DeviceWindow, from_device
from twinstate.assimilation.windows import WINDOW_NS, fold_frame, window_start_h
from twinstate.errors import MathsError
from twinstate.library import load_library
from twinstate.pk.propagate import solve

Floats = NDArray[np.float64]


def test_windows_without_uncertain_levels_give_what_filterpy_gives() -> None:
    taken = readings(np.array([409.0, 415.0, 418.0, 411.0]), every=7)
    occupancy = np.array([0.0, 0.21, 0.43, 0.4])
    filterpy = KalmanFilter(dim_x=5, dim_z=1)
    filterpy.x = MODEL.mean.reshape(5, 1).copy()
    filterpy.P = MODEL.covariance.copy()
    for i, time_h in enumerate(taken.time_h):
        if i:
            elapsed = time_h - taken.time_h[i - 1]
            fade = math.exp(-elapsed / 2.0)
            noise_sd = 0.0152 * filterpy.x[BASELINE, 0]
            process = np.diag([0.73**2 * elapsed, 0.0, 0.0, 0.0, noise_sd**2 * (1.0 - fade**2)])
            filterpy.predict(F=np.diag([1.0, 1.0, 1.0, 1.0, fade]), Q=process)
        filterpy.update(taken.value[i], R=4.0, H=operator_at(time_h, occupancy[i]).reshape(1, 5))
        result = filter_windows(MODEL, taken, occupancy, np.zeros((4, 2)), taken.end_h[i : i + 1])
        np.testing.assert_allclose(result.mean[0], filterpy.x[:, 0], rtol=1e-10, atol=1e-10)
        np.testing.assert_allclose(result.covariance[0, 2:, 2:], filterpy.P, rtol=1e-9, atol=1e-10)
        np.testing.assert_array_equal(result.covariance[0, :2, :2], np.eye(2))


def test_two_devices_give_what_filterpy_gives_with_an_offset_and_an_error_of_each() -> None:
    # The second is heard from the third window on: then the first has an error of its own too.
    value = np.array([409.0, 411.0, 430.0, 412.0, 433.0, 415.0, 428.0])
    device = np.array([0, 0, 1, 0, 1, 0, 1])
    taken = readings(value, every=3)._replace(device=device)
    occupancy = np.array([0.0, 0.21, 0.43, 0.4, 0.35, 0.3, 0.28])
    filterpy = KalmanFilter(dim_x=8, dim_z=1)  # the body's five, the difference, the error of either
    filterpy.x = np.append(MODEL.mean, np.zeros(3)).reshape(8, 1)
    filterpy.P = np.zeros((8, 8))
    filterpy.P[:5, :5] = MODEL.covariance
    for i, time_h in enumerate(taken.time_h):
        if i:
            fade = math.exp(-0.25 / 2.0)
            sd = 0.0152 * filterpy.x[BASELINE, 0]
            fresh = sd**2 * (1.0 - fade**2)
            error = fresh if i > 2 else 0.0
            filterpy.predict(
                F=np.diag([1.0, 1.0, 1.0, 1.0, fade, 1.0, fade, fade]),
                Q=np.diag([0.73**2 * 0.25, 0.0, 0.0, 0.0, fresh, 0.0, error, error]),
            )
        if i == 2:
            sd = 0.0152 * filterpy.x[BASELINE, 0]
            filterpy.P += np.diag([0.0, 0.0, 0.0, 0.0, 0.0, sd**2, sd**2, sd**2])
        of_device = [1.0, 0.0, 1.0] if device[i] else [0.0, 1.0, 0.0]
        operator = np.append(operator_at(time_h, occupancy[i]), of_device)
        filterpy.update(taken.value[i], R=4.0, H=operator.reshape(1, 8))
        result = filter_windows(MODEL, taken, occupancy, np.zeros((7, 2)), taken.end_h[i : i + 1])
        np.testing.assert_allclose(result.mean[0], filterpy.x[:5, 0], rtol=1e-10, atol=1e-10)
        np.testing.assert_allclose(result.covariance[0, 2:, 2:], filterpy.P[:5, :5], rtol=1e-9, atol=1e-10)
    assert (result.verdict == 0).all()


def test_uncertain_levels_are_considered_as_schmidt_has_it() -> None:
    taken = readings(np.array([412.0, 417.0]), every=12)
    expected = np.array([0.3, 0.45])
    slope = np.array([[0.05, -0.02], [0.03, 0.04]])
    mean, covariance = MODEL.mean.copy(), MODEL.covariance.copy()
    cross = np.zeros((5, 2))  # between states and standardised eta
    for i, time_h in enumerate(taken.time_h):
        if i:
            fade = math.exp(-1.0 / 2.0)
            transition = np.diag([1.0, 1.0, 1.0, 1.0, fade])
            noise_sd = 0.0152 * mean[BASELINE]
            process = np.diag([0.73**2, 0.0, 0.0, 0.0, noise_sd**2 * (1.0 - fade**2)])
            mean, covariance = transition @ mean, transition @ covariance @ transition.T + process
            cross = transition @ cross
        own, considered = operator_at(time_h, expected[i]), mean[EFFECT] * slope[i]
        spread = own @ covariance @ own + 2.0 * own @ cross @ considered + considered @ considered + 4.0
        gain = (covariance @ own + cross @ considered) / spread
        mean = mean + gain * (taken.value[i] - own @ mean)
        covariance = covariance - np.outer(gain, gain) * spread
        cross = cross - np.outer(gain, own @ cross + considered)
    result = filter_windows(MODEL, taken, expected, slope, taken.end_h[-1:])
    np.testing.assert_allclose(result.mean[0], mean, rtol=1e-10)
    np.testing.assert_allclose(result.covariance[0, 2:, 2:], covariance, rtol=1e-9, atol=1e-10)
    np.testing.assert_allclose(result.covariance[0, 2:, :2], cross, rtol=1e-9, atol=1e-10)
    np.testing.assert_array_equal(result.covariance[0, :2, :2], np.eye(2))


def test_the_prior_has_the_moments_of_the_published_spreads() -> None:
    dice = np.random.default_rng(11)
    count = 400_000

    def log_normal(median: float, cv: float) -> Floats:
        return np.asarray(median * np.exp(math.sqrt(math.log(1.0 + cv**2)) * dice.standard_normal(count)))

    amplitude = log_normal(0.0090 * 406.0, AMPLITUDE_CV)
    phase = 2.0 * math.pi * (9.11 + ACROPHASE_SD_H * dice.standard_normal(count)) / 24.0
    drawn = np.array(
        [
            log_normal(406.0, 0.0382),
            log_normal(34.7, 0.329),
            amplitude * np.cos(phase),
            amplitude * np.sin(phase),
        ]
    )
    error = np.sqrt(np.diag(MODEL.covariance)[:NOISE] / count)
    assert np.all(np.abs(drawn.mean(axis=1) - MODEL.mean[:NOISE]) < 5.0 * error)
    # A log-normal square has heavy tails: 5 % holds its Monte-Carlo error at this size.
    np.testing.assert_allclose(np.cov(drawn[2:]), MODEL.covariance[COSINE:NOISE, COSINE:NOISE], rtol=0.05)
    np.testing.assert_allclose(drawn.var(axis=1), np.diag(MODEL.covariance)[:NOISE], rtol=0.05)
    assert MODEL.covariance[NOISE, NOISE] == pytest.approx((0.0152 * 406.0) ** 2)
    assert MODEL.covariance[SINE, COSINE] == MODEL.covariance[COSINE, SINE]


def test_occupancy_and_its_slope_are_those_of_the_solver() -> None:
    therapy = infusions(400.0)
    time_h = START_H + np.array([0.5, 1.0, 6.0, 20.0])
    factor = 1e-4 * np.eye(2)
    eta = np.array([0.1, -0.2])
    expected, slope = considered_occupancy(therapy, eta, factor, MODEL, time_h)
    concentration, _, _ = solve(therapy, eta, time_h)
    np.testing.assert_allclose(expected, concentration / (3.92 + concentration), rtol=1e-7)
    for column in range(2):
        step = np.zeros(2)
        step[column] = 1e-5
        above, _, _ = solve(therapy, eta + step, time_h)
        below, _, _ = solve(therapy, eta - step, time_h)
        derivative = (above / (3.92 + above) - below / (3.92 + below)) / 2e-5
        np.testing.assert_allclose(slope[:, column] / 1e-4, derivative, rtol=1e-5, atol=1e-9)


def test_the_state_at_a_time_knows_nothing_of_later_windows_or_later_questions() -> None:
    value = 408.0 + 6.0 * np.sin(np.arange(60) / 7.0)
    windows = windows_of(value)
    asked = np.array([window_start_h(FIRST + 20), window_start_h(FIRST + 47)])
    therapy = infusions(400.0)
    both = assimilate_windows(windows, QTC, CHANNEL, therapy, np.zeros(2), ETA_COVARIANCE, asked)
    for i, upto in enumerate((20, 47)):
        (alone,) = assimilate_windows(
            windows[:upto], QTC, CHANNEL, therapy, np.zeros(2), ETA_COVARIANCE, asked[i : i + 1]
        )
        assert alone.mean.tobytes() == both[i].mean.tobytes()
        assert alone.covariance.tobytes() == both[i].covariance.tobytes()
        assert (alone.time_h, alone.counts, alone.last) == (both[i].time_h, both[i].counts, both[i].last)
        assert sum(alone.counts) == upto


def test_windows_may_be_handed_over_in_any_order() -> None:
    windows = windows_of(405.0 + np.arange(30.0) % 5)
    end = np.array([window_start_h(FIRST + 30)])
    arguments = (QTC, CHANNEL, infusions(400.0), np.zeros(2), ETA_COVARIANCE, end)
    (forwards,) = assimilate_windows(windows, *arguments)
    (backwards,) = assimilate_windows(windows[::-1], *arguments)
    assert forwards.covariance.tobytes() == backwards.covariance.tobytes()
    assert forwards.mean.tobytes() == backwards.mean.tobytes()


def test_without_windows_the_state_is_the_prior() -> None:
    (state,) = assimilate_windows(
        [], QTC, CHANNEL, infusions(400.0), np.zeros(2), ETA_COVARIANCE, np.array([START_H])
    )
    np.testing.assert_array_equal(state.mean, MODEL.mean)
    np.testing.assert_array_equal(state.own_covariance, MODEL.covariance)
    assert (state.time_h, state.counts, state.last.verdict) == (START_H, (0, 0, 0, 0), "")
    assert state.effect_sd == pytest.approx(math.sqrt(MODEL.covariance[EFFECT, EFFECT]))


def test_a_window_counts_from_its_end_on() -> None:
    windows = windows_of(np.array([410.0]))
    end = window_start_h(FIRST + 1)
    states = assimilate_windows(
        windows, QTC, CHANNEL, infusions(400.0), np.zeros(2), ETA_COVARIANCE, np.array([end - 1e-6, end])
    )
    assert [sum(state.counts) for state in states] == [0, 1]


def filtered(extra: list[float]) -> tuple[Floats, list[int]]:
    """Five quiet hours without drug, then other windows: the mean state, and windows by verdict."""
    taken = readings(np.array([406.0] * 60 + extra))
    count = len(taken.value)
    result = filter_windows(MODEL, taken, np.zeros(count), np.zeros((count, 1)), taken.end_h[-1:])
    return result.mean[0], result.counts[0].tolist()


def test_a_window_far_from_its_forecast_is_left_out_and_counted() -> None:
    clean, _ = filtered([])
    mean, counts = filtered([500.0])
    assert counts == [60, 0, 1, 0]
    assert mean[BASELINE] == clean[BASELINE]


def test_a_window_somewhat_off_is_believed_less_the_further_off_it_is() -> None:
    plain, _ = filtered([406.0])
    off, counts = filtered([416.0])
    assert counts == [60, 1, 0, 0]
    further, counts = filtered([418.0])
    assert counts == [60, 1, 0, 0]
    moved = off[NOISE] - plain[NOISE]
    # Redescending: the further off, the less it is believed.
    assert 0.0 < further[NOISE] - plain[NOISE] < moved


def test_a_shift_that_lasts_is_learnt_although_its_first_windows_are_left_out() -> None:
    mean, counts = filtered([480.0] * 144)
    taken, _, rejected, _ = counts
    assert LONGEST_REJECTION <= rejected < 24
    assert taken > 60 + 100
    assert mean[BASELINE] + mean[NOISE] > 460.0


def test_unusable_windows_are_counted_and_change_no_estimate() -> None:
    usable = windows_of(np.full(12, 410.0))
    flat = fold_frame([410.0] * 60, [(FIRST + 12) * WINDOW_NS + i for i in range(60)], QTC)
    artefacts = fold_frame([410.0, 20.0, 20.0], [(FIRST + 13) * WINDOW_NS + i for i in range(3)], QTC)
    end = np.array([window_start_h(FIRST + 14)])
    arguments = (QTC, CHANNEL, infusions(400.0), np.zeros(2), ETA_COVARIANCE, end)
    (plain,) = assimilate_windows(usable, *arguments)
    (with_them,) = assimilate_windows([*usable, *from_device("patch", [*flat, *artefacts])], *arguments)
    assert with_them.counts == (12, 0, 0, 2)
    assert with_them.effect == pytest.approx(plain.effect, rel=1e-12)
    assert with_them.last.verdict == "unusable"
    assert math.isnan(with_them.last.forecast)


def test_the_last_window_tells_what_was_expected_of_it() -> None:
    (state,) = assimilate_windows(
        windows_of(np.array([420.0])),
        QTC,
        CHANNEL,
        infusions(400.0),
        np.zeros(2),
        ETA_COVARIANCE,
        np.array([START_H + 1.0]),
    )
    last = state.last
    level, _, _ = solve(infusions(400.0), np.zeros(2), np.array([START_H + 2.5 / 60.0]))
    operator = operator_at(START_H + 2.5 / 60.0, level[0] / (3.92 + level[0]))
    assert (last.window, last.reading, last.verdict) == (FIRST, 420.0, "taken")
    assert last.forecast == pytest.approx(
        float(operator @ MODEL.mean), abs=0.1
    )  # the mean over eta is near its middle
    assert last.sd > math.sqrt(float(operator @ MODEL.covariance @ operator))


def test_a_wider_lab_posterior_leaves_the_effect_less_certain() -> None:
    windows = windows_of(406.0 + 12.0 * np.exp(-np.arange(288.0) / 100.0))
    end = np.array([window_start_h(FIRST + 288)])
    sd = []
    for width in (0.01, 1.0, 4.0):
        (state,) = assimilate_windows(
            windows, QTC, CHANNEL, infusions(400.0), np.zeros(2), width * ETA_COVARIANCE, end
        )
        sd.append(state.effect_sd)
    assert sd[0] < sd[1] < sd[2]


def test_a_hundred_times_the_samples_of_the_same_hours_hardly_sharpen_the_baseline() -> None:
    value = np.tile([404.0, 407.0, 409.0, 405.0], 36)
    end = np.array([window_start_h(FIRST + 144)])
    sd = []
    for each in (3, 300):
        windows = [
            fold_frame(
                [v - 2.0 + 2.0 * (k % 3) for k in range(each)],
                [(FIRST + i) * WINDOW_NS + k * 10**9 for k in range(each)],
                QTC,
            )[0]
            for i, v in enumerate(value)
        ]
        (state,) = assimilate_windows(
            from_device("patch", windows), QTC, CHANNEL, infusions(400.0), np.zeros(2), ETA_COVARIANCE, end
        )
        sd.append(state.baseline_sd)
    assert 0.9 < sd[1] / sd[0] < 1.0


def test_taking_windows_for_independent_is_a_trap_and_the_autoregression_avoids_it() -> None:
    dice = np.random.default_rng(5)
    fade = math.exp(-1.0 / 24.0)
    covariance = MODEL.covariance.copy()
    covariance[NOISE, NOISE] = 0.0
    independent = MODEL._replace(covariance=covariance, noise_cv=0.0)
    held = {"autoregressive": 0, "independent": 0}
    patients = 150
    for _ in range(patients):
        truth = 406.0 * math.exp(0.0382 * dice.standard_normal())
        noise = 6.2 * dice.standard_normal()
        value = np.empty(144)
        cosine, sine = (
            np.linalg.cholesky(MODEL.covariance[2:4, 2:4]) @ dice.standard_normal(2) + MODEL.mean[2:4]
        )
        for i in range(144):
            truth += 0.73 / math.sqrt(12.0) * dice.standard_normal()
            noise = fade * noise + 6.2 * math.sqrt(1.0 - fade**2) * dice.standard_normal()
            operator = operator_at(START_H + (i + 0.5) / 12.0, 0.0)
            value[i] = operator @ np.array([truth, 0.0, cosine, sine, noise]) + dice.standard_normal()
        for name, model, scatter in (
            ("autoregressive", MODEL, 1.0),
            ("independent", independent, 6.2**2 / 5.0),
        ):
            taken = readings(value, scatter=scatter)
            result = filter_windows(model, taken, np.zeros(144), np.zeros((144, 1)), taken.end_h[-1:])
            sd = math.sqrt(result.covariance[0, 1 + BASELINE, 1 + BASELINE])
            held[name] += abs(result.mean[0, BASELINE] - truth) < 1.645 * sd
    assert 0.83 <= held["autoregressive"] / patients <= 0.96  # 0.90 and three standard errors of 150 patients
    assert held["independent"] / patients < 0.6


def test_an_estimate_that_is_not_finite_says_so() -> None:
    taken = readings(np.array([406.0, math.nan]))
    with pytest.raises(MathsError, match="not finite"):
        assimilate_model(
            MODEL, taken, infusions(400.0), np.zeros(2), ETA_COVARIANCE, np.array([START_H + 1.0])
        )


def lasting(offset: Floats, device: str = "patch") -> list[DeviceWindow]:
    """A day of windows round 410 ms, an offset added to each; honest scatter, so that nothing is a flat line."""
    dice = np.random.default_rng(11)
    value = 410.0 + dice.normal(0.0, 2.0, len(offset)) + offset
    return list(from_device(device, [one.window for one in windows_of(np.round(value))]))


def state_after(windows: list[DeviceWindow], hours: float = 24.0) -> ChannelState:
    (state,) = assimilate_windows(
        windows,
        QTC,
        CHANNEL,
        infusions(400.0),
        np.zeros(2),
        ETA_COVARIANCE,
        np.array([START_H + hours]),
    )
    return state


def test_a_device_that_jumps_and_stays_loses_trust_and_moves_the_baseline_but_not_the_effect() -> None:
    sound = np.zeros(288)
    jump = np.where(np.arange(288) < 144, 0.0, 120.0)
    plain, jumped = state_after(lasting(sound)), state_after(lasting(jump))
    assert plain.distrusted == ()
    assert jumped.distrusted == ("patch:jump",)
    assert jumped.baseline > plain.baseline + 60.0
    assert abs(jumped.effect - state_after(lasting(sound), 12.0).effect) < 0.5 * plain.effect_sd


def test_a_slow_ramp_loses_trust_before_it_has_moved_the_effect_by_its_own_uncertainty() -> None:
    ramp = 0.05 * 410.0 / 12.0 * np.maximum(np.arange(288) - 144, 0)
    plain, crept = state_after(lasting(np.zeros(288))), state_after(lasting(ramp), 15.0)
    assert crept.distrusted == ("patch:drift",)
    assert abs(crept.effect - plain.effect) < 2.0 * plain.effect_sd


def test_while_another_device_is_trusted_one_that_jumped_is_not_followed() -> None:
    jump = np.where(np.arange(288) < 144, 0.0, 120.0)
    both = state_after([*lasting(np.zeros(288), "patch"), *lasting(jump, "watch")])
    alone = state_after(lasting(np.zeros(288), "patch"))
    assert both.distrusted == ("watch:jump",)
    assert abs(both.baseline - alone.baseline) < 3.0 * alone.baseline_sd


def test_two_sound_devices_that_read_differently_keep_trust_and_the_first_says_what_the_baseline_is() -> None:
    sound = np.zeros(288)
    alone = state_after(lasting(sound, "patch"))
    both = state_after([*lasting(sound, "patch"), *lasting(sound + 11.0, "watch")])
    assert both.distrusted == ()
    assert both.counts[1:3] == (0, 0)
    assert abs(both.baseline - alone.baseline) < 0.3 * alone.baseline_sd
    assert abs(both.effect - alone.effect) < 0.5 * alone.effect_sd


def test_a_device_that_takes_over_and_reads_differently_moves_neither_baseline_nor_effect_by_that() -> None:
    lower = lasting(np.full(288, -11.0), "watch")[144:]
    before = state_after(lasting(np.zeros(288), "patch")[:144], 12.0)
    after = state_after([*lasting(np.zeros(288), "patch")[:144], *lower])
    assert after.distrusted == ()
    assert abs(after.baseline - before.baseline) < 4.0
    assert abs(after.effect - before.effect) < before.effect_sd


def test_two_devices_that_drift_away_from_one_another_both_lose_trust_as_either_may_be_wrong() -> None:
    apart = 0.03 * 410.0 / 12.0 * np.maximum(np.arange(288) - 144, 0)
    both = state_after([*lasting(apart, "patch"), *lasting(-apart, "watch")])
    assert both.distrusted == ("patch:apart", "watch:apart")


def test_a_device_is_wrong_by_as_much_as_is_published_of_its_kind_and_no_more_than_the_residual() -> None:
    def device_sd(published: float | None) -> float:
        return channel_model(replace(CHANNEL, device_sd=published)).device_cv * CHANNEL.baseline_typical

    residual_sd = CHANNEL.residual_cv * CHANNEL.baseline_typical
    assert device_sd(None) == device_sd(2.0 * residual_sd) == pytest.approx(residual_sd)
    assert device_sd(0.5 * residual_sd) == pytest.approx(0.5 * residual_sd)
    library = load_library(CONFIG)
    heart = library.drugs["carvedilol"].channel
    assert heart is not None
    assert heart.device_sd == library.signals[heart.signal].device_sd == 3.8


def test_a_device_that_will_be_heard_changes_nothing_before_it_is() -> None:
    first, second = lasting(np.zeros(288), "patch"), lasting(np.full(288, 11.0), "watch")[144:]
    asked = np.array([START_H + 12.0])
    given = (QTC, CHANNEL, infusions(400.0), np.zeros(2), ETA_COVARIANCE, asked)
    [alone], [both] = assimilate_windows(first, *given), assimilate_windows([*first, *second], *given)
    assert alone.mean.tobytes() == both.mean.tobytes()
    assert alone.covariance.tobytes() == both.covariance.tobytes()


def test_no_reading_moves_the_effect_further_than_the_influence_it_is_allowed() -> None:
    occupied = np.full(288, 0.4)
    sd = math.sqrt(MODEL.covariance[EFFECT, EFFECT])
    value = 406.0 + 0.4 * (MODEL.mean[EFFECT] + 12.0 * sd) * np.minimum(np.arange(288) / 100.0, 1.0)
    result = filter_windows(
        MODEL, readings(value), occupied, np.zeros((288, 2)), np.array([window_start_h(FIRST + 288)])
    )
    assert abs(result.mean[0, EFFECT] - MODEL.mean[EFFECT]) <= LARGEST_INFLUENCE_SD * sd
