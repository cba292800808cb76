"""Differential equations given as formulas, integrated by a compiled Dormand-Prince scheme between events.

The right-hand sides are postfix programs (`_formula.py`), so nothing is executed that a file brings along. Doses, lags
and resets are planned as for compartment graphs; a steady state is the state that one interval of the train
reproduces, found by Newton's method. The error of a step is held to `RELATIVE` of each amount.

A compartment that only loses a fixed share of itself, as a depot does, is followed in closed form beside the others:
stepped through, a fast one (100/h) would hold every step of the whole model to a few minutes long after it is empty.

References:
    Dormand, Prince (1980), J. Comput. Appl. Math. 6:19-26; Hairer, Norsett, Wanner (1993), Solving ODEs I, II.4, II.5.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from bench._formula import Program, is_multiple_of
from twinstate.kernels import kernel
from twinstate.pk.graph import ENTERS, RESET, Doses, Plan, make_plan, plan_entries, since_newest
from twinstate.pk.matrix import solve_in_place

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

RELATIVE = 1e-9
# Of the largest dose: an amount smaller than this share of it need not be told from nought.
ABSOLUTE_SHARE = 1e-12
MOST_STEPS = 200_000
NEWTON_STEPS = 30
MOST_DOSES = 1e6  # no steady state holds more than this many doses
NEVER = math.inf

NODES = np.array([0.0, 0.2, 0.3, 0.8, 8.0 / 9.0, 1.0, 1.0])
WEIGHTS = np.array(
    [
        [0.0, 0.0, 0.0, 0.0, 0.0, 0.0],
        [1 / 5, 0.0, 0.0, 0.0, 0.0, 0.0],
        [3 / 40, 9 / 40, 0.0, 0.0, 0.0, 0.0],
        [44 / 45, -56 / 15, 32 / 9, 0.0, 0.0, 0.0],
        [19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729, 0.0, 0.0],
        [9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656, 0.0],
        [35 / 384, 0.0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84],
    ]
)
ERRORS = np.array([71 / 57600, 0.0, -71 / 16695, 71 / 1920, -17253 / 339200, 22 / 525, -1 / 40])


class Equations(NamedTuple):
    """Right-hand sides of all compartments, one program after the other.

    Attributes:
        operation: (length,).
        name: Index among the values: names of the model first, then amounts, then time, (length,).
        number: (length,).
        first: Where each compartment's program begins, with the end of the last, (compartments + 1,).
        alone: 1 where a right-hand side is its own amount times something fixed between events, (compartments,).
    """

    operation: Integers
    name: Integers
    number: Floats
    first: Integers
    alone: Integers


def join(programs: list[Program], first_amount: int) -> Equations:
    """Lay programs one after the other.

    Args:
        programs: Right-hand sides by compartment.
        first_amount: Where the amounts begin among the names; only time comes after them.
    """
    lengths = [program.operation.size for program in programs]
    return Equations(
        np.concatenate([program.operation for program in programs]),
        np.concatenate([program.name for program in programs]),
        np.concatenate([program.number for program in programs]),
        np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        np.array(
            [is_multiple_of(program, first_amount + k, first_amount) for k, program in enumerate(programs)],
            dtype=np.int64,
        ),
    )


class Work(NamedTuple):
    """Working memory: values a program may name, slopes of the stages, states, stack, input and the step's length.

    `growth` holds the rate constants (1/h, negative when lost) of the compartments followed in closed form.
    """

    values: Floats
    slopes: Floats
    trial: Floats
    stack: Floats
    flow: Floats
    pace: Floats
    growth: Floats


@kernel
def _run(equations: Equations, start: int, end: int, values: Floats, stack: Floats) -> float:
    """Run one program on numbers; the codes are those of `_formula.py`."""
    top = -1
    for index in range(start, end):
        code = equations.operation[index]
        if code == 0:
            top += 1
            stack[top] = equations.number[index]
        elif code == 1:
            top += 1
            stack[top] = values[equations.name[index]]
        elif code == 24:
            top -= 2
            stack[top] = stack[top + 1] if stack[top] != 0.0 else stack[top + 2]
        elif code >= 17:
            a = stack[top]
            if code == 17:
                stack[top] = -a
            elif code == 18:
                stack[top] = 1.0 if a == 0.0 else 0.0
            elif code == 19:
                stack[top] = math.exp(a)
            elif code == 20:
                stack[top] = math.log(a) if a > 0.0 else (-math.inf if a == 0.0 else math.nan)
            elif code == 21:
                stack[top] = math.log10(a) if a > 0.0 else (-math.inf if a == 0.0 else math.nan)
            elif code == 22:
                stack[top] = math.sqrt(a) if a >= 0.0 else math.nan
            else:
                stack[top] = abs(a)
        else:
            b = stack[top]
            top -= 1
            a = stack[top]
            if code == 2:
                a += b
            elif code == 3:
                a -= b
            elif code == 4:
                a *= b
            elif code == 5:
                a /= b
            elif code == 6:
                a = a**b
            elif code == 7:
                a = b if b < a else a
            elif code == 8:
                a = b if b > a else a
            elif code == 9:
                a = 1.0 if a < b else 0.0
            elif code == 10:
                a = 1.0 if a <= b else 0.0
            elif code == 11:
                a = 1.0 if a > b else 0.0
            elif code == 12:
                a = 1.0 if a >= b else 0.0
            elif code == 13:
                a = 1.0 if a == b else 0.0
            elif code == 14:
                a = 1.0 if a != b else 0.0
            elif code == 15:
                a = 1.0 if a != 0.0 and b != 0.0 else 0.0
            else:
                a = 1.0 if a != 0.0 or b != 0.0 else 0.0
            stack[top] = a
    result: float = stack[0]
    return result


@kernel
def _slope(equations: Equations, time: float, amounts: Floats, work: Work, slope: Floats) -> None:
    """Fill dA/dt (n,) at this time and these amounts, input included; 0 for what is followed in closed form."""
    size = amounts.size
    names = work.values.size - size - 1
    for k in range(size):
        work.values[names + k] = amounts[k]
    work.values[names + size] = time
    for k in range(size):
        if equations.alone[k] == 1:
            slope[k] = 0.0
        else:
            slope[k] = work.flow[k] + _run(
                equations, equations.first[k], equations.first[k + 1], work.values, work.stack
            )


@kernel
def _find_growth(equations: Equations, work: Work) -> None:
    """Rate constants of what is followed in closed form: the slope at an amount of 1."""
    size = equations.alone.size
    names = work.values.size - size - 1
    for k in range(size):
        if equations.alone[k] == 1:
            work.values[names + k] = 1.0
            work.growth[k] = _run(
                equations, equations.first[k], equations.first[k + 1], work.values, work.stack
            )


@kernel
def _alone(amount: float, growth: float, flow: float, hours: float) -> float:
    """What dA/dt = growth A + flow makes of an amount in so many hours."""
    share = growth * hours
    if share == 0.0:
        return amount + flow * hours
    return amount * math.exp(share) + flow * hours * (math.expm1(share) / share)


@kernel
def _integrate(
    equations: Equations, start: float, end: float, amounts: Floats, tolerance: float, work: Work
) -> None:
    """Move amounts from `start` to `end` under constant input; NaN when it takes too many steps."""
    size = amounts.size
    time = start
    step = min(work.pace[0], end - start)
    _find_growth(equations, work)
    _slope(equations, time, amounts, work, work.slopes[0])
    for _ in range(MOST_STEPS):
        if time >= end:
            return
        last = time + step >= end or (end - time - step) < 1e-9 * step
        if last:
            step = end - time
        for stage in range(1, 7):
            for k in range(size):
                if equations.alone[k] == 1:
                    work.trial[k] = _alone(amounts[k], work.growth[k], work.flow[k], NODES[stage] * step)
                    continue
                total = 0.0
                for before in range(stage):
                    total += WEIGHTS[stage, before] * work.slopes[before, k]
                work.trial[k] = amounts[k] + step * total
            _slope(equations, time + NODES[stage] * step, work.trial, work, work.slopes[stage])
        worst = 0.0
        for k in range(size):
            error = 0.0
            for stage in range(7):
                error += ERRORS[stage] * work.slopes[stage, k]
            scale = tolerance + RELATIVE * max(abs(amounts[k]), abs(work.trial[k]))
            error = abs(step * error) / scale
            if not error <= worst:
                worst = error
        if not worst < math.inf:
            break
        factor = 5.0 if worst < 1e-5 else min(5.0, max(0.2, 0.9 * worst**-0.2))
        if worst <= 1.0:
            time = end if last else time + step
            for k in range(size):
                amounts[k] = work.trial[k]
                work.slopes[0, k] = work.slopes[6, k]
            if not last or factor < 1.0:
                work.pace[0] = step * factor
        step *= factor
        if not step > 1e-14 * max(abs(time), 1e-3):
            break
    if time < end:
        amounts[:] = math.nan


@kernel
def _cycle(
    equations: Equations, doses: Doses, dose: int, since: float, amounts: Floats, tolerance: float, work: Work
) -> None:
    """One interval of a train, from just before its newest dose to just before the next.

    Entries fall where the lag puts them; infusions longer than the interval overlap.
    """
    interval = doses.interval_h[dose]
    duration = max(doses.duration_h[dose], 0.0)
    into = doses.compartment[dose]
    now = doses.time_h[dose]
    entry = interval - since  # hours from now to the next entry
    if duration == 0.0:
        work.flow[:] = 0.0
        _integrate(equations, now, now + entry, amounts, tolerance, work)
        amounts[into] += doses.amount[dose]
        _integrate(equations, now + entry, now + interval, amounts, tolerance, work)
        return
    whole = math.floor(duration / interval)  # infusions that run all the time
    rest = duration - whole * interval
    rate = doses.amount[dose] / duration
    # The rest of an infusion runs from the entry on, and may reach over the end of the interval.
    over = max(0.0, entry + rest - interval)
    cuts = np.array([over, entry, min(entry + rest, interval), interval])
    begun = 0.0
    for piece in range(4):
        runs_rest = piece == 0 or piece == 2
        work.flow[:] = 0.0
        work.flow[into] = rate * (whole + (1.0 if runs_rest else 0.0))
        if cuts[piece] > begun:
            _integrate(equations, now + begun, now + cuts[piece], amounts, tolerance, work)
            begun = cuts[piece]


@kernel
def _steady_state(
    equations: Equations, doses: Doses, dose: int, tolerance: float, work: Work, amounts: Floats
) -> None:
    """Fill what one interval of this train reproduces, by Newton's method on (after one interval) - (before it)."""
    size = amounts.size
    since = since_newest(doses.lag_h[dose], doses.interval_h[dose])
    amounts[:] = 0.0
    after, moved = np.empty(size), np.empty(size)
    matrix, right = np.empty((size, size)), np.empty(size)
    # A few intervals from empty first: Newton's method then starts near.
    for _ in range(3):
        _cycle(equations, doses, dose, since, amounts, tolerance, work)
    largest = abs(doses.amount[dose])
    for _ in range(NEWTON_STEPS):
        after[:] = amounts
        _cycle(equations, doses, dose, since, after, tolerance, work)
        gap = 0.0
        for k in range(size):
            gap = max(gap, abs(after[k] - amounts[k]) / (1e-3 * largest + abs(amounts[k])))
            # Where more is given than can leave there is no steady state: Newton's method runs away.
            if not abs(after[k]) < MOST_DOSES * largest:
                amounts[:] = math.nan
                return
        if gap < 1e-11:
            return
        for column in range(size):
            nudge = 1e-4 * largest + 1e-4 * abs(amounts[column])
            moved[:] = amounts
            moved[column] += nudge
            _cycle(equations, doses, dose, since, moved, tolerance, work)
            for row in range(size):
                matrix[row, column] = -(moved[row] - after[row]) / nudge
            matrix[column, column] += 1.0
        for k in range(size):
            right[k] = after[k] - amounts[k]
        if not solve_in_place(matrix, right, size):
            break
        for k in range(size):
            # Amounts stay positive: a step too far goes half the way to nought.
            if amounts[k] + right[k] < 0.0:
                amounts[k] *= 0.5
            else:
                amounts[k] += right[k]
    amounts[:] = math.nan


