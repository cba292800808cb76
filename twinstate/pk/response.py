"""What the drug does: the state behind the second output, and its steps under a given concentration.

The concentration is known at five times of a step, a quarter of it apart. A chain of compartments is linear, so
it is solved exactly for the polynomial through the five values of its input, however fast it is; the marrow
feeds back on itself and takes two Runge-Kutta steps.

`Motion.response` holds, by chain and cell, the state and what equal steps have in common. The state is by second
output: the metabolite's amount or the effect site's concentration in the first cell; two chains of clotting
factors, as shares of their level without drug; or, in the first chain, the logarithm of the marrow's dividing
cells, three stages of maturing ones and the circulating cells.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from twinstate.kernels import inner_kernel
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

Floats = NDArray[np.float64]
# Rows of `Motion.response`: the state; what a cell keeps of one so many places before it; weights of the input at
# the five times of a step.
STATE, POWERS, WEIGHTS = 0, 1, 2
TIMES = 5
# Terms of the incomplete gamma series: enough for an argument up to `SERIES_UP_TO`.
SERIES_UP_TO = 4.0
SERIES_TERMS = 30
# Coefficients 1 / (5 6 ... n) of the series in `_moments`, the last first.
MOMENT_SERIES = tuple(24.0 / math.factorial(order) for order in range(18, 4, -1))


@inner_kernel
def has_chains(second: int) -> bool:
    """Whether the second output comes from chains of clotting factors."""
    return second in (COAGULATION_PRODUCT, COAGULATION_MEAN)


@inner_kernel
def follower_rate(second: int, parameters: Floats) -> float:
    """Decay rate of the one compartment behind a metabolite or an effect site, 1/h."""
    if second == METABOLITE:
        return float(parameters[METABOLITE_CLEARANCE] / parameters[METABOLITE_VOLUME])
    return float(parameters[EFFECT_RATE])


@inner_kernel
def follower_gain(second: int, parameters: Floats) -> float:
    """Inflow of that compartment per concentration of the drug."""
    if second == METABOLITE:
        return float(parameters[METABOLITE_FRACTION] * parameters[CLEARANCE])
    return float(parameters[EFFECT_RATE])


@inner_kernel
def start_response(structure: Structure, parameters: Floats, response: Floats) -> None:
    """Fill the state without drug."""
    response[STATE] = 0.0
    if has_chains(structure.second):
        response[STATE] = 1.0
    elif structure.second == MYELOSUPPRESSION:
        response[STATE, 0, 0] = math.log(parameters[BASELINE])
        for cell in range(1, MYELOID_CELLS):
            response[STATE, 0, cell] = parameters[BASELINE]


@inner_kernel
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


@inner_kernel
def drive(structure: Structure, parameters: Floats, concentration: float) -> float:
    """What moves the state: the production left over for chains, the concentration (mg/L) for all else."""
    if not has_chains(structure.second):
        return concentration
    if concentration <= 0.0:
        return 1.0
    if parameters[HILL] == 1.0:
        return float(parameters[HALF_EFFECT] / (parameters[HALF_EFFECT] + concentration))
    return float(1.0 / (1.0 + (concentration / parameters[HALF_EFFECT]) ** parameters[HILL]))


@inner_kernel
def chain_rate(structure: Structure, parameters: Floats, chain: int) -> float:
    """Rate of each compartment of a chain, 1/h."""
    if chain == 0:
        return float(structure.first_chain / parameters[RESPONSE_TIME])
    return float(structure.second_chain / parameters[SECOND_RESPONSE_TIME])


@inner_kernel
def chain_decay(length: int, x: float, powers: Floats) -> None:
    """Fill exp(-x) x^n / n!, n below `length`: what a compartment keeps of the one n places before it."""
    powers[0] = math.exp(-x)
    for place in range(1, length):
        powers[place] = powers[place - 1] * x / place


@inner_kernel
def _moments(x: float, decay: float) -> tuple[float, float, float, float, float]:
    """The integrals of exp(-x t) t^n over t in [0, 1], n = 0 to 4; `decay` is exp(-x)."""
    if x > 1.0:
        inverse = 1.0 / x
        zeroth = (1.0 - decay) * inverse
        first = (zeroth - decay) * inverse
        second = (2.0 * first - decay) * inverse
        third = (3.0 * second - decay) * inverse
        return zeroth, first, second, third, (4.0 * third - decay) * inverse
    fourth = 0.0
    for share in MOMENT_SERIES:
        fourth = fourth * x + share
    fourth *= decay
    third = (x * fourth + decay) / 4.0
    second = (x * third + decay) / 3.0
    first = (x * second + decay) / 2.0
    return x * first + decay, first, second, third, fourth


@inner_kernel
def _set_weights(
    response: Floats,
    chain: int,
    cell: int,
    zeroth: float,
    first: float,
    second: float,
    third: float,
    fourth: float,
) -> None:
    """Fill the weights of one cell from the moments of its answer to an input so long before the end.

    They are those of the polynomials that are 1 at one of the five times and 0 at the others.
    """
    response[WEIGHTS, chain, cell] = -first + 22.0 / 3.0 * second - 16.0 * third + 32.0 / 3.0 * fourth
    response[WEIGHTS + 1, chain, cell] = (
        16.0 / 3.0 * first - 112.0 / 3.0 * second + 224.0 / 3.0 * third - 128.0 / 3.0 * fourth
    )
    response[WEIGHTS + 2, chain, cell] = -12.0 * first + 76.0 * second - 128.0 * third + 64.0 * fourth
    response[WEIGHTS + 3, chain, cell] = (
        16.0 * first - 208.0 / 3.0 * second + 96.0 * third - 128.0 / 3.0 * fourth
    )
    response[WEIGHTS + 4, chain, cell] = (
        zeroth - 25.0 / 3.0 * first + 70.0 / 3.0 * second - 80.0 / 3.0 * third + 32.0 / 3.0 * fourth
    )


@inner_kernel
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
    chain_decay(length, x, powers)
    if length == 1:
        zeroth, first, second, third, fourth = _moments(x, powers[0])
        _set_weights(response, chain, 0, x * zeroth, x * first, x * second, x * third, x * fourth)
        return
    # gamma_n, the chance that n Erlang stages are over in the step, from that of length + 4 down.
    density_0 = powers[length - 1] * x / length
    density_1 = density_0 * x / (length + 1)
    density_2 = density_1 * x / (length + 2)
    density_3 = density_2 * x / (length + 3)
    if x <= SERIES_UP_TO:
        term = density_3 * x / (length + 4)
        gamma_4 = term
        for order in range(length + 5, length + 4 + SERIES_TERMS):
            term *= x / order
            gamma_4 += term
    else:
        gamma_4 = 1.0 - density_3 - density_2 - density_1 - density_0
        for place in range(length):
            gamma_4 -= powers[place]
    gamma_3 = gamma_4 + density_3
    gamma_2 = gamma_3 + density_2
    gamma_1 = gamma_2 + density_1
    density = density_0
    for stage in range(length, 0, -1):
        gamma_0 = gamma_1 + density
        share = stage / x
        first = gamma_1 * share
        share *= (stage + 1) / x
        second = gamma_2 * share
        share *= (stage + 2) / x
        third = gamma_3 * share
        share *= (stage + 3) / x
        _set_weights(response, chain, stage - 1, gamma_0, first, second, third, gamma_4 * share)
        gamma_4, gamma_3, gamma_2, gamma_1 = gamma_3, gamma_2, gamma_1, gamma_0
        density = powers[stage - 1]


@inner_kernel
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
        zeroth, first, second, third, fourth = _moments(x, response[POWERS, 0, 0])
        _set_weights(response, 0, 0, gain * zeroth, gain * first, gain * second, gain * third, gain * fourth)


@inner_kernel
def _step_chain(length: int, chain: int, response: Floats, drives: Floats) -> None:
    """Move one chain ahead in place, the last compartment first as it needs those before it unmoved."""
    cells, powers = response[STATE, chain], response[POWERS, chain]
    for cell in range(length - 1, -1, -1):
        total = 0.0
        for time in range(TIMES):
            total += response[WEIGHTS + time, chain, cell] * drives[time]
        for before in range(cell + 1):
            total += powers[cell - before] * cells[before]
        cells[cell] = total


@inner_kernel
def _marrow_slope(parameters: Floats, cells: Floats, concentration: float, slope: Floats) -> None:
    """Fill the derivative of the marrow's state, (5,), 1/h for the first, else cells a h."""
    rate = (MYELOID_CELLS - 1) / parameters[RESPONSE_TIME]
    feedback = (parameters[BASELINE] / cells[4]) ** parameters[FEEDBACK]
    slope[0] = rate * ((1.0 - parameters[SLOPE] * concentration) * feedback - 1.0)
    slope[1] = rate * (math.exp(cells[0]) - cells[1])
    for cell in range(2, MYELOID_CELLS):
        slope[cell] = rate * (cells[cell - 1] - cells[cell])


