"""Nelder and Mead's simplex: down a function that has kinks, where no derivative helps."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

STEPS_PER_COORDINATE = 120
SMALL_SPREAD = 1e-12
SMALL_SIMPLEX = 1e-7


def descend(value: Callable[[Floats], Floats], start: Floats, edges: Floats) -> tuple[Floats, int]:
    """Move a simplex down `value` until it is a point.

    Args:
        value: At points (n, size): (n,). All moves of a step are asked at once, because a call costs more than its
            points.
        start: First corner, (size,).
        edges: The other corners are start + each column, (size, size).

    Returns:
        The best corner, never worse than `start`, and the steps taken.

    References:
        Gao, Han (2012), Comput. Optim. Appl. 51:259-277 (coefficients that suit more dimensions).
    """
    size = start.size
    expand, contract, shrink = 1.0 + 2.0 / size, 0.75 - 0.5 / size, 1.0 - 1.0 / size
    if size == 1:
        expand, contract, shrink = 2.0, 0.5, 0.5
    moves = np.array([1.0, expand, contract, -contract])
    corners = np.vstack([start, start + edges.T])
    values = value(corners)
    steps = 0
    while steps < STEPS_PER_COORDINATE * size:
        order = np.argsort(values, kind="stable")
        corners, values = corners[order], values[order]
        if values[-1] - values[0] < SMALL_SPREAD and np.abs(corners[-1] - corners[0]).max() < SMALL_SIMPLEX:
            break
        steps += 1
        middle = corners[:-1].mean(axis=0)
        tried = middle + moves[:, None] * (middle - corners[-1])
        found = value(tried)
        reflected, expanded = float(found[0]), float(found[1])
        if reflected < values[0]:
            pick = 1 if expanded < reflected else 0
        elif reflected < values[-2]:
            pick = 0
        else:
            pick = 2 if reflected < values[-1] else 3
            if not found[pick] < min(reflected, float(values[-1])):
                corners[1:] = corners[0] + shrink * (corners[1:] - corners[0])
                values[1:] = value(corners[1:])
                continue
        corners[-1], values[-1] = tried[pick], found[pick]
    return np.array(corners[int(np.argmin(values))], dtype=np.float64), steps
