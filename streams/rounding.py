"""Numbers for people: as many digits as they can use, and no probability of 0 or 1 that no simulation can know."""

from __future__ import annotations


def readable(value: float) -> str:
    """Three significant digits, never in powers of ten: 1837, 47.3, 0.52, 0.003."""
    if abs(value) >= 100.0:
        return f"{value:.0f}"
    if abs(value) >= 0.001:
        return f"{value:.3g}"
    return "0" if value == 0.0 else f"{value:.1g}"


def span(median: float, low: float, high: float) -> str:
    """Median and 90 % interval."""
    return f"{readable(median)} ({readable(low)} to {readable(high)})"


def chance(probability: float) -> str:
    """A probability to two digits."""
    if probability > 0.99:
        return "> 0.99"
    return "< 0.01" if probability < 0.01 else f"{probability:.2f}"
