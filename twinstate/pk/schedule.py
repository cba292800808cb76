"""What a propagation has to do and when: parameters by segment, and doses in the order they enter.

A lag moves with eta, so the plan belongs to one eta vector; its memory is made once and filled again for
every point.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from twinstate.kernels import inner_kernel, kernel
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

# An endless train whose lag or input outlasts this many intervals comes out as NaN: so many doses of one train on
# their way at once are no therapy (at the shortest interval that a record may tell, 0.25 h, they are three years).
TRAIN_LIMIT = 100_000
# What an entry does.
AT_ONCE, AT_CONSTANT_RATE, THROUGH_DEPOT, STEADY_STATE = 0, 1, 2, 3
# Dividing, three maturing and circulating cells.
MYELOID_CELLS = 5
# Rows of `Motion.modal`, `Motion.response` and `Body.saved`.
MODAL_ROWS, RESPONSE_ROWS, SAVED_ROWS = 12, 7, 15
# Rows of `Motion.stride`, which `modal` names. Places of `Motion.stride_key`: length of the step, h; its segment; what
# was filled; what of the depot, and of a compartment that follows, is left after it.
STRIDE_ROWS = 8
KEY_TIME, KEY_SEGMENT, KEY_FILLED, KEY_DEPOT_DECAY, KEY_LEFT, KEY_PLACES = 0, 1, 2, 3, 4, 5
COMPARTMENTS = 11  # the row of `Body.modal` that takes amounts by compartment
# Rows of `Body.trains`: when the newest member enters; interval and duration, h; what each member brings into the gut
# and into the centre, mg; how many older members have yet to enter, and how many of them have yet to end.
ENTERS_H, INTERVAL_H, DURATION_H, ORAL_MG, DIRECT_MG, TO_ENTER, TO_END, TRAIN_ROWS = 0, 1, 2, 3, 4, 5, 6, 7


class Motion(NamedTuple):
    """What moves between two events, and the memory its steps need.

    Attributes:
        parameters: Structural parameters by segment, (segments + 1, parameters). The last row is scratch: a
            segment with saturable elimination made linear.
        rates: (segments + 1, modes), 1/h.
        into_modes: (segments + 1, modes, compartments).
        from_modes: (segments + 1, compartments, modes).
        amounts: Modal amounts that add up to the central amount, mg, (modes,).
        modal: Scratch by mode or compartment, (rows, modes).
        gut: What the gut holds and how it empties, (transits + 3, transits + 1): see `gut`.
        response: State of the second output and how it steps, (rows, 2, cells): see `response`.
        drives: What moves the second output at the five times of its step, (5,).
        stride: What the last step in closed form does to each mode, (rows, modes): see `modal`.
        stride_key: Of which step that is, (places,).
    """

    parameters: Floats
    rates: Floats
    into_modes: Floats
    from_modes: Floats
    amounts: Floats
    modal: Floats
    gut: Floats
    response: Floats
    drives: Floats
    stride: Floats
    stride_key: Floats


class Body(NamedTuple):
    """Working memory of one propagation, made once and used again for every point.

    Attributes:
        motion: What moves between two events.
        entry_h: When each planned entry happens, h after the first dose, ascending, (entries,).
        entry_dose: Its dose, (entries,).
        entry_kind: `AT_ONCE`, `AT_CONSTANT_RATE`, `THROUGH_DEPOT` or `STEADY_STATE`, (entries,).
        entry_mg: What of the dose reaches the body, (entries,).
        entry_duration_h: How long it enters at a constant rate, (entries,).
        end_h: Ends of the infusions running now, (running,).
        rate_mg_h: Their rates, (running,).
        trains: The older members of the endless trains that were set last, (rows, trains).
        saved: Scratch of a steady state, (rows, compartments, cells or transits + 1, whichever is most).
    """

    motion: Motion
    entry_h: Floats
    entry_dose: Integers
    entry_kind: Integers
    entry_mg: Floats
    entry_duration_h: Floats
    end_h: Floats
    rate_mg_h: Floats
    trains: Floats
    saved: Floats


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
    entries = split * doses + trains
    cells = max(MYELOID_CELLS, max(course.structure.first_chain, course.structure.second_chain))
    return Body(
        Motion(
            np.zeros((segments + 1, course.log_typical.shape[1])),
            np.zeros((segments + 1, modes)),
            np.zeros((segments + 1, modes, modes)),
            np.zeros((segments + 1, modes, modes)),
            np.zeros(modes),
            np.zeros((MODAL_ROWS, modes)),
            np.zeros((course.structure.transits + 3, course.structure.transits + 1)),
            np.zeros((RESPONSE_ROWS, 2, cells)),
            np.zeros(5),
            np.zeros((STRIDE_ROWS, modes)),
            np.zeros(KEY_PLACES),
        ),
        np.zeros(entries),
        np.zeros(entries, np.int64),
        np.zeros(entries, np.int64),
        np.zeros(entries),
        np.zeros(entries),
        np.zeros(entries),
        np.zeros(entries),
        np.zeros((TRAIN_ROWS, trains)),
        np.zeros((SAVED_ROWS, max(cells, max(modes, course.structure.transits + 1)))),
    )


@inner_kernel
def set_parameters(course: Course, eta: Floats, motion: Motion) -> bool:
    """Fill parameters and dispositions of every segment; False when one is not finite."""
    finite = True
    motion.stride_key[KEY_TIME] = -1.0  # no step is as long as another body's
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
            motion.parameters[segment, index] = math.exp(log_value) if log_value != -math.inf else 0.0
            finite = finite and math.isfinite(motion.parameters[segment, index])
        if course.structure.elimination == SATURABLE:
            motion.parameters[segment, CLEARANCE] = 0.0
        dispose(
            course.structure.compartments,
            motion.parameters[segment],
            motion.rates[segment],
            motion.into_modes[segment],
            motion.from_modes[segment],
        )
        for mode in range(course.structure.compartments):
            finite = finite and math.isfinite(motion.rates[segment, mode])
    return finite


@inner_kernel
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


@inner_kernel
def _input_of(course: Course, body: Body, dose: int, segment: int) -> tuple[float, float, float, float]:
    """What of a dose reaches the body, mg; lag and duration, h; and which fraction goes through the depot."""
    parameters = body.motion.parameters[segment]
    route = course.dose_route[dose]
    if route == INTO_CENTRAL:
        return course.dose_mg[dose], 0.0, course.dose_duration_h[dose], 0.0
    amount = course.dose_mg[dose] * parameters[BIOAVAILABILITY]
    if route == INTO_DEPOT:
        return amount, parameters[LAG], 0.0, 1.0
    fraction = min(parameters[FIRST_ORDER_FRACTION], 1.0) if route == PARALLEL_ORAL else 0.0
    return amount, parameters[LAG], parameters[INPUT_DURATION], fraction


@inner_kernel
def _joins(course: Course, body: Body, count: int, dose: int, duration: float) -> bool:
    """Whether a dose at steady state belongs to the train put last: given at the same moment, in the same way."""
    if count == 0:
        return False
    other = body.entry_dose[count - 1]
    return bool(
        course.dose_time_h[other] == course.dose_time_h[dose]
        and course.dose_interval_h[other] == course.dose_interval_h[dose]
        and course.dose_route[other] == course.dose_route[dose]
        and body.entry_duration_h[count - 1] == duration
    )


@inner_kernel
def plan_entries(course: Course, body: Body) -> int:
    """Fill the entries in order of time; their number, or -1 when there is no such order.

    That is when a time is not finite, or a steady state's lag or input outlasts `TRAIN_LIMIT` intervals. At equal times
    steady states come first, so that a dose given at the very time of one is given after it.
    """
    origin = course.dose_time_h[0]
    count = 0
    segment = 0
    for dose in range(course.dose_time_h.size):
        interval = course.dose_interval_h[dose]
        if interval <= 0.0:
            continue
        given = course.dose_time_h[dose]
        while segment + 1 < course.segment_start_h.size and course.segment_start_h[segment + 1] <= given:
            segment += 1
        amount, lag, duration, _ = _input_of(course, body, dose, segment)
        if not (lag <= TRAIN_LIMIT * interval and duration <= TRAIN_LIMIT * interval):
            return -1
        if _joins(course, body, count, dose, duration):
            body.entry_mg[count - 1] += amount
        else:
            count = _enter(body, count, given - origin, dose, STEADY_STATE, amount, duration)
    segment = 0
    for dose in range(course.dose_time_h.size):
        given = course.dose_time_h[dose]
        while segment + 1 < course.segment_start_h.size and course.segment_start_h[segment + 1] <= given:
            segment += 1
        amount, lag, duration, fraction = _input_of(course, body, dose, segment)
        enters = (given - origin) + lag
        if not math.isfinite(enters):
            return -1
        route = course.dose_route[dose]
        if route == INTO_DEPOT or fraction > 0.0:
            count = _enter(body, count, enters, dose, THROUGH_DEPOT, amount * fraction, 0.0)
        if route != INTO_DEPOT:
            kind = AT_CONSTANT_RATE if duration > 0.0 else AT_ONCE
            count = _enter(body, count, enters, dose, kind, amount * (1.0 - fraction), duration)
    return count
