"""Fixed steps between two events, where there is no closed form: saturable elimination, transits, responses.

All that is linear in the kinetics stays exact: modes, depot and infusions. Only two things are stepped. What
saturable elimination takes beyond a straight line through the interval's concentrations, and what arrives
from transit compartments, enter the modes as an input by a fourth-order exponential Runge-Kutta step (Cox,
Matthews 2002). A response takes one step for every pair of these, from the concentrations at the start,
middle and end of the pair.

Steps follow `plan_steps`; the bounds below are the rule. They hold the error of concentration, area and
response below 1e-5 of their size over the draws of tests/twinstate/pk/test_march.py, and mostly far below.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from twinstate.kernels import kernel
from twinstate.pk.columns import (
    ABSORPTION_RATE,
    CENTRAL_VOLUME,
    CLEARANCE,
    EXCHANGE,
    HALF_EFFECT,
    HILL,
    MAXIMUM_RATE,
    MICHAELIS,
    RESPONSE_TIME,
    SECOND_EXCHANGE,
    TRANSIT_RATE,
)
from twinstate.pk.course import LINEAR, MYELOSUPPRESSION, NOTHING, Course
from twinstate.pk.disposition import dispose
from twinstate.pk.gut import apply_step, outflow_rate, row_length, set_step, square
from twinstate.pk.mesh import plan_steps
from twinstate.pk.modal import advance, to_compartments, to_modes
from twinstate.pk.response import drive, has_chains, prepare_response, step_response
from twinstate.pk.schedule import COMPARTMENTS, Body
from twinstate.pk.steps import absorbed, averages, held, held_under_absorption

Floats = NDArray[np.float64]

# Bounds on a pair of steps, each as a pure number: time times a rate.
CURVED = 0.2  # times half the range of elimination's slope over the interval
FORCED = 0.5  # the same slope and the fastest transient together, as their error is a product
TRANSIT = 0.6  # times the transit rate
TRANSIENT = 0.5  # times the fastest transient of the concentration, for a response
LASTING = 0.5  # times the slowest decay of the concentration and the steepness of the effect
MARROW = 0.5  # times the rate of the marrow's stages
# Share of the half-effect concentration that a steep or shallow effect resolves.
SHALLOW = 0.01
# Pairs of steps before their length doubles.
EVERY = 4

# Rows of `Body.modal`: one half step's decay, inflow and gain from the depot; a whole step's time held; what
# an input at the start of a half step, and at start, middle and end of a whole one, adds; amounts.
DECAY, INFLOW, FROM_DEPOT, HELD, STAGE, AT_START, AT_MIDDLE, AT_END, AMOUNT, HALFWAY, TRIED = range(11)


@kernel
def _linearise(course: Course, body: Body, segment: int, depot: float, rate_in: float, time: float) -> float:
    """Fill the tangent disposition: saturable elimination as a clearance in the middle of what it can be.

    Concentrations over the interval lie between what would be left if all left at the greatest rate, and
    what there would be if nothing left.

    Returns:
        Half the range of elimination's slope over the interval, per volume, 1/h.
    """
    parameters = body.parameters[segment]
    volume = parameters[CENTRAL_VOLUME]
    held_mg = body.modal[COMPARTMENTS]
    to_compartments(body.amounts, body.from_modes[segment], held_mg)
    total = depot + rate_in * time
    for compartment in range(held_mg.size):
        total += held_mg[compartment]
    for place in range(body.gut.shape[1]):
        total += body.gut[0, place]
    most, half = parameters[MAXIMUM_RATE], parameters[MICHAELIS]
    flows = parameters[CLEARANCE] + parameters[EXCHANGE] + parameters[SECOND_EXCHANGE]
    high = max(total, 0.0) / volume
    now = max(held_mg[0], 0.0) / volume
    low = max(
        now * math.exp(-(most / half + flows) / volume * time),
        now - (most + flows * high) / volume * time,
    )
    steepest = most * half / ((half + low) * (half + low))
    flattest = most * half / ((half + high) * (half + high))
    tangent = body.rates.shape[0] - 1
    body.parameters[tangent] = parameters
    body.parameters[tangent, CLEARANCE] += 0.5 * (steepest + flattest)
    dispose(
        course.structure.compartments,
        body.parameters[tangent],
        body.rates[tangent],
        body.into_modes[tangent],
        body.from_modes[tangent],
    )
    return float(0.5 * (steepest - flattest) / volume)


@kernel
def _bounds(
    course: Course,
    body: Body,
    segment: int,
    depot: float,
    rate_in: float,
    rates: Floats,
    into_modes: Floats,
    amounts: Floats,
    range_of_slope: float,
    respond: bool,
) -> tuple[float, float, int]:
    """Longest first pair and longest pair of steps in h, and pairs before the length doubles."""
    structure = course.structure
    parameters = body.parameters[segment]
    fastest = rates[0]
    if depot != 0.0:
        fastest = max(fastest, parameters[ABSORPTION_RATE])
    first = math.inf
    longest = math.inf
    every = EVERY
    if range_of_slope > 0.0:
        longest = CURVED / range_of_slope
        first = FORCED / (math.sqrt(math.sqrt(range_of_slope * fastest)) * math.sqrt(fastest))
    if structure.transits > 0:
        filled = False
        for place in range(body.gut.shape[1]):
            filled = filled or body.gut[0, place] != 0.0
        if filled:
            # Steps stay short until the row has emptied, which takes every compartment's time.
            last = outflow_rate(parameters)
            fastest = max(fastest, max(last, parameters[TRANSIT_RATE]))
            first = min(first, TRANSIT / fastest)
            every = math.ceil((structure.transits + 8) / TRANSIT)
            longest = min(longest, TRANSIT / min(last, parameters[TRANSIT_RATE]))
    if respond and structure.second != NOTHING:
        first = min(first, TRANSIENT / fastest)
        steep = 1.0
        if has_chains(structure.second):
            steep = max(1.0, parameters[HILL])
            flow = 0.0
            central = 0.0
            entering = rate_in + parameters[ABSORPTION_RATE] * depot
            for mode in range(amounts.size):
                central += amounts[mode]
                flow += into_modes[mode, 0] * entering - rates[mode] * amounts[mode]
            share = 1.0 if parameters[HILL] == 1.0 or parameters[HILL] >= 2.0 else SHALLOW
            scale = central + share * parameters[HALF_EFFECT] * parameters[CENTRAL_VOLUME]
            if abs(flow) > 0.0:
                first = min(first, max(TRANSIENT * scale / abs(flow) / steep, 1e-6 / fastest))
        longest = min(longest, LASTING / (steep * (rates[amounts.size - 1] + range_of_slope)))
        if structure.second == MYELOSUPPRESSION:
            longest = min(longest, MARROW * parameters[RESPONSE_TIME] / 4.0)
    return min(first, longest), longest, every


@kernel
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


@kernel
def _double_half_step(modal: Floats, depot_decay: float) -> None:
    """Make the half step twice as long: it done twice."""
    for mode in range(modal.shape[1]):
        decay = modal[DECAY, mode]
        modal[INFLOW, mode] += decay * modal[INFLOW, mode]
        modal[FROM_DEPOT, mode] *= decay + depot_decay
        modal[DECAY, mode] = decay * decay


@kernel
def march(
    course: Course, body: Body, segment: int, depot: float, rate_in: float, time: float, respond: bool
) -> tuple[float, float]:
    """Move amounts, gut and response ahead by `time` hours of constant input.

    Args:
        course: Structure and parameters.
        body: Amounts, gut and response; changed in place.
        segment: Whose parameters rule.
        depot: Amount in the depot, mg; nought with transit compartments, whose depot is part of the gut.
        rate_in: Total rate of the infusions running, mg/h.
        time: h.
        respond: Whether the response moves along.

    Returns:
        What is left in the depot, mg, and the area under the central amount, mg*h.
    """
    if course.structure.elimination == LINEAR and course.structure.transits == 0:
        if respond:
            _respond_to_exact(course, body, segment, depot, rate_in, time)
        return advance(
            body.amounts,
            depot,
            rate_in,
            body.rates[segment],
            body.into_modes[segment],
            body.parameters[segment, ABSORPTION_RATE],
            time,
        )
    return _march_with_input(course, body, segment, depot, rate_in, time, respond)


@kernel
def _respond_to_exact(
    course: Course, body: Body, segment: int, depot: float, rate_in: float, time: float
) -> None:
    """Move the response alone ahead, under the exact concentrations of linear kinetics."""
    parameters = body.parameters[segment]
    rates, into_modes, modal = body.rates[segment], body.into_modes[segment], body.modal
    absorption = parameters[ABSORPTION_RATE]
    per_volume = 1.0 / parameters[CENTRAL_VOLUME]
    modes = rates.size
    first, longest, every = _bounds(
        course, body, segment, depot, rate_in, rates, into_modes, body.amounts, 0.0, True
    )
    pair, doublings, last_pairs = plan_steps(time, first, longest, every)
    central = 0.0
    for mode in range(modes):
        modal[AMOUNT, mode] = body.amounts[mode]
        central += body.amounts[mode]
    depot_decay = math.exp(-absorption * 0.5 * pair) if depot != 0.0 else 1.0
    _set_half_step(modal, rates, into_modes, rate_in, absorption, depot_decay, 0.5 * pair)
    start = drive(course.structure, parameters, central * per_volume)
    if last_pairs < 0:
        body.response[:] = np.nan
        return
    for level in range(doublings + 1):
        if level > 0:
            _double_half_step(modal, depot_decay)
            depot_decay *= depot_decay
            pair *= 2.0
        prepare_response(course.structure, parameters, pair, body.response)
        for _ in range(every if level < doublings else last_pairs):
            middle_central = 0.0
            end_central = 0.0
            for mode in range(modes):
                decay, inflow, gain = modal[DECAY, mode], modal[INFLOW, mode], modal[FROM_DEPOT, mode]
                halfway = decay * modal[AMOUNT, mode] + (inflow + gain * depot)
                modal[AMOUNT, mode] = decay * halfway + (inflow + gain * depot * depot_decay)
                middle_central += halfway
                end_central += modal[AMOUNT, mode]
            depot *= depot_decay * depot_decay
            middle = drive(course.structure, parameters, middle_central * per_volume)
            end = drive(course.structure, parameters, end_central * per_volume)
            step_response(
                course.structure,
                parameters,
                pair,
                body.response,
                start,
                middle,
                end,
            )
            start = end


@kernel
def _excess(central: float, volume: float, most: float, half: float, slope: float) -> float:
    """What the straight line takes beyond saturable elimination, mg/h; odd, so that it restores from below."""
    concentration = central / volume
    return concentration * (slope - most / (half + abs(concentration)))


@kernel
def _march_with_input(
    course: Course, body: Body, segment: int, depot: float, rate_in: float, time: float, respond: bool
) -> tuple[float, float]:
    """`march` where something enters the modes that has no closed form."""
    structure = course.structure
    parameters = body.parameters[segment]
    absorption, volume = parameters[ABSORPTION_RATE], parameters[CENTRAL_VOLUME]
    modal = body.modal
    modes = body.amounts.size
    tangent = body.rates.shape[0] - 1
    rates, into_modes = body.rates[segment], body.into_modes[segment]
    gut, gut_step = body.gut[0], body.gut[1:]
    most, half, slope, range_of_slope = 0.0, 1.0, 0.0, 0.0
    saturable = structure.elimination != LINEAR
    if saturable:
        range_of_slope = _linearise(course, body, segment, depot, rate_in, time)
        most, half = parameters[MAXIMUM_RATE], parameters[MICHAELIS]
        slope = body.parameters[tangent, CLEARANCE] - parameters[CLEARANCE]
        rates, into_modes = body.rates[tangent], body.into_modes[tangent]
        to_modes(modal[COMPARTMENTS], into_modes, modal[AMOUNT])
    else:
        modal[AMOUNT] = body.amounts
    respond = respond and structure.second != NOTHING
    first, longest, every = _bounds(
        course, body, segment, depot, rate_in, rates, into_modes, modal[AMOUNT], range_of_slope, respond
    )
    pair, doublings, last_pairs = plan_steps(time, first, longest, every)
    if last_pairs < 0:
        body.amounts[:] = np.nan
        body.response[:] = np.nan
        return math.nan, math.nan
    step = 0.5 * pair
    has_depot = depot != 0.0
    depot_decay = math.exp(-absorption * 0.5 * step) if has_depot else 1.0
    _set_half_step(modal, rates, into_modes, rate_in, absorption, depot_decay, 0.5 * step)
    row = row_length(parameters, gut)
    last_rate = outflow_rate(parameters) if structure.transits > 0 else 0.0
    gut_filled = False
    for place in range(body.gut.shape[1]):
        gut_filled = gut_filled or body.gut[0, place] != 0.0
    if gut_filled:
        set_step(parameters, 0.5 * step, gut_step)
    central = 0.0
    for mode in range(modes):
        central += modal[AMOUNT, mode]
    start = drive(structure, parameters, central / volume)
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
        depot_held = held(absorption, step, whole_depot_decay)
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
            if has_depot:
                unit_absorbed = absorbed(rate, absorption, step, whole, whole_depot_decay)
                area_depot += (into * absorption) * held_under_absorption(
                    rate, absorption, step, unit_held, depot_held, unit_absorbed
                )
        if respond:
            prepare_response(structure, parameters, 2.0 * step, body.response)
        middle = start
        steps = 2 * (every if level < doublings else last_pairs)
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
            at_start = arriving + _excess(central, volume, most, half, slope)
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
            once = arriving_halfway + _excess(tried_central, volume, most, half, slope)
            again_central = 0.0
            for mode in range(modes):
                again_central += modal[HALFWAY, mode] + modal[STAGE, mode] * once
            again = arriving_halfway + _excess(again_central, volume, most, half, slope)
            end_central = 0.0
            for mode in range(modes):
                end_central += (
                    modal[DECAY, mode] * modal[TRIED, mode]
                    + (modal[INFLOW, mode] + modal[FROM_DEPOT, mode] * halfway_depot)
                    + modal[STAGE, mode] * (2.0 * again - at_start)
                )
            at_end = arriving_end + _excess(end_central, volume, most, half, slope)
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
                if index % 2 == 0:
                    middle = drive(structure, parameters, central / volume)
                else:
                    end = drive(structure, parameters, central / volume)
                    step_response(
                        structure,
                        parameters,
                        2.0 * step,
                        body.response,
                        start,
                        middle,
                        end,
                    )
                    start = end
    if saturable:
        to_compartments(modal[AMOUNT], body.from_modes[tangent], modal[COMPARTMENTS])
        to_modes(modal[COMPARTMENTS], body.into_modes[segment], body.amounts)
    else:
        body.amounts[:] = modal[AMOUNT]
    return depot, area
