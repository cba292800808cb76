"""The row of transit compartments against SciPy's matrix exponential."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.linalg import expm

from twinstate.pk.course import STRUCTURAL_PARAMETERS
from twinstate.pk.gut import apply_step, set_step, square


@pytest.mark.parametrize("transits", [1, 2, 5, 9])
@pytest.mark.parametrize("absorption", [0.0, 0.3, 2.0, 2.0000001, 7.0])
@pytest.mark.parametrize("time", [0.01, 0.2, 3.0, 40.0])
def test_step_of_the_row_is_the_exponential_of_its_rates(
    transits: int, absorption: float, time: float
) -> None:
    parameters = np.zeros(len(STRUCTURAL_PARAMETERS))
    parameters[STRUCTURAL_PARAMETERS.index("transit_rate")] = 2.0
    parameters[STRUCTURAL_PARAMETERS.index("absorption_rate")] = absorption
    gut = np.zeros((transits + 3, transits + 1))
    set_step(parameters, time, gut)
    # SciPy loses digits where rates nearly coincide; apart from there both agree to 1e-12.
    rates = np.diag([-2.0] * transits + [-absorption]) + np.diag([2.0] * transits, -1)
    np.testing.assert_allclose(gut[1:-1], expm(rates * time), rtol=2e-9, atol=1e-13)
    twice = gut[1:-1].copy()
    square(twice)
    np.testing.assert_allclose(twice, expm(rates * 2 * time), rtol=2e-9, atol=1e-13)
    row = np.arange(1.0, transits + 2)
    expected = expm(rates * time) @ row
    apply_step(gut[1:-1], row)
    np.testing.assert_allclose(row, expected, rtol=2e-9, atol=1e-12)
