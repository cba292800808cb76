"""How a drug moves one wearable signal, as the filter and the forecast compute with it.

    reading = baseline * (1 + shorter rhythms) +- effect * g(x) + daily rhythm + noise + scatter
    g(x) = (x^hill / (ec50^hill + x^hill))^exponent

x is the level or the concentration at the effect site. The effect stays in the signal's unit even where it is published
as a fraction of the baseline: then the prior correlates the two, and the filter stays linear.

The noise is a first-order autoregression and holds the whole published residual: a mean over many samples of one hour
is barely better than one of them. Only what scatters within a window is averaged away. Where motion is modelled, what
it leaves after sudden rises have been put aside is part of that noise.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from twinstate.assimilation.windows import WINDOWS_PER_HOUR
from twinstate.drug import Channel
from twinstate.kernels import kernel

Floats = NDArray[np.float64]

# The estimated states, in order; in a covariance they follow the considered ones.
STATES = ("baseline", "effect", "cosine", "sine", "noise")
BASELINE, EFFECT, COSINE, SINE, NOISE = 0, 1, 2, 3, 4
DAY_H = 24.0
# Between-subject spread of the daily rhythm, Hong 2015 (doi:10.2147/DDDT.S79772): amplitude CV 93 %; acrophase 206 %
# of 1.11 h, additive.
AMPLITUDE_CV = 0.93
ACROPHASE_SD_H = 2.29
# Least share of the residual's variance taken as scatter of a single sample when a window cannot show its own.
SCATTER_SHARE = 0.1
# A slow drift makes innovations that are small but all of one sign: a two-sided cumulative sum of them (in SD), with
# this allowance a window and this limit, is crossed by chance once in 26,000 windows of a calibrated filter
# (Siegmund 1985, Sequential Analysis, 2.5: half of (exp(2kb) - 2kb - 1) / 2k^2 with b = h + 1.166).
DRIFT_ALLOWANCE_SD = 0.5
DRIFT_LIMIT_SD = 9.0
# Where motion is noise, sound innovations have an SD of 0.7 and lean to one side for hours at nightfall; a drift of 5 %
# an hour leans by a fifth of an SD. Chosen on simulated days and nights (docs/decisions/0006).
RESTLESS_ALLOWANCE_SD = 0.1
RESTLESS_LIMIT_SD = 21.0


class ChannelModel(NamedTuple):
    """A drug's effect on one signal as the kernels take it; values in the signal's unit, times in h.

    Attributes:
        mean: Prior of `STATES`, (5,).
        covariance: Prior covariance of `STATES`, (5, 5).
        ec50_mg_L: Concentration at half occupancy, mg/L.
        hill: Of the occupancy.
        exponent: To which the occupancy is raised.
        sign: 1 when the drug lifts the signal, -1 when it lowers it.
        second: 1 when x is the model's second output, 0 when it is the level.
        noise_cv: SD of the autoregressive noise as a share of the baseline.
        device_cv: SD of what one device alone misreads, as a share of the baseline: as published of such devices, and
            no more than the residual without motion, which is the body's.
        noise_time_constant_h: After which the autocorrelation of either noise is 1/e.
        drift_per_sqrt_h: SD of the baseline's random walk after one hour.
        scatter_sd: Least SD of one sample within its window.
        period_h: Rhythms that are a fixed share of the baseline, (rhythms,).
        amplitude: Their share, (rhythms,).
        acrophase_h: When they peak, h after 00:00 UTC, (rhythms,).
        longest_activity: Windows on end that motion may lift the signal; 0 where motion is not modelled.
        drift_allowance_sd: Of the cumulative sum of innovations that finds a drift, in SD.
        drift_limit_sd: Its limit, in SD.
    """

    mean: Floats
    covariance: Floats
    ec50_mg_L: float
    hill: float
    exponent: float
    sign: float
    second: int
    noise_cv: float
    device_cv: float
    noise_time_constant_h: float
    drift_per_sqrt_h: float
    scatter_sd: float
    period_h: Floats
    amplitude: Floats
    acrophase_h: Floats
    longest_activity: int
    drift_allowance_sd: float
    drift_limit_sd: float


def log_normal_moments(median: float, cv: float) -> tuple[float, float]:
    """Mean and variance of a log-normal quantity with this median, omega^2 = ln(1 + cv^2)."""
    growth = 1.0 + cv * cv
    return median * math.sqrt(growth), median * median * growth * (growth - 1.0)


def channel_model(channel: Channel) -> ChannelModel:
    """Prior and dynamics of a channel from its published numbers.

    Between-subject spreads are log-normal; the filter starts from their means and variances, and of an effect that is a
    fraction of the baseline also from their covariance. The rhythm of 24 h is
    estimated: its cosine and sine start from the moments of a log-normal amplitude (`AMPLITUDE_CV`) and a normal
    acrophase (`ACROPHASE_SD_H`); one that nobody published is as likely to peak at any hour. All others stay the
    published share of the baseline.

    Args:
        channel: As the drug's file says it.
    """
    mean = np.zeros(len(STATES))
    covariance = np.zeros((len(STATES), len(STATES)))
    mean[BASELINE], covariance[BASELINE, BASELINE] = log_normal_moments(
        channel.baseline_typical, channel.baseline_cv
    )
    _add_effect(mean, covariance, channel)
    residual_sd = channel.residual_cv * channel.baseline_typical
    noise_cv = math.hypot(channel.residual_cv, channel.activity_cv)
    device_sd = residual_sd if channel.device_sd is None else min(residual_sd, channel.device_sd)
    covariance[NOISE, NOISE] = (noise_cv * channel.baseline_typical) ** 2
    covariance[COSINE, COSINE] = covariance[SINE, SINE] = (
        0.5 * (channel.open_amplitude * channel.baseline_typical) ** 2
    )
    for rhythm in channel.rhythms:
        if rhythm.period_h == DAY_H:
            amplitude = rhythm.amplitude * channel.baseline_typical
            _add_daily_rhythm(mean, covariance, amplitude, rhythm.acrophase_h)
    restless = channel.longest_activity_h > 0.0
    shorter = [rhythm for rhythm in channel.rhythms if rhythm.period_h != DAY_H]
    return ChannelModel(
        mean=mean,
        covariance=covariance,
        ec50_mg_L=channel.ec50_mg_L,
        hill=channel.hill,
        exponent=channel.exponent,
        sign=-1.0 if channel.falls else 1.0,
        second=int(channel.follows == "second"),
        noise_cv=noise_cv,
        device_cv=device_sd / channel.baseline_typical,
        noise_time_constant_h=channel.noise_time_constant_h,
        drift_per_sqrt_h=channel.baseline_drift_per_sqrt_h,
        scatter_sd=math.sqrt(SCATTER_SHARE) * residual_sd,
        period_h=np.array([rhythm.period_h for rhythm in shorter], dtype=np.float64),
        amplitude=np.array([rhythm.amplitude for rhythm in shorter], dtype=np.float64),
        acrophase_h=np.array([rhythm.acrophase_h for rhythm in shorter], dtype=np.float64),
        longest_activity=round(channel.longest_activity_h * WINDOWS_PER_HOUR),
        drift_allowance_sd=RESTLESS_ALLOWANCE_SD if restless else DRIFT_ALLOWANCE_SD,
        drift_limit_sd=RESTLESS_LIMIT_SD if restless else DRIFT_LIMIT_SD,
    )


def _add_effect(mean: Floats, covariance: Floats, channel: Channel) -> None:
    """Moments of emax * part (* baseline, where relative) for log-normal emax and uniform part, in place."""
    published, variance = log_normal_moments(channel.emax, channel.emax_cv)
    low, high = channel.part
    middle = 0.5 * (low + high)
    square = (low * low + low * high + high * high) / 3.0
    effect = published * middle
    variance = variance * square + published * published * (square - middle * middle)
    if channel.relative:
        baseline, spread = mean[BASELINE], covariance[BASELINE, BASELINE]
        covariance[BASELINE, EFFECT] = covariance[EFFECT, BASELINE] = effect * spread
        variance = (variance + effect * effect) * (spread + baseline * baseline) - (effect * baseline) ** 2
        effect *= baseline
    mean[EFFECT], covariance[EFFECT, EFFECT] = effect, variance


def _add_daily_rhythm(mean: Floats, covariance: Floats, amplitude: float, acrophase_h: float) -> None:
    """Moments of A cos(p), A sin(p) for log-normal A and p = acrophase + normal, added to the prior in place."""
    mean_amplitude, variance = log_normal_moments(amplitude, AMPLITUDE_CV)
    square = mean_amplitude**2 + variance
    spread = (2.0 * math.pi * ACROPHASE_SD_H / DAY_H) ** 2
    phase = 2.0 * math.pi * acrophase_h / DAY_H
    along = mean_amplitude * math.exp(-0.5 * spread)
    variance_along = 0.5 * square * (1.0 + math.exp(-2.0 * spread)) - along**2
    variance_across = 0.5 * square * (1.0 - math.exp(-2.0 * spread))
    cosine, sine = math.cos(phase), math.sin(phase)
    mean[COSINE] += along * cosine
    mean[SINE] += along * sine
    covariance[COSINE, COSINE] += variance_along * cosine**2 + variance_across * sine**2
    covariance[SINE, SINE] += variance_along * sine**2 + variance_across * cosine**2
    covariance[COSINE, SINE] += (variance_along - variance_across) * cosine * sine
    covariance[SINE, COSINE] = covariance[COSINE, SINE]


@kernel
def angle(time_h: float, period_h: float) -> float:
    """Phase of a time in a period, radians; reduced first, so that hours since 1970 cost no digits."""
    return 2.0 * math.pi * (time_h % period_h) / period_h


@kernel
def observe(model: ChannelModel, time_h: float, operator: Floats) -> None:
    """Fill how the estimated states enter a reading at a time, all but the effect: `operator` (5,)."""
    operator[BASELINE] = 1.0
    for rhythm in range(model.period_h.size):
        phase = angle(time_h - model.acrophase_h[rhythm], model.period_h[rhythm])
        operator[BASELINE] += model.amplitude[rhythm] * math.cos(phase)
    phase = angle(time_h, DAY_H)
    operator[COSINE] = math.cos(phase)
    operator[SINE] = math.sin(phase)
    operator[NOISE] = 1.0


@kernel
def occupancy(concentration: float, model: ChannelModel) -> float:
    """Share g(x) of the largest effect, 0 to 1; a concentration below 0 by rounding counts as none."""
    if not concentration > 0.0:
        return concentration if math.isnan(concentration) else 0.0
    if model.hill == 1.0:
        share: float = concentration / (model.ec50_mg_L + concentration)
    else:  # powers as exp(ln): the scalar power differs from machine to machine
        share = 1.0 / (1.0 + math.exp(-model.hill * math.log(concentration / model.ec50_mg_L)))
    if model.exponent == 1.0 or share <= 0.0:
        return share
    return math.exp(model.exponent * math.log(share))


@kernel
def fade(covariance: Floats, state: int, elapsed: float, sd: float) -> float:
    """Forecast the covariance of one autoregressive state, in place; returns what is left of its mean.

    Args:
        covariance: (states, states).
        state: Which.
        elapsed: In its time constants.
        sd: To which its own spread tends.
    """
    kept = math.exp(-elapsed)
    for other in range(covariance.shape[0]):
        covariance[state, other] *= kept
    for other in range(covariance.shape[0]):
        covariance[other, state] *= kept
    covariance[state, state] += sd * sd * (1.0 - kept * kept)
    return kept


@kernel
def move_on(model: ChannelModel, mean: Floats, covariance: Floats, considered: int, elapsed_h: float) -> None:
    """Forecast the state over a time without windows: the noise fades, the baseline drifts; in place.

    Args:
        model: Dynamics.
        mean: (5,).
        covariance: (considered + 5, considered + 5).
        considered: Leading states that are only considered.
        elapsed_h: At least 0.
    """
    baseline = considered + BASELINE
    noise_sd = model.noise_cv * mean[BASELINE]
    mean[NOISE] *= fade(covariance, considered + NOISE, elapsed_h / model.noise_time_constant_h, noise_sd)
    covariance[baseline, baseline] += model.drift_per_sqrt_h * model.drift_per_sqrt_h * elapsed_h
