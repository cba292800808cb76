"""Patients on a drug that moves a wearable signal, simulated from its file: truth, levels, windows, what follows.

Plain NumPy apart from the solver: etas from the model's omega; baseline, effect and the part of it that reaches the
signal from their published spreads; a drifting baseline; the residual as a first-order autoregression with a tenth of
its variance as scatter of single readings, a reading a minute. Day, night and motion either as the file has them (a
cosine of unknown hour, more of the noise), or as `twin simulate` has them, which no model here knows: a night that is
lower by a step, and bouts of 10 to 40 minutes.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from streams.simulation.person import BOUT_H, BOUTS_EVERY_H, RHYTHMS, asleep
from twinstate.assimilation.channel_model import (
    ACROPHASE_SD_H,
    AMPLITUDE_CV,
    DAY_H,
    SCATTER_SHARE,
    ChannelModel,
    channel_model,
)
from twinstate.assimilation.observation import Labs, labs_under
from twinstate.assimilation.readings import Readings, from_device, readings_of
from twinstate.assimilation.windows import fold_frame
from twinstate.catalogue import Signal
from twinstate.drug import Channel, DrugModel
from twinstate.outlook import peaks_of_doses
from twinstate.pk.course import Course, no_occasions
from twinstate.pk.propagate import solve, solve_points
from twinstate.population.covariates import typical_log_parameters
from twinstate.population.structure import route_of, structure_of
from twinstate.types import NS_PER_MINUTE

Floats = NDArray[np.float64]

DAY_ONE_H = 494_040.0  # 00:00 UTC of a day in 2026, hours since 1970
LOWEST_LEVEL_MG_L = 1e-4
# A fall in the signal's unit may by its published spread be more than there is: one with less than this part of his
# own heart rate left is drawn again.
LEAST_LEFT = 0.4


class Plan(NamedTuple):
    """How a drug is given and its signal watched; hours after the first dose.

    Attributes:
        dose_mg: Of each dose.
        doses_h: When; those after `watched_h` are planned.
        route: `iv` or `oral`.
        since_h: When the watch is put on, below 0.
        watched_h: When the twin is asked.
        ahead_h: How far the signal is followed afterwards.
        levels_h: When a level is drawn; empty where none is measured.
        limit: Of the signal itself, in its unit, met often enough to tell a good probability from a bad one.
        covariates: Of every patient.
        genotype: Of every patient.
    """

    dose_mg: float
    doses_h: tuple[float, ...]
    route: str
    since_h: float
    watched_h: float
    ahead_h: float
    levels_h: tuple[float, ...]
    limit: float
    covariates: dict[str, float | str | bool]
    genotype: dict[str, str]


PLANS = {
    "moxifloxacin": Plan(400.0, (0.0, 24.0, 48.0), "oral", -2.0, 48.0, 24.0, (2.0, 23.0), 430.0, {}, {}),
    "carvedilol": Plan(
        25.0, (0.0, 12.0, 24.0), "oral", -2.0, 22.0, 4.0, (1.5, 11.0), 50.0, {}, {"CYP2D6": "*1/*10"}
    ),
    "metoprolol": Plan(
        50.0,
        (0.0, 12.0, 24.0),
        "oral",
        -2.0,
        22.0,
        4.0,
        (2.0, 11.0),
        55.0,
        {"sex": "female"},
        {"CYP2D6": "*1/*4"},
    ),
    "fentanyl": Plan(0.1, (0.0, 1.0, 2.0, 4.5), "iv", -2.0, 4.0, 4.0, (), 11.0, {"weight": 70.0}, {}),
}


class Person(NamedTuple):
    """One simulated patient.

    Attributes:
        course: Doses given while watched.
        planned: The same with the doses to come.
        labs: Levels.
        readings: Of the watch.
        times: Of its samples, UTC ns, (samples,).
        values: Its samples, in the signal's unit, (samples,).
        asked_h: When the twin is asked, hours since 1970.
        eta: True etas.
        baseline: True baseline when asked, in the signal's unit.
        effect: True largest effect, in the signal's unit.
        ahead_h: When the service looks: half hours from then on and peaks of doses, hours since 1970, (times,).
        change: Largest true change by the drug in that time, in the signal's unit.
        extreme: Highest (lowest, where the drug lowers it) true value of the signal in that time, noise left out.
    """

    course: Course
    planned: Course
    labs: Labs
    readings: Readings
    times: NDArray[np.int64]
    values: Floats
    asked_h: float
    eta: Floats
    baseline: float
    effect: float
    ahead_h: Floats
    change: float
    extreme: float


def log_normal(dice: np.random.Generator, median: float, cv: float) -> float:
    """A log-normal quantity, omega^2 = ln(1 + cv^2)."""
    return float(median * math.exp(math.sqrt(math.log1p(cv * cv)) * dice.standard_normal()))


def course_of(model: DrugModel, plan: Plan, start_h: float, until_h: float) -> Course:
    """The doses up to some hours after the first."""
    doses = np.array([at for at in plan.doses_h if at <= until_h])
    typical = typical_log_parameters(model, plan.covariates, plan.genotype).log_typical
    return Course(
        structure_of(model),
        np.array([start_h]),
        typical.reshape(1, -1).copy(),
        np.array(model.eta_index),
        no_occasions(1),
        start_h + doses,
        np.full(doses.size, plan.dose_mg),
        np.zeros(doses.size),
        np.full(doses.size, route_of(model, plan.route), dtype=np.int64),
        np.zeros(doses.size),
    )


def driving(model: DrugModel, course: Course, points: Floats, time_h: Floats) -> Floats:
    """What the channel's effect follows, mg/L, (points, times)."""
    assert model.channel is not None
    concentration, _, second = solve_points(course, np.ascontiguousarray(points), time_h)
    return second if model.channel.follows == "second" else concentration


