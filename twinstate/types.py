"""Array aliases with shapes, the one time conversion, and the decorator every compiled kernel wears."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import numba
import numpy as np
from jaxtyping import Float64, Int64

NS_PER_HOUR = 3_600_000_000_000
NS_PER_MINUTE = 60_000_000_000

Eta = Float64[np.ndarray, " eta"]
EtaMatrix = Float64[np.ndarray, "eta eta"]
Points = Float64[np.ndarray, "points eta"]
Weights = Float64[np.ndarray, " points"]
Times = Float64[np.ndarray, " times"]
Trajectories = Float64[np.ndarray, "points times"]
Levels = Float64[np.ndarray, " levels"]
Counts = Int64[np.ndarray, " levels"]

_P = ParamSpec("_P")
_R = TypeVar("_R")


def hours(nanoseconds: int) -> float:
    """Turn an event time (UTC nanoseconds since 1970) into the solver's hours since 1970.

    A float64 at this size resolves 6e-11 h (0.2 microseconds), far below any clinical clock.
    """
    return nanoseconds / NS_PER_HOUR


def kernel(function: Callable[_P, _R]) -> Callable[_P, _R]:
    """Compile one patient's arithmetic with numba.

    Plain loops, one patient at a time: the bits of a result cannot depend on who shares its batch. `fastmath` and
    `parallel` stay off for the same reason, and the lock of the interpreter is released so that the worker's event
    loop keeps beating while a twin is refitted.
    """
    options: dict[str, Any] = {"cache": True, "nogil": True, "error_model": "numpy"}
    compiled: Callable[_P, _R] = numba.njit(**options)(function)
    return compiled
