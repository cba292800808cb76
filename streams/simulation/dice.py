"""Draws of the virtual wards: a generator for each patient from the seed alone, so that none moves another's."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


class Dice:
    """Random draws for one purpose.

    The same seed and path give the same draws on every machine; another path gives independent ones.
    """

    def __init__(self, seed: int, *path: int) -> None:
        """Set up the generator.

        Args:
            seed: Of the ward, 0 or above.
            path: What the draws are for, such as (ward, patient).
        """
        self._generator = np.random.default_rng([seed, *path])

    def between(self, low: float, high: float) -> float:
        """Uniform."""
        return float(self._generator.uniform(low, high))

    def whole(self, low: int, high: int) -> int:
        """A whole number, both ends included."""
        return int(self._generator.integers(low, high + 1))

    def chance(self, probability: float) -> bool:
        """True with this probability."""
        return bool(self._generator.random() < probability)

    def normal(self, low: float = -math.inf, high: float = math.inf) -> float:
        """Standard normal, drawn again until it lies between the limits."""
        while True:
            value = float(self._generator.standard_normal())
            if low <= value <= high:
                return value

    def normals(self, count: int) -> Floats:
        """Standard normals, shape (count,)."""
        return self._generator.standard_normal(count)

    def uniforms(self, count: int) -> Floats:
        """Uniform on [0, 1), shape (count,)."""
        return self._generator.random(count)

    def order(self, count: int) -> list[int]:
        """0 to count - 1 in random order."""
        return [int(i) for i in self._generator.permutation(count)]


def omega2(cv: float) -> float:
    """Variance of the log of a log-normal parameter with this coefficient of variation."""
    return math.log1p(cv * cv)


def wandering(dice: Dice, readings: int, step_h: float, time_constant_h: float) -> Floats:
    """AR(1) noise of standard deviation 1, shape (readings,).

    Args:
        dice: Draws it.
        readings: How many.
        step_h: Between two of them.
        time_constant_h: After which the autocorrelation is 1/e.
    """
    kept = math.exp(-step_h / time_constant_h)
    steps = math.sqrt(1.0 - kept * kept) * dice.normals(readings)
    noise = np.empty(readings)
    last = dice.normal()
    for i, step in enumerate(steps):
        last = kept * last + float(step)
        noise[i] = last
    return noise
