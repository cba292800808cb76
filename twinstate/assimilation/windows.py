"""Wearable samples folded into 5-minute windows of integers, so that no order of arrival can matter.

A window holds one histogram bin for each step of its channel's resolution. Sums of integers commute exactly: frames may
be split, come in any order, be taken out again when one is corrected, and the window has the same bytes.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from twinstate.catalogue import Signal
from twinstate.history import Window
from twinstate.types import NS_PER_MINUTE, hours

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

WINDOW_NS = 5 * NS_PER_MINUTE
# So many samples without the slightest change come from a device that hangs.
FLAT_LINE_SAMPLES = 30
# SD over median absolute deviation of a normal distribution, 1 / (quantile at 3/4).
NORMAL_SD_OVER_MAD = 1.482602218505602
# Variance of a median of normal samples over that of their mean.
MEDIAN_OVER_MEAN = math.pi / 2


# Fewer samples than these have no spread to speak of.
LEAST_TO_SHOW_SPREAD = 3


class Summary(NamedTuple):
    """What a window says, in the channel's unit.

    Attributes:
        samples: How many were kept.
        median: Of the samples; the middle of the two middle ones when their number is even. NaN without samples.
        mean: Of the samples; NaN without samples.
        robust_sd: Median absolute deviation from the median, scaled to the SD of a normal distribution; NaN without
            samples.
        flat_line: At least `FLAT_LINE_SAMPLES` samples, all the same.
        mostly_artefact: More samples outside the reject bounds than inside.
    """

    samples: int
    median: float
    mean: float
    robust_sd: float
    flat_line: bool
    mostly_artefact: bool


class Readings(NamedTuple):
    """One reading a window, in event-time order.

    Attributes:
        window: Number since 1970, ascending, (windows,).
        time_h: Middle of the window, hours since 1970, (windows,).
        end_h: Its end, hours since 1970, (windows,).
        value: Median of its samples, (windows,); NaN where there is none.
        scatter: Variance of that median round the signal, noise not included, (windows,).
        usable: 0 for a flat line, mostly artefacts or no samples, else 1, (windows,).
    """

    window: Integers
    time_h: Floats
    end_h: Floats
    value: Floats
    scatter: Floats
    usable: Integers


def window_start_h(index: int) -> float:
    """When a window begins, hours since 1970; it ends where the next begins, and that instant is the next one's."""
    return hours(index * WINDOW_NS)


def fold_frame(values: Sequence[float | None], times: Sequence[int], signal: Signal) -> tuple[Window, ...]:
    """Fold one frame's samples into the windows they fall in.

    Args:
        values: Samples in the signal's canonical unit; None where the device gave none: it is skipped.
        times: UTC ns of each sample, as many as `values`, in any order.
        signal: Its resolution quantises the samples; a sample outside its reject bounds (or not finite) counts as an
            artefact and nothing else of it is kept.

    Returns:
        Windows with at least one sample or artefact, by ascending index.

    Raises:
        ValueError: `values` and `times` differ in length.
    """
    steps: dict[int, list[int]] = {}
    artefacts: Counter[int] = Counter()
    for value, time in zip(values, times, strict=True):
        if value is None:
            continue
        index = time // WINDOW_NS
        if signal.reject.holds(value):  # NaN lies in no range
            steps.setdefault(index, []).append(round(value / signal.resolution))
        else:
            artefacts[index] += 1
    return tuple(
        _window(index, steps.get(index, []), artefacts[index])
        for index in sorted(steps.keys() | artefacts.keys())
    )


def add_window(one: Window, other: Window) -> Window:
    """Both windows' samples in one; they must have the same index.

    Raises:
        ValueError: The windows have different indices.
    """
    return _combine(one, other, 1)


def remove_window(whole: Window, part: Window) -> Window:
    """Take a frame's share out again: the window is as if that frame had never come.

    Raises:
        ValueError: Different indices, or `part` was never in `whole`.
    """
    return _combine(whole, part, -1)


def merge_windows(*frames: Iterable[Window]) -> tuple[Window, ...]:
    """All frames' windows, one for each index, ascending."""
    merged: dict[int, Window] = {}
    for frame in frames:
        for window in frame:
            known = merged.get(window.index)
            merged[window.index] = window if known is None else add_window(known, window)
    return tuple(merged[index] for index in sorted(merged))


