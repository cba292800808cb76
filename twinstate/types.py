"""Array aliases with shapes, and the one time conversion."""

from __future__ import annotations

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


def hours(nanoseconds: int) -> float:
    """Turn an event time (UTC nanoseconds since 1970) into the solver's hours since 1970.

    A float64 at this size resolves 6e-11 h (0.2 microseconds), far below any clinical clock.
    """
    return nanoseconds / NS_PER_HOUR
