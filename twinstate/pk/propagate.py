"""Propagation of one patient's course: concentration, its running integral and the second output at any times.

Events (segment starts, outputs, ends of infusions, doses entering) are merged for each eta vector, because a
lag moves with eta. Between two events linear kinetics are solved in closed form mode by mode; what has no
closed form takes the steps of `march`. At equal times a segment starts first, then outputs are read, then
inputs change: a level drawn at a dose's time is the one before the dose.

Nothing here raises: a parameter that overflows comes out as NaN, which the caller quarantines.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from twinstate.kernels import kernel
from twinstate.pk.columns import ABSORPTION_RATE, CENTRAL_VOLUME
from twinstate.pk.course import EFFECT_SITE, LINEAR, METABOLITE, NOTHING, Course
from twinstate.pk.march import march
from twinstate.pk.modal import advance, change_segment, gathered
from twinstate.pk.response import STATE, follower_gain, follower_rate, read_response, start_response
from twinstate.pk.schedule import (
    AT_CONSTANT_RATE,
    STEADY_STATE,
    THROUGH_DEPOT,
    Body,
    make_body,
    plan_entries,
    set_parameters,
)
from twinstate.pk.steady_state import set_steady_state

Floats = NDArray[np.float64]
NEVER = math.inf


@kernel
def _read_without_drug(course: Course, time_h: Floats, body: Body, second: Floats) -> None:
    """Fill the second output, (times,), of a patient who was never dosed."""
    segment = 0
    for output in range(time_h.size):
        while (
            segment + 1 < course.segment_start_h.size
            and course.segment_start_h[segment + 1] <= time_h[output]
        ):
            segment += 1
        parameters = body.parameters[segment]
        start_response(course.structure, parameters, body.response)
        second[output] = read_response(course.structure, parameters, body.response)


@kernel
def _follow_along(body: Body, second: int, segment: int, depot: float, rate_in: float, time: float) -> None:
    """Move a metabolite or an effect site ahead under linear kinetics, in closed form."""
    parameters = body.parameters[segment]
    leaving = follower_rate(second, parameters)
    gain = follower_gain(second, parameters) / parameters[CENTRAL_VOLUME]
    inflow = gathered(
        body.amounts,
        depot,
        rate_in,
        body.rates[segment],
        body.into_modes[segment],
        parameters[ABSORPTION_RATE],
        leaving,
        time,
    )
    body.response[STATE, 0, 0] = body.response[STATE, 0, 0] * math.exp(-leaving * time) + gain * inflow


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
    structure = course.structure
    entries = 0
    if course.dose_time_h.size > 0 or structure.second != NOTHING:
        entries = -1
        if set_parameters(course, eta, body):
            entries = plan_entries(course, body) if course.dose_time_h.size > 0 else 0
    if entries <= 0:
        concentration[:] = 0.0 if entries == 0 else np.nan
        area[:] = 0.0 if entries == 0 else np.nan
        second[:] = 0.0 if entries == 0 else np.nan
        if entries == 0 and structure.second != NOTHING:
            _read_without_drug(course, time_h, body, second)
        return
    stepped = structure.elimination != LINEAR or structure.transits > 0
    followed = not stepped and (structure.second == METABOLITE or structure.second == EFFECT_SITE)
    stepped = stepped or (structure.second != NOTHING and not followed)
    second[:] = 0.0
    if structure.second != NOTHING:
        start_response(structure, body.parameters[0], body.response)
    body.gut[0] = 0.0
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
            second[output:] = np.nan
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
                if stepped:
                    depot, held_in = march(course, body, segment, depot, rate_in, event_h - now, True)
                else:
                    if followed:
                        _follow_along(body, structure.second, segment, depot, rate_in, event_h - now)
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
            if entry == 0 and structure.second != NOTHING:
                start_response(structure, body.parameters[segment], body.response)
        elif output_h <= event_h:
            central = 0.0
            for mode in range(amounts.size):
                central += amounts[mode]
            concentration[output] = central / body.parameters[segment, CENTRAL_VOLUME]
            area[output] = total
            if structure.second != NOTHING:
                second[output] = read_response(structure, body.parameters[segment], body.response)
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
                    if structure.transits > 0:
                        body.gut[0, 0] += body.entry_mg[entry]
                    else:
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
