"""What the drug does: the state behind the second output, and its steps under a given concentration.

The concentration is known at the start, middle and end of a step. A chain of compartments is linear, so it is
solved exactly for the parabola through the three values of its input, however fast it is; the marrow feeds
back on itself and takes a Runge-Kutta step.

`Body.response` holds, by chain and cell, the state and what equal steps have in common. The state is by second
output: the metabolite's amount or the effect site's concentration in the first cell; two chains of clotting
factors, as shares of their level without drug; or, in the first chain, the logarithm of the marrow's dividing
cells, three stages of maturing ones and the circulating cells.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from twinstate.kernels import kernel
from twinstate.pk.columns import (
    BASELINE,
    CLEARANCE,
    EFFECT_RATE,
    EXPONENT,
    FEEDBACK,
    HALF_EFFECT,
    HILL,
    METABOLITE_CLEARANCE,
    METABOLITE_FRACTION,
    METABOLITE_VOLUME,
    RESPONSE_TIME,
    SCALE,
    SECOND_RESPONSE_TIME,
    SLOPE,
)
from twinstate.pk.course import (
    COAGULATION_MEAN,
    COAGULATION_PRODUCT,
    EFFECT_SITE,
    METABOLITE,
    MYELOSUPPRESSION,
    Structure,
)
from twinstate.pk.schedule import MYELOID_CELLS
from twinstate.pk.steps import averages

Floats = NDArray[np.float64]
# Rows of `Body.response`: the state; what a cell keeps of one so many places before it; weights of the input at
# the start, in the middle and at the end of a step.
STATE, POWERS, AT_START, AT_MIDDLE, AT_END = range(5)
# Terms of the incomplete gamma series: enough for an argument up to `SERIES_UP_TO`.
SERIES_UP_TO = 4.0
SERIES_TERMS = 30


@kernel
def has_chains(second: int) -> bool:
    """Whether the second output comes from chains of clotting factors."""
    return second in (COAGULATION_PRODUCT, COAGULATION_MEAN)


@kernel
def follower_rate(second: int, parameters: Floats) -> float:
    """Decay rate of the one compartment behind a metabolite or an effect site, 1/h."""
    if second == METABOLITE:
        return float(parameters[METABOLITE_CLEARANCE] / parameters[METABOLITE_VOLUME])
    return float(parameters[EFFECT_RATE])


@kernel
def follower_gain(second: int, parameters: Floats) -> float:
    """Inflow of that compartment per concentration of the drug."""
    if second == METABOLITE:
        return float(parameters[METABOLITE_FRACTION] * parameters[CLEARANCE])
    return float(parameters[EFFECT_RATE])


@kernel
def start_response(structure: Structure, parameters: Floats, response: Floats) -> None:
    """Fill the state without drug."""
    response[STATE] = 0.0
    if has_chains(structure.second):
        response[STATE] = 1.0
    elif structure.second == MYELOSUPPRESSION:
        response[STATE, 0, 0] = math.log(parameters[BASELINE])
        for cell in range(1, MYELOID_CELLS):
            response[STATE, 0, cell] = parameters[BASELINE]


@kernel
def read_response(structure: Structure, parameters: Floats, response: Floats) -> float:
    """The second output as the state has it."""
    second = structure.second
    if second == METABOLITE:
        return float(response[STATE, 0, 0] / parameters[METABOLITE_VOLUME])
    if second == EFFECT_SITE:
        return float(response[STATE, 0, 0])
    if second == MYELOSUPPRESSION:
        return float(response[STATE, 0, MYELOID_CELLS - 1])
    if has_chains(second):
        factor = response[STATE, 0, structure.first_chain - 1]
        if structure.second_chain > 0:
            other = response[STATE, 1, structure.second_chain - 1]
            factor = factor * other if second == COAGULATION_PRODUCT else 0.5 * (factor + other)
        # Rounding may leave a factor a hair above its level without drug.
        lacking = max(1.0 - factor, 0.0) if factor == factor else factor
        if parameters[EXPONENT] != 1.0:
            lacking = lacking ** parameters[EXPONENT]
        return float(parameters[BASELINE] + parameters[SCALE] * lacking)
    return 0.0


@kernel
def drive(structure: Structure, parameters: Floats, concentration: float) -> float:
    """What moves the state: the production left over for chains, the concentration (mg/L) for all else."""
    if not has_chains(structure.second):
        return concentration
    if concentration <= 0.0:
        return 1.0
    if parameters[HILL] == 1.0:
        return float(parameters[HALF_EFFECT] / (parameters[HALF_EFFECT] + concentration))
    return float(1.0 / (1.0 + (concentration / parameters[HALF_EFFECT]) ** parameters[HILL]))


@kernel
def chain_rate(structure: Structure, parameters: Floats, chain: int) -> float:
    """Rate of each compartment of a chain, 1/h."""
    if chain == 0:
        return float(structure.first_chain / parameters[RESPONSE_TIME])
    return float(structure.second_chain / parameters[SECOND_RESPONSE_TIME])


@kernel
def chain_decay(length: int, x: float, powers: Floats) -> None:
    """Fill exp(-x) x^n / n!, n below `length`: what a compartment keeps of the one n places before it."""
    powers[0] = math.exp(-x)
    for place in range(1, length):
        powers[place] = powers[place - 1] * x / place


@kernel
def parabola_weights(x: float, decay: float) -> tuple[float, float, float]:
    """Weights of an input's values at the start, middle and end of a step, in one compartment at its end.

    Exact for a parabola; the amount is the step times the weighted sum.

    Args:
        x: Decay rate times step.
        decay: exp(-x).
    """
    first, second, third, _ = averages(x, decay)
    return first - 3.0 * second + 4.0 * third, 4.0 * second - 8.0 * third, 4.0 * third - second


@kernel
def set_chain(length: int, x: float, chain: int, response: Floats) -> None:
    """Fill powers and weights of a chain for steps of x = rate times step.

    Compartment i answers an input t before the end of the step with the density of an Erlang time; its
    moments are incomplete gamma functions, added up from the highest so that none is a small difference.

    Args:
        length: Compartments.
        x: Rate times step.
        chain: Which of the two.
        response: Filled but for the state, (rows, 2, cells).
    """
    powers = response[POWERS, chain]
    at_start, at_middle, at_end = (
        response[AT_START, chain],
        response[AT_MIDDLE, chain],
        response[AT_END, chain],
    )
    chain_decay(length, x, powers)
    if length == 1:
        start, middle, end = parabola_weights(x, powers[0])
        at_start[0], at_middle[0], at_end[0] = x * start, x * middle, x * end
        return
    # gamma_n = P(n, x), the chance that n Erlang stages are over: first that of length + 2.
    top = length + 2
    term = powers[length - 1] * x / length * x / (length + 1)
    if x <= SERIES_UP_TO:
        term = term * x / top
        gamma = term
        for order in range(top + 1, top + SERIES_TERMS):
            term *= x / order
            gamma += term
    else:
        gamma = 1.0 - term - powers[length - 1] * x / length
        for place in range(length):
            gamma -= powers[place]
    second = gamma
    first = second + powers[length - 1] * x / length * x / (length + 1)
    for stage in range(length, 0, -1):
        density = powers[length - 1] * x / length if stage == length else powers[stage]
        zeroth = first + density
        mean = stage * first / x
        square = stage * (stage + 1) * second / (x * x)
        at_start[stage - 1] = 2.0 * square - mean
        at_middle[stage - 1] = 4.0 * (mean - square)
        at_end[stage - 1] = zeroth - 3.0 * mean + 2.0 * square
        second = first
        first = zeroth


@kernel
def prepare_response(structure: Structure, parameters: Floats, step: float, response: Floats) -> None:
    """Fill what equal steps of `step` hours have in common: all of `response` (rows, 2, cells) but the state."""
    if has_chains(structure.second):
        set_chain(structure.first_chain, chain_rate(structure, parameters, 0) * step, 0, response)
        if structure.second_chain > 0:
            set_chain(structure.second_chain, chain_rate(structure, parameters, 1) * step, 1, response)
    elif structure.second in (METABOLITE, EFFECT_SITE):
        x = follower_rate(structure.second, parameters) * step
        gain = follower_gain(structure.second, parameters) * step
        response[POWERS, 0, 0] = math.exp(-x)
        start, middle, end = parabola_weights(x, response[POWERS, 0, 0])
        response[AT_START, 0, 0], response[AT_MIDDLE, 0, 0] = gain * start, gain * middle
        response[AT_END, 0, 0] = gain * end


@kernel
def _step_chain(length: int, chain: int, response: Floats, start: float, middle: float, end: float) -> None:
    """Move one chain ahead in place, the last compartment first as it needs those before it unmoved."""
    cells, powers = response[STATE, chain], response[POWERS, chain]
    at_start, at_middle, at_end = (
        response[AT_START, chain],
        response[AT_MIDDLE, chain],
        response[AT_END, chain],
    )
    for cell in range(length - 1, -1, -1):
        total = at_start[cell] * start + at_middle[cell] * middle + at_end[cell] * end
        for before in range(cell + 1):
            total += powers[cell - before] * cells[before]
        cells[cell] = total


@kernel
def _marrow_slope(parameters: Floats, cells: Floats, concentration: float, slope: Floats) -> None:
    """Fill the derivative of the marrow's state, (5,), 1/h for the first, else cells a h."""
    rate = (MYELOID_CELLS - 1) / parameters[RESPONSE_TIME]
    feedback = (parameters[BASELINE] / cells[4]) ** parameters[FEEDBACK]
    slope[0] = rate * ((1.0 - parameters[SLOPE] * concentration) * feedback - 1.0)
    slope[1] = rate * (math.exp(cells[0]) - cells[1])
    for cell in range(2, MYELOID_CELLS):
        slope[cell] = rate * (cells[cell - 1] - cells[cell])


