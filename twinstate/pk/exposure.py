"""What trajectories amount to: peak, trough, AUC over a window, time above a limit, one number a point.

Everything reduces over time with points on the first axis and in the order of time, so that a point's bits do not
depend on the others.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from twinstate.types import kernel

Floats = NDArray[np.float64]


def peak(concentration: Floats) -> Floats:
    """Highest concentration of each point over the times given.

    Args:
        concentration: mg/L, (points, times), at least one time. The peak lies at the end of an infusion or just
            after a bolus: have those among the times.

    Returns:
        mg/L, (points,).
    """
    return np.asarray(concentration.max(axis=1))


def trough(concentration: Floats) -> Floats:
    """Lowest concentration of each point over the times given, mg/L, (points,) of (points, times)."""
    return np.asarray(concentration.min(axis=1))


@kernel
def auc_over(area: Floats, time_h: Floats, start_h: float, end_h: float) -> Floats:
    """AUC of each point between two times.

    Args:
        area: Running integral of the concentration, as `solve_points` gives it, mg*h/L, (points, times).
        time_h: Ascending, (times,).
        start_h: Exact where it is one of the times; between two of them the integral runs straight, before
            the first and after the last it stands still.
        end_h: Likewise.

    Returns:
        mg*h/L, (points,).
    """
    found = np.empty(area.shape[0])
    for point in range(area.shape[0]):
        found[point] = np.interp(end_h, time_h, area[point]) - np.interp(start_h, time_h, area[point])
    return found


@kernel
def highest_trailing_auc(area: Floats, time_h: Floats, window_h: float, from_h: float) -> Floats:
    """Largest AUC of each point over windows that end at one of the times, from `from_h` on.

    Args:
        area: Running integral of the concentration, mg*h/L, (points, times).
        time_h: Ascending, (times,); they should begin `window_h` before `from_h` and hold the window's start for
            each end (an even step does), otherwise the integral is read from a straight line between two times.
        window_h: Length of the window, h; 24 gives AUC24.
        from_h: Windows that end earlier do not count.

    Returns:
        mg*h/L, (points,); NaN when no time is at or after `from_h`.
    """
    first = np.searchsorted(time_h, from_h)
    found = np.full(area.shape[0], np.nan)
    for point in range(area.shape[0]):
        for end in range(first, time_h.size):
            window = area[point, end] - np.interp(time_h[end] - window_h, time_h, area[point])
            if end == first or not window <= found[point]:
                found[point] = window
            if math.isnan(window):
                break
    return found


@kernel
def time_above(concentration: Floats, time_h: Floats, limit: float) -> Floats:
    """How long each point is above a limit; between two times the concentration runs straight.

    Args:
        concentration: mg/L, (points, times).
        time_h: Ascending, (times,).
        limit: mg/L.

    Returns:
        h, (points,).
    """
    found = np.zeros(concentration.shape[0])
    for point in range(concentration.shape[0]):
        for index in range(time_h.size - 1):
            span = time_h[index + 1] - time_h[index]
            left = concentration[point, index] - limit
            right = concentration[point, index + 1] - limit
            if left > 0.0 and right > 0.0:
                found[point] += span
            elif left > 0.0 or right > 0.0:
                found[point] += span * max(left, right) / abs(right - left)
    return found
