"""Between-subject variability as the first prior of every twin: eta ~ N(0, omega) on the log scale."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from twinstate.types import EtaMatrix


def log_sd_of_cv(cv: float) -> float:
    """Standard deviation of ln(P) when P is log-normal with this coefficient of variation.

    omega^2 = ln(1 + CV^2), exact for a log-normal. NONMEM's shorthand omega^2 = CV^2 differs by 3 % of the SD at a CV
    of 40 %; a paper that used it gives `between_subject_sd` or `between_subject_variance` instead.
    """
    return math.sqrt(math.log1p(cv * cv))


def prior_covariance(log_sd: Sequence[float], correlations: Mapping[tuple[int, int], float]) -> EtaMatrix:
    """Assemble omega from standard deviations and correlations.

    Args:
        log_sd: Standard deviation of each log-parameter, in the order of the etas.
        correlations: Correlation of the etas with these two positions; absent pairs are independent.

    Returns:
        Covariance, shape (eta, eta).

    Raises:
        ValueError: The matrix is not positive definite.
    """
    omega = np.diag(np.square(np.asarray(log_sd, dtype=np.float64)))
    for (i, j), correlation in correlations.items():
        omega[i, j] = omega[j, i] = correlation * log_sd[i] * log_sd[j]
    try:
        np.linalg.cholesky(omega)
    except np.linalg.LinAlgError:
        raise ValueError(
            f"standard deviations {list(log_sd)} with these correlations give no valid covariance"
        ) from None
    return omega
