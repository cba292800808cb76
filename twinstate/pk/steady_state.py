"""The state that an endless train of one dose leaves just before its newest member is given.

Linear kinetics repeat themselves in closed form; what the solver has to step is found as `train` says.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from twinstate.kernels import inner_kernel
from twinstate.pk.columns import (
    ABSORPTION_RATE,
    FIRST_ORDER_FRACTION,
    LAG,
)
from twinstate.pk.course import (
    INTO_CENTRAL,
    INTO_DEPOT,
    LINEAR,
    NOTHING,
    PARALLEL_ORAL,
    Course,
)
from twinstate.pk.schedule import Body, Motion
from twinstate.pk.steps import absorbed, held
from twinstate.pk.train import Train, settle_amounts, settle_gut, settle_response

Floats = NDArray[np.float64]


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
def start_running(
    body: Body, now: float, amount: float, interval: float, since: float, duration: float
) -> int:
    """Start those infusions of the train that still run; their number."""
    running = 0
    while since < duration:
        body.end_h[running] = now + (duration - since)
        body.rate_mg_h[running] = amount / duration
        running += 1
        since += interval
    return running


@inner_kernel
def set_steady_state(course: Course, body: Body, entry: int, segment: int) -> tuple[float, int]:
    """Forget everything and hold what an endless train of this dose leaves just before its newest member.

    The train's doses were given at now - interval, now - 2 interval, ..., each delayed by the lag, under the
    parameters in force now. Inputs that still run are started as infusions; the rest is a geometric series,
    or what one interval carries into itself.

    Args:
        course: Structure and parameters.
        body: Amounts, gut and response; changed in place.
        entry: The planned entry.
        segment: Whose parameters rule.

    Returns:
        The amount in the depot, mg, and how many infusions of the train still run.
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
    # Since the newest dose of the train that has entered.
    since = interval
    if route != INTO_CENTRAL:
        # The lag held when the dose was given, which is now.
        lag = parameters[LAG]
        since = max(1.0, math.ceil(lag / interval)) * interval - lag
    train = Train(oral, direct, interval, since, duration)
    depot = 0.0
    motion.amounts[:] = 0.0
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
    if structure.second != NOTHING:
        settle_response(structure, motion, segment, depot, train, body.saved)
    running = start_running(body, body.entry_h[entry], direct, interval, since, duration)
    return depot, running
