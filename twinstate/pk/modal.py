"""Exact steps of the linear kinetics: modal amounts, and one compartment that follows the central one.

Between two events every mode decays on its own under constant input, so a step is a closed form.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from twinstate.kernels import folded_kernel, inner_kernel
from twinstate.pk.columns import ABSORPTION_RATE, CENTRAL_VOLUME
from twinstate.pk.schedule import (
    COMPARTMENTS,
    KEY_DEPOT_DECAY,
    KEY_FILLED,
    KEY_LEFT,
    KEY_SEGMENT,
    KEY_TIME,
    Motion,
)
from twinstate.pk.steps import absorbed, held, held_under_absorption, held_under_infusion, passed_on

Floats = NDArray[np.float64]

# What a step needs beyond the modes' decay, a bit each.
UNDER_INPUT, FROM_DEPOT, FOLLOWED = 1, 2, 4
# Rows of `Motion.stride`, by mode: decay; hours held, of an amount and under an infusion; absorbed of the depot, and
# hours held of that; then what a compartment that follows has gathered of each.
DECAY, HELD, HELD_UNDER_INPUT, ABSORBED, HELD_UNDER_ABSORPTION = 0, 1, 2, 3, 4
THROUGH, THROUGH_UNDER_INPUT, THROUGH_FROM_DEPOT = 5, 6, 7


@folded_kernel
def _taken(key: Floats, segment: int, time: float, wanted: int) -> bool:
    """Whether the last step was as long, under the same parameters, and filled as much."""
    return key[KEY_TIME] == time and key[KEY_SEGMENT] == segment and int(key[KEY_FILLED]) & wanted == wanted


@inner_kernel
def _set_stride(motion: Motion, segment: int, leaving: float, time: float, wanted: int) -> None:
    """Fill what a step of `time` hours does to each mode.

    Forecasts are read at even distances, so that most steps are the last one again; the exponentials are what costs.

    Args:
        motion: Rates of the segments; `stride` and `stride_key` are filled.
        segment: Whose parameters rule.
        leaving: Decay rate of a compartment that follows, 1/h; only read when one is wanted.
        time: h.
        wanted: The sum of `UNDER_INPUT` (infusions are running), `FROM_DEPOT` (it is not empty) and `FOLLOWED`.
    """
    stride, key = motion.stride, motion.stride_key
    if key[KEY_TIME] == time and key[KEY_SEGMENT] == segment:
        # What was filled before stays, but for a compartment that follows: its decay is not known where none is wanted.
        filled = int(key[KEY_FILLED])
        wanted |= filled if wanted & FOLLOWED else filled & ~FOLLOWED
    key[KEY_TIME], key[KEY_SEGMENT], key[KEY_FILLED] = time, segment, wanted
    absorption = motion.parameters[segment, ABSORPTION_RATE]
    depot_decay, depot_held, left, left_held = 1.0, time, 1.0, time
    if wanted & FROM_DEPOT:
        depot_decay = math.exp(-absorption * time)
        depot_held = held(absorption, time, depot_decay)
    if wanted & FOLLOWED:
        left = math.exp(-leaving * time)
        left_held = held(leaving, time, left)
    key[KEY_DEPOT_DECAY], key[KEY_LEFT] = depot_decay, left
    for mode in range(motion.amounts.size):
        rate = motion.rates[segment, mode]
        decay = math.exp(-rate * time)
        unit_held = held(rate, time, decay)
        stride[DECAY, mode], stride[HELD, mode] = decay, unit_held
        if wanted & UNDER_INPUT:
            stride[HELD_UNDER_INPUT, mode] = held_under_infusion(rate, time, unit_held)
        if wanted & FROM_DEPOT:
            unit_absorbed = absorbed(rate, absorption, time, decay, depot_decay)
            stride[ABSORBED, mode] = unit_absorbed
            stride[HELD_UNDER_ABSORPTION, mode] = held_under_absorption(
                rate, absorption, time, unit_held, depot_held, unit_absorbed
            )
        if wanted & FOLLOWED:
            through = absorbed(leaving, rate, time, left, decay)
            stride[THROUGH, mode] = through
            if wanted & UNDER_INPUT:
                stride[THROUGH_UNDER_INPUT, mode] = held_under_absorption(
                    leaving, rate, time, left_held, unit_held, through
                )
            if wanted & FROM_DEPOT:
                stride[THROUGH_FROM_DEPOT, mode] = passed_on(rate, absorption, leaving, time)


@folded_kernel
def _inputs(depot: float, rate_in: float) -> int:
    """Which inputs a step has: `UNDER_INPUT`, `FROM_DEPOT`, both or neither."""
    wanted = 0
    if rate_in != 0.0:
        wanted += UNDER_INPUT
    if depot != 0.0:
        wanted += FROM_DEPOT
    return wanted


@folded_kernel
def _take_stride(
    amounts: Floats, stride: Floats, into_modes: Floats, absorption: float, depot: float, rate_in: float
) -> float:
    """Take the step that was filled: amounts (modes,) are changed in place.

    Returns:
        The area under the central amount, mg*h.
    """
    area = 0.0
    for mode in range(amounts.size):
        amount = amounts[mode] * stride[DECAY, mode]
        area += amounts[mode] * stride[HELD, mode]
        if rate_in != 0.0:
            flow = into_modes[mode, 0] * rate_in
            amount += flow * stride[HELD, mode]
            area += flow * stride[HELD_UNDER_INPUT, mode]
        if depot != 0.0:
            flow = into_modes[mode, 0] * absorption * depot
            amount += flow * stride[ABSORBED, mode]
            area += flow * stride[HELD_UNDER_ABSORPTION, mode]
        amounts[mode] = amount
    return area


@inner_kernel
def advance(motion: Motion, segment: int, depot: float, rate_in: float, time: float) -> tuple[float, float]:
    """Move modal amounts ahead by `time` hours of constant input.

    Args:
        motion: Rates of the segments; modal amounts (mg) are changed in place.
        segment: Whose parameters rule.
        depot: Amount in the depot, mg.
        rate_in: Total rate of the infusions running, mg/h.
        time: h.

    Returns:
        What is left in the depot, mg, and the area under the central amount, mg*h.
    """
    wanted = _inputs(depot, rate_in)
    if not _taken(motion.stride_key, segment, time, wanted):
        _set_stride(motion, segment, 0.0, time, wanted)
    area = _take_stride(
        motion.amounts,
        motion.stride,
        motion.into_modes[segment],
        motion.parameters[segment, ABSORPTION_RATE],
        depot,
        rate_in,
    )
    return (depot * motion.stride_key[KEY_DEPOT_DECAY] if depot != 0.0 else depot), area


@inner_kernel
def read_on(
    motion: Motion,
    segment: int,
    depot: float,
    rate_in: float,
    total: float,
    now_h: float,
    until_h: float,
    origin_h: float,
    time_h: Floats,
    concentration: Floats,
    area: Floats,
) -> tuple[int, float, float, float]:
    """`advance` from output to output, as far as nothing else happens.

    Args:
        motion: Rates of the segments; modal amounts (mg) are changed in place.
        segment: Whose parameters rule.
        depot: Amount in the depot, mg.
        rate_in: Total rate of the infusions running, mg/h.
        total: Area so far, mg*h/L.
        now_h: Since `origin_h`, h.
        until_h: Since `origin_h`: outputs before it are read, h.
        origin_h: Hours since 1970.
        time_h: Output times still to come, hours since 1970, ascending, (times,).
        concentration: Filled as far as read, mg/L, (times,).
        area: Filled as far as read, mg*h/L, (times,).

    Returns:
        How many outputs were read; depot, area and time after the last of them.
    """
    amounts, key = motion.amounts, motion.stride_key
    into_modes, stride = motion.into_modes[segment], motion.stride
    volume = motion.parameters[segment, CENTRAL_VOLUME]
    absorption = motion.parameters[segment, ABSORPTION_RATE]
    read = 0
    while read < time_h.size:
        at_h = time_h[read] - origin_h
        if not -math.inf < at_h < until_h:
            break
        time = at_h - now_h
        if time > 0.0:
            wanted = _inputs(depot, rate_in)
            if not _taken(key, segment, time, wanted):
                _set_stride(motion, segment, 0.0, time, wanted)
            total += _take_stride(amounts, stride, into_modes, absorption, depot, rate_in) / volume
            if depot != 0.0:
                depot *= key[KEY_DEPOT_DECAY]
            now_h = at_h
        central = 0.0
        for mode in range(amounts.size):
            central += amounts[mode]
        concentration[read] = central / volume
        area[read] = total
        read += 1
    return read, depot, total, now_h


@inner_kernel
def gathered(
    motion: Motion, segment: int, depot: float, rate_in: float, leaving: float, time: float
) -> tuple[float, float]:
    """What a compartment makes of `time` hours of inflow at the central amount a h.

    Args:
        motion: Rates of the segments, and modal amounts at the start, mg.
        segment: Whose parameters rule.
        depot: Amount in the depot at the start, mg.
        rate_in: Total rate of the infusions running, mg/h.
        leaving: Decay rate of the compartment, 1/h.
        time: h.

    Returns:
        Which share stays of what it held at the start, and what it holds at the end of the inflow, mg*h.
    """
    wanted = FOLLOWED + _inputs(depot, rate_in)
    if not _taken(motion.stride_key, segment, time, wanted):
        _set_stride(motion, segment, leaving, time, wanted)
    amounts, stride, into_modes = motion.amounts, motion.stride, motion.into_modes[segment]
    absorption = motion.parameters[segment, ABSORPTION_RATE]
    total = 0.0
    for mode in range(amounts.size):
        total += amounts[mode] * stride[THROUGH, mode]
        if rate_in != 0.0:
            flow = into_modes[mode, 0] * rate_in
            total += flow * stride[THROUGH_UNDER_INPUT, mode]
        if depot != 0.0:
            flow = into_modes[mode, 0] * absorption * depot
            total += flow * stride[THROUGH_FROM_DEPOT, mode]
    return motion.stride_key[KEY_LEFT], total


@inner_kernel
def copy(source: Floats, target: Floats) -> None:
    """Fill `target` with `source`, both (n,), by a loop: NumPy's assignment may need memory."""
    for place in range(source.size):
        target[place] = source[place]


@inner_kernel
def to_compartments(amounts: Floats, from_modes: Floats, compartments: Floats) -> None:
    """Fill what each compartment holds, mg, (compartments,), from modal amounts (modes,)."""
    for compartment in range(amounts.size):
        compartments[compartment] = 0.0
        for mode in range(amounts.size):
            compartments[compartment] += from_modes[compartment, mode] * amounts[mode]


@inner_kernel
def to_modes(compartments: Floats, into_modes: Floats, amounts: Floats) -> None:
    """Fill modal amounts (modes,) from what each compartment holds, mg, (compartments,)."""
    for mode in range(amounts.size):
        amounts[mode] = 0.0
        for compartment in range(amounts.size):
            amounts[mode] += into_modes[mode, compartment] * compartments[compartment]


@inner_kernel
def change_segment(motion: Motion, before: int, after: int) -> None:
    """Carry the compartments' amounts over into the modes of the next segment."""
    to_compartments(motion.amounts, motion.from_modes[before], motion.modal[COMPARTMENTS])
    to_modes(motion.modal[COMPARTMENTS], motion.into_modes[after], motion.amounts)
