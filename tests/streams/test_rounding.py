"""How numbers are shown to people."""

from __future__ import annotations

import pytest

from streams.rounding import chance, readable, span


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (1836.97, "1837"),
        (103.7, "104"),
        (47.34, "47.3"),
        (0.0203, "0.0203"),
        (0.00031, "0.0003"),
        (0.0, "0"),
        (-12.3, "-12.3"),
    ],
)
def test_numbers_keep_three_digits_and_no_power_of_ten(value: float, shown: str) -> None:
    assert readable(value) == shown


def test_interval_stands_beside_its_median() -> None:
    assert span(1837.0, 1477.0, 2299.0) == "1837 (1477 to 2299)"


@pytest.mark.parametrize(
    ("probability", "shown"),
    [(1.0, "> 0.99"), (0.0, "< 0.01"), (0.42, "0.42"), (0.99, "0.99"), (0.01, "0.01")],
)
def test_no_probability_is_shown_as_certain(probability: float, shown: str) -> None:
    assert chance(probability) == shown