def occupied(channel: Channel, level: Floats) -> Floats:
    """Share of the largest effect at these levels, 0 to 1, same shape."""
    power = np.maximum(level, 0.0) ** channel.hill
    return np.asarray((power / (channel.ec50_mg_L**channel.hill + power)) ** channel.exponent)


def simulate(
    dice: np.random.Generator, model: DrugModel, signal: Signal, plan: Plan, *, living: bool = False
) -> Person:
    """Draw one patient; `living` ones sleep and move as those of `twin simulate`."""
    channel = model.channel
    assert channel is not None
    numbers = channel_model(channel)
    start_h = DAY_ONE_H + 24.0 * dice.integers(0, 300) + dice.integers(0, 24)
    course = course_of(model, plan, start_h, plan.watched_h)
    planned = course_of(model, plan, start_h, math.inf)
    eta = np.linalg.cholesky(model.omega) @ dice.standard_normal(len(model.etas))
    minutes = np.arange(round(60 * plan.since_h) + 1, round(60 * (plan.watched_h + plan.ahead_h)) + 1)
    time_h = start_h + minutes / 60.0
    share = occupied(channel, driving(model, planned, eta[np.newaxis], time_h))[0]

    mesor = log_normal(dice, channel.baseline_typical, channel.baseline_cv)
    walk = np.cumsum(channel.baseline_drift_per_sqrt_h / math.sqrt(60.0) * dice.standard_normal(minutes.size))
    baseline = mesor + walk
    effect = _effect(dice, channel, mesor)
    while channel.falls and not channel.relative and effect * share.max() > (1.0 - LEAST_LEFT) * mesor:
        effect = _effect(dice, channel, mesor)
    rhythms = _rhythms(dice, channel, baseline, time_h)
    motion = np.zeros(minutes.size)
    if living:
        rhythms, motion = _night_and_motion(dice, channel, time_h)
    underlying = baseline + rhythms + numbers.sign * effect * share
    noise = _noise(dice, channel, minutes.size, activity=not living)
    values = np.maximum(underlying + motion + mesor * noise, 0.0)
    watched = minutes < round(60 * plan.watched_h)
    first = round(start_h * 60)
    times = [int(first + minute) * NS_PER_MINUTE for minute in minutes[watched]]
    windows = fold_frame(values[watched].tolist(), times, signal)
    later = ~watched
    extreme = underlying[later].min() if channel.falls else underlying[later].max()
    drawn_h = start_h + np.array(plan.levels_h)
    level = solve(course, eta, drawn_h)[0] * (
        1.0 + model.residual.proportional * dice.standard_normal(drawn_h.size)
    )
    level = level + model.residual.additive * dice.standard_normal(drawn_h.size)
    labs = labs_under(
        model.residual, drawn_h, np.maximum(level, LOWEST_LEVEL_MG_L), np.zeros(drawn_h.size, dtype=np.int64)
    )
    return Person(
        course=course,
        planned=planned,
        labs=labs,
        readings=readings_of(from_device("watch", windows), signal, numbers.scatter_sd),
        times=np.array(times, dtype=np.int64),
        values=np.asarray(values[watched]),
        asked_h=start_h + plan.watched_h,
        eta=eta,
        baseline=float(baseline[watched][-1]),
        effect=effect,
        ahead_h=_instants(planned, start_h + plan.watched_h, plan.ahead_h),
        change=float(effect * share[later].max()),
        extreme=float(extreme),
    )


