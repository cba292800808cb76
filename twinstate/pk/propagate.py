"""Exact propagation of one patient's course: concentration and its running integral at any ascending times.

Events (segment starts, outputs, ends of infusions, doses entering) are merged for each eta vector, because a
lag moves with eta. Between two events the linear system is solved in closed form mode by mode. At equal times
a segment starts first, then outputs are read, then inputs change: a level drawn at a dose's time is the one
before the dose.

Nothing here raises: a parameter that overflows comes out as NaN, which the caller quarantines.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from twinstate.kernels import kernel
from twinstate.pk.course import INTO_CENTRAL, INTO_DEPOT, Course
from twinstate.pk.schedule import (
    ABSORPTION_RATE,
    AT_CONSTANT_RATE,
    CENTRAL_VOLUME,
    LAG,
    STEADY_STATE,
    THROUGH_DEPOT,
    Body,
    make_body,
    plan_entries,
    set_parameters,
)
from twinstate.pk.steps import absorbed, held, held_under_absorption, held_under_infusion

Floats = NDArray[np.float64]
NEVER = math.inf


@kernel
def advance(
    amounts: Floats,
    depot: float,
    rate_in: float,
    rates: Floats,
    into_modes: Floats,
    absorption: float,
    time: float,
) -> tuple[float, float]:
    """Move modal amounts ahead by `time` hours of constant input.

    Args:
        amounts: Modal amounts, mg, (modes,); changed in place.
        depot: Amount in the depot, mg.
        rate_in: Total rate of the infusions running, mg/h.
        rates: Decay rates, 1/h, (modes,).
        into_modes: Modal amount per compartment amount, (modes, compartments).
        absorption: Rate constant of the depot, 1/h.
        time: h.

    Returns:
        What is left in the depot, mg, and the area under the central amount, mg*h.
    """
    depot_decay = 1.0
    depot_held = time
    if depot != 0.0:
        depot_decay = math.exp(-absorption * time)
        depot_held = held(absorption, time, depot_decay)
    area = 0.0
    for mode in range(amounts.size):
        rate = rates[mode]
        decay = math.exp(-rate * time)
        unit_held = held(rate, time, decay)
        amount = amounts[mode] * decay
        area += amounts[mode] * unit_held
        if rate_in != 0.0:
            flow = into_modes[mode, 0] * rate_in
            amount += flow * unit_held
            area += flow * held_under_infusion(rate, time, unit_held)
        if depot != 0.0:
            flow = into_modes[mode, 0] * absorption * depot
            unit_absorbed = absorbed(rate, absorption, time, decay, depot_decay)
            amount += flow * unit_absorbed
            area += flow * held_under_absorption(rate, absorption, time, unit_held, depot_held, unit_absorbed)
        amounts[mode] = amount
    return depot * depot_decay, area


@kernel
def change_segment(body: Body, before: int, after: int) -> None:
    """Carry the compartments' amounts over into the modes of the next segment."""
    modes = body.amounts.size
    for compartment in range(modes):
        body.swap[compartment] = 0.0
        for mode in range(modes):
            body.swap[compartment] += body.from_modes[before, compartment, mode] * body.amounts[mode]
    for mode in range(modes):
        body.amounts[mode] = 0.0
        for compartment in range(modes):
            body.amounts[mode] += body.into_modes[after, mode, compartment] * body.swap[compartment]


@kernel
def set_steady_state(course: Course, body: Body, entry: int, segment: int) -> tuple[float, int]:
    """Forget everything and hold what an endless train of this dose leaves just before its newest member.

    The train's doses were given at now - interval, now - 2 interval, ..., each delayed by the lag, under the
    parameters in force now. Inputs that still run are started as infusions; the rest is a geometric series.

    Returns:
        The amount in the depot, mg, and how many infusions of the train still run.
    """
    dose = body.entry_dose[entry]
    interval = course.dose_interval_h[dose]
    amount = body.entry_mg[entry]
    duration = body.entry_duration_h[entry]
    absorption = body.parameters[segment, ABSORPTION_RATE]
    # Since the newest dose of the train that has entered.
    since = interval
    if course.dose_route[dose] != INTO_CENTRAL:
        # The lag held when the dose was given, which is now.
        lag = body.parameters[segment, LAG]
        since = max(1.0, math.ceil(lag / interval)) * interval - lag
    if course.dose_route[dose] == INTO_DEPOT:
        depot_loss = -math.expm1(-absorption * interval)
        depot_since = math.exp(-absorption * since)
        depot_interval = math.exp(-absorption * interval)
        for mode in range(body.amounts.size):
            rate = body.rates[segment, mode]
            fresh = absorbed(rate, absorption, since, math.exp(-rate * since), depot_since)
            cycle = absorbed(rate, absorption, interval, math.exp(-rate * interval), depot_interval)
            flow = body.into_modes[segment, mode, 0] * absorption * amount
            body.amounts[mode] = (
                flow * (fresh + cycle * depot_since / depot_loss) / -math.expm1(-rate * interval)
            )
        return amount * depot_since / depot_loss, 0
    running = 0
    body.amounts[:] = 0.0
    while since < duration:
        body.end_h[running] = body.entry_h[entry] + (duration - since)
        body.rate_mg_h[running] = amount / duration
        running += 1
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
    return 0.0, running


