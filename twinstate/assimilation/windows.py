"""Wearable samples folded into 5-minute windows of integers, so that no order of arrival can matter.

A window holds one histogram bin for each step of its channel's resolution. Sums of integers commute exactly: frames may
be split, come in any order, be taken out again when one is corrected, and the window has the same bytes. What a window
says, and whether to believe it, is read from it in `readings.py`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import overload

import numpy as np
from numpy.typing import NDArray

from twinstate.catalogue import Signal
from twinstate.history import Window
from twinstate.kernels import kernel
from twinstate.types import NS_PER_HOUR, NS_PER_MINUTE

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

WINDOW_NS = 5 * NS_PER_MINUTE
WINDOWS_PER_HOUR = NS_PER_HOUR // WINDOW_NS
# Columns of what a fold counts in each window.
COUNT, TOTAL, SQUARES, ARTEFACTS, MISSING, BINS = 0, 1, 2, 3, 4, 5


@overload
def window_start_h(index: int) -> float: ...
@overload
def window_start_h(index: Integers) -> Floats: ...
def window_start_h(index: int | Integers) -> float | Floats:
    """When windows begin, hours since 1970; one ends where the next begins, and that instant is the next one's."""
    return index / WINDOWS_PER_HOUR


def fold_frame(
    values: Sequence[float | None] | Floats, times: Sequence[int] | Integers, signal: Signal
) -> tuple[Window, ...]:
    """Fold one frame's samples into the windows they fall in.

    Args:
        values: Samples in the signal's canonical unit, (samples,); None (or NaN) where the device could read none: it
            is counted as missing.
        times: UTC ns of each sample, as many as `values`, in any order.
        signal: Its resolution quantises the samples; a sample outside its reject bounds counts as an artefact and
            nothing else of it is kept.

    Returns:
        Windows with at least one sample, artefact or gap, by ascending index.

    Raises:
        ValueError: `values` and `times` differ in length.
    """
    read = np.array(values, dtype=np.float64)
    at = np.asarray(times, dtype=np.int64)
    if read.shape != at.shape:
        raise ValueError(f"{read.size} values and {at.size} times: each sample has one of each")
    if not at.size:
        return ()
    first, told, steps, counts = _fold(read, at, signal.resolution, signal.reject.low, signal.reject.high)
    pairs = list(zip(steps.tolist(), counts.tolist(), strict=True))
    windows = []
    begin = 0
    for index, (count, total, squares, artefacts, missing, bins) in enumerate(told.tolist(), start=first):
        if count or artefacts or missing:
            end = begin + bins
            windows.append(Window(index, count, total, squares, tuple(pairs[begin:end]), artefacts, missing))
            begin = end
    return tuple(windows)


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


@kernel
def _fold(
    values: Floats, times: Integers, resolution: float, low: float, high: float
) -> tuple[int, Integers, Integers, Integers]:
    """Count samples by window and step.

    Args:
        values: NaN where there is none, (samples,), at least one.
        times: UTC ns, (samples,).
        resolution: Step.
        low: Least value that is kept.
        high: Largest value that is kept.

    Returns:
        The first window's index; a row of `COUNT` to `BINS` for each window from it on, (windows, 6); steps and how
        many samples each holds, window after window and ascending in each, (bins,) both.
    """
    window = times // WINDOW_NS
    first = window.min()
    told = np.zeros((window.max() - first + 1, 6), np.int64)
    lowest = np.int64(np.rint(low / resolution))
    span = np.int64(np.rint(high / resolution)) - lowest + 1
    keys = np.empty(values.size, np.int64)
    kept = 0
    for sample in range(values.size):
        row = window[sample] - first
        value = values[sample]
        if np.isnan(value):
            told[row, MISSING] += 1
        elif low <= value <= high:
            step = np.int64(np.rint(value / resolution))
            told[row, COUNT] += 1
            told[row, TOTAL] += step
            told[row, SQUARES] += step * step
            keys[kept] = row * span + step - lowest
            kept += 1
        else:
            told[row, ARTEFACTS] += 1
    keys = np.sort(keys[:kept])
    steps = np.empty(kept, np.int64)
    counts = np.empty(kept, np.int64)
    bins = 0
    for position in range(kept):
        key = keys[position]
        if position > 0 and key == keys[position - 1]:
            counts[bins - 1] += 1
        else:
            steps[bins] = key % span + lowest
            counts[bins] = 1
            told[key // span, BINS] += 1
            bins += 1
    return first, told, steps[:bins], counts[:bins]


def _combine(one: Window, other: Window, sign: int) -> Window:
    if one.index != other.index:
        raise ValueError(
            f"windows {one.index} and {other.index} are different times and cannot be one window"
        )
    if sign > 0 and not one.count:
        histogram = other.histogram
    else:
        bins = dict(one.histogram)
        for step, count in other.histogram:
            left = bins.get(step, 0) + sign * count
            if left > 0:
                bins[step] = left
            elif left == 0:
                bins.pop(step, None)
            else:
                raise _never_in(one)
        histogram = tuple(sorted(bins.items()))
    combined = Window(
        one.index,
        one.count + sign * other.count,
        one.total + sign * other.total,
        one.squares + sign * other.squares,
        histogram,
        one.artefacts + sign * other.artefacts,
        one.missing + sign * other.missing,
    )
    if combined.artefacts < 0 or combined.missing < 0:
        raise _never_in(one)
    return combined


def _never_in(whole: Window) -> ValueError:
    return ValueError(f"the share taken out of window {whole.index} was never in it")
