"""Exact propagation of any linear compartment graph: depots, transit chains, metabolites, parallel absorption.

Rates are constant by segment, so a step between two events is a matrix exponential (`matrix.py`); a steady state is
the solution of (I - E) x = what one cycle leaves. Lag, bioavailability and duration come as numbers per dose: they are
the caller's to compute, because covariates and occasions decide them.

At equal times a segment starts first; then what is reset or declared a steady state is set; then outputs are read;
then inputs change. So a level drawn at a dose's time is the one before the dose, and one drawn when a steady state
is declared is that steady state's trough. Nothing here raises: what cannot be computed comes out as NaN.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from twinstate.kernels import kernel
from twinstate.pk.matrix import (
    ONE_INTEGRAL,
    TRANSITION,
    multiply,
    solve_in_place,
    step_matrices,
)
from twinstate.pk.schedule import TRAIN_LIMIT

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
NEVER = math.inf

# What an entry does.
ENTERS, STEADY_STATE, RESET = 0, 1, 2
# Steps remembered: doses at regular times need the same few again and again.
MEMORY = 4


class Doses(NamedTuple):
    """Doses of one patient as one point of the parameters sees them, and resets.

    Attributes:
        time_h: When given, ascending, (doses,).
        lag_h: From giving to entry, not below 0, (doses,).
        amount: What enters (bioavailability applied), any unit of amount, (doses,).
        duration_h: Entry at a constant rate over this time; 0 is a bolus, (doses,).
        compartment: Entered, counted from 0, (doses,).
        interval_h: Above 0: the newest of an endless train of such doses at this interval, each delayed by
            the lag. What came before is forgotten; doses and trains of the same moment add up, (doses,).
        reset_h: When the body is emptied, ascending, (resets,). Infusions stop; a dose given before and still
            lagging never enters. A dose given at that very time is given after it.
    """

    time_h: Floats
    lag_h: Floats
    amount: Floats
    duration_h: Floats
    compartment: Integers
    interval_h: Floats
    reset_h: Floats


class Plan(NamedTuple):
    """Everything that enters, in order: working memory, made once for a number of doses and resets.

    Attributes:
        time_h: Ascending, (entries,).
        dose: Which dose; for a reset the first dose given after it, (entries,).
        kind: `ENTERS`, `STEADY_STATE` or `RESET`, (entries,).
        end_h: Ends of the infusions running, (running,).
        rate: Their rates, amount/h, (running,).
        into: The compartments they enter, (running,).
    """

    time_h: Floats
    dose: Integers
    kind: Integers
    end_h: Floats
    rate: Floats
    into: Integers


class Steps(NamedTuple):
    """The matrices of steps taken before, and scratch.

    Attributes:
        segment: Of each step remembered, -1 where none, (memory,).
        time_h: Its length, (memory,).
        wanted: Which matrices it has, (memory,).
        newest: Place written last, (1,).
        transition: (memory, n, n).
        held: h, (memory, n, n).
        twice_held: h^2, (memory, n, n).
        work: (4, n, n).
        vectors: (4, n).
    """

    segment: Integers
    time_h: Floats
    wanted: Integers
    newest: Integers
    transition: Floats
    held: Floats
    twice_held: Floats
    work: Floats
    vectors: Floats


@kernel
def make_plan(doses: Doses) -> Plan:
    """Working memory for these doses and resets."""
    entries = doses.time_h.size + doses.reset_h.size
    running = doses.time_h.size
    for dose in range(doses.time_h.size):
        interval = doses.interval_h[dose]
        # Others are refused before they are planned.
        if interval > 0.0 and 0.0 <= doses.lag_h[dose] <= TRAIN_LIMIT * interval:
            older = math.floor(doses.lag_h[dose] / interval)
            entries += 1 + older
            running += older
            if 0.0 < doses.duration_h[dose] <= TRAIN_LIMIT * interval:
                running += math.ceil(doses.duration_h[dose] / interval) + 1
    return Plan(
        np.zeros(entries),
        np.zeros(entries, np.int64),
        np.zeros(entries, np.int64),
        np.zeros(running),
        np.zeros(running),
        np.zeros(running, np.int64),
    )


@kernel
def make_steps(compartments: int) -> Steps:
    """Working memory for a graph of this size."""
    n = compartments
    return Steps(
        np.full(MEMORY, -1, np.int64),
        np.zeros(MEMORY),
        np.zeros(MEMORY, np.int64),
        np.zeros(1, np.int64),
        np.zeros((MEMORY, n, n)),
        np.zeros((MEMORY, n, n)),
        np.zeros((MEMORY, n, n)),
        np.zeros((4, n, n)),
        np.zeros((4, n)),
    )


@kernel
def _enter(plan: Plan, count: int, time: float, dose: int, kind: int) -> int:
    """Put one entry in its place by time; entries at equal times stay in the order they are put."""
    place = count
    while place > 0 and plan.time_h[place - 1] > time:
        plan.time_h[place] = plan.time_h[place - 1]
        plan.dose[place] = plan.dose[place - 1]
        plan.kind[place] = plan.kind[place - 1]
        place -= 1
    plan.time_h[place] = time
    plan.dose[place] = dose
    plan.kind[place] = kind
    return count + 1


@kernel
def plan_entries(doses: Doses, plan: Plan) -> int:
    """Fill the entries in order of time; their number, or -1 when there is no such order.

    That is when a number is not finite, a lag is below 0, or a train's lag or input outlasts `TRAIN_LIMIT` intervals.
    """
    count = 0
    for index in range(doses.reset_h.size):
        first = 0
        while first < doses.time_h.size and doses.time_h[first] < doses.reset_h[index]:
            first += 1
        if not math.isfinite(doses.reset_h[index]):
            return -1
        count = _enter(plan, count, doses.reset_h[index], first, RESET)
    # All that is set comes before all that enters at the same time.
    for dose in range(doses.time_h.size):
        given = doses.time_h[dose]
        lag = doses.lag_h[dose]
        interval = doses.interval_h[dose]
        duration = doses.duration_h[dose]
        if not (math.isfinite(given + lag) and lag >= 0.0 and math.isfinite(doses.amount[dose])):
            return -1
        if not (math.isfinite(duration) and math.isfinite(interval)):
            return -1
        if interval > 0.0:
            if lag > TRAIN_LIMIT * interval or duration > TRAIN_LIMIT * interval:
                return -1
            count = _enter(plan, count, given, dose, STEADY_STATE)
    for dose in range(doses.time_h.size):
        lag = doses.lag_h[dose]
        interval = doses.interval_h[dose]
        if interval > 0.0:
            # Doses of the train given before this one that have not entered yet.
            for back in range(math.floor(lag / interval), 0, -1):
                count = _enter(plan, count, doses.time_h[dose] + (lag - back * interval), dose, ENTERS)
        count = _enter(plan, count, doses.time_h[dose] + lag, dose, ENTERS)
    return count


@kernel
def since_newest(lag: float, interval: float) -> float:
    """Hours since the newest dose of an endless train has entered, just before its newest dose is given."""
    return (math.floor(lag / interval) + 1.0) * interval - lag


@kernel
def _take_step(rates: Floats, segment: int, time: float, wanted: int, steps: Steps) -> int:
    """Where the matrices of this step stand in memory, computed unless they are remembered."""
    for known in range(MEMORY):
        if steps.segment[known] == segment and steps.time_h[known] == time and steps.wanted[known] >= wanted:
            return known
    place = int(steps.newest[0] + 1) % MEMORY
    steps.newest[0] = place
    steps.segment[place] = segment
    steps.time_h[place] = time
    steps.wanted[place] = wanted
    step_matrices(
        rates[segment],
        time,
        wanted,
        steps.transition[place],
        steps.held[place],
        steps.twice_held[place],
        steps.work[:2],
    )
    return place


@kernel
def _apply(matrix: Floats, vector: Floats, result: Floats) -> None:
    """Add matrix (n, n) times vector (n,) to `result` (n,), in order."""
    for row in range(vector.size):
        total = 0.0
        for k in range(vector.size):
            total += matrix[row, k] * vector[k]
        result[row] += total


@kernel
def _advance(
    rates: Floats,
    segment: int,
    time: float,
    plan: Plan,
    running: int,
    with_area: bool,
    amounts: Floats,
    area: Floats,
    steps: Steps,
) -> None:
    """Move amounts and their integrals ahead by `time` hours."""
    wanted = TRANSITION
    if running > 0:
        wanted += 1
    if with_area:
        wanted += 1
    place = _take_step(rates, segment, time, wanted, steps)
    before, flow = steps.vectors[0], steps.vectors[1]
    for k in range(amounts.size):
        before[k] = amounts[k]
        amounts[k] = 0.0
        flow[k] = 0.0
    for index in range(running):
        flow[plan.into[index]] += plan.rate[index]
    _apply(steps.transition[place], before, amounts)
    if running > 0:
        _apply(steps.held[place], flow, amounts)
    if with_area:
        _apply(steps.held[place], before, area)
        if running > 0:
            _apply(steps.twice_held[place], flow, area)


@kernel
def _solve_cycle(
    rates: Floats, segment: int, interval: float, source: int, left: Floats, steps: Steps
) -> None:
    """Replace `left`, what one dose leaves, by the sum over the endless train: x with (I - E) x = left.

    Only compartments that the dosed one reaches take part: one that nothing enters, or that nothing leaves but which is
    never reached, has no say. I - E is taken as -K P, which keeps its digits when little is lost in a cycle.
    """
    size = left.size
    place = _take_step(rates, segment, interval, ONE_INTEGRAL, steps)
    loss, small = steps.work[2], steps.work[3]
    multiply(rates[segment], steps.held[place], loss)
    reached = steps.vectors[2]
    reached[:] = 0.0
    reached[source] = 1.0
    for _ in range(size):
        for row in range(size):
            for column in range(size):
                if reached[column] > 0.0 and rates[segment, row, column] != 0.0:
                    reached[row] = 1.0
    right = steps.vectors[3]
    unknowns = 0
    for row in range(size):
        if reached[row] > 0.0:
            others = 0
            for column in range(size):
                if reached[column] > 0.0:
                    small[unknowns, others] = -loss[row, column]
                    others += 1
            right[unknowns] = left[row]
            unknowns += 1
    solve_in_place(small, right, unknowns)
    unknowns = 0
    for row in range(size):
        left[row] = 0.0
        if reached[row] > 0.0:
            left[row] = right[unknowns]
            unknowns += 1


@kernel
def _add_steady_state(
    rates: Floats,
    segment: int,
    doses: Doses,
    dose: int,
    plan: Plan,
    running: int,
    amounts: Floats,
    steps: Steps,
) -> int:
    """Add what the endless train of this dose has left in the body just before its newest dose.

    Infusions of the train that still run are started with what remains of them.

    Returns:
        How many infusions run now.
    """
    interval = doses.interval_h[dose]
    duration = max(doses.duration_h[dose], 0.0)
    source = doses.compartment[dose]
    since = since_newest(doses.lag_h[dose], interval)
    started, left = steps.vectors[0], steps.vectors[1]
    started[:] = 0.0
    started[source] = doses.amount[dose]
    while since < duration:  # still running
        plan.end_h[running] = doses.time_h[dose] + (duration - since)
        plan.rate[running] = doses.amount[dose] / duration
        plan.into[running] = source
        running += 1
        place = _take_step(rates, segment, since, ONE_INTEGRAL, steps)
        for row in range(amounts.size):
            amounts[row] += steps.held[place, row, source] * doses.amount[dose] / duration
        since += interval
    left[:] = 0.0
    if duration > 0.0:
        place = _take_step(rates, segment, duration, ONE_INTEGRAL, steps)
        for row in range(amounts.size):
            left[row] = steps.held[place, row, source] * doses.amount[dose] / duration
    else:
        left[source] = doses.amount[dose]
    _solve_cycle(rates, segment, interval, source, left, steps)
    place = _take_step(rates, segment, since - duration, TRANSITION, steps)
    _apply(steps.transition[place], left, amounts)
    return running


@kernel
def follow_graph(
    segment_start_h: Floats,
    rates: Floats,
    doses: Doses,
    time_h: Floats,
    plan: Plan,
    steps: Steps,
    amounts: Floats,
    areas: Floats,
) -> None:
    """Fill amounts (times, n) and, where `areas` has rows, their running integrals (times, n).

    Arguments as in `solve_graph`; `plan` from `make_plan`, `steps` from `make_steps`.
    """
    steps.segment[:] = -1
    entries = plan_entries(doses, plan)
    with_area = areas.shape[0] > 0
    times = time_h.size
    now_in, area = np.zeros(rates.shape[1]), np.zeros(rates.shape[1])
    segment, entry, output, running = 0, 0, 0, 0
    forgotten = 0  # doses before this one were wiped out
    set_h = -NEVER  # when a steady state was set last
    now = -NEVER
    while output < times and entries >= 0:
        segment_h = segment_start_h[segment + 1] if segment + 1 < segment_start_h.size else NEVER
        entry_h = plan.time_h[entry] if entry < entries else NEVER
        if not math.isfinite(time_h[output]) or math.isnan(segment_h):
            break
        stop_h = NEVER
        ending = 0
        for index in range(running):
            if plan.end_h[index] < stop_h:
                stop_h = plan.end_h[index]
                ending = index
        event_h = min(min(segment_h, time_h[output]), min(stop_h, entry_h))
        if event_h > now:
            if entry > 0:  # nothing is in the body before the first entry
                _advance(rates, segment, event_h - now, plan, running, with_area, now_in, area, steps)
            now = event_h
        if segment_h <= event_h:
            segment += 1
        elif entry_h <= event_h and plan.kind[entry] != ENTERS:
            dose = plan.dose[entry]
            if plan.kind[entry] == RESET:
                now_in[:] = 0.0
                running = 0
                forgotten = max(forgotten, dose)
            elif dose >= forgotten:
                if set_h < now:
                    now_in[:] = 0.0
                    running = 0
                    first = dose  # what was given at this very moment was not given before it
                    while first > 0 and doses.time_h[first - 1] == doses.time_h[dose]:
                        first -= 1
                    forgotten = max(forgotten, first)
                set_h = now
                running = _add_steady_state(rates, segment, doses, dose, plan, running, now_in, steps)
            entry += 1
        elif time_h[output] <= event_h:
            amounts[output, :] = now_in
            if with_area:
                areas[output, :] = area
            output += 1
        elif stop_h <= event_h:
            running -= 1
            for index in range(ending, running):
                plan.end_h[index] = plan.end_h[index + 1]
                plan.rate[index] = plan.rate[index + 1]
                plan.into[index] = plan.into[index + 1]
        else:
            dose = plan.dose[entry]
            if dose >= forgotten:
                end_h = now + doses.duration_h[dose]
                if end_h > now:
                    plan.end_h[running] = end_h
                    plan.rate[running] = doses.amount[dose] / (end_h - now)
                    plan.into[running] = doses.compartment[dose]
                    running += 1
                else:
                    now_in[doses.compartment[dose]] += doses.amount[dose]
            entry += 1
    if output < times:
        amounts[output:, :] = np.nan
        if with_area:
            areas[output:, :] = np.nan


@kernel
def solve_graph(
    segment_start_h: Floats, rates: Floats, doses: Doses, time_h: Floats
) -> tuple[Floats, Floats]:
    """Amounts of every compartment, and their integrals, at ascending times.

    Args:
        segment_start_h: When each rate matrix begins to rule, ascending, (segments,); the first rules before, too.
        rates: dA/dt = rates[segment] A + input, 1/h, (segments, n, n): entry [i, j] is the rate constant from j
            to i, entry [j, j] minus the sum of all that leave j.
        doses: Doses and resets, compartments from 0.
        time_h: Ascending, (times,); any origin common to all times.

    Returns:
        Amounts (times, n) in the doses' unit and their integrals since before the first entry (times, n), amount h.
        NaN where a number is not finite, a lag is below 0, a steady state does not exist (nothing leaves the
        body), or a train's lag or input outlasts `TRAIN_LIMIT` intervals.
    """
    amounts = np.empty((time_h.size, rates.shape[1]))
    areas = np.empty((time_h.size, rates.shape[1]))
    plan = make_plan(doses)
    follow_graph(segment_start_h, rates, doses, time_h, plan, make_steps(rates.shape[1]), amounts, areas)
    return amounts, areas


@kernel
def solve_graph_points(
    segment_start_h: Floats,
    rates: Floats,
    time_h: Floats,
    dose_time_h: Floats,
    dose_lag_h: Floats,
    dose_amount: Floats,
    dose_duration_h: Floats,
    dose_compartment: Integers,
    dose_interval_h: Floats,
    reset_h: Floats,
) -> Floats:
    """Amounts alone, for many parameter points at once.

    Args:
        segment_start_h: As in `solve_graph`, (segments,).
        rates: (points, segments, n, n).
        time_h: Ascending, (times,).
        dose_time_h: As in `Doses`, (doses,).
        dose_lag_h: (points, doses).
        dose_amount: (points, doses).
        dose_duration_h: (points, doses).
        dose_compartment: (doses,).
        dose_interval_h: (doses,).
        reset_h: (resets,).

    Returns:
        (points, times, n); NaN as in `solve_graph`.
    """
    points = rates.shape[0]
    amounts = np.empty((points, time_h.size, rates.shape[2]))
    no_areas = np.empty((0, rates.shape[2]))
    steps = make_steps(rates.shape[2])
    for point in range(points):
        doses = Doses(
            dose_time_h,
            dose_lag_h[point],
            dose_amount[point],
            dose_duration_h[point],
            dose_compartment,
            dose_interval_h,
            reset_h,
        )
        plan = make_plan(doses)
        follow_graph(segment_start_h, rates[point], doses, time_h, plan, steps, amounts[point], no_areas)
    return amounts