@inner_kernel
def _step_marrow(
    parameters: Floats, response: Floats, step: float, start: float, middle: float, end: float
) -> None:
    """One classical Runge-Kutta step of the marrow, in place; the other rows of `response` are its scratch."""
    cells, slope = response[STATE, 0], response[WEIGHTS, 0]
    total, there = response[WEIGHTS + 1, 0], response[WEIGHTS + 2, 0]
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


@inner_kernel
def step_response(
    structure: Structure, parameters: Floats, step: float, response: Floats, drives: Floats
) -> None:
    """Move the state ahead by `step` hours, in place.

    Args:
        structure: Of the course.
        parameters: Structural parameters (parameters,).
        step: h.
        response: As `prepare_response` left it for such steps, (rows, 2, cells).
        drives: `drive` at the five times of the step, (5,).
    """
    if structure.second == MYELOSUPPRESSION:
        _step_marrow(parameters, response, 0.5 * step, drives[0], drives[1], drives[2])
        _step_marrow(parameters, response, 0.5 * step, drives[2], drives[3], drives[4])
    elif has_chains(structure.second):
        _step_chain(structure.first_chain, 0, response, drives)
        if structure.second_chain > 0:
            _step_chain(structure.second_chain, 1, response, drives)
    else:
        total = response[STATE, 0, 0] * response[POWERS, 0, 0]
        for time in range(TIMES):
            total += response[WEIGHTS + time, 0, 0] * drives[time]
        response[STATE, 0, 0] = total
