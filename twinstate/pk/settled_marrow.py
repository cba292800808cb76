"""The marrow under an endless train: the cells that one interval of it carries into themselves, by Newton's method."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from twinstate.kernels import inner_kernel
from twinstate.pk.course import Structure
from twinstate.pk.march import WITH_RESPONSE
from twinstate.pk.modal import copy
from twinstate.pk.response import STATE, start_response
from twinstate.pk.schedule import MYELOID_CELLS, Motion
from twinstate.pk.train import COLUMN, GUT, HERE, RESULT, Train, march_interval, solve_small

Floats = NDArray[np.float64]

# Rows of `Body.saved` beside those of `train`: the logarithms of the cells, and the matrix of the differences.
CELLS, CELLS_MATRIX = 9, 10
# Change of a logarithm over one interval at which the marrow counts as settled; steps of Newton's method, how far one
# of them may go, and the nudge of its differences.
SETTLED = 1e-10
MOST_STEPS = 20
FARTHEST = 4.0
NUDGE = 1e-6
# With this little of the marrow at rest left (a logarithm) it counts as gone.
GONE = 30.0
# Where Newton's method finds nothing, so many intervals are gone through from the marrow at rest.
MOST_INTERVALS = 2000


@inner_kernel
def settle_marrow(
    structure: Structure, motion: Motion, segment: int, depot: float, train: Train, saved: Floats
) -> None:
    """Fill the marrow with the one that the train at its steady state leaves; amounts and gut stay.

    NaN where there is none: the train kills more dividing cells than feedback can replace, or the marrow goes round in
    cycles of several intervals. A state that no train would reach, because the slightest deviation grows, is taken.
    """
    response = motion.response
    amounts, gut = saved[HERE, : motion.amounts.size], saved[GUT, : motion.gut.shape[1]]
    here, result, column = saved[CELLS], saved[RESULT], saved[COLUMN]
    matrix = saved[CELLS_MATRIX:]
    copy(motion.amounts, amounts)
    copy(motion.gut[0], gut)
    start_response(structure, motion.parameters[segment], response)
    _logarithms(response[STATE, 0], here)
    least = here[0] - GONE
    for _ in range(MOST_STEPS):
        change = 0.0
        for nudged in range(-1, MYELOID_CELLS):  # first as it is, then with each logarithm nudged
            for cell in range(MYELOID_CELLS):
                log_cells = here[cell] + (NUDGE if cell == nudged else 0.0)
                response[STATE, 0, cell] = log_cells if cell == 0 else math.exp(log_cells)
            march_interval(structure, motion, segment, depot, train, WITH_RESPONSE)
            copy(amounts, motion.amounts)
            copy(gut, motion.gut[0])
            if nudged < 0:
                _logarithms(response[STATE, 0], result)
                for cell in range(MYELOID_CELLS):
                    change = max(change, abs(result[cell] - here[cell]))
                if here[0] < least:
                    response[STATE, 0] = math.nan
                if change <= SETTLED or here[0] < least:
                    return
            else:
                _logarithms(response[STATE, 0], column)
                for cell in range(MYELOID_CELLS):
                    matrix[cell, nudged] = (result[cell] - column[cell]) / NUDGE
                matrix[nudged, nudged] += 1.0
        farthest = 0.0
        for cell in range(MYELOID_CELLS):
            column[cell] = result[cell] - here[cell]
        solve_small(matrix, column, MYELOID_CELLS)
        for cell in range(MYELOID_CELLS):
            farthest = max(farthest, abs(column[cell]))
        if not farthest < math.inf:
            break
        for cell in range(MYELOID_CELLS):
            here[cell] += column[cell] * min(1.0, FARTHEST / farthest)
    start_response(structure, motion.parameters[segment], response)
    for _ in range(MOST_INTERVALS):
        _logarithms(response[STATE, 0], here)
        march_interval(structure, motion, segment, depot, train, WITH_RESPONSE)
        copy(amounts, motion.amounts)
        copy(gut, motion.gut[0])
        _logarithms(response[STATE, 0], result)
        change = 0.0
        for cell in range(MYELOID_CELLS):
            change = max(change, abs(result[cell] - here[cell]))
        if change <= SETTLED:
            return
        if here[0] < least:
            break
    response[STATE, 0] = math.nan


@inner_kernel
def _logarithms(cells: Floats, filled: Floats) -> None:
    """Fill the logarithms of all cells; of the dividing ones it is what the state holds."""
    for cell in range(MYELOID_CELLS):
        filled[cell] = cells[cell] if cell == 0 else math.log(cells[cell])
