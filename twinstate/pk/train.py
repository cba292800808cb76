"""An endless train where the solver has to step: the state that one interval of it carries into itself.

It is found by one interval's march where that is affine (the gut, the chains of a response), else by Newton's method:
for the amounts here, for the marrow in `settled_marrow`.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from twinstate.kernels import inner_kernel
from twinstate.pk.columns import (
    CENTRAL_VOLUME,
    CLEARANCE,
    MAXIMUM_RATE,
    MICHAELIS,
    PERIPHERAL_VOLUME,
    SECOND_PERIPHERAL_VOLUME,
)
from twinstate.pk.course import (
    EFFECT_SITE,
    METABOLITE,
    Structure,
)
from twinstate.pk.gut import row_length, set_step
from twinstate.pk.march import WITH_RESPONSE, WITHOUT_RESPONSE, march
from twinstate.pk.modal import copy, to_compartments, to_modes
from twinstate.pk.response import (
    POWERS,
    STATE,
    chain_decay,
    chain_rate,
    follower_rate,
    has_chains,
    start_response,
)
from twinstate.pk.schedule import Motion

Floats = NDArray[np.float64]

# Rows of `Body.saved`: what the gut holds, what compartments hold, what one interval makes of them, the same with
# one nudged, and the matrix of the differences.
GUT, HERE, RESULT, COLUMN, MATRIX = 0, 1, 2, 3, 4
# Newton's method: relative change at which it ends, and steps after which the state counts as not found.
SETTLED = 1e-10
MOST_NEWTON_STEPS = 40
NUDGE = 1e-6  # relative, for its differences


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


@inner_kernel
def march_interval(
    structure: Structure,
    motion: Motion,
    segment: int,
    depot: float,
    train: Train,
    respond: bool,
) -> float:
    """Move ahead by one interval of an endless train.

    Args:
        structure: Of the course.
        motion: Amounts, gut and response; changed in place.
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
            if structure.transits > 0:
                motion.gut[0, 0] += train.oral
            else:
                depot += train.oral
            if duration == 0.0:
                for mode in range(motion.amounts.size):
                    motion.amounts[mode] += motion.into_modes[segment, mode, 0] * train.direct
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
            depot, _area = march(structure, motion, segment, depot, rate_in, stop - now, respond)
            now = stop
    return depot


@inner_kernel
def settle_gut(parameters: Floats, gut: Floats, train: Train) -> None:
    """Fill the gut with what an endless train leaves in it: one interval's loss is one dose's gain."""
    holds, step = gut[0], gut[1:-1]
    row = row_length(parameters, holds)
    holds[:] = 0.0
    if train.oral == 0.0:
        return
    set_step(parameters, train.since, gut)
    for place in range(row):
        holds[place] = step[place, 0] * train.oral
    set_step(parameters, train.interval, gut)
    for place in range(row):
        for before in range(place):
            holds[place] += step[place, before] * holds[before]
        holds[place] /= 1.0 - step[place, place]


@inner_kernel
def solve_small(matrix: Floats, right: Floats, size: int) -> None:
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


@inner_kernel
def settle_amounts(
    structure: Structure,
    motion: Motion,
    segment: int,
    depot: float,
    train: Train,
    saved: Floats,
) -> None:
    """Fill the modes with the state that one interval carries into itself, by Newton's method.

    It starts where mean elimination balances mean input, everything at one concentration. A step out of what
    can be falls back on the interval's own answer. NaN where there is no such state, as when the train
    brings more than elimination at its maximum can take.
    """
    parameters = motion.parameters[segment]
    modes = motion.amounts.size
    here, result, column, matrix = saved[HERE], saved[RESULT], saved[COLUMN], saved[MATRIX:]
    gut = saved[GUT, : motion.gut.shape[1]]
    copy(motion.gut[0], gut)
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
            here[1] = (
                level * parameters[PERIPHERAL_VOLUME] if motion.from_modes[segment, 1, 0] != 0.0 else 0.0
            )
        if modes > 2:
            here[2] = level * parameters[SECOND_PERIPHERAL_VOLUME]
            if motion.from_modes[segment, 2, 0] == 0.0:
                here[2] = 0.0
        for _ in range(MOST_NEWTON_STEPS):
            size = 0.0
            change = 0.0
            for nudged in range(-1, modes):  # first as it is, then with each compartment nudged
                kept = here[nudged] if nudged >= 0 else 0.0
                nudge = NUDGE * max(kept, 1e-3 * size) if nudged >= 0 else 0.0
                if nudged >= 0:
                    here[nudged] = kept + nudge
                copy(gut, motion.gut[0])
                to_modes(here, motion.into_modes[segment], motion.amounts)
                march_interval(structure, motion, segment, depot, train, WITHOUT_RESPONSE)
                to_compartments(motion.amounts, motion.from_modes[segment], column)
                if nudged >= 0:
                    here[nudged] = kept
                    for place in range(modes):
                        matrix[place, nudged] = (result[place] - column[place]) / nudge
                    matrix[nudged, nudged] += 1.0
                else:
                    for place in range(modes):
                        result[place] = column[place]
                        size = max(size, abs(result[place]))
                        change = max(change, abs(result[place] - here[place]))
                    if change <= SETTLED * size:
                        found = True
                        break
            if found:
                break
            for place in range(modes):
                column[place] = result[place] - here[place]
            solve_small(matrix, column, modes)
            possible = True
            for place in range(modes):
                possible = possible and here[place] + column[place] >= 0.0
            for place in range(modes):
                here[place] = here[place] + column[place] if possible else result[place]
    if found:
        to_modes(result, motion.into_modes[segment], motion.amounts)
        copy(gut, motion.gut[0])
    else:
        motion.amounts[:] = np.nan


@inner_kernel
def settle_response(
    structure: Structure,
    motion: Motion,
    segment: int,
    depot: float,
    train: Train,
    saved: Floats,
) -> None:
    """Fill a response (no marrow) with the one that the train at its steady state leaves; amounts and gut stay."""
    parameters = motion.parameters[segment]
    response = motion.response
    amounts = saved[HERE, : motion.amounts.size]
    gut = saved[GUT, : motion.gut.shape[1]]
    copy(motion.amounts, amounts)
    copy(motion.gut[0], gut)
    start_response(structure, parameters, response)
    response[STATE] = 0.0
    march_interval(structure, motion, segment, depot, train, WITH_RESPONSE)
    copy(amounts, motion.amounts)
    copy(gut, motion.gut[0])
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
