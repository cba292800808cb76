"""The state that an endless train of one dose leaves just before its newest member is given.

Linear kinetics repeat themselves in closed form. Where the solver has to step, the state is the one that one
interval of the train carries into itself: found by one interval's march where that is affine (gut, linear
modes, chains), by Newton's method for saturable elimination and by repeating the interval for the marrow.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from twinstate.kernels import kernel
from twinstate.pk.columns import (
    ABSORPTION_RATE,
    CENTRAL_VOLUME,
    CLEARANCE,
    FIRST_ORDER_FRACTION,
    LAG,
    MAXIMUM_RATE,
    MICHAELIS,
    PERIPHERAL_VOLUME,
    SECOND_PERIPHERAL_VOLUME,
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
from twinstate.pk.gut import row_length, set_step
from twinstate.pk.march import march
from twinstate.pk.modal import to_compartments, to_modes
from twinstate.pk.response import (
    POWERS,
    STATE,
    chain_decay,
    chain_rate,
    follower_rate,
    has_chains,
    start_response,
)
from twinstate.pk.schedule import MYELOID_CELLS, Body
from twinstate.pk.steps import absorbed, held

Floats = NDArray[np.float64]

# Newton's method: relative change at which it ends, and steps after which the state counts as not found.
SETTLED = 1e-10
MOST_NEWTON_STEPS = 40
NUDGE = 1e-6  # relative, for its differences
# The marrow: relative change over one interval at which it ends; what then stands is taken.
MARROW_SETTLED = 1e-9
MOST_INTERVALS = 2000


class Train(NamedTuple):
    """An endless train of one dose.

    Attributes:
        oral: What each dose brings into the gut, mg.
        direct: What it brings into the centre, mg.
        interval: h.
        since: Time since the newest dose that has entered, h.
        duration: How long `direct` enters, h; 0 is at once.
    """

    oral: float
    direct: float
    interval: float
    since: float
    duration: float


@kernel
def through_depot(
    body: Body, segment: int, amount: float, interval: float, since: float, absorption: float
) -> float:
    """Add a train of doses through the depot to the modes.

    Args:
        body: Amounts, changed in place.
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
    for mode in range(body.amounts.size):
        rate = body.rates[segment, mode]
        fresh = absorbed(rate, absorption, since, math.exp(-rate * since), depot_since)
        cycle = absorbed(rate, absorption, interval, math.exp(-rate * interval), depot_interval)
        flow = body.into_modes[segment, mode, 0] * absorption * amount
        body.amounts[mode] += (
            flow * (fresh + cycle * depot_since / depot_loss) / -math.expm1(-rate * interval)
        )
    return amount * depot_since / depot_loss


@kernel
def at_constant_rate(
    body: Body, segment: int, amount: float, interval: float, since: float, duration: float
) -> None:
    """Add a train of infusions or boluses to the modes.

    Args:
        body: Amounts, changed in place.
        segment: Whose disposition rules.
        amount: Of each dose, mg.
        interval: Of the train, h.
        since: Time since the newest dose that has entered, h.
        duration: Of each infusion, h; 0 is a bolus.
    """
    while since < duration:
        for mode in range(body.amounts.size):
            rate = body.rates[segment, mode]
            flow = body.into_modes[segment, mode, 0] * amount / duration
            body.amounts[mode] += flow * held(rate, since, math.exp(-rate * since))
        since += interval
    for mode in range(body.amounts.size):
        rate = body.rates[segment, mode]
        kept = held(rate, duration, math.exp(-rate * duration)) / duration if duration > 0.0 else 1.0
        left = math.exp(-rate * (since - duration)) / -math.expm1(-rate * interval)
        body.amounts[mode] += body.into_modes[segment, mode, 0] * amount * kept * left


@kernel
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


