"""Fixed-order linear algebra against LAPACK."""

from __future__ import annotations

import numpy as np
import pytest

from twinstate.assimilation.linear import (
    cholesky,
    root,
    solve_lower,
    solve_lower_transposed,
    symmetric_eigen,
)


def positive(size: int) -> np.ndarray:
    matrix = np.random.default_rng(size).normal(size=(size, size))
    return matrix @ matrix.T + 0.01 * np.eye(size)


@pytest.mark.parametrize("size", [1, 2, 5, 8, 60])
def test_cholesky_and_solves_agree_with_lapack(size: int) -> None:
    matrix = positive(size)
    factor = np.empty((size, size))
    assert cholesky(matrix, factor)
    np.testing.assert_allclose(factor, np.linalg.cholesky(matrix), rtol=1e-9, atol=1e-9)
    vector = np.arange(1.0, size + 1)
    solve_lower(factor, vector)
    solve_lower_transposed(factor, vector)
    np.testing.assert_allclose(matrix @ vector, np.arange(1.0, size + 1), rtol=1e-7)


@pytest.mark.parametrize("size", [1, 2, 5, 8, 30])
def test_eigenvalues_agree_with_lapack(size: int) -> None:
    matrix = positive(size) - np.eye(size)
    values, vectors = symmetric_eigen(matrix)
    np.testing.assert_allclose(np.sort(values), np.linalg.eigvalsh(matrix), rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(vectors * values @ vectors.T, matrix, atol=1e-12 * abs(matrix).max() * size)


def test_root_of_a_covariance_that_lost_its_positivity_is_close_and_real() -> None:
    matrix = np.array([[1.0, 1.0, 0.0], [1.0, 1.0, 0.0], [0.0, 0.0, -1e-17]])
    factor = root(matrix)
    np.testing.assert_allclose(factor @ factor.T, matrix, atol=1e-11)
    assert (np.diag(factor) > 0).all()


def test_root_of_what_is_not_a_number_is_not_a_number() -> None:
    assert np.isnan(root(np.full((2, 2), np.nan))).all()
