"""Propagation of one patient's course: concentration, its running integral and the second output at any times.

Events (segment starts, outputs, ends of infusions, doses entering) are merged for each eta vector, because a
lag moves with eta. Between two events linear kinetics are solved in closed form mode by mode; what has no
closed form takes the steps of `march`. At equal times a segment starts first, then a steady state is set, then
outputs are read, then inputs change: a level drawn at a dose's time is the one before the dose, and one drawn as a
dose at steady state is given is that steady state's trough.

Nothing here raises: a parameter that overflows comes out as NaN, which the caller quarantines.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from twinstate.kernels import inner_kernel, kernel
from twinstate.pk.columns import CENTRAL_VOLUME
from twinstate.pk.course import EFFECT_SITE, LINEAR, METABOLITE, NOTHING, Course
from twinstate.pk.march import march
from twinstate.pk.modal import advance, change_segment, gathered, read_on
from twinstate.pk.response import STATE, follower_gain, follower_rate, read_response, start_response
from twinstate.pk.schedule import (
    AT_CONSTANT_RATE,
    DIRECT_MG,
    DURATION_H,
    ENTERS_H,
    INTERVAL_H,
    ORAL_MG,
    STEADY_STATE,
    THROUGH_DEPOT,
    TO_END,
    TO_ENTER,
    Body,
    Motion,
    make_body,
    plan_entries,
    set_parameters,
)
from twinstate.pk.steady_state import set_steady_state

Floats = NDArray[np.float64]
NEVER = math.inf
# As NumPy's: numba would compile all that is called with a plain 0 once more for it.
FIRST: Any = np.int64(0)


@inner_kernel
def _read_without_drug(course: Course, time_h: Floats, motion: Motion, second: Floats) -> None:
    """Fill the second output, (times,), of a patient who was never dosed."""
    segment = 0
    for output in range(time_h.size):
        while (
            segment + 1 < course.segment_start_h.size
            and course.segment_start_h[segment + 1] <= time_h[output]
        ):
            segment += 1
        parameters = motion.parameters[segment]
        start_response(course.structure, parameters, motion.response)
        second[output] = read_response(course.structure, parameters, motion.response)


@inner_kernel
def _follow_along(
    motion: Motion, second: int, segment: int, depot: float, rate_in: float, time: float
) -> None:
    """Move a metabolite or an effect site ahead under linear kinetics, in closed form."""
    parameters = motion.parameters[segment]
    leaving = follower_rate(second, parameters)
    gain = follower_gain(second, parameters) / parameters[CENTRAL_VOLUME]
    left, inflow = gathered(motion, segment, depot, rate_in, leaving, time)
    motion.response[STATE, 0, 0] = motion.response[STATE, 0, 0] * left + gain * inflow


@inner_kernel
def _next_of_trains(trains: Floats, live: int) -> tuple[float, int, bool]:
    """When an older member of a train next enters or ends, h; which train; and whether it ends."""
    first_h, which, ends = NEVER, 0, False
    for train in range(live):
        enters_h, interval = trains[ENTERS_H, train], trains[INTERVAL_H, train]
        if trains[TO_END, train] > 0.0:
            at = enters_h + trains[DURATION_H, train] - trains[TO_END, train] * interval
            if at < first_h:
                first_h, which, ends = at, train, True
        if trains[TO_ENTER, train] > 0.0:
            at = enters_h - trains[TO_ENTER, train] * interval
            if at < first_h:
                first_h, which, ends = at, train, False
    return first_h, which, ends


@inner_kernel
def _rate_of_trains(trains: Floats, live: int) -> float:
    """At what rate the older members of trains enter now, mg/h."""
    rate = 0.0
    for train in range(live):
        running = trains[TO_END, train] - trains[TO_ENTER, train]
        if trains[DURATION_H, train] > 0.0 and running > 0.0:
            rate += running * (trains[DIRECT_MG, train] / trains[DURATION_H, train])
    return rate


@inner_kernel
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
    structure, motion = course.structure, body.motion
    entries = 0
    if course.dose_time_h.size > 0 or structure.second != NOTHING:
        entries = -1
        if set_parameters(course, eta, motion):
            entries = plan_entries(course, body) if course.dose_time_h.size > 0 else 0
    if entries <= 0:
        concentration[:] = 0.0 if entries == 0 else np.nan
        area[:] = 0.0 if entries == 0 else np.nan
        second[:] = 0.0 if entries == 0 else np.nan
        if entries == 0 and structure.second != NOTHING:
            _read_without_drug(course, time_h, motion, second)
        return
    stepped = structure.elimination != LINEAR or structure.transits > 0
    followed = not stepped and (structure.second == METABOLITE or structure.second == EFFECT_SITE)
    stepped = stepped or (structure.second != NOTHING and not followed)
    second[:] = 0.0
    if structure.second != NOTHING:
        start_response(structure, motion.parameters[0], motion.response)
    motion.gut[0] = 0.0
    origin = course.dose_time_h[0]
    segments = course.segment_start_h.size
    amounts, end_h, rate_mg_h = motion.amounts, body.end_h, body.rate_mg_h
    amounts[:] = 0.0
    depot, rate_in, running = 0.0, 0.0, 0
    segment, entry, output = FIRST, FIRST, 0
    forgotten = 0  # doses before this one were wiped out by a steady state
    live = 0  # trains set by the last steady state
    steady_h = -NEVER  # when that was
    now = -NEVER
    total = 0.0
    while output < times:
        segment_h = course.segment_start_h[segment + 1] - origin if segment + 1 < segments else NEVER
        output_h = time_h[output] - origin
        entry_h = body.entry_h[entry] if entry < entries else NEVER
        if not math.isfinite(output_h):
            concentration[output:] = np.nan
            area[output:] = np.nan
            second[output:] = np.nan
            return
        stop_h = NEVER
        ending = 0
        for index in range(running):
            if end_h[index] < stop_h:
                stop_h = end_h[index]
                ending = index
        train_h, train, train_ends = NEVER, 0, False
        if live > 0:
            train_h, train, train_ends = _next_of_trains(body.trains, live)
            train_h = max(train_h, now)  # by rounding it may seem past
        other_h = min(segment_h, min(min(stop_h, train_h), entry_h))
        if output_h < other_h and entry > 0 and not stepped and not followed:
            read, depot, total, now = read_on(
                motion,
                segment,
                depot,
                rate_in,
                total,
                now,
                other_h,
                origin,
                time_h[output:],
                concentration[output:],
                area[output:],
            )
            output += read
            continue
        event_h = min(other_h, output_h)  # in this order: a start that is not a number stays one
        if event_h > now:
            if entry > 0:  # nothing is in the body before the first entry
                if stepped:
                    depot, held_in = march(
                        structure, motion, segment, depot, rate_in, event_h - now, structure.second != NOTHING
                    )
                else:
                    if followed:
                        _follow_along(motion, structure.second, segment, depot, rate_in, event_h - now)
                    depot, held_in = advance(motion, segment, depot, rate_in, event_h - now)
                total += held_in / motion.parameters[segment, CENTRAL_VOLUME]
            now = event_h
        if segment_h <= event_h:
            change_segment(motion, segment, segment + 1)
            segment += 1
            if entry == 0 and structure.second != NOTHING:
                start_response(structure, motion.parameters[segment], motion.response)
        elif entry_h <= event_h and body.entry_kind[entry] == STEADY_STATE:
            if steady_h < now:
                live, running = 0, 0
                forgotten = body.entry_dose[entry]
                # What was given at this very moment was not given before it.
                while forgotten > 0 and course.dose_time_h[forgotten - 1] == course.dose_time_h[forgotten]:
                    forgotten -= 1
            steady_h = now
            depot = set_steady_state(course, body, entry, segment, depot, live)
            live += 1
            rate_in = _rate_of_trains(body.trains, live)
            entry += 1
        elif output_h <= event_h:
            central = 0.0
            for mode in range(amounts.size):
                central += amounts[mode]
            concentration[output] = central / motion.parameters[segment, CENTRAL_VOLUME]
            area[output] = total
            if structure.second != NOTHING:
                second[output] = read_response(structure, motion.parameters[segment], motion.response)
            output += 1
        elif stop_h <= event_h or train_h <= event_h or entry_h <= event_h:
            if stop_h <= event_h:
                running -= 1
                for index in range(ending, running):
                    end_h[index] = end_h[index + 1]
                    rate_mg_h[index] = rate_mg_h[index + 1]
            elif train_h <= event_h:
                older = body.trains[:, train]
                if train_ends:
                    older[TO_END] -= 1.0
                else:
                    older[TO_ENTER] -= 1.0
                    if structure.transits > 0:
                        motion.gut[0, 0] += older[ORAL_MG]
                    else:
                        depot += older[ORAL_MG]
                    if older[DURATION_H] == 0.0:
                        for mode in range(amounts.size):
                            amounts[mode] += motion.into_modes[segment, mode, 0] * older[DIRECT_MG]
            else:
                dose = body.entry_dose[entry]
                kind = body.entry_kind[entry]
                if dose < forgotten:
                    pass
                elif kind == THROUGH_DEPOT:
                    if structure.transits > 0:
                        motion.gut[0, 0] += body.entry_mg[entry]
                    else:
                        depot += body.entry_mg[entry]
                elif kind == AT_CONSTANT_RATE and now + body.entry_duration_h[entry] > now:
                    end_h[running] = now + body.entry_duration_h[entry]
                    rate_mg_h[running] = body.entry_mg[entry] / (end_h[running] - now)
                    running += 1
                else:
                    for mode in range(amounts.size):
                        amounts[mode] += motion.into_modes[segment, mode, 0] * body.entry_mg[entry]
                entry += 1
            # Added up anew in a fixed order, so that nothing remains when the last infusion ends.
            rate_in = _rate_of_trains(body.trains, live) if live > 0 else 0.0
            for index in range(running):
                rate_in += rate_mg_h[index]
        else:  # a segment's start that is not a number
            concentration[output:] = np.nan
            area[output:] = np.nan
            second[output:] = np.nan
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