@kernel
def march_interval(
    course: Course,
    body: Body,
    segment: int,
    depot: float,
    train: Train,
    respond: bool,
) -> float:
    """Move ahead by one interval of an endless train.

    Args:
        course: Structure and parameters.
        body: Amounts, gut and response; changed in place.
        segment: Whose parameters rule.
        depot: Amount in the depot, mg.
        train: Its doses; `since` holds at the start and at the end.
        respond: Whether the response moves along.

    Returns:
        The amount in the depot, mg.
    """
    interval, duration = train.interval, train.duration
    enters = interval - train.since
    ends = enters + duration
    ends -= math.floor(ends / interval) * interval
    now = 0.0
    entered = False
    for _ in range(4):
        if not entered and now >= enters:
            entered = True
            if course.structure.transits > 0:
                body.gut[0, 0] += train.oral
            else:
                depot += train.oral
            if duration == 0.0:
                for mode in range(body.amounts.size):
                    body.amounts[mode] += body.into_modes[segment, mode, 0] * train.direct
        stop = interval
        if enters > now:
            stop = min(stop, enters)
        if ends > now and duration > 0.0:
            stop = min(stop, ends)
        if stop > now:
            rate_in = 0.0
            if duration > 0.0:
                middle = 0.5 * (now + stop)
                started = math.floor((middle - enters) / interval)
                ended = math.floor((middle - enters - duration) / interval)
                rate_in = (started - ended) * (train.direct / duration)
            depot, _area = march(course, body, segment, depot, rate_in, stop - now, respond)
            now = stop
    return depot


@kernel
def _settle_gut(parameters: Floats, gut: Floats, train: Train) -> None:
    """Fill the gut with what an endless train leaves in it: one interval's loss is one dose's gain."""
    holds, step = gut[0], gut[1:]
    row = row_length(parameters, holds)
    holds[:] = 0.0
    if train.oral == 0.0:
        return
    set_step(parameters, train.since, step)
    for place in range(row):
        holds[place] = step[place, 0] * train.oral
    set_step(parameters, train.interval, step)
    for place in range(row):
        for before in range(place):
            holds[place] += step[place, before] * holds[before]
        holds[place] /= 1.0 - step[place, place]


@kernel
def _solve_three(matrix: Floats, right: Floats, size: int) -> None:
    """Solve a small linear system in place, by elimination with row exchanges; NaN where it has no answer."""
    for column in range(size):
        pivot = column
        for row in range(column + 1, size):
            if abs(matrix[row, column]) > abs(matrix[pivot, column]):
                pivot = row
        for place in range(size):
            matrix[column, place], matrix[pivot, place] = matrix[pivot, place], matrix[column, place]
        right[column], right[pivot] = right[pivot], right[column]
        for row in range(column + 1, size):
            share = matrix[row, column] / matrix[column, column]
            for place in range(column, size):
                matrix[row, place] -= share * matrix[column, place]
            right[row] -= share * right[column]
    for row in range(size - 1, -1, -1):
        for place in range(row + 1, size):
            right[row] -= matrix[row, place] * right[place]
        right[row] /= matrix[row, row]


@kernel
def _carry(
    course: Course,
    body: Body,
    segment: int,
    depot: float,
    train: Train,
    compartments: Floats,
    gut: Floats,
    result: Floats,
) -> None:
    """Fill `result` with what one interval of the train makes of `compartments`, mg, (compartments,)."""
    body.gut[0] = gut
    to_modes(compartments, body.into_modes[segment], body.amounts)
    march_interval(course, body, segment, depot, train, False)
    to_compartments(body.amounts, body.from_modes[segment], result)


@kernel
def _settle_saturable(
    course: Course,
    body: Body,
    segment: int,
    depot: float,
    train: Train,
) -> None:
    """Fill the modes with the state that one interval carries into itself, by Newton's method.

    It starts where mean elimination balances mean input, everything at one concentration. A step out of what
    can be falls back on the interval's own answer. NaN where there is no such state, as when the train
    brings more than elimination at its maximum can take.
    """
    parameters = body.parameters[segment]
    modes = body.amounts.size
    here, result, column = np.zeros(modes), np.zeros(modes), np.zeros(modes)
    matrix = np.zeros((modes, modes))
    gut = body.gut[0].copy()
    mean_input = (train.oral + train.direct) / train.interval
    clearance, most, half = parameters[CLEARANCE], parameters[MAXIMUM_RATE], parameters[MICHAELIS]
    spare = clearance * half + most - mean_input
    root = math.sqrt(spare * spare + 4.0 * clearance * mean_input * half)
    level = 2.0 * mean_input * half / (spare + root) if spare > 0.0 else math.inf
    if spare <= 0.0 and clearance > 0.0:
        level = (root - spare) / (2.0 * clearance)
    found = False
    if level < math.inf:
        here[0] = level * parameters[CENTRAL_VOLUME]
        if modes > 1:
            here[1] = level * parameters[PERIPHERAL_VOLUME] if body.from_modes[segment, 1, 0] != 0.0 else 0.0
        if modes > 2:
            here[2] = level * parameters[SECOND_PERIPHERAL_VOLUME]
            if body.from_modes[segment, 2, 0] == 0.0:
                here[2] = 0.0
        for _ in range(MOST_NEWTON_STEPS):
            _carry(course, body, segment, depot, train, here, gut, result)
            size = 0.0
            change = 0.0
            for place in range(modes):
                size = max(size, abs(result[place]))
                change = max(change, abs(result[place] - here[place]))
            if change <= SETTLED * size:
                found = True
                break
            for nudged in range(modes):
                kept = here[nudged]
                nudge = NUDGE * max(kept, 1e-3 * size)
                here[nudged] = kept + nudge
                _carry(course, body, segment, depot, train, here, gut, column)
                here[nudged] = kept
                for place in range(modes):
                    matrix[place, nudged] = (result[place] - column[place]) / nudge
                matrix[nudged, nudged] += 1.0
            for place in range(modes):
                column[place] = result[place] - here[place]
            _solve_three(matrix, column, modes)
            possible = True
            for place in range(modes):
                possible = possible and here[place] + column[place] >= 0.0
            for place in range(modes):
                here[place] = here[place] + column[place] if possible else result[place]
    if found:
        to_modes(result, body.into_modes[segment], body.amounts)
        body.gut[0] = gut
    else:
        body.amounts[:] = np.nan


