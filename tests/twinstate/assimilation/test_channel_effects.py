"""Effects of every shape, and how far the signal itself will go: against longhand, closed forms and Monte Carlo."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import norm

from tests.twinstate.channels import CHANNEL, FIRST, MODEL, operator_at, readings
from tests.twinstate.courses import START_H, Given, course, log_parameters
from twinstate.assimilation.channel import (
    ChannelState,
    LastWindow,
    assimilate_model,
    considered_occupancy,
    filter_windows,
)
from twinstate.assimilation.channel_extremes import WALK_TERMS, extreme_ahead
from twinstate.assimilation.channel_model import (
    BASELINE,
    EFFECT,
    NOISE,
    ChannelModel,
    channel_model,
    occupancy,
)
from twinstate.drug import Channel
from twinstate.pk.course import EFFECT_SITE, Course, Structure
from twinstate.pk.propagate import solve

Floats = NDArray[np.float64]

# Fentanyl's receptor and a share of the breathing rate, with numbers of its size.
BREATHING = Channel(
    signal="respiratory_rate",
    unit="/min",
    baseline_typical=15.0,
    baseline_cv=0.2,
    rhythms=(),
    emax=0.8,
    emax_cv=0.3,
    ec50_mg_L=0.5,
    residual_cv=0.1,
    noise_time_constant_h=0.5,
    baseline_drift_per_sqrt_h=0.5,
    keep_h=24.0,
    provenance={},
    follows="second",
    hill=0.84,
    exponent=0.9,
    falls=True,
    relative=True,
    part=(0.2, 0.9),
)
FALLING = channel_model(BREATHING)
MEDIAN = np.array([0.5])


def infused() -> Course:
    """One infusion, an effect site behind it; clearance and volume vary."""
    row = log_parameters(clearance=4.0, central_volume=50.0, effect_rate=0.6)
    doses = [Given(0.0, 60.0, duration=1.0)]
    return course(Structure(1, second=EFFECT_SITE), doses, [(0.0, row)], (0, 1, *[-1] * 6))


def state(mean: Floats, covariance: Floats, at_h: float = START_H) -> ChannelState:
    nobody = LastWindow(-1, math.nan, math.nan, math.nan, "")
    return ChannelState(at_h, mean, covariance, 0.0, (1, 0, 0, 0), nobody)


def still(model: ChannelModel, **changed: float) -> ChannelModel:
    """No rhythm shorter than a day, no drift unless told."""
    nothing = np.empty(0)
    quiet = model._replace(period_h=nothing, amplitude=nothing, acrophase_h=nothing, drift_per_sqrt_h=0.0)
    return quiet._replace(**changed)


def test_the_occupancy_is_the_hill_equation_to_its_exponent() -> None:
    level = np.array([0.001, 0.3, 0.5, 2.0, 40.0, 1e6])
    expected = (level**0.84 / (0.5**0.84 + level**0.84)) ** 0.9
    found = [occupancy(value, FALLING) for value in level]
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    plain = FALLING._replace(hill=1.0, exponent=1.0)
    np.testing.assert_allclose([occupancy(v, plain) for v in level], level / (0.5 + level), rtol=1e-15)
    assert occupancy(0.0, FALLING) == 0.0
    assert occupancy(-1e-18, FALLING) == 0.0
    assert math.isnan(occupancy(math.nan, FALLING))


def test_an_effect_that_lowers_the_signal_follows_the_effect_site_with_its_slopes_turned_down() -> None:
    therapy, eta = infused(), np.array([0.2, -0.1])
    time_h = START_H + np.array([0.2, 0.8, 3.0, 9.0])
    expected, slope = considered_occupancy(therapy, eta, 1e-4 * np.eye(2), FALLING, time_h)

    def occupied(at: Floats) -> Floats:
        _, _, site = solve(therapy, at, time_h)
        return -((site**0.84 / (0.5**0.84 + site**0.84)) ** 0.9)

    np.testing.assert_allclose(expected, occupied(eta), rtol=1e-6)
    for column in range(2):
        step = 1e-5 * np.eye(2)[column]
        derivative = (occupied(eta + step) - occupied(eta - step)) / 2e-5
        np.testing.assert_allclose(slope[:, column] / 1e-4, derivative, rtol=1e-4, atol=1e-8)
    assert (expected < 0.0).all()


def test_the_prior_of_a_part_of_the_baseline_has_the_moments_of_its_draws() -> None:
    dice = np.random.default_rng(7)
    count = 400_000

    def log_normal(median: float, cv: float) -> Floats:
        return np.asarray(median * np.exp(math.sqrt(math.log(1.0 + cv**2)) * dice.standard_normal(count)))

    baseline = log_normal(15.0, 0.2)
    effect = log_normal(0.8, 0.3) * dice.uniform(0.2, 0.9, count) * baseline
    drawn = np.cov(baseline, effect)
    pair = [BASELINE, EFFECT]
    assert FALLING.mean[EFFECT] == pytest.approx(effect.mean(), rel=0.005)
    np.testing.assert_allclose(FALLING.covariance[np.ix_(pair, pair)], drawn, rtol=0.03)


def test_a_signal_that_falls_teaches_the_size_of_the_fall_and_one_that_does_not_that_there_is_none() -> None:
    therapy, eta = infused(), np.zeros(2)
    covariance = 0.01 * np.eye(2)
    taken = readings(np.full(72, 15.0), start=FIRST - 24, scatter=0.04)
    _, _, site = solve(therapy, eta, taken.time_h)
    share = (site**0.84 / (0.5**0.84 + site**0.84)) ** 0.9
    end = taken.end_h[-1:]
    found = []
    for truth in (6.0, 0.0):
        told = taken._replace(value=15.0 - truth * share)
        (after,) = assimilate_model(FALLING, told, therapy, eta, covariance, end)
        assert after.baseline == pytest.approx(15.0, abs=after.baseline_sd)
        # The prior expects 7 /min, and noise of 1.5 /min may hide some of a fall.
        assert after.effect == pytest.approx(truth, abs=1.2 * after.effect_sd)
        assert after.effect_sd < 0.55 * math.sqrt(FALLING.covariance[EFFECT, EFFECT])
        found.append(after.effect)
    assert found[0] - found[1] > 3.5


def test_a_correlated_prior_gives_what_a_longhand_kalman_update_gives() -> None:
    taken = readings(np.array([11.0]), scatter=0.25)
    operator = np.array([1.0, -0.4, *operator_at(float(taken.time_h[0]), 0.0)[2:4], 1.0])
    result = filter_windows(FALLING, taken, np.array([-0.4]), np.zeros((1, 0)), taken.end_h)
    spread = operator @ FALLING.covariance @ operator + 0.25
    gain = FALLING.covariance @ operator / spread
    np.testing.assert_allclose(
        result.mean[0], FALLING.mean + gain * (11.0 - operator @ FALLING.mean), rtol=1e-12
    )
    np.testing.assert_allclose(
        result.covariance[0], FALLING.covariance - np.outer(gain, gain) * spread, rtol=1e-9, atol=1e-12
    )


@pytest.mark.parametrize("lowest", [False, True])
def test_without_drug_drift_and_rhythm_the_chance_is_the_baselines_gaussian_tail(lowest: bool) -> None:
    mean, covariance = np.zeros(5), np.zeros((5, 5))
    mean[BASELINE], covariance[BASELINE, BASELINE], covariance[NOISE, NOISE] = 60.0, 16.0, 900.0
    time_h = START_H + np.arange(5.0)
    weights = np.full(300, 1.0 / 300)
    limit = 54.0 if lowest else 66.0
    found = extreme_ahead(
        state(mean, covariance),
        still(MODEL),
        np.zeros((300, 5)),
        weights,
        time_h,
        limit,
        MEDIAN,
        lowest=lowest,
    )
    # Variances of nought are lifted to a trillionth of the largest before the factor is taken.
    assert found.chance.probability == pytest.approx(norm.sf(1.5), abs=1e-6)
    assert found.quantiles[0] == pytest.approx(60.0, abs=0.3)


def test_a_drifting_baseline_passes_a_limit_as_often_as_the_reflection_principle_says() -> None:
    mean, covariance = np.zeros(5), np.zeros((5, 5))
    mean[BASELINE], covariance[BASELINE, BASELINE] = 60.0, 1.0
    time_h = START_H + np.linspace(0.0, 4.0, 9)
    weights = np.full(512, 1.0 / 512)
    walking = still(MODEL, drift_per_sqrt_h=2.0)
    dice = np.random.default_rng(4)
    steps = 2.0 * math.sqrt(0.5) * dice.standard_normal((200_000, 8))
    path = (
        60.0
        + dice.standard_normal((200_000, 1))
        + np.concatenate([np.zeros((200_000, 1)), np.cumsum(steps, axis=1)], axis=1)
    )
    for limit in (58.0, 55.0, 52.0):
        found = extreme_ahead(
            state(mean, covariance), walking, np.zeros((512, 9)), weights, time_h, limit, MEDIAN, lowest=True
        )
        seen = float((path.min(axis=1) < limit).mean())
        assert found.chance.probability == pytest.approx(seen, abs=0.02)
    # Looked at without a pause it would be 2 P(end below), seen every half hour somewhat less often.
    without_pause = 2.0 * norm.cdf(-8.0 / 4.0)
    assert 0.5 * without_pause < found.chance.probability < 1.2 * without_pause


def test_effect_rhythm_drift_and_points_together_agree_with_drawing_them() -> None:
    dice = np.random.default_rng(12)
    points, times, draws = 256, 49, 40_000
    time_h = START_H + np.linspace(0.0, 24.0, times)
    scale = np.exp(dice.normal(0.0, 0.4, points))
    level = scale[:, np.newaxis] * 6.0 * np.exp(-np.linspace(0.0, 24.0, times) / 8.0)
    weights = dice.uniform(0.5, 1.5, points)
    weights /= weights.sum()
    mean = MODEL.mean + np.array([40.0, 20.0, 1.0, -2.0, 0.0])
    covariance = 0.3 * MODEL.covariance
    found = extreme_ahead(
        state(mean, covariance, START_H - 1.0),
        MODEL,
        level,
        weights,
        time_h,
        490.0,
        np.array([0.05, 0.5, 0.95]),
        lowest=False,
    )
    which = dice.choice(points, draws, p=weights)
    drawn = mean + math.sqrt(0.3) * dice.standard_normal((draws, 5)) @ np.linalg.cholesky(MODEL.covariance).T
    # From an hour before the first time on.
    step = np.concatenate([[1.0], np.diff(time_h)])
    walk = np.cumsum(0.73 * np.sqrt(step) * dice.standard_normal((draws, times)), axis=1)
    signal = np.empty((draws, times))
    for i, at in enumerate(time_h):
        operator = operator_at(float(at), 0.0)
        share = level[which, i] / (3.92 + level[which, i])
        signal[:, i] = (
            operator[0] * (drawn[:, 0] + walk[:, i])
            + drawn[:, 1] * share
            + operator[2] * drawn[:, 2]
            + operator[3] * drawn[:, 3]
        )
    highest = signal.max(axis=1)
    assert found.chance.probability == pytest.approx(float((highest > 490.0).mean()), abs=0.02)
    np.testing.assert_allclose(found.quantiles, np.quantile(highest, [0.05, 0.5, 0.95]), atol=1.5)


def test_a_level_so_low_that_it_never_matters_leaves_the_effect_out() -> None:
    time_h = START_H + np.arange(9.0) / 2.0
    weights = np.full(256, 1.0 / 256)
    asked = (weights, time_h, 50.0, MEDIAN)
    mean, covariance = np.array([60.0, 18.0, 0.0, 0.0, 0.0]), np.diag([9.0, 300.0, 0.0, 0.0, 0.0])
    falling = still(channel_model(CHANNEL), sign=-1.0)
    without = extreme_ahead(state(mean, covariance), falling, np.zeros((256, 9)), *asked, lowest=True)
    with_it = extreme_ahead(state(mean, covariance), falling, np.full((256, 9), 50.0), *asked, lowest=True)
    assert without.chance.probability < 0.001
    assert with_it.chance.probability > 0.6
    # Nor can the drug, which slows, keep the rate up.
    fast = extreme_ahead(state(mean, covariance), falling, np.full((256, 9), 50.0), *asked, lowest=False)
    assert fast.quantiles[0] < 61.0


def test_the_walks_terms_hold_nearly_all_of_its_variance() -> None:
    held = sum(2.0 / ((k + 0.5) * math.pi) ** 2 for k in range(WALK_TERMS))
    assert held > 0.98
