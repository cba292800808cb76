"""The normal tail against SciPy."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import log_ndtr
from scipy.stats import norm

from twinstate.assimilation.normal import cumulative, density_over_cumulative, log_cumulative


@pytest.mark.parametrize("x", [*np.linspace(-40, 8, 49), -24.999, -25.001, -1e4])
def test_tail_agrees_with_scipy_however_far_out(x: float) -> None:
    assert cumulative(x) == pytest.approx(norm.cdf(x), rel=1e-12, abs=1e-300)
    assert log_cumulative(x) == pytest.approx(float(log_ndtr(x)), rel=1e-9, abs=1e-18)
    assert density_over_cumulative(x) == pytest.approx(float(np.exp(norm.logpdf(x) - log_ndtr(x))), rel=1e-6)