@kernel
def _step_marrow(
    parameters: Floats, response: Floats, step: float, start: float, middle: float, end: float
) -> None:
    """One classical Runge-Kutta step of the marrow, in place; the other rows of `response` are its scratch."""
    cells, slope = response[STATE, 0], response[AT_START, 0]
    total, there = response[AT_MIDDLE, 0], response[AT_END, 0]
    _marrow_slope(parameters, cells, start, slope)
    for cell in range(MYELOID_CELLS):
        total[cell] = slope[cell]
        there[cell] = cells[cell] + 0.5 * step * slope[cell]
    _marrow_slope(parameters, there, middle, slope)
    for cell in range(MYELOID_CELLS):
        total[cell] += 2.0 * slope[cell]
        there[cell] = cells[cell] + 0.5 * step * slope[cell]
    _marrow_slope(parameters, there, middle, slope)
    for cell in range(MYELOID_CELLS):
        total[cell] += 2.0 * slope[cell]
        there[cell] = cells[cell] + step * slope[cell]
    _marrow_slope(parameters, there, end, slope)
    for cell in range(MYELOID_CELLS):
        cells[cell] += step / 6.0 * (total[cell] + slope[cell])


@kernel
def step_response(
    structure: Structure,
    parameters: Floats,
    step: float,
    response: Floats,
    start: float,
    middle: float,
    end: float,
) -> None:
    """Move the state ahead by `step` hours, in place.

    Args:
        structure: Of the course.
        parameters: Structural parameters (parameters,).
        step: h.
        response: As `prepare_response` left it for such steps, (rows, 2, cells).
        start: `drive` at the start of the step.
        middle: `drive` in its middle.
        end: `drive` at its end.
    """
    if structure.second == MYELOSUPPRESSION:
        _step_marrow(parameters, response, step, start, middle, end)
    elif has_chains(structure.second):
        _step_chain(structure.first_chain, 0, response, start, middle, end)
        if structure.second_chain > 0:
            _step_chain(structure.second_chain, 1, response, start, middle, end)
    else:
        response[STATE, 0, 0] = response[STATE, 0, 0] * response[POWERS, 0, 0] + (
            response[AT_START, 0, 0] * start
            + response[AT_MIDDLE, 0, 0] * middle
            + response[AT_END, 0, 0] * end
        )
