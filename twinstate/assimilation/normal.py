"""The standard normal distribution's tail, accurate far out: what a level below the limit needs."""

from __future__ import annotations

import math

from twinstate.kernels import kernel

LOG_SQRT_TWO_PI = 0.9189385332046727
# Below this the distribution function is taken from its asymptotic series; erfc underflows at -38.
FAR_BELOW = -25.0


@kernel
def cumulative(x: float) -> float:
    """P(Z < x) for standard normal Z."""
    return 0.5 * math.erfc(-x * 0.7071067811865476)


@kernel
def log_cumulative(x: float) -> float:
    """Ln P(Z < x) for standard normal Z, finite for every finite x.

    References:
        Abramowitz, Stegun (1964), 26.2.12 (asymptotic series).
    """
    if x > 0.0:
        return math.log1p(-0.5 * math.erfc(x * 0.7071067811865476))
    if x > FAR_BELOW:
        return math.log(cumulative(x))
    inverse = 1.0 / (x * x)
    series = 1.0 - inverse * (1.0 - 3.0 * inverse * (1.0 - 5.0 * inverse))
    return -0.5 * x * x - math.log(-x) - LOG_SQRT_TWO_PI + math.log(series)


@kernel
def density_over_cumulative(x: float) -> float:
    """Standard normal density at x over P(Z < x): the mean of Z given Z < x, with its sign turned."""
    return math.exp(-0.5 * x * x - LOG_SQRT_TWO_PI - log_cumulative(x))
