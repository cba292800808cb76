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
from twinstate.pk.columns import (
    CENTRAL_VOLUME,
    CLEARANCE,
    EXCHANGE,
    PERIPHERAL_VOLUME,
    SECOND_EXCHANGE,
    SECOND_PERIPHERAL_VOLUME,
)

Floats = NDArray[np.float64]

# Jacobi's rotations: an element this small beside its diagonal is nought; three by three need five sweeps or so.
NEGLIGIBLE = 1e-17
MOST_SWEEPS = 20
# Least relative distance between the return rates of two peripheral compartments.
SEPARATION = 1e-8


@kernel
def one_compartment(parameters: Floats, rates: Floats, into_modes: Floats, from_modes: Floats) -> None:
    """Fill the disposition of a single compartment.

    Args:
        parameters: Structural parameters (parameters,) in the order of `course.STRUCTURAL_UNITS`.
        rates: Filled with the decay rate of each mode, 1/h, shape (modes,).
        into_modes: Filled with modal amount per compartment amount, shape (modes, compartments).
        from_modes: Filled with compartment amount per modal amount, shape (compartments, modes).
    """
    rates[0] = parameters[CLEARANCE] / parameters[CENTRAL_VOLUME]
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
    elimination = parameters[CLEARANCE] / parameters[CENTRAL_VOLUME]
    outward = parameters[EXCHANGE] / parameters[CENTRAL_VOLUME]
    back = parameters[EXCHANGE] / parameters[PERIPHERAL_VOLUME] if parameters[EXCHANGE] > 0.0 else 0.0
    excess = elimination + outward - back
    gap = math.sqrt(excess * excess + 4.0 * outward * back)  # rate_0 - rate_1
    if gap == 0.0:  # neither exchange nor elimination
        rates[:] = 0.0
        into_modes[:] = 0.0
        from_modes[:] = 0.0
        into_modes[0, 0] = 1.0
        from_modes[0, 0] = 1.0
        return
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
def _rotate(matrix: Floats, vectors: Floats, first: int, second: int) -> None:
    """One Jacobi rotation: make `matrix[first, second]` nought, turning the columns of `vectors` along."""
    if matrix[first, second] == 0.0:
        return
    cotangent = (matrix[second, second] - matrix[first, first]) / (2.0 * matrix[first, second])
    tangent = 1.0 / (abs(cotangent) + math.hypot(cotangent, 1.0))
    if cotangent < 0.0:
        tangent = -tangent
    cosine = 1.0 / math.sqrt(tangent * tangent + 1.0)
    sine = tangent * cosine
    moved = tangent * matrix[first, second]
    matrix[first, first] -= moved
    matrix[second, second] += moved
    matrix[first, second] = 0.0
    matrix[second, first] = 0.0
    third = 3 - first - second
    before, after = matrix[third, first], matrix[third, second]
    matrix[third, first] = matrix[first, third] = cosine * before - sine * after
    matrix[third, second] = matrix[second, third] = sine * before + cosine * after
    for row in range(3):
        before, after = vectors[row, first], vectors[row, second]
        vectors[row, first] = cosine * before - sine * after
        vectors[row, second] = sine * before + cosine * after


@kernel
def three_compartments(parameters: Floats, rates: Floats, into_modes: Floats, from_modes: Floats) -> None:
    """Fill the disposition of a central and two peripheral compartments that each exchange with it.

    Scaling the peripheral amounts makes the rate matrix symmetric, positive and graded, which Jacobi's
    rotations diagonalise without losing small rates beside large ones; the smallest follows from the product
    of all three, as nothing but elimination keeps it from nought.

    Args:
        parameters: Structural parameters (parameters,) in the order of `course.STRUCTURAL_UNITS`.
        rates: Filled with the decay rates, descending, 1/h, shape (3,).
        into_modes: Filled with modal amount per compartment amount, shape (3, 3).
        from_modes: Filled with compartment amount per modal amount, shape (3, 3).

    References:
        Demmel, Veselic (1992), SIAM J. Matrix Anal. Appl. 13:1204-1245 (Jacobi's method keeps the digits).
    """
    elimination = parameters[CLEARANCE] / parameters[CENTRAL_VOLUME]
    outward = parameters[EXCHANGE] / parameters[CENTRAL_VOLUME]
    outward_second = parameters[SECOND_EXCHANGE] / parameters[CENTRAL_VOLUME]
    back = parameters[EXCHANGE] / parameters[PERIPHERAL_VOLUME] if outward > 0.0 else 0.0
    back_second = (
        parameters[SECOND_EXCHANGE] / parameters[SECOND_PERIPHERAL_VOLUME] if outward_second > 0.0 else 0.0
    )
    # Two peripheral compartments that return alike have a mode the centre never sees; it is kept in sight.
    if outward_second > 0.0 and abs(back_second - back) < SEPARATION * back:
        back_second = back * (1.0 + SEPARATION)
    matrix = np.zeros((3, 3))
    vectors = np.eye(3)
    matrix[0, 0] = elimination + outward + outward_second
    matrix[1, 1] = back
    matrix[2, 2] = back_second
    matrix[0, 1] = matrix[1, 0] = -math.sqrt(outward * back)
    matrix[0, 2] = matrix[2, 0] = -math.sqrt(outward_second * back_second)
    for _ in range(MOST_SWEEPS):
        if matrix[0, 1] == 0.0 and matrix[0, 2] == 0.0 and matrix[1, 2] == 0.0:
            break
        for first, second in ((0, 1), (0, 2), (1, 2)):
            beside = math.sqrt(abs(matrix[first, first] * matrix[second, second]))
            if abs(matrix[first, second]) <= NEGLIGIBLE * beside:
                matrix[first, second] = matrix[second, first] = 0.0
            _rotate(matrix, vectors, first, second)
    order = np.argsort(-np.diag(matrix))
    for mode in range(3):
        rates[mode] = matrix[order[mode], order[mode]]
    if outward > 0.0 and outward_second > 0.0:
        rates[2] = elimination / rates[0] * (back / rates[1]) * back_second
    into_modes[:] = 0.0
    from_modes[:] = 0.0
    scale = np.array(
        [
            1.0,
            math.sqrt(outward / back) if outward > 0.0 else 0.0,
            math.sqrt(outward_second / back_second) if outward_second > 0.0 else 0.0,
        ]
    )
    for mode in range(3):
        central = vectors[0, order[mode]]
        for compartment in range(3):
            # Without exchange nothing ever reaches the compartment.
            if scale[compartment] > 0.0:
                part = vectors[compartment, order[mode]]
                into_modes[mode, compartment] = central * part / scale[compartment]
                from_modes[compartment, mode] = scale[compartment] * part / central if central != 0.0 else 0.0


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
    elif compartments == 3:
        three_compartments(parameters, rates, into_modes, from_modes)
    else:
        rates[:] = np.nan
