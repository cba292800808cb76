"""How long the steps of the solver are: fine behind an event, then doubling, as fast transients die away.

A transient exp(-r t) that the first steps resolve has lost more by the time steps have doubled than the
longer steps lose on it. The number of steps follows from the parameters, the state at the event and the time
to the next one alone: the same course always takes the same steps.
"""

from __future__ import annotations

import math

from twinstate.kernels import kernel

# An interval that needs more pairs of steps than this comes out as NaN.
MOST_PAIRS = 100_000


@kernel
def plan_steps(time: float, first: float, longest: float, every: int) -> tuple[float, int, int]:
    """Cover an interval by pairs of steps, `every` of them at each length before the length doubles.

    Args:
        time: The interval, h.
        first: Longest first pair, h.
        longest: Longest pair, h.
        every: Pairs before the length doubles.

    Returns:
        Length of the first pair in h, how often the length doubles, and pairs at the last length; -1 pairs
        where they would be too many, or a length is not a number.
    """
    units = time / min(first, longest)
    if not units < 1e15:
        return math.nan, 0, -1
    covered = 0.0
    unit = 1.0
    doublings = 0
    while covered + every * unit < units and unit * 2.0 * first <= longest:
        covered += every * unit
        unit *= 2.0
        doublings += 1
    pairs = max(math.ceil((units - covered) / unit), 1)
    if pairs > MOST_PAIRS:
        return math.nan, 0, -1
    return time / (covered + pairs * unit), doublings, pairs
