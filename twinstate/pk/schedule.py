"""What a propagation has to do and when: parameters by segment, and doses in the order they enter.

A lag moves with eta, so the plan belongs to one eta vector; its memory is made once and filled again for
every point.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from twinstate.kernels import kernel
from twinstate.pk.course import INTO_CENTRAL, INTO_DEPOT, ZERO_ORDER_ORAL, Course
from twinstate.pk.disposition import dispose

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

# Columns of the structural parameters (`course.STRUCTURAL_PARAMETERS`).
CENTRAL_VOLUME, ABSORPTION_RATE, LAG, BIOAVAILABILITY, INPUT_DURATION = 1, 4, 5, 6, 7
# An endless train whose lag or input outlasts this many intervals comes out as NaN.
TRAIN_LIMIT = 32
# What an entry does.
AT_ONCE, AT_CONSTANT_RATE, THROUGH_DEPOT, STEADY_STATE = 0, 1, 2, 3


class Body(NamedTuple):
    """Working memory of one propagation, made once and used again for every point.

    Attributes:
        parameters: Structural parameters by segment, (segments, parameters).
        rates: (segments, modes), 1/h.
        into_modes: (segments, modes, compartments).
        from_modes: (segments, compartments, modes).
        entry_h: When each planned entry happens, h after the first dose, ascending, (entries,).
        entry_dose: Its dose, (entries,).
        entry_kind: `AT_ONCE`, `AT_CONSTANT_RATE`, `THROUGH_DEPOT` or `STEADY_STATE`, (entries,).
        entry_mg: What of the dose reaches the body, (entries,).
        entry_duration_h: How long it enters at a constant rate, (entries,).
        amounts: Modal amounts that add up to the central amount, mg, (modes,).
        swap: Scratch, (modes,).
        end_h: Ends of the infusions running now, (running,).
        rate_mg_h: Their rates, (running,).
    """

    parameters: Floats
    rates: Floats
    into_modes: Floats
    from_modes: Floats
    entry_h: Floats
    entry_dose: Integers
    entry_kind: Integers
    entry_mg: Floats
    entry_duration_h: Floats
    amounts: Floats
    swap: Floats
    end_h: Floats
    rate_mg_h: Floats


@kernel
def make_body(course: Course) -> Body:
    """Working memory that fits this course."""
    segments = course.segment_start_h.size
    modes = course.structure.compartments
    doses = course.dose_time_h.size
    trains = 0
    for dose in range(doses):
        if course.dose_interval_h[dose] > 0.0:
            trains += 1
    entries = doses + trains * (TRAIN_LIMIT + 1)
    return Body(
        np.zeros(course.log_typical.shape),
        np.zeros((segments, modes)),
        np.zeros((segments, modes, modes)),
        np.zeros((segments, modes, modes)),
        np.zeros(entries),
        np.zeros(entries, np.int64),
        np.zeros(entries, np.int64),
        np.zeros(entries),
        np.zeros(entries),
        np.zeros(modes),
        np.zeros(modes),
        np.zeros(entries + trains * TRAIN_LIMIT),
        np.zeros(entries + trains * TRAIN_LIMIT),
    )


@kernel
def set_parameters(course: Course, eta: Floats, body: Body) -> bool:
    """Fill parameters and dispositions of every segment; False when one is not finite."""
    finite = True
    for segment in range(course.segment_start_h.size):
        for index in range(course.eta_index.size):
            log_value = course.log_typical[segment, index]
            moved_by = course.eta_index[index]
            if moved_by >= 0:
                log_value += eta[moved_by]
            moved_by = course.occasion_index[segment, index]
            if moved_by >= 0:
                log_value += eta[moved_by]
            # Most structures lack most parameters: an exponential is only taken where there is one.
            body.parameters[segment, index] = math.exp(log_value) if log_value != -math.inf else 0.0
            finite = finite and math.isfinite(body.parameters[segment, index])
        dispose(
            course.structure.compartments,
            body.parameters[segment],
            body.rates[segment],
            body.into_modes[segment],
            body.from_modes[segment],
        )
        for mode in range(course.structure.compartments):
            finite = finite and math.isfinite(body.rates[segment, mode])
    return finite


@kernel
def _enter(body: Body, count: int, time: float, dose: int, kind: int, amount: float, duration: float) -> int:
    """Put one entry in its place by time; entries at equal times stay in the order they are put."""
    place = count
    while place > 0 and body.entry_h[place - 1] > time:
        body.entry_h[place] = body.entry_h[place - 1]
        body.entry_dose[place] = body.entry_dose[place - 1]
        body.entry_kind[place] = body.entry_kind[place - 1]
        body.entry_mg[place] = body.entry_mg[place - 1]
        body.entry_duration_h[place] = body.entry_duration_h[place - 1]
        place -= 1
    body.entry_h[place] = time
    body.entry_dose[place] = dose
    body.entry_kind[place] = kind
    body.entry_mg[place] = amount
    body.entry_duration_h[place] = duration
    return count + 1


@kernel
def plan_entries(course: Course, body: Body) -> int:
    """Fill the entries in order of time; their number, or -1 when there is no such order.

    That is when a time is not finite, or a steady state's lag or input outlasts `TRAIN_LIMIT` intervals.
    """
    origin = course.dose_time_h[0]
    segment = 0
    count = 0
    for dose in range(course.dose_time_h.size):
        given = course.dose_time_h[dose]
        while segment + 1 < course.segment_start_h.size and course.segment_start_h[segment + 1] <= given:
            segment += 1
        route = course.dose_route[dose]
        amount = course.dose_mg[dose]
        lag = 0.0
        duration = 0.0
        if route == INTO_CENTRAL:
            duration = course.dose_duration_h[dose]
        else:
            amount *= body.parameters[segment, BIOAVAILABILITY]
            lag = body.parameters[segment, LAG]
            if route == ZERO_ORDER_ORAL:
                duration = body.parameters[segment, INPUT_DURATION]
        kind = THROUGH_DEPOT if route == INTO_DEPOT else AT_CONSTANT_RATE if duration > 0.0 else AT_ONCE
        if not math.isfinite((given - origin) + lag):
            return -1
        interval = course.dose_interval_h[dose]
        if interval > 0.0:
            if lag > TRAIN_LIMIT * interval or duration > TRAIN_LIMIT * interval:
                return -1
            count = _enter(body, count, given - origin, dose, STEADY_STATE, amount, duration)
            # Doses of the train given before this one whose lag is not over.
            for back in range(math.ceil(lag / interval) - 1, 0, -1):
                waiting = lag - back * interval
                count = _enter(body, count, (given - origin) + waiting, dose, kind, amount, duration)
        count = _enter(body, count, (given - origin) + lag, dose, kind, amount, duration)
    return count
