"""Matrix functions of a small rate matrix: what a step of constant rates and constant input does, exactly.

For dA/dt = K A + r with both constant over a step of length t:

    A(t)              = E A(0) + P r        E = exp(K t)
    integral of A     = P A(0) + Q r        P = integral of exp(K s), Q = integral of P, from 0 to t

All three come from one Taylor polynomial on a step so short that it is exact to the last digit, and from doubling
that step. For the rate matrix of a compartment graph (off-diagonal entries not below 0) every sum in the doubling
is one of non-negative numbers, so small amounts keep their relative accuracy. Order of summation is fixed.

References:
    Higham (2008), Functions of Matrices, ch. 10 (scaling and squaring, phi functions).
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from twinstate.kernels import kernel

Floats = NDArray[np.float64]

# How much of the three matrices a caller wants.
TRANSITION, ONE_INTEGRAL, TWO_INTEGRALS = 0, 1, 2
# Largest 1-norm of K h for the polynomial; eight terms leave less than 1e-16 of it there.
SHORT_STEP = 1.0 / 16.0
TERMS = 8
# A norm beyond 2^60 short steps is no rate of a body.
MOST_DOUBLINGS = 60


@kernel
def multiply(left: Floats, right: Floats, product: Floats) -> None:
    """Fill product = left right (n, n), summed in order; zeros of `left` are skipped (chains are sparse)."""
    size = left.shape[0]
    for row in range(size):
        for column in range(size):
            product[row, column] = 0.0
        for k in range(size):
            factor = left[row, k]
            if factor != 0.0:
                for column in range(size):
                    product[row, column] += factor * right[k, column]


@kernel
def _next_term(scaled: Floats, matrix: Floats, diagonal: float, work: Floats) -> None:
    """Replace `matrix` by diagonal I + scaled matrix: one step of Horner's scheme."""
    multiply(scaled, matrix, work)
    size = scaled.shape[0]
    for row in range(size):
        for column in range(size):
            matrix[row, column] = work[row, column]
        matrix[row, row] += diagonal


@kernel
def step_matrices(
    rates: Floats,
    time: float,
    wanted: int,
    transition: Floats,
    held: Floats,
    twice_held: Floats,
    work: Floats,
) -> bool:
    """Fill E, P and Q of the module's docstring for a step of `time` hours.

    Args:
        rates: K, 1/h, (n, n); column = source, row = destination.
        time: h, not below 0.
        wanted: `TRANSITION`, `ONE_INTEGRAL` (E and P) or `TWO_INTEGRALS`.
        transition: Filled with E, (n, n).
        held: Filled with P where wanted, h, (n, n).
        twice_held: Filled with Q where wanted, h^2, (n, n).
        work: Scratch, (2, n, n).

    Returns:
        False, with E all NaN, when a rate or the time is not finite or too large for `MOST_DOUBLINGS`.
    """
    size = rates.shape[0]
    norm = 0.0
    for column in range(size):
        total = 0.0
        for row in range(size):
            total += abs(rates[row, column])
        if not total <= norm or math.isnan(norm):
            norm = total + norm * 0.0  # a NaN stays one
    reach = norm * time
    doublings = 0
    while reach > SHORT_STEP and doublings <= MOST_DOUBLINGS:
        reach *= 0.5
        doublings += 1
    if not (math.isfinite(norm) and 0.0 <= time < math.inf and doublings <= MOST_DOUBLINGS):
        transition[:] = np.nan
        held[:] = np.nan
        twice_held[:] = np.nan
        return False
    short = math.ldexp(time, -doublings)
    scaled, product = work[0], work[1]
    for row in range(size):
        for column in range(size):
            scaled[row, column] = rates[row, column] * short
    _short_step(scaled, short, wanted, transition, held, twice_held, product)
    for _ in range(doublings):
        if wanted >= TWO_INTEGRALS:  # Q(2h) = Q + h P + E Q
            multiply(transition, twice_held, product)
            for row in range(size):
                for column in range(size):
                    twice_held[row, column] += short * held[row, column] + product[row, column]
        if wanted >= ONE_INTEGRAL:  # P(2h) = P + E P
            multiply(transition, held, product)
            for row in range(size):
                for column in range(size):
                    held[row, column] += product[row, column]
        multiply(transition, transition, product)
        for row in range(size):
            for column in range(size):
                transition[row, column] = product[row, column]
        short *= 2.0
    return True


@kernel
def _short_step(
    scaled: Floats,
    short: float,
    wanted: int,
    transition: Floats,
    held: Floats,
    twice_held: Floats,
    work: Floats,
) -> None:
    """The three matrices of a step so short that the norm of `scaled` = K h is at most `SHORT_STEP`."""
    size = scaled.shape[0]
    # Q / h^2 = sum of (K h)^k / (k + 2)!, P / h = I + (K h) Q / h^2, E = I + (K h) P / h.
    last = TERMS + wanted
    factorial = 1.0
    for k in range(2, last + 1):
        factorial *= k
    first = transition
    if wanted == TWO_INTEGRALS:
        first = twice_held
    elif wanted == ONE_INTEGRAL:
        first = held
    for row in range(size):
        for column in range(size):
            first[row, column] = 0.0
        first[row, row] = 1.0 / factorial
    for k in range(last, wanted, -1):
        factorial /= k
        _next_term(scaled, first, 1.0 / factorial, work)
    if wanted == TWO_INTEGRALS:
        multiply(scaled, twice_held, held)
        for row in range(size):
            held[row, row] += 1.0
    if wanted >= ONE_INTEGRAL:
        multiply(scaled, held, transition)
        for row in range(size):
            transition[row, row] += 1.0
            for column in range(size):
                held[row, column] *= short
                if wanted == TWO_INTEGRALS:
                    twice_held[row, column] *= short * short


@kernel
def solve_in_place(matrix: Floats, vector: Floats, unknowns: int) -> bool:
    """Replace `vector` by x with matrix x = vector, by elimination with row pivots.

    Args:
        matrix: (n, n), of which the first `unknowns` rows and columns count; destroyed.
        vector: (n,); its first `unknowns` entries are replaced.
        unknowns: Size of the system.

    Returns:
        False, with the entries NaN, when the matrix is singular.
    """
    for column in range(unknowns):
        pivot = column
        for row in range(column + 1, unknowns):
            if abs(matrix[row, column]) > abs(matrix[pivot, column]):
                pivot = row
        if not abs(matrix[pivot, column]) > 0.0:
            vector[:unknowns] = np.nan
            return False
        if pivot != column:
            for k in range(unknowns):
                swapped = matrix[column, k]
                matrix[column, k] = matrix[pivot, k]
                matrix[pivot, k] = swapped
            swapped = vector[column]
            vector[column] = vector[pivot]
            vector[pivot] = swapped
        for row in range(column + 1, unknowns):
            factor = matrix[row, column] / matrix[column, column]
            if factor != 0.0:
                for k in range(column, unknowns):
                    matrix[row, k] -= factor * matrix[column, k]
                vector[row] -= factor * vector[column]
    for row in range(unknowns - 1, -1, -1):
        total = vector[row]
        for k in range(row + 1, unknowns):
            total -= matrix[row, k] * vector[k]
        vector[row] = total / matrix[row, row]
    return True
