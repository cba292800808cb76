"""The state that an endless train of one dose leaves just before its newest member is given.

Linear kinetics repeat themselves in closed form; what the solver has to step is found as `train` says.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from twinstate.kernels import inner_kernel, kernel
from twinstate.pk.columns import (
    ABSORPTION_RATE,
    FIRST_ORDER_FRACTION,
    LAG,
)
from twinstate.pk.course import (
    EFFECT_SITE,
    INTO_CENTRAL,
    INTO_DEPOT,
    LINEAR,
    METABOLITE,
    MYELOSUPPRESSION,
    NOTHING,
    PARALLEL_ORAL,
    Course,
)
from twinstate.pk.response import STATE
from twinstate.pk.schedule import (
    DIRECT_MG,
    DURATION_H,
    ENTERS_H,
    INTERVAL_H,
    ORAL_MG,
    TO_END,
    TO_ENTER,
    Body,
    Motion,
)
from twinstate.pk.settled_marrow import settle_marrow
from twinstate.pk.steps import absorbed, held
from twinstate.pk.train import Train, settle_amounts, settle_gut, settle_response

Floats = NDArray[np.float64]

# Rows of `Body.saved` beside those of `train`: what earlier trains of one moment left.
AMOUNTS_BEFORE, GUT_BEFORE = 7, 8


@kernel
def may_have_none(course: Course) -> bool:
    """Whether doses at steady state are declared where some parameters have no such state.

    Saturable elimination that the doses outrun, or a marrow that they kill.
    """
    if course.structure.elimination == LINEAR and course.structure.second != MYELOSUPPRESSION:
        return False
    return bool(np.any(course.dose_interval_h > 0.0))


@inner_kernel
def through_depot(
    motion: Motion, segment: int, amount: float, interval: float, since: float, absorption: float
) -> float:
    """Add a train of doses through the depot to the modes.

    Args:
        motion: Amounts, changed in place.
        segment: Whose disposition rules.
        amount: Of each dose, mg.
        interval: Of the train, h.
        since: Time since the newest dose that has entered, h.
        absorption: Rate constant of the depot, 1/h.

    Returns:
        The amount in the depot, mg.
    """
    depot_loss = -math.expm1(-absorption * interval)
    depot_since = math.exp(-absorption * since)
    depot_interval = math.exp(-absorption * interval)
    for mode in range(motion.amounts.size):
        rate = motion.rates[segment, mode]
        fresh = absorbed(rate, absorption, since, math.exp(-rate * since), depot_since)
        cycle = absorbed(rate, absorption, interval, math.exp(-rate * interval), depot_interval)
        flow = motion.into_modes[segment, mode, 0] * absorption * amount
        motion.amounts[mode] += (
            flow * (fresh + cycle * depot_since / depot_loss) / -math.expm1(-rate * interval)
        )
    return amount * depot_since / depot_loss


@inner_kernel
def at_constant_rate(
    motion: Motion, segment: int, amount: float, interval: float, since: float, duration: float
) -> None:
    """Add a train of infusions or boluses to the modes.

    Args:
        motion: Amounts, changed in place.
        segment: Whose disposition rules.
        amount: Of each dose, mg.
        interval: Of the train, h.
        since: Time since the newest dose that has entered, h.
        duration: Of each infusion, h; 0 is a bolus.
    """
    while since < duration:
        for mode in range(motion.amounts.size):
            rate = motion.rates[segment, mode]
            flow = motion.into_modes[segment, mode, 0] * amount / duration
            motion.amounts[mode] += flow * held(rate, since, math.exp(-rate * since))
        since += interval
    for mode in range(motion.amounts.size):
        rate = motion.rates[segment, mode]
        kept = held(rate, duration, math.exp(-rate * duration)) / duration if duration > 0.0 else 1.0
        left = math.exp(-rate * (since - duration)) / -math.expm1(-rate * interval)
        motion.amounts[mode] += motion.into_modes[segment, mode, 0] * amount * kept * left


@inner_kernel
def _forget_train(motion: Motion, second: int, saved: Floats, trains: int) -> float:
    """Empty amounts, gut and follower for the train to come; what earlier trains of this moment left is saved.

    Returns:
        What a metabolite or an effect site held, 0 without one or without an earlier train.
    """
    follower = 0.0
    for mode in range(motion.amounts.size):
        saved[AMOUNTS_BEFORE, mode] = motion.amounts[mode] if trains > 0 else 0.0
        motion.amounts[mode] = 0.0
    for place in range(motion.gut.shape[1]):
        saved[GUT_BEFORE, place] = motion.gut[0, place] if trains > 0 else 0.0
        motion.gut[0, place] = 0.0
    if trains > 0 and second in (METABOLITE, EFFECT_SITE):
        follower = motion.response[STATE, 0, 0]
    return follower


@inner_kernel
def _add_before(motion: Motion, second: int, saved: Floats, follower: float) -> None:
    """Add what earlier trains of this moment left."""
    for mode in range(motion.amounts.size):
        motion.amounts[mode] += saved[AMOUNTS_BEFORE, mode]
    for place in range(motion.gut.shape[1]):
        motion.gut[0, place] += saved[GUT_BEFORE, place]
    if second in (METABOLITE, EFFECT_SITE):
        motion.response[STATE, 0, 0] += follower


@inner_kernel
def set_steady_state(
    course: Course, body: Body, entry: int, segment: int, depot_before: float, trains: int
) -> float:
    """Hold what an endless train of this dose leaves just before its newest member, and remember its older members.

    The train's doses were given at now - interval, now - 2 interval, ..., each delayed by the lag, under the
    parameters in force now. Inputs that still run go on; the rest is a geometric series, or what one interval
    carries into itself.

    What came before is forgotten, but for other trains set at this moment: they add up where kinetics are linear, and
    have no common steady state (NaN) where they are not.

    Args:
        course: Structure and parameters.
        body: Amounts, gut, response and trains; changed in place.
        entry: The planned entry.
        segment: Whose parameters rule.
        depot_before: What the other trains of this moment hold in the depot, mg.
        trains: How many they are; this one is remembered after them.

    Returns:
        The amount in the depot, mg.
    """
    structure, motion = course.structure, body.motion
    parameters = motion.parameters[segment]
    dose = body.entry_dose[entry]
    route = course.dose_route[dose]
    interval = course.dose_interval_h[dose]
    duration = body.entry_duration_h[entry]
    absorption = parameters[ABSORPTION_RATE]
    fraction = 1.0 if route == INTO_DEPOT else 0.0
    if route == PARALLEL_ORAL:
        fraction = min(parameters[FIRST_ORDER_FRACTION], 1.0)
    oral = body.entry_mg[entry] * fraction
    direct = body.entry_mg[entry] * (1.0 - fraction)
    # The lag held when the dose was given, which is now. A member whose lag ends now enters after what is read now.
    lag = parameters[LAG] if route != INTO_CENTRAL else 0.0
    waiting = math.floor(lag / interval)
    since = (waiting + 1.0) * interval - lag  # the newest dose of the train that has entered
    train = Train(oral, direct, interval, since, duration)
    follower = _forget_train(motion, structure.second, body.saved, trains)
    depot = 0.0
    if structure.transits > 0:
        settle_gut(parameters, motion.gut, train)
    if structure.elimination == LINEAR and structure.transits == 0:
        if route == INTO_DEPOT or fraction > 0.0:
            depot = through_depot(motion, segment, oral, interval, since, absorption)
        if route != INTO_DEPOT:
            at_constant_rate(motion, segment, direct, interval, since, duration)
    else:
        if structure.transits == 0 and oral != 0.0:
            depot = oral * math.exp(-absorption * since) / -math.expm1(-absorption * interval)
        settle_amounts(structure, motion, segment, depot, train, body.saved)
    if structure.second == MYELOSUPPRESSION:
        settle_marrow(structure, motion, segment, depot, train, body.saved)
    elif structure.second != NOTHING:
        settle_response(structure, motion, segment, depot, train, body.saved)
    if trains > 0:
        bends = structure.elimination != LINEAR or (
            structure.second != NOTHING and structure.second != METABOLITE and structure.second != EFFECT_SITE
        )
        if bends:
            motion.amounts[:] = math.nan
        _add_before(motion, structure.second, body.saved, follower)
        depot += depot_before
    running = max(math.ceil((duration - since) / interval), 0.0)
    older = body.trains[:, trains]
    older[ENTERS_H] = body.entry_h[entry] + lag
    older[INTERVAL_H], older[DURATION_H] = interval, duration
    older[ORAL_MG], older[DIRECT_MG] = oral, direct
    older[TO_ENTER] = waiting
    older[TO_END] = waiting + running if duration > 0.0 else 0.0
    return depot
