"""Fixed steps between two events, where there is no closed form: saturable elimination, transits, responses.

All that is linear in the kinetics stays exact: modes, depot and infusions. Only two things are stepped. What
saturable elimination takes beyond a straight line through the interval's concentrations, and what arrives
from transit compartments, enter the modes as an input by a fourth-order exponential Runge-Kutta step (Cox,
Matthews 2002). A response takes one step for every four of these, from the five concentrations they begin and end with.

Steps follow the rule of `mesh`. Over the wide draws of tests/twinstate/pk/test_march.py
they hold the error of concentration, area and response below 6e-5 of its size, in nine of ten courses below 1e-5.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from twinstate.kernels import inner_kernel
from twinstate.pk.columns import (
    ABSORPTION_RATE,
    CENTRAL_VOLUME,
    CLEARANCE,
    EXCHANGE,
    MAXIMUM_RATE,
    MICHAELIS,
    SECOND_EXCHANGE,
)
from twinstate.pk.course import LINEAR, Structure
from twinstate.pk.disposition import dispose
from twinstate.pk.gut import apply_step, outflow_rate, row_length, set_step, square
from twinstate.pk.mesh import bounds, plan_steps
from twinstate.pk.modal import advance, copy, to_compartments, to_modes
from twinstate.pk.response import drive, prepare_response, step_response
from twinstate.pk.schedule import COMPARTMENTS, Motion
from twinstate.pk.steps import absorbed, averages, held, held_under_absorption

Floats = NDArray[np.float64]

# Steps of the amounts to one of the response.
STRIDE = 4

# As NumPy's: numba would compile everything once more for a plain True and once more for a plain False.
WITH_RESPONSE: Any = np.bool_(True)
WITHOUT_RESPONSE: Any = np.bool_(False)

# Rows of `Body.modal`: one half step's decay, inflow and gain from the depot; a whole step's time held; what
# an input at the start of a half step, and at start, middle and end of a whole one, adds; amounts.
DECAY, INFLOW, FROM_DEPOT, HELD, STAGE, AT_START, AT_MIDDLE, AT_END, AMOUNT, HALFWAY, TRIED = range(11)


@inner_kernel
def _linearise(
    structure: Structure, motion: Motion, segment: int, depot: float, rate_in: float, time: float
) -> float:
    """Fill the tangent disposition: saturable elimination as a clearance in the middle of what it can be.

    Concentrations over the interval lie between what would be left if all left at the greatest rate, and
    what there would be if nothing left.

    Returns:
        Half the range of elimination's slope over the interval, per volume, 1/h.
    """
    parameters = motion.parameters[segment]
    volume = parameters[CENTRAL_VOLUME]
    held_mg = motion.modal[COMPARTMENTS]
    to_compartments(motion.amounts, motion.from_modes[segment], held_mg)
    total = depot + rate_in * time
    for compartment in range(held_mg.size):
        total += held_mg[compartment]
    for place in range(motion.gut.shape[1]):
        total += motion.gut[0, place]
    most, half = parameters[MAXIMUM_RATE], parameters[MICHAELIS]
    flows = parameters[CLEARANCE] + parameters[EXCHANGE] + parameters[SECOND_EXCHANGE]
    high = max(total, 0.0) / volume
    now = max(held_mg[0], 0.0) / volume
    low = now - (most + flows * high) / volume * time
    if low < 0.5 * now:
        low = max(low, now * math.exp(-(most / half + flows) / volume * time))
    steepest = most * half / ((half + low) * (half + low))
    flattest = most * half / ((half + high) * (half + high))
    tangent = motion.rates.shape[0] - 1
    copy(parameters, motion.parameters[tangent])
    motion.parameters[tangent, CLEARANCE] += 0.5 * (steepest + flattest)
    dispose(
        structure.compartments,
        motion.parameters[tangent],
        motion.rates[tangent],
        motion.into_modes[tangent],
        motion.from_modes[tangent],
    )
    return float(0.5 * (steepest - flattest) / volume)


@inner_kernel
def _set_half_step(
    modal: Floats,
    rates: Floats,
    into_modes: Floats,
    rate_in: float,
    absorption: float,
    depot_decay: float,
    time: float,
) -> None:
    """Fill what a half step does to the modes."""
    for mode in range(rates.size):
        decay = math.exp(-rates[mode] * time)
        modal[DECAY, mode] = decay
        modal[INFLOW, mode] = 0.0
        if rate_in != 0.0:
            modal[INFLOW, mode] = into_modes[mode, 0] * rate_in * held(rates[mode], time, decay)
        modal[FROM_DEPOT, mode] = 0.0
        if depot_decay != 1.0:
            unit = absorbed(rates[mode], absorption, time, decay, depot_decay)
            modal[FROM_DEPOT, mode] = into_modes[mode, 0] * absorption * unit


@inner_kernel
def _double_half_step(modal: Floats, depot_decay: float) -> None:
    """Make the half step twice as long: it done twice."""
    for mode in range(modal.shape[1]):
        decay = modal[DECAY, mode]
        modal[INFLOW, mode] += decay * modal[INFLOW, mode]
        modal[FROM_DEPOT, mode] *= decay + depot_decay
        modal[DECAY, mode] = decay * decay


@inner_kernel
def march(
    structure: Structure,
    motion: Motion,
    segment: int,
    depot: float,
    rate_in: float,
    time: float,
    respond: bool,
) -> tuple[float, float]:
    """Move amounts, gut and response ahead by `time` hours of constant input.

    Args:
        structure: Of the course.
        motion: Parameters, amounts, gut and response; changed in place.
        segment: Whose parameters rule.
        depot: Amount in the depot, mg; nought with transit compartments, whose depot is part of the gut.
        rate_in: Total rate of the infusions running, mg/h.
        time: h.
        respond: Whether the response moves along.

    Returns:
        What is left in the depot, mg, and the area under the central amount, mg*h.
    """
    if structure.elimination == LINEAR and structure.transits == 0:
        if respond:
            _respond_to_exact(structure, motion, segment, depot, rate_in, time)
        return advance(motion, segment, depot, rate_in, time)
    return _march_with_input(structure, motion, segment, depot, rate_in, time, respond)


@inner_kernel
def _respond_to_exact(
    structure: Structure, motion: Motion, segment: int, depot: float, rate_in: float, time: float
) -> None:
    """Move the response alone ahead, under the exact concentrations of linear kinetics."""
    parameters = motion.parameters[segment]
    rates, into_modes, modal = motion.rates[segment], motion.into_modes[segment], motion.modal
    absorption = parameters[ABSORPTION_RATE]
    per_volume = 1.0 / parameters[CENTRAL_VOLUME]
    modes = rates.size
    first, longest, every = bounds(
        structure, motion, segment, depot, rate_in, rates, motion.amounts, 0.0, WITH_RESPONSE
    )
    stride, doublings, last_strides = plan_steps(
        time, STRIDE * first, STRIDE * longest, (every + STRIDE - 1) // STRIDE
    )
    if last_strides < 0:
        motion.response[:] = np.nan
        return
    step = stride / STRIDE
    central = 0.0
    for mode in range(modes):
        modal[AMOUNT, mode] = motion.amounts[mode]
        central += motion.amounts[mode]
    depot_decay = math.exp(-absorption * step) if depot != 0.0 else 1.0
    _set_half_step(modal, rates, into_modes, rate_in, absorption, depot_decay, step)
    drives = motion.drives
    drives[STRIDE] = drive(structure, parameters, central * per_volume)
    for level in range(doublings + 1):
        if level > 0:
            _double_half_step(modal, depot_decay)
            depot_decay *= depot_decay
            stride *= 2.0
        prepare_response(structure, parameters, stride, motion.response)
        for _ in range((every + STRIDE - 1) // STRIDE if level < doublings else last_strides):
            drives[0] = drives[STRIDE]
            for time_index in range(1, STRIDE + 1):
                central = 0.0
                for mode in range(modes):
                    modal[AMOUNT, mode] = modal[DECAY, mode] * modal[AMOUNT, mode] + (
                        modal[INFLOW, mode] + modal[FROM_DEPOT, mode] * depot
                    )
                    central += modal[AMOUNT, mode]
                depot *= depot_decay
                drives[time_index] = drive(structure, parameters, central * per_volume)
            step_response(structure, parameters, stride, motion.response, drives)


@inner_kernel
def _excess(central: float, most: float, half_mg: float, line: float) -> float:
    """What the straight line takes beyond saturable elimination, mg/h; odd, so that it restores from below.

    Args:
        central: Central amount, mg.
        most: Maximum elimination rate, mg/h.
        half_mg: Central amount at half of it, mg.
        line: Slope of the straight line per volume, 1/h.
    """
    return central * (line - most / (half_mg + abs(central)))


@inner_kernel
def _march_with_input(
    structure: Structure,
    motion: Motion,
    segment: int,
    depot: float,
    rate_in: float,
    time: float,
    respond: bool,
) -> tuple[float, float]:
    """`march` where something enters the modes that has no closed form."""
    parameters = motion.parameters[segment]
    absorption, volume = parameters[ABSORPTION_RATE], parameters[CENTRAL_VOLUME]
    modal = motion.modal
    modes = motion.amounts.size
    tangent = motion.rates.shape[0] - 1
    rates, into_modes = motion.rates[segment], motion.into_modes[segment]
    gut, gut_step = motion.gut[0], motion.gut[1:-1]
    most, half_mg, line, range_of_slope = 0.0, 1.0, 0.0, 0.0
    saturable = structure.elimination != LINEAR
    if saturable:
        range_of_slope = _linearise(structure, motion, segment, depot, rate_in, time)
        most, half_mg = parameters[MAXIMUM_RATE], parameters[MICHAELIS] * volume
        line = (motion.parameters[tangent, CLEARANCE] - parameters[CLEARANCE]) / volume
        rates, into_modes = motion.rates[tangent], motion.into_modes[tangent]
        to_modes(modal[COMPARTMENTS], into_modes, modal[AMOUNT])
    else:
        copy(motion.amounts, modal[AMOUNT])
    first, longest, every = bounds(
        structure, motion, segment, depot, rate_in, rates, modal[AMOUNT], range_of_slope, respond
    )
    stride = STRIDE if respond else 1
    every = (every + stride - 1) // stride
    length, doublings, last_strides = plan_steps(time, stride * first, stride * longest, every)
    if last_strides < 0:
        motion.amounts[:] = np.nan
        motion.response[:] = np.nan
        return math.nan, math.nan
    step = length / stride
    has_depot = depot != 0.0
    depot_decay = math.exp(-absorption * 0.5 * step) if has_depot else 1.0
    _set_half_step(modal, rates, into_modes, rate_in, absorption, depot_decay, 0.5 * step)
    row = row_length(parameters, gut)
    last_rate = outflow_rate(parameters) if structure.transits > 0 else 0.0
    gut_filled = False
    for place in range(motion.gut.shape[1]):
        gut_filled = gut_filled or motion.gut[0, place] != 0.0
    if gut_filled:
        set_step(parameters, 0.5 * step, motion.gut)
    central = 0.0
    for mode in range(modes):
        central += modal[AMOUNT, mode]
    drives = motion.drives
    drives[STRIDE] = drive(structure, parameters, central / volume)
    area = 0.0
    for level in range(doublings + 1):
        if level > 0:
            _double_half_step(modal, depot_decay)
            depot_decay *= depot_decay
            step *= 2.0
            if gut_filled:
                square(gut_step)
        # Areas under the central amount that a whole step leaves of unit inputs.
        area_inflow, area_depot, area_start, area_middle, area_end = 0.0, 0.0, 0.0, 0.0, 0.0
        whole_depot_decay = depot_decay * depot_decay
        depot_held = held(absorption, step, whole_depot_decay) if has_depot else step
        for mode in range(modes):
            rate, decay = rates[mode], modal[DECAY, mode]
            whole = decay * decay
            into = into_modes[mode, 0]
            phi_first, phi_second, phi_third, phi_fourth = averages(rate * step, whole)
            unit_held = step * phi_first
            modal[HELD, mode] = unit_held
            modal[STAGE, mode] = into * unit_held / (1.0 + decay)
            modal[AT_START, mode] = into * step * (phi_first - 3.0 * phi_second + 4.0 * phi_third)
            modal[AT_MIDDLE, mode] = into * step * (2.0 * phi_second - 4.0 * phi_third)
            modal[AT_END, mode] = into * step * (4.0 * phi_third - phi_second)
            square_step = into * step * step
            area_start += square_step * (phi_second - 3.0 * phi_third + 4.0 * phi_fourth)
            area_middle += square_step * (2.0 * phi_third - 4.0 * phi_fourth)
            area_end += square_step * (4.0 * phi_fourth - phi_third)
            if rate_in != 0.0:
                area_inflow += into * rate_in * step * step * phi_second
            if has_depot and into != 0.0:
                # Two half steps make a whole one.
                unit_absorbed = modal[FROM_DEPOT, mode] / (into * absorption) * (decay + depot_decay)
                area_depot += (into * absorption) * held_under_absorption(
                    rate, absorption, step, unit_held, depot_held, unit_absorbed
                )
        if respond:
            prepare_response(structure, parameters, STRIDE * step, motion.response)
        steps = stride * (every if level < doublings else last_strides)
        for index in range(steps):
            arriving = 0.0
            arriving_halfway = 0.0
            arriving_end = 0.0
            if gut_filled:
                arriving = last_rate * gut[row - 1]
                apply_step(gut_step, gut)
                arriving_halfway = last_rate * gut[row - 1]
                apply_step(gut_step, gut)
                arriving_end = last_rate * gut[row - 1]
            at_start = arriving + _excess(central, most, half_mg, line)
            halfway_depot = depot * depot_decay
            tried_central = 0.0
            for mode in range(modes):
                linear = modal[DECAY, mode] * modal[AMOUNT, mode] + (
                    modal[INFLOW, mode] + modal[FROM_DEPOT, mode] * depot
                )
                modal[HALFWAY, mode] = linear
                modal[TRIED, mode] = linear + modal[STAGE, mode] * at_start
                tried_central += modal[TRIED, mode]
                area += modal[HELD, mode] * modal[AMOUNT, mode]
            once = arriving_halfway + _excess(tried_central, most, half_mg, line)
            again_central = 0.0
            for mode in range(modes):
                again_central += modal[HALFWAY, mode] + modal[STAGE, mode] * once
            again = arriving_halfway + _excess(again_central, most, half_mg, line)
            end_central = 0.0
            for mode in range(modes):
                end_central += (
                    modal[DECAY, mode] * modal[TRIED, mode]
                    + (modal[INFLOW, mode] + modal[FROM_DEPOT, mode] * halfway_depot)
                    + modal[STAGE, mode] * (2.0 * again - at_start)
                )
            at_end = arriving_end + _excess(end_central, most, half_mg, line)
            central = 0.0
            for mode in range(modes):
                linear = modal[DECAY, mode] * modal[HALFWAY, mode] + (
                    modal[INFLOW, mode] + modal[FROM_DEPOT, mode] * halfway_depot
                )
                modal[AMOUNT, mode] = linear + (
                    modal[AT_START, mode] * at_start
                    + modal[AT_MIDDLE, mode] * (once + again)
                    + modal[AT_END, mode] * at_end
                )
                central += modal[AMOUNT, mode]
            area += area_inflow + area_depot * depot
            area += area_start * at_start + area_middle * (once + again) + area_end * at_end
            depot = halfway_depot * depot_decay
            if respond:
                if index % STRIDE == 0:
                    drives[0] = drives[STRIDE]
                drives[index % STRIDE + 1] = drive(structure, parameters, central / volume)
                if index % STRIDE == STRIDE - 1:
                    step_response(structure, parameters, STRIDE * step, motion.response, drives)
    if saturable:
        to_compartments(modal[AMOUNT], motion.from_modes[tangent], modal[COMPARTMENTS])
        to_modes(modal[COMPARTMENTS], motion.into_modes[segment], motion.amounts)
    else:
        copy(modal[AMOUNT], motion.amounts)
    return depot, area