@kernel
def follow(
    course: Course,
    eta: Floats,
    time_h: Floats,
    body: Body,
    concentration: Floats,
    area: Floats,
    second: Floats,
) -> None:
    """Fill concentration, its running integral and the second output, each (times,), for one eta vector.

    Args:
        course: Structure, typical parameters and doses.
        eta: Deviations of the log-parameters, (eta,).
        time_h: Output times in hours since 1970, ascending, (times,).
        body: Working memory of this course.
        concentration: Filled, mg/L.
        area: Filled, mg*h/L; the integral starts at nought before the first dose.
        second: Filled with what `Structure.second` names; nought where it names nothing.
    """
    times = time_h.size
    entries = 0
    if course.dose_time_h.size > 0:
        entries = plan_entries(course, body) if set_parameters(course, eta, body) else -1
    if entries <= 0:
        concentration[:] = 0.0 if entries == 0 else np.nan
        area[:] = 0.0 if entries == 0 else np.nan
        second[:] = 0.0 if entries == 0 else np.nan
        return
    second[:] = 0.0
    origin = course.dose_time_h[0]
    segments = course.segment_start_h.size
    amounts, end_h, rate_mg_h = body.amounts, body.end_h, body.rate_mg_h
    amounts[:] = 0.0
    depot, rate_in, running = 0.0, 0.0, 0
    segment, entry, output = 0, 0, 0
    forgotten = 0  # doses before this one were wiped out by a steady state
    now = -NEVER
    total = 0.0
    while output < times:
        segment_h = course.segment_start_h[segment + 1] - origin if segment + 1 < segments else NEVER
        output_h = time_h[output] - origin
        entry_h = body.entry_h[entry] if entry < entries else NEVER
        if not math.isfinite(output_h):
            concentration[output:] = np.nan
            area[output:] = np.nan
            return
        stop_h = NEVER
        ending = 0
        for index in range(running):
            if end_h[index] < stop_h:
                stop_h = end_h[index]
                ending = index
        event_h = min(min(segment_h, output_h), min(stop_h, entry_h))
        if event_h > now:
            if entry > 0:  # nothing is in the body before the first entry
                depot, held_in = advance(
                    amounts,
                    depot,
                    rate_in,
                    body.rates[segment],
                    body.into_modes[segment],
                    body.parameters[segment, ABSORPTION_RATE],
                    event_h - now,
                )
                total += held_in / body.parameters[segment, CENTRAL_VOLUME]
            now = event_h
        if segment_h <= event_h:
            change_segment(body, segment, segment + 1)
            segment += 1
        elif output_h <= event_h:
            central = 0.0
            for mode in range(amounts.size):
                central += amounts[mode]
            concentration[output] = central / body.parameters[segment, CENTRAL_VOLUME]
            area[output] = total
            output += 1
        elif stop_h <= event_h or entry_h <= event_h:
            if stop_h <= event_h:
                running -= 1
                for index in range(ending, running):
                    end_h[index] = end_h[index + 1]
                    rate_mg_h[index] = rate_mg_h[index + 1]
            else:
                dose = body.entry_dose[entry]
                kind = body.entry_kind[entry]
                if kind == STEADY_STATE:
                    forgotten = dose
                    depot, running = set_steady_state(course, body, entry, segment)
                elif dose < forgotten:
                    pass
                elif kind == THROUGH_DEPOT:
                    depot += body.entry_mg[entry]
                elif kind == AT_CONSTANT_RATE and now + body.entry_duration_h[entry] > now:
                    end_h[running] = now + body.entry_duration_h[entry]
                    rate_mg_h[running] = body.entry_mg[entry] / (end_h[running] - now)
                    running += 1
                else:
                    for mode in range(amounts.size):
                        amounts[mode] += body.into_modes[segment, mode, 0] * body.entry_mg[entry]
                entry += 1
            # Added up anew in a fixed order, so that nothing remains when the last infusion ends.
            rate_in = 0.0
            for index in range(running):
                rate_in += rate_mg_h[index]
        else:  # a segment's start that is not a number
            concentration[output:] = np.nan
            area[output:] = np.nan
            return


@kernel
def solve(course: Course, eta: Floats, time_h: Floats) -> tuple[Floats, Floats, Floats]:
    """Concentration and cumulative AUC of one eta vector.

    Args:
        course: Structure, typical parameters and doses.
        eta: Deviations of the log-parameters, (eta,).
        time_h: Output times in hours since 1970, ascending, (times,). At a dose's time the answer is that
            just before the dose.

    Returns:
        Concentration (times,) in mg/L, its integral since before the first dose (times,) in mg*h/L, and the
        second output (times,); NaN where a parameter is not finite.
    """
    concentration = np.empty(time_h.size)
    area = np.empty(time_h.size)
    second = np.empty(time_h.size)
    follow(course, eta, time_h, make_body(course), concentration, area, second)
    return concentration, area, second


@kernel
def solve_points(course: Course, points: Floats, time_h: Floats) -> tuple[Floats, Floats, Floats]:
    """`solve` for every row of `points` (points, eta).

    Returns:
        Concentration (points, times) in mg/L, cumulative AUC (points, times) in mg*h/L, and the second output
        (points, times).
    """
    concentration = np.empty((points.shape[0], time_h.size))
    area = np.empty((points.shape[0], time_h.size))
    second = np.empty((points.shape[0], time_h.size))
    body = make_body(course)
    for point in range(points.shape[0]):
        follow(course, points[point], time_h, body, concentration[point], area[point], second[point])
    return concentration, area, second
