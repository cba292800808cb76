"""The exact elements of one step: what a mode holds, and has held, after a while of decay and input.

A mode with decay rate r obeys dx/dt = -r x + input. Its answers to the three inputs below are divided
differences of the exponential; each is written so that no two nearly equal numbers are subtracted, whichever
rates coincide or vanish (McCurdy, Ng, Parlett 1984, Math. Comp. 43:501-528, on such differences).
"""

from __future__ import annotations

import math

from twinstate.kernels import kernel

# Below this size a difference is taken from its series; above it the quotient loses less than a digit or two.
SERIES_BELOW = 0.1
SERIES_TERMS = 9


@kernel
def held(rate: float, time: float, decay: float) -> float:
    """Integral of exp(-rate s) over [0, time]: a unit amount's time in the mode; a unit rate's amount.

    Args:
        rate: 1/h.
        time: h.
        decay: exp(-rate * time), which the caller has already.

    Returns:
        Hours.
    """
    x = rate * time
    if x > 1.0:
        return (1.0 - decay) / rate
    if x == 0.0:
        return time
    return -math.expm1(-x) / rate


@kernel
def held_under_infusion(rate: float, time: float, unit_held: float) -> float:
    """Integral of `held` over [0, time]: the area under a mode filled at unit rate, in h^2.

    Args:
        rate: 1/h.
        time: h.
        unit_held: `held` at the same rate and time, h.
    """
    x = rate * time
    if x > SERIES_BELOW:
        return (time - unit_held) / rate
    term = 0.5
    total = 0.5
    for order in range(3, 3 + SERIES_TERMS):
        term *= -x / order
        total += term
    return time * time * total


@kernel
def absorbed(rate: float, absorption: float, time: float, decay: float, depot_decay: float) -> float:
    """Amount in a mode fed by exp(-absorption s), h.

    It is (exp(-rate t) - exp(-absorption t)) / (absorption - rate).

    Args:
        rate: Decay of the mode, 1/h.
        absorption: Decay of the input, 1/h.
        time: h.
        decay: exp(-rate * time).
        depot_decay: exp(-absorption * time).
    """
    x = (absorption - rate) * time
    if abs(x) > 1.0:
        return (decay - depot_decay) / (absorption - rate)
    if x == 0.0:
        return time * decay
    return -decay * math.expm1(-x) / (absorption - rate)


@kernel
def held_under_absorption(
    rate: float, absorption: float, time: float, unit_held: float, depot_held: float, unit_absorbed: float
) -> float:
    """Integral of `absorbed` over [0, time], in h^2: the area under a mode fed by a first-order depot.

    Args:
        rate: Decay of the mode, 1/h.
        absorption: Decay of the input, 1/h.
        time: h.
        unit_held: `held` at `rate`, h.
        depot_held: `held` at `absorption`, h.
        unit_absorbed: `absorbed` at the same time, h.
    """
    x = rate * time
    y = absorption * time
    if x >= y and x > SERIES_BELOW:
        return (depot_held - unit_absorbed) / rate
    if y > SERIES_BELOW:
        return (unit_held - unit_absorbed) / absorption
    # Sum over n of (-1)^n h_n(x, y) / (n + 2)!, h_n the sum of all products of n factors x or y.
    power = 1.0
    mixed = 1.0
    factorial = 2.0
    total = 0.5
    for order in range(1, SERIES_TERMS):
        power *= -y
        mixed = -x * mixed + power
        factorial *= order + 2
        total += mixed / factorial
    return time * time * total


@kernel
def passed_on(first: float, second: float, third: float, time: float) -> float:
    """Divided difference of exp(-rate * time) over three rates, in h^2: the end of a row of three.

    What the third of three compartments in a row holds when the first began with a unit and each passes on at
    unit flow. The order of the rates does not matter.

    Args:
        first: Decay of one, 1/h.
        second: Decay of another, 1/h.
        third: Decay of the last, 1/h.
        time: h.
    """
    slowest = min(first, min(second, third))
    fastest = max(first, max(second, third))
    # Taking the slowest out of all three leaves the area of a step; the middle comes by choice, not by sums.
    middle = max(min(first, second), min(max(first, second), third))
    x = middle - slowest
    y = fastest - slowest
    x_decay = math.exp(-x * time)
    y_decay = math.exp(-y * time)
    return math.exp(-slowest * time) * held_under_absorption(
        x, y, time, held(x, time, x_decay), held(y, time, y_decay), absorbed(x, y, time, x_decay, y_decay)
    )


@kernel
def averages(x: float, decay: float) -> tuple[float, float, float, float]:
    """The integrals of exp(-x (1 - s)) s^(n-1) / (n-1)! over s in [0, 1], for n = 1 to 4 (phi functions).

    Args:
        x: Rate times step.
        decay: exp(-x), which the caller has already.
    """
    if x > 1.0:
        first = (1.0 - decay) / x
        second = (1.0 - first) / x
        third = (0.5 - second) / x
        return first, second, third, (1.0 / 6.0 - third) / x
    term = 1.0 / 24.0
    fourth = term
    for order in range(5, 19):
        term *= -x / order
        fourth += term
    third = 1.0 / 6.0 - x * fourth
    second = 0.5 - x * third
    return 1.0 - x * second, second, third, fourth