def summarise(window: Window, resolution: float) -> Summary:
    """Read a window.

    Args:
        window: Merged from all frames that touch it.
        resolution: The channel's step, in its unit.
    """
    flat_line = window.count >= FLAT_LINE_SAMPLES and len(window.histogram) == 1
    mostly_artefact = window.artefacts > window.count
    if window.count == 0:
        nothing = math.nan
        return Summary(0, nothing, nothing, nothing, flat_line, mostly_artefact)
    twice_median = _twice_median(window.histogram, window.count)
    # Deviations from the median in half steps are integers again.
    deviations = Counter[int]()
    for step, count in window.histogram:
        deviations[abs(2 * step - twice_median)] += count
    four_times_mad = _twice_median(tuple(sorted(deviations.items())), window.count)
    return Summary(
        samples=window.count,
        median=twice_median * resolution / 2,
        mean=window.total * resolution / window.count,
        robust_sd=NORMAL_SD_OVER_MAD * four_times_mad * resolution / 4,
        flat_line=flat_line,
        mostly_artefact=mostly_artefact,
    )


def readings_of(
    windows: Iterable[Window], resolution: float, scatter_sd: float, device_sd: float | None = None
) -> Readings:
    """One reading a window: its median, and how far that scatters.

    A window's own robust SD counts when it is larger than `scatter_sd`: a noisier device is trusted less. One or two
    samples show no spread of their own; then the published spread of the device counts.

    Args:
        windows: Merged, one for each index, in any order.
        resolution: The signal's step, in its unit.
        scatter_sd: Least SD of one sample within its window, in the signal's unit.
        device_sd: Published SD of one sample against a reference, in the signal's unit; None where unknown.
    """
    unseen_sd = max(scatter_sd, device_sd or 0.0)
    ordered = sorted(windows, key=lambda window: window.index)
    said = [summarise(window, resolution) for window in ordered]
    usable = [s.samples > 0 and not s.flat_line and not s.mostly_artefact for s in said]
    begin = [window_start_h(window.index) for window in ordered]
    end = [window_start_h(window.index + 1) for window in ordered]
    scatter = [
        (
            max(scatter_sd, s.robust_sd) ** 2 * MEDIAN_OVER_MEAN
            if s.samples >= LEAST_TO_SHOW_SPREAD
            else unseen_sd**2
        )
        / s.samples
        + resolution**2 / 12.0
        if s.samples
        else math.nan
        for s in said
    ]
    return Readings(
        window=np.array([window.index for window in ordered], dtype=np.int64),
        time_h=0.5 * (np.array(begin, dtype=np.float64) + np.array(end, dtype=np.float64)),
        end_h=np.array(end, dtype=np.float64),
        value=np.array([s.median for s in said], dtype=np.float64),
        scatter=np.array(scatter, dtype=np.float64),
        usable=np.array(usable, dtype=np.int64),
    )


def _window(index: int, steps: Sequence[int], artefacts: int) -> Window:
    return Window(
        index=index,
        count=len(steps),
        total=sum(steps),
        squares=sum(step * step for step in steps),
        histogram=tuple(sorted(Counter(steps).items())),
        artefacts=artefacts,
    )


def _combine(one: Window, other: Window, sign: int) -> Window:
    if one.index != other.index:
        raise ValueError(
            f"windows {one.index} and {other.index} are different times and cannot be one window"
        )
    bins = Counter(dict(one.histogram))
    for step, count in other.histogram:
        bins[step] += sign * count
    combined = Window(
        index=one.index,
        count=one.count + sign * other.count,
        total=one.total + sign * other.total,
        squares=one.squares + sign * other.squares,
        histogram=tuple(sorted((step, count) for step, count in bins.items() if count)),
        artefacts=one.artefacts + sign * other.artefacts,
    )
    if combined.artefacts < 0 or any(count < 0 for _, count in combined.histogram):
        raise ValueError(f"the share taken out of window {one.index} was never in it")
    return combined


def _twice_median(histogram: Sequence[tuple[int, int]], count: int) -> int:
    """The two middle ones of `count` integers, added: exact, without a half."""
    lower, upper = (count + 1) // 2, count // 2 + 1
    passed = 0
    low: int | None = None
    for step, here in histogram:
        passed += here
        if low is None and passed >= lower:
            low = step
        if low is not None and passed >= upper:
            return low + step
    raise ValueError(f"the histogram holds {passed} samples, its window says {count}")