@kernel
def _settle_response(
    course: Course,
    body: Body,
    segment: int,
    depot: float,
    train: Train,
) -> None:
    """Fill the response with the one that the train at its steady state leaves; amounts and gut stay."""
    structure, parameters = course.structure, body.parameters[segment]
    response = body.response
    amounts, gut = body.amounts.copy(), body.gut[0].copy()
    linear = structure.second != MYELOSUPPRESSION
    start_response(structure, parameters, response)
    if linear:
        response[STATE] = 0.0
    for _ in range(1 if linear else MOST_INTERVALS):
        before = response[STATE, 0].copy()
        march_interval(course, body, segment, depot, train, True)
        body.amounts[:] = amounts
        body.gut[0] = gut
        change = abs(response[STATE, 0, 0] - before[0])  # of a logarithm
        for cell in range(1, MYELOID_CELLS):
            change = max(change, abs(response[STATE, 0, cell] / before[cell] - 1.0))
        if not change > MARROW_SETTLED:
            break
    if structure.second == METABOLITE or structure.second == EFFECT_SITE:
        response[STATE, 0, 0] /= -math.expm1(-follower_rate(structure.second, parameters) * train.interval)
    elif has_chains(structure.second):
        for chain in range(2):
            length = structure.first_chain if chain == 0 else structure.second_chain
            if length > 0:
                rate = chain_rate(structure, parameters, chain)
                powers, cells = response[POWERS, chain], response[STATE, chain]
                chain_decay(length, rate * train.interval, powers)
                for cell in range(length):
                    for place in range(cell):
                        cells[cell] += powers[cell - place] * cells[place]
                    cells[cell] /= -math.expm1(-rate * train.interval)


@kernel
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
    structure, parameters = course.structure, body.parameters[segment]
    dose = body.entry_dose[entry]
    route = course.dose_route[dose]
    interval = course.dose_interval_h[dose]
    duration = body.entry_duration_h[entry]
    absorption = parameters[ABSORPTION_RATE]
    fraction = 1.0 if route == INTO_DEPOT else 0.0
    if route == PARALLEL_ORAL:
        fraction = parameters[FIRST_ORDER_FRACTION]
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
    body.amounts[:] = 0.0
    if structure.transits > 0:
        _settle_gut(parameters, body.gut, train)
    if structure.elimination == LINEAR and structure.transits == 0:
        if route == INTO_DEPOT or fraction > 0.0:
            depot = through_depot(body, segment, oral, interval, since, absorption)
        if route != INTO_DEPOT:
            at_constant_rate(body, segment, direct, interval, since, duration)
    else:
        if structure.transits == 0 and oral != 0.0:
            depot = oral * math.exp(-absorption * since) / -math.expm1(-absorption * interval)
        if structure.elimination == LINEAR:
            gut = body.gut[0].copy()
            march_interval(course, body, segment, depot, train, False)
            for mode in range(body.amounts.size):
                body.amounts[mode] /= -math.expm1(-body.rates[segment, mode] * interval)
            body.gut[0] = gut
        else:
            _settle_saturable(course, body, segment, depot, train)
    if structure.second != NOTHING:
        _settle_response(course, body, segment, depot, train)
    running = start_running(body, body.entry_h[entry], direct, interval, since, duration)
    return depot, running