@kernel
def _follow(
    equations: Equations,
    segment_start_h: Floats,
    values: Floats,
    doses: Doses,
    time_h: Floats,
    plan: Plan,
    work: Work,
    amounts: Floats,
) -> None:
    """Fill amounts (times, n) for one point; the order of events is that of `twinstate.pk.graph`."""
    entries = plan_entries(doses, plan)
    names = values.shape[1]
    largest = 0.0
    for dose in range(doses.amount.size):
        largest = max(largest, abs(doses.amount[dose]))
    tolerance = ABSOLUTE_SHARE * max(largest, 1e-300)
    state = np.zeros(amounts.shape[1])
    train = np.zeros(amounts.shape[1])
    work.pace[0] = 0.01
    work.values[:names] = values[0]
    segment, entry, output, running = 0, 0, 0, 0
    forgotten = 0
    set_h = -NEVER
    now = -NEVER
    while output < time_h.size and entries >= 0:
        segment_h = segment_start_h[segment + 1] if segment + 1 < segment_start_h.size else NEVER
        entry_h = plan.time_h[entry] if entry < entries else NEVER
        stop_h = NEVER
        ending = 0
        for index in range(running):
            if plan.end_h[index] < stop_h:
                stop_h = plan.end_h[index]
                ending = index
        event_h = min(min(segment_h, time_h[output]), min(stop_h, entry_h))
        if event_h > now:
            if entry > 0:
                work.flow[:] = 0.0
                for index in range(running):
                    work.flow[plan.into[index]] += plan.rate[index]
                _integrate(equations, now, event_h, state, tolerance, work)
            now = event_h
        if segment_h <= event_h:
            segment += 1
            work.values[:names] = values[segment]
        elif entry_h <= event_h and plan.kind[entry] != ENTERS:
            dose = plan.dose[entry]
            if plan.kind[entry] == RESET:
                state[:] = 0.0
                running = 0
                forgotten = max(forgotten, dose)
            elif dose >= forgotten:
                if set_h < now:
                    state[:] = 0.0
                    running = 0
                    first = dose  # what was given at this very moment was not given before it
                    while first > 0 and doses.time_h[first - 1] == doses.time_h[dose]:
                        first -= 1
                    forgotten = max(forgotten, first)
                    _steady_state(equations, doses, dose, tolerance, work, train)
                    state[:] = train
                else:
                    state[:] = (
                        math.nan
                    )  # trains of the same moment do not add up in equations that are not linear
                set_h = now
                since = since_newest(doses.lag_h[dose], doses.interval_h[dose])
                while since < doses.duration_h[dose]:
                    plan.end_h[running] = now + (doses.duration_h[dose] - since)
                    plan.rate[running] = doses.amount[dose] / doses.duration_h[dose]
                    plan.into[running] = doses.compartment[dose]
                    running += 1
                    since += doses.interval_h[dose]
            entry += 1
        elif time_h[output] <= event_h:
            amounts[output, :] = state
            output += 1
        elif stop_h <= event_h:
            running -= 1
            for index in range(ending, running):
                plan.end_h[index] = plan.end_h[index + 1]
                plan.rate[index] = plan.rate[index + 1]
                plan.into[index] = plan.into[index + 1]
        elif entry_h <= event_h:
            dose = plan.dose[entry]
            if dose >= forgotten:
                end_h = now + doses.duration_h[dose]
                if end_h > now:
                    plan.end_h[running] = end_h
                    plan.rate[running] = doses.amount[dose] / (end_h - now)
                    plan.into[running] = doses.compartment[dose]
                    running += 1
                else:
                    state[doses.compartment[dose]] += doses.amount[dose]
                    work.pace[0] = min(work.pace[0], 0.05)
            entry += 1
        else:  # a time that is no number
            break
    if output < time_h.size:
        amounts[output:, :] = np.nan


