"""Modes against the eigenvalues of the rate matrix, as LAPACK finds them."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from twinstate.pk.disposition import dispose


def modes(compartments: int, parameters: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rates = np.empty(compartments)
    into, out = np.empty((compartments, compartments)), np.empty((compartments, compartments))
    dispose(compartments, parameters, rates, into, out)
    return rates, into, out


@given(
    clearance=st.floats(0.01, 50),
    volume=st.floats(1, 200),
    exchange=st.floats(0.01, 50),
    peripheral=st.floats(1, 1000),
)
def test_modes_rebuild_the_rate_matrix_of_two_compartments(
    clearance: float, volume: float, exchange: float, peripheral: float
) -> None:
    rates, into, out = modes(2, np.array([clearance, volume, exchange, peripheral, 0, 0, 1, 0.0]))
    matrix = np.array(
        [
            [-(clearance + exchange) / volume, exchange / peripheral],
            [exchange / volume, -exchange / peripheral],
        ]
    )
    np.testing.assert_allclose(out @ into, np.eye(2), atol=1e-10)
    np.testing.assert_allclose(out @ np.diag(-rates) @ into, matrix, atol=1e-11 * abs(matrix).max())
    np.testing.assert_allclose(np.sort(-rates), np.sort(np.linalg.eigvals(matrix).real), rtol=1e-6)
    assert rates[0] > rates[1] > 0


def test_without_exchange_two_compartments_are_one() -> None:
    rates, into, _ = modes(2, np.array([4.0, 50.0, 0.0, 0.0, 0, 0, 1, 0.0]))
    assert rates[0] == 4.0 / 50.0
    assert tuple(into[:, 0]) == (1.0, 0.0)


def test_disposition_nobody_has_written_is_not_a_number() -> None:
    rates, _, _ = modes(3, np.ones(8))
    assert np.isnan(rates).all()