def _instants(course: Course, now_h: float, ahead_h: float) -> Floats:
    peaks = peaks_of_doses(course)
    within = peaks[(peaks > now_h) & (peaks < now_h + ahead_h)]
    return np.unique(np.concatenate([now_h + np.arange(0.0, ahead_h + 0.25, 0.5), within]))


def _effect(dice: np.random.Generator, channel: Channel, mesor: float) -> float:
    """Largest effect of one patient, in the signal's unit."""
    effect = log_normal(dice, channel.emax, channel.emax_cv) * float(dice.uniform(*channel.part))
    return effect * mesor if channel.relative else effect


def _rhythms(dice: np.random.Generator, channel: Channel, baseline: Floats, time_h: Floats) -> Floats:
    total = np.zeros(time_h.size)
    for rhythm in channel.rhythms:
        amplitude, acrophase = rhythm.amplitude, rhythm.acrophase_h
        if rhythm.period_h == DAY_H:
            amplitude = log_normal(dice, amplitude, AMPLITUDE_CV)
            acrophase += ACROPHASE_SD_H * dice.standard_normal()
        total += baseline * amplitude * np.cos(2.0 * math.pi * (time_h - acrophase) / rhythm.period_h)
    if channel.open_amplitude > 0.0:
        size = channel.open_amplitude * channel.baseline_typical / math.sqrt(2.0)
        phase = 2.0 * math.pi * (time_h % DAY_H) / DAY_H
        cosine, sine = size * dice.standard_normal(2)
        total += cosine * np.cos(phase) + sine * np.sin(phase)
    return total


def _night_and_motion(dice: np.random.Generator, channel: Channel, time_h: Floats) -> tuple[Floats, Floats]:
    """What sleep takes off and what bouts of motion while awake add, (times,) each."""
    body = RHYTHMS[channel.signal]
    moving = np.zeros(time_h.size, np.bool_)
    at_h = float(time_h[0])
    while (at_h := at_h + dice.uniform(0.2, 2.0 * BOUTS_EVERY_H - 0.2)) < time_h[-1]:
        end_h = at_h + dice.uniform(*BOUT_H)
        if not asleep(np.array([at_h]))[0]:
            moving |= (time_h >= at_h) & (time_h < end_h)
        at_h = end_h
    return np.asarray(body.night * asleep(time_h)), np.asarray(body.motion * moving)


def autoregression(dice: np.random.Generator, minutes: int, time_constant_h: float) -> Floats:
    """A first-order autoregression of SD 1, a value a minute, (minutes,)."""
    fade = math.exp(-1.0 / (60.0 * time_constant_h))
    fresh = math.sqrt(1.0 - fade * fade) * dice.standard_normal(minutes)
    lasting = np.empty(minutes)
    lasting[0] = dice.standard_normal()
    for i in range(1, minutes):
        lasting[i] = fade * lasting[i - 1] + fresh[i]
    return lasting


def _noise(dice: np.random.Generator, channel: Channel, minutes: int, *, activity: bool) -> Floats:
    """The autoregression and the scatter of single readings, as a fraction of the baseline, (minutes,)."""
    lasting = autoregression(dice, minutes, channel.noise_time_constant_h)
    scatter = dice.standard_normal(minutes)
    lasts = channel.residual_cv * math.sqrt(1.0 - SCATTER_SHARE)
    if activity:
        lasts = math.hypot(lasts, channel.activity_cv)
    return lasts * lasting + channel.residual_cv * math.sqrt(SCATTER_SHARE) * scatter


def no_readings(readings: Readings) -> Readings:
    """None of them."""
    return Readings._make(np.array(part[:0]) for part in readings)


def numbers_of(model: DrugModel) -> ChannelModel:
    """The channel as the kernels take it."""
    assert model.channel is not None
    return channel_model(model.channel)
