"""Small dense linear algebra in a fixed order: Cholesky factors, triangular solves, symmetric eigenvalues.

The matrices here are small (a few etas, up to about a hundred levels). Library kernels choose their order of
summation by machine and size; these do not, so that a twin's bits depend on its records alone.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from twinstate.kernels import kernel

Floats = NDArray[np.float64]

JACOBI_SWEEPS = 30
# Eigenvalues are lifted to this share of the largest when a matrix has lost its positive definiteness.
EIGENVALUE_FLOOR = 1e-12


@kernel
def cholesky(matrix: Floats, factor: Floats) -> bool:
    """Fill the lower factor L of matrix = L L^T; False (factor unfinished) when a pivot is not above 0.

    Args:
        matrix: Symmetric, (n, n); only its lower triangle is read.
        factor: Filled, upper triangle 0, (n, n).
    """
    size = matrix.shape[0]
    for column in range(size):
        for row in range(column):
            factor[row, column] = 0.0
        for row in range(column, size):
            total = matrix[row, column]
            for k in range(column):
                total -= factor[row, k] * factor[column, k]
            if row > column:
                factor[row, column] = total / factor[column, column]
            elif total > 0.0:
                factor[column, column] = math.sqrt(total)
            else:
                return False
    return True


@kernel
def solve_lower(factor: Floats, vector: Floats) -> None:
    """Replace `vector` (n,) by x with L x = vector, L = `factor` (n, n)."""
    for row in range(vector.size):
        total = vector[row]
        for k in range(row):
            total -= factor[row, k] * vector[k]
        vector[row] = total / factor[row, row]


@kernel
def solve_lower_transposed(factor: Floats, vector: Floats) -> None:
    """Replace `vector` (n,) by x with L^T x = vector, L = `factor` (n, n)."""
    for row in range(vector.size - 1, -1, -1):
        total = vector[row]
        for k in range(row + 1, vector.size):
            total -= factor[k, row] * vector[k]
        vector[row] = total / factor[row, row]


@kernel
def times_transposed(left: Floats, right: Floats) -> Floats:
    """Left (m, k) times the transpose of right (n, k), summed over k in order: (m, n)."""
    product = np.empty((left.shape[0], right.shape[0]))
    for row in range(left.shape[0]):
        for column in range(right.shape[0]):
            total = 0.0
            for k in range(left.shape[1]):
                total += left[row, k] * right[column, k]
            product[row, column] = total
    return product


@kernel
def symmetrise(matrix: Floats) -> None:
    """Replace `matrix` (n, n) by the mean of itself and its transpose."""
    for row in range(matrix.shape[0]):
        for column in range(row):
            middle = 0.5 * (matrix[row, column] + matrix[column, row])
            matrix[row, column] = middle
            matrix[column, row] = middle


@kernel
def symmetric_eigen(matrix: Floats) -> tuple[Floats, Floats]:
    """Eigenvalues (n,) and eigenvectors (n, n; columns) of a symmetric matrix, by cyclic Jacobi rotations.

    Args:
        matrix: Symmetric, (n, n); not changed.

    References:
        Golub, Van Loan (2013), Matrix Computations, 4th ed., section 8.5.
    """
    size = matrix.shape[0]
    turned = matrix.copy()
    vectors = np.eye(size)
    for _ in range(JACOBI_SWEEPS):
        off = 0.0
        scale = 0.0
        for row in range(size):
            scale += turned[row, row] * turned[row, row]
            for column in range(row):
                off += turned[row, column] * turned[row, column]
        if not off > 1e-32 * scale:
            break
        for p in range(size - 1):
            for q in range(p + 1, size):
                if turned[p, q] == 0.0:
                    continue
                slope = (turned[q, q] - turned[p, p]) / (2.0 * turned[p, q])
                tangent = 1.0 / (abs(slope) + math.sqrt(slope * slope + 1.0))
                if slope < 0.0:
                    tangent = -tangent
                cosine = 1.0 / math.sqrt(tangent * tangent + 1.0)
                sine = tangent * cosine
                for k in range(size):
                    at_p, at_q = turned[k, p], turned[k, q]
                    turned[k, p] = cosine * at_p - sine * at_q
                    turned[k, q] = sine * at_p + cosine * at_q
                for k in range(size):
                    at_p, at_q = turned[p, k], turned[q, k]
                    turned[p, k] = cosine * at_p - sine * at_q
                    turned[q, k] = sine * at_p + cosine * at_q
                for k in range(size):
                    at_p, at_q = vectors[k, p], vectors[k, q]
                    vectors[k, p] = cosine * at_p - sine * at_q
                    vectors[k, q] = sine * at_p + cosine * at_q
    values = np.empty(size)
    for k in range(size):
        values[k] = turned[k, k]
    return values, vectors


@kernel
def root(covariance: Floats) -> Floats:
    """Lower factor L (n, n) with L L^T = covariance, which is first made positive definite if it is not.

    Eigenvalues below `EIGENVALUE_FLOOR` times the largest are lifted to it. A matrix with NaN gives NaN.
    """
    size = covariance.shape[0]
    factor = np.empty((size, size))
    if cholesky(covariance, factor):
        return factor
    values, vectors = symmetric_eigen(covariance)
    largest = 0.0
    for k in range(size):
        largest = max(largest, values[k])
    scaled = np.empty((size, size))
    for k in range(size):
        lifted = max(values[k], EIGENVALUE_FLOOR * largest)
        for row in range(size):
            scaled[row, k] = vectors[row, k] * math.sqrt(lifted)
    if not cholesky(times_transposed(scaled, scaled), factor):
        factor[:] = np.nan
    return factor
