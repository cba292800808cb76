"""How a drug leaves the central compartment: clearances and volumes as a sum of decaying exponentials.

Every linear disposition has as many modes as compartments. Mode j decays at its own rate and the amounts of
the modes add up to the central amount, so an exact step is one exponential a mode. Two small matrices join
modes and compartments; column 0 of `into_modes` is the response to a unit bolus into the central compartment.

A new disposition is one function that fills the three arrays, and one row in `dispose`.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from twinstate.kernels import kernel

Floats = NDArray[np.float64]


@kernel
def one_compartment(parameters: Floats, rates: Floats, into_modes: Floats, from_modes: Floats) -> None:
    """Fill the disposition of a single compartment.

    Args:
        parameters: Structural parameters (parameters,) in the order of `course.STRUCTURAL_UNITS`.
        rates: Filled with the decay rate of each mode, 1/h, shape (modes,).
        into_modes: Filled with modal amount per compartment amount, shape (modes, compartments).
        from_modes: Filled with compartment amount per modal amount, shape (compartments, modes).
    """
    rates[0] = parameters[0] / parameters[1]
    into_modes[0, 0] = 1.0
    from_modes[0, 0] = 1.0


@kernel
def two_compartments(parameters: Floats, rates: Floats, into_modes: Floats, from_modes: Floats) -> None:
    """Fill the disposition of a central and a peripheral compartment.

    With k21 the return rate, the two distances a = rate_0 - k21 and b = k21 - rate_1 obey a b = k12 k21,
    which gives the smaller of the two without cancellation.

    Args:
        parameters: Structural parameters (parameters,) in the order of `course.STRUCTURAL_UNITS`.
        rates: Filled with the decay rates, fast and slow, 1/h, shape (2,).
        into_modes: Filled with modal amount per compartment amount, shape (2, 2).
        from_modes: Filled with compartment amount per modal amount, shape (2, 2).

    References:
        Gibaldi, Perrier (1982), Pharmacokinetics, 2nd ed., ch. 2 (two-compartment model).
    """
    elimination = parameters[0] / parameters[1]
    outward = parameters[2] / parameters[1]
    back = parameters[2] / parameters[3] if parameters[2] > 0.0 else 0.0
    excess = elimination + outward - back
    gap = math.sqrt(excess * excess + 4.0 * outward * back)  # rate_0 - rate_1
    if excess > 0.0:
        above = 0.5 * (gap + excess)
        below = outward * back / above
    else:
        below = 0.5 * (gap - excess)
        above = outward * back / below
    rates[0] = back + above
    rates[1] = elimination * back / rates[0]
    into_modes[0, 0] = above / gap
    into_modes[1, 0] = below / gap
    into_modes[0, 1] = -back / gap
    into_modes[1, 1] = back / gap
    from_modes[0, 0] = 1.0
    from_modes[0, 1] = 1.0
    # Without exchange nothing ever reaches the peripheral compartment.
    from_modes[1, 0] = -below / back if back > 0.0 else 0.0
    from_modes[1, 1] = above / back if back > 0.0 else 0.0


@kernel
def dispose(
    compartments: int, parameters: Floats, rates: Floats, into_modes: Floats, from_modes: Floats
) -> None:
    """Fill the disposition of this many compartments; an unknown number leaves NaN.

    Args:
        compartments: How many compartments the course's structure has.
        parameters: Structural parameters (parameters,) in the order of `course.STRUCTURAL_UNITS`.
        rates: Filled, 1/h, shape (modes,).
        into_modes: Filled, shape (modes, compartments).
        from_modes: Filled, shape (compartments, modes).
    """
    if compartments == 1:
        one_compartment(parameters, rates, into_modes, from_modes)
    elif compartments == 2:
        two_compartments(parameters, rates, into_modes, from_modes)
    else:
        rates[:] = np.nan
