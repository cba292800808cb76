"""Modes against the eigenvalues of the rate matrix, as LAPACK finds them."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from twinstate.pk.course import STRUCTURAL_UNITS
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


@given(
    logs=st.lists(st.floats(-4.0, 4.0), min_size=6, max_size=6),
    alike=st.booleans(),
)
def test_modes_rebuild_the_rate_matrix_of_three_compartments(logs: list[float], alike: bool) -> None:
    parameters = np.zeros(len(STRUCTURAL_UNITS))
    clearance, volume, exchange, peripheral, second, other = np.exp(logs)
    if alike:  # both peripheral compartments return at the same rate
        other = peripheral * second / exchange
    parameters[:4] = clearance, volume, exchange, peripheral
    parameters[8:10] = second, other
    rates, into, out = modes(3, parameters)
    matrix = np.array(
        [
            [-(clearance + exchange + second) / volume, exchange / peripheral, second / other],
            [exchange / volume, -exchange / peripheral, 0],
            [second / volume, 0, -second / other],
        ]
    )
    # Balanced, as the symmetric form is: eigenvalues of the plain matrix lose the small ones to rounding.
    scale = np.sqrt([1.0, peripheral / volume, other / volume])
    symmetric = matrix * scale / scale[:, np.newaxis]
    np.testing.assert_allclose(rates, -np.linalg.eigvalsh(symmetric), rtol=1e-7, atol=1e-13 * rates[0])
    np.testing.assert_allclose(into[:, 0].sum(), 1.0, rtol=1e-13)
    rebuilt = (out / scale[:, np.newaxis]) @ np.diag(-rates) @ (into * scale)
    np.testing.assert_allclose(rebuilt, symmetric, atol=1e-7 * rates[0])


def test_smallest_rate_of_three_compartments_keeps_its_digits() -> None:
    parameters = np.zeros(len(STRUCTURAL_UNITS))
    parameters[:4] = 1e-9, 10.0, 1000.0, 30.0
    parameters[8:10] = 500.0, 60.0
    rates, _, _ = modes(3, parameters)
    # As nearly nothing leaves, all volumes empty together: CL / (V1 + V2 + V3), less by a share of 1e-12.
    np.testing.assert_allclose(rates[2], 1e-9 / 100.0, rtol=1e-11)


def test_without_second_exchange_three_compartments_are_two() -> None:
    parameters = np.zeros(len(STRUCTURAL_UNITS))
    parameters[:4] = 4.0, 50.0, 6.0, 30.0
    rates, into, out = modes(3, parameters)
    by_two, into_two, out_two = modes(2, parameters)
    active = [int(np.argmin(abs(rates - rate))) for rate in by_two]
    np.testing.assert_allclose(rates[active], by_two, rtol=1e-14)
    np.testing.assert_allclose(into[active, 0], into_two[:, 0], rtol=1e-13)
    np.testing.assert_allclose(out[1, active], out_two[1], rtol=1e-13)


def test_drug_that_neither_leaves_nor_moves_stays() -> None:
    for compartments in (1, 2, 3):
        parameters = np.zeros(len(STRUCTURAL_UNITS))
        parameters[1] = parameters[3] = parameters[9] = 10.0
        rates, into, _ = modes(compartments, parameters)
        assert not rates.any()
        assert into[:, 0].sum() == 1.0


def test_without_exchange_two_compartments_are_one() -> None:
    rates, into, _ = modes(2, np.array([4.0, 50.0, 0.0, 0.0, 0, 0, 1, 0.0]))
    assert rates[0] == 4.0 / 50.0
    assert tuple(into[:, 0]) == (1.0, 0.0)


def test_disposition_nobody_has_written_is_not_a_number() -> None:
    rates, _, _ = modes(4, np.ones(27))
    assert np.isnan(rates).all()