@kernel
def solve_equations(
    equations: Equations,
    segment_start_h: Floats,
    values: Floats,
    time_h: Floats,
    dose_time_h: Floats,
    dose_lag_h: Floats,
    dose_amount: Floats,
    dose_duration_h: Floats,
    dose_compartment: Integers,
    dose_interval_h: Floats,
    reset_h: Floats,
) -> Floats:
    """Amounts at ascending times for many parameter points; arguments as in `twinstate.pk.graph.solve_graph_points`.

    Args:
        equations: Right-hand sides, amount/h.
        segment_start_h: When each row of values begins to rule, (segments,).
        values: What the programs name, by point and segment, (points, segments, names).
        time_h: (times,).
        dose_time_h: (doses,).
        dose_lag_h: (points, doses).
        dose_amount: (points, doses).
        dose_duration_h: (points, doses).
        dose_compartment: (doses,).
        dose_interval_h: (doses,).
        reset_h: (resets,).

    Returns:
        (points, times, n); NaN where it cannot be computed.
    """
    points = values.shape[0]
    size = equations.first.size - 1
    amounts = np.empty((points, time_h.size, size))
    work = Work(
        np.zeros(values.shape[2] + size + 1),
        np.zeros((7, size)),
        np.zeros(size),
        np.zeros(equations.operation.size + 1),
        np.zeros(size),
        np.zeros(1),
        np.zeros(size),
    )
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
        _follow(
            equations, segment_start_h, values[point], doses, time_h, make_plan(doses), work, amounts[point]
        )
    return amounts
