"""How long the steps of the solver are: fine behind an event, then doubling, as fast transients die away.

A transient exp(-r t) that the first steps resolve has lost more by the time steps have doubled than the
longer steps lose on it. The number of steps follows from the parameters, the state at the event and the time
to the next one alone: the same course always takes the same steps.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from twinstate.kernels import inner_kernel
from twinstate.pk.columns import (
    ABSORPTION_RATE,
    CENTRAL_VOLUME,
    HALF_EFFECT,
    HILL,
    MICHAELIS,
    RESPONSE_TIME,
    TRANSIT_RATE,
)
from twinstate.pk.course import MYELOSUPPRESSION, Structure
from twinstate.pk.gut import outflow_rate
from twinstate.pk.response import has_chains
from twinstate.pk.schedule import Motion

Floats = NDArray[np.float64]

# Bounds on a step, each as a pure number: time times a rate.
CURVED = 0.035  # times half the range of elimination's slope over the interval
FORCED = 0.2  # the same slope and the fastest change of the concentration together: their error is a product
TRANSIT = 0.2  # times the transit rate
TRANSIENT = 0.2  # times the fastest transient of the concentration, for a response
LASTING = 0.2  # times the slowest decay of the concentration and the steepness of the effect
MARROW = 0.2  # times the rate of the marrow's stages
# Share of the half-effect concentration that a steep or shallow effect resolves.
SHALLOW = 0.003
# Steps before their length doubles.
EVERY = 12

# An interval that needs more steps than this comes out as NaN.
MOST_STEPS = 200_000


@inner_kernel
def plan_steps(time: float, first: float, longest: float, every: int) -> tuple[float, int, int]:
    """Cover an interval by steps, `every` of them at each length before the length doubles.

    Args:
        time: The interval, h.
        first: Longest first step, h.
        longest: Longest step, h.
        every: Steps before the length doubles.

    Returns:
        Length of the first step in h, how often the length doubles, and steps at the last length; -1 steps
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
    steps = max(math.ceil((units - covered) / unit), 1)
    if steps > MOST_STEPS:
        return math.nan, 0, -1
    return time / (covered + steps * unit), doublings, steps


@inner_kernel
def bounds(
    structure: Structure,
    motion: Motion,
    segment: int,
    depot: float,
    rate_in: float,
    rates: Floats,
    amounts: Floats,
    range_of_slope: float,
    respond: bool,
) -> tuple[float, float, int]:
    """How long the steps of one interval may be.

    Args:
        structure: Of the course.
        motion: Parameters and gut.
        segment: Whose parameters rule.
        depot: Amount in the depot, mg.
        rate_in: Total rate of the infusions running, mg/h.
        rates: Decay rates of the modes stepped, 1/h, (modes,).
        amounts: Their amounts, mg, (modes,).
        range_of_slope: Half the range of elimination's slope over the interval, per volume, 1/h.
        respond: Whether a response is stepped too.

    Returns:
        Longest first step and longest step, h, and how many steps there are before the length doubles.
    """
    parameters = motion.parameters[segment]
    volume = parameters[CENTRAL_VOLUME]
    fastest = rates[0]
    first = math.inf
    longest = math.inf
    every = EVERY
    entering = rate_in  # mg/h, at the most
    if depot != 0.0:
        fastest = max(fastest, parameters[ABSORPTION_RATE])
        entering += parameters[ABSORPTION_RATE] * depot
    if structure.transits > 0:
        filled = 0.0
        for place in range(motion.gut.shape[1]):
            filled += motion.gut[0, place]
        if filled != 0.0:
            # Steps stay short until the row has emptied, which takes every compartment's time.
            last = outflow_rate(parameters)
            entering += last * filled
            fastest = max(fastest, max(last, parameters[TRANSIT_RATE]))
            first = TRANSIT / fastest
            every = math.ceil((structure.transits + 8) / TRANSIT)
            longest = TRANSIT / min(last, parameters[TRANSIT_RATE])
    central = 0.0
    leaving = 0.0
    for mode in range(amounts.size):
        central += amounts[mode]
        leaving += rates[mode] * amounts[mode]
    if range_of_slope > 0.0:
        # Input carries the concentration across what bends elimination.
        crossing = entering / (parameters[MICHAELIS] * volume + max(central, 0.0))
        forcing = max(fastest, crossing)
        longest = min(longest, CURVED / range_of_slope)
        first = min(first, FORCED / (math.sqrt(math.sqrt(range_of_slope * forcing)) * math.sqrt(forcing)))
    if respond:
        steep = 1.0
        if has_chains(structure.second):
            steep = max(1.0, parameters[HILL])
            flow = abs(entering - leaving)
            share = 1.0 if parameters[HILL] == 1.0 or parameters[HILL] >= 2.0 else SHALLOW
            scale = max(central, 0.0) + share * parameters[HALF_EFFECT] * volume
            if flow > 0.0:
                first = min(first, max(TRANSIENT * scale / flow / steep, 1e-6 / fastest))
        first = min(first, TRANSIENT / (steep * fastest))
        longest = min(longest, LASTING / (steep * (rates[amounts.size - 1] + range_of_slope)))
        if structure.second == MYELOSUPPRESSION:
            longest = min(longest, MARROW * parameters[RESPONSE_TIME] / 4.0)
    return min(first, longest), longest, every
