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
from twinstate.pk.columns import (
    BIOAVAILABILITY,
    CLEARANCE,
    FIRST_ORDER_FRACTION,
    INPUT_DURATION,
    LAG,
)
from twinstate.pk.course import (
    INTO_CENTRAL,
    INTO_DEPOT,
    PARALLEL_ORAL,
    SATURABLE,
    Course,
)
from twinstate.pk.disposition import dispose

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

# An endless train whose lag or input outlasts this many intervals comes out as NaN.
TRAIN_LIMIT = 32
# What an entry does.
AT_ONCE, AT_CONSTANT_RATE, THROUGH_DEPOT, STEADY_STATE = 0, 1, 2, 3
# Dividing, three maturing and circulating cells.
MYELOID_CELLS = 5
# Rows of `Body.modal` and `Body.response`.
MODAL_ROWS, RESPONSE_ROWS = 12, 5
COMPARTMENTS = 11  # the row of `Body.modal` that takes amounts by compartment


class Body(NamedTuple):
    """Working memory of one propagation, made once and used again for every point.

    Attributes:
        parameters: Structural parameters by segment, (segments + 1, parameters). The last row is scratch: a
            segment with saturable elimination made linear.
        rates: (segments + 1, modes), 1/h.
        into_modes: (segments + 1, modes, compartments).
        from_modes: (segments + 1, compartments, modes).
        entry_h: When each planned entry happens, h after the first dose, ascending, (entries,).
        entry_dose: Its dose, (entries,).
        entry_kind: `AT_ONCE`, `AT_CONSTANT_RATE`, `THROUGH_DEPOT` or `STEADY_STATE`, (entries,).
        entry_mg: What of the dose reaches the body, (entries,).
        entry_duration_h: How long it enters at a constant rate, (entries,).
        amounts: Modal amounts that add up to the central amount, mg, (modes,).
        modal: Scratch by mode or compartment, (rows, modes).
        end_h: Ends of the infusions running now, (running,).
        rate_mg_h: Their rates, (running,).
        gut: What the gut holds and how it empties, (transits + 2, transits + 1): see `gut`.
        response: State of the second output and how it steps, (rows, 2, cells): see `response`.
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
    modal: Floats
    end_h: Floats
    rate_mg_h: Floats
    gut: Floats
    response: Floats


@kernel
def make_body(course: Course) -> Body:
    """Working memory that fits this course."""
    segments = course.segment_start_h.size
    modes = course.structure.compartments
    doses = course.dose_time_h.size
    trains = 0
    split = 1  # entries a dose
    for dose in range(doses):
        if course.dose_interval_h[dose] > 0.0:
            trains += 1
        if course.dose_route[dose] == PARALLEL_ORAL:
            split = 2
    entries = split * doses + trains * (split * TRAIN_LIMIT + 1)
    cells = max(MYELOID_CELLS, max(course.structure.first_chain, course.structure.second_chain))
    return Body(
        np.zeros((segments + 1, course.log_typical.shape[1])),
        np.zeros((segments + 1, modes)),
        np.zeros((segments + 1, modes, modes)),
        np.zeros((segments + 1, modes, modes)),
        np.zeros(entries),
        np.zeros(entries, np.int64),
        np.zeros(entries, np.int64),
        np.zeros(entries),
        np.zeros(entries),
        np.zeros(modes),
        np.zeros((MODAL_ROWS, modes)),
        np.zeros(entries + trains * TRAIN_LIMIT),
        np.zeros(entries + trains * TRAIN_LIMIT),
        np.zeros((course.structure.transits + 2, course.structure.transits + 1)),
        np.zeros((RESPONSE_ROWS, 2, cells)),
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
        if course.structure.elimination == SATURABLE:
            body.parameters[segment, CLEARANCE] = 0.0
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
        fraction = 1.0 if route == INTO_DEPOT else 0.0  # through the depot
        if route == INTO_CENTRAL:
            duration = course.dose_duration_h[dose]
        else:
            amount *= body.parameters[segment, BIOAVAILABILITY]
            lag = body.parameters[segment, LAG]
            if route != INTO_DEPOT:
                duration = body.parameters[segment, INPUT_DURATION]
            if route == PARALLEL_ORAL:
                fraction = body.parameters[segment, FIRST_ORDER_FRACTION]
        if not math.isfinite((given - origin) + lag):
            return -1
        interval = course.dose_interval_h[dose]
        back = 0
        if interval > 0.0:
            if lag > TRAIN_LIMIT * interval or duration > TRAIN_LIMIT * interval:
                return -1
            count = _enter(body, count, given - origin, dose, STEADY_STATE, amount, duration)
            # Doses of the train given before this one whose lag is not over.
            back = max(math.ceil(lag / interval) - 1, 0)
        while back >= 0:
            enters = (given - origin) + (lag - back * interval if back > 0 else lag)
            if route == INTO_DEPOT or fraction > 0.0:
                count = _enter(body, count, enters, dose, THROUGH_DEPOT, amount * fraction, 0.0)
            if route != INTO_DEPOT:
                kind = AT_CONSTANT_RATE if duration > 0.0 else AT_ONCE
                count = _enter(body, count, enters, dose, kind, amount * (1.0 - fraction), duration)
            back -= 1
    return count
