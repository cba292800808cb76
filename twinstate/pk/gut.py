"""Transit compartments between an oral dose and its absorption, and the depot behind them: one row.

The transit compartments all empty at the transit rate, the last compartment, the depot, at the absorption
rate; without an absorption rate the last transit compartment empties into the centre.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from twinstate.kernels import kernel
from twinstate.pk.columns import ABSORPTION_RATE, TRANSIT_RATE

Floats = NDArray[np.float64]
TERMS = 16  # of a series whose argument is below 1/2


@kernel
def outflow_rate(parameters: Floats) -> float:
    """Rate at which the last compartment of the row empties into the centre, 1/h."""
    return float(
        parameters[ABSORPTION_RATE] if parameters[ABSORPTION_RATE] > 0.0 else parameters[TRANSIT_RATE]
    )


@kernel
def row_length(parameters: Floats, gut: Floats) -> int:
    """How many compartments of `gut` take part: all, or all but the depot."""
    return gut.size if parameters[ABSORPTION_RATE] > 0.0 else gut.size - 1


@kernel
def square(matrix: Floats) -> None:
    """Square a lower triangular matrix in place: what a step does, done twice.

    From the last row up and each row from the left, so that what is still needed is still the old.
    """
    size = matrix.shape[0]
    for row in range(size - 1, -1, -1):
        for column in range(row + 1):
            total = 0.0
            for between in range(column, row + 1):
                total += matrix[row, between] * matrix[between, column]
            matrix[row, column] = total


@kernel
def set_step(parameters: Floats, time: float, step: Floats) -> None:
    """Fill what each compartment of the row holds of each other after `time` hours, (compartments, compartments).

    The exponential of a matrix made non-negative by taking its fastest decay out, halved until a short series
    serves and squared back: sums of positive numbers all through.

    Args:
        parameters: Structural parameters (parameters,).
        time: h.
        step: Filled.

    References:
        Moler, Van Loan (2003), SIAM Rev. 45:3-49, sec. 3 (scaling and squaring).
    """
    size = step.shape[0]
    transit = parameters[TRANSIT_RATE]
    last = parameters[ABSORPTION_RATE]
    fastest = max(transit, last)
    halvings = 0
    span = time
    while fastest * span > 0.5 and halvings < 60:
        span *= 0.5
        halvings += 1
    decay = math.exp(-fastest * span)
    # Columns of the exponential one by one: term n + 1 is term n times (rates + fastest) span / (n + 1).
    term = np.zeros(size)
    for column in range(size):
        term[:] = 0.0
        term[column] = decay
        for row in range(size):
            step[row, column] = term[row]
        for order in range(1, TERMS):
            for row in range(size - 1, -1, -1):
                stays = fastest - (last if row == size - 1 else transit)
                inflow = transit * term[row - 1] if row > 0 else 0.0
                term[row] = (stays * term[row] + inflow) * span / order
                step[row, column] += term[row]
    for _ in range(halvings):
        square(step)


@kernel
def apply_step(step: Floats, row: Floats) -> None:
    """Move the row ahead by one step, in place from the last compartment on."""
    for place in range(row.size - 1, -1, -1):
        total = 0.0
        for before in range(place + 1):
            total += step[place, before] * row[before]
        row[place] = total
