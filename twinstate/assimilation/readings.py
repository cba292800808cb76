"""What a wearable's windows say, and whether to believe it: median, scatter, and the marks of a device gone wrong.

Every mark is read from the windows themselves, so that it is the same however the samples came.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import chain
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from twinstate.assimilation.windows import window_start_h
from twinstate.catalogue import Signal
from twinstate.history import Window
from twinstate.kernels import kernel

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

# SD over median absolute deviation of a normal distribution, 1 / (quantile at 3/4).
NORMAL_SD_OVER_MAD = 1.482602218505602
# Variance of a median of normal samples over that of their mean.
MEDIAN_OVER_MEAN = np.pi / 2
# Fewer samples than these have no spread to speak of.
LEAST_TO_SHOW_SPREAD = 3

# Marks of a window, a bit each.
MARKS = ("artefacts", "off_body", "flat_line", "clipped", "erratic", "unusual")
ARTEFACTS, OFF_BODY, FLAT_LINE, CLIPPED, ERRATIC, UNUSUAL = 1, 2, 4, 8, 16, 32
# A window with one of these does not count; an unusual one does.
UNUSABLE_MARKS = ARTEFACTS | OFF_BODY | FLAT_LINE | CLIPPED | ERRATIC
# So many samples without the slightest change, or without anything readable, come from a device that hangs or lies on a
# table: at once when they come in one window, else when they fill three windows on end.
LONG_RUN_SAMPLES = 30
SHORT_RUN_SAMPLES = 12
SHORT_RUN_WINDOWS = 3
# A body may stand still, where the signal's bounds let it: breaths of 0 are an apnoea, not a device that hangs.
STANDSTILL = 0
# Windows no further apart than these belong to one run.
RUN_GAP = 3
# Readable samples at most so rare count as nothing readable.
READABLE_SHARE = 10
# A rail holds a quarter of at least twenty samples, four times as many as the step beside it, far from the rest.
CLIPPED_SAMPLES = 20
CLIPPED_SHARE = 4
CLIPPED_OVER_NEXT = 4
CLIPPED_DISTANCE = 4
# A spread within five minutes beyond a quarter of the usual range, and twice the device's own, is no signal of a body;
# with few samples it must show in two windows on end.
ERRATIC_SAMPLES = 10
ERRATIC_FEW = 4
ERRATIC_SHARE_OF_USUAL = 0.25
ERRATIC_DEVICE_SDS = 2.0


class DeviceWindow(NamedTuple):
    """One device's window."""

    device: str
    window: Window


class Summary(NamedTuple):
    """What a window alone says, in the channel's unit.

    Attributes:
        samples: How many were kept.
        median: Of the samples; the middle of the two middle ones when their number is even. NaN without samples.
        mean: Of the samples; NaN without samples.
        robust_sd: Median absolute deviation from the median, scaled to the SD of a normal distribution; NaN without
            samples.
        marks: Bits of `MARKS`.
    """

    samples: int
    median: float
    mean: float
    robust_sd: float
    marks: int


class Readings(NamedTuple):
    """One reading a window and device, in event-time order.

    Attributes:
        window: Number since 1970, ascending, (readings,).
        time_h: Middle of the window, hours since 1970, (readings,).
        end_h: Its end, hours since 1970, (readings,).
        value: Median of its samples, (readings,); NaN where there is none.
        scatter: Variance of that median round the signal, noise not included, (readings,).
        usable: 0 with a mark that forbids its use, or without samples, else 1, (readings,).
        device: Which of the devices heard, by name, read it, (readings,).
        marks: Bits of `MARKS`, (readings,).
        spread: Variance of its samples round their median, (readings,); NaN where there are too few to show one.
    """

    window: Integers
    time_h: Floats
    end_h: Floats
    value: Floats
    scatter: Floats
    usable: Integers
    device: Integers
    marks: Integers
    spread: Floats


class Limits(NamedTuple):
    """What the marks compare with, in steps of the signal's resolution."""

    usual_low: float
    usual_high: float
    erratic_sd: float
    still_windows: float
    may_stand_still: bool


def names_of(marks: int) -> tuple[str, ...]:
    """The marks in words."""
    return tuple(name for bit, name in enumerate(MARKS) if marks >> bit & 1)


def devices_of(windows: Iterable[DeviceWindow]) -> tuple[str, ...]:
    """The devices heard, in the order `Readings.device` counts them."""
    return tuple(sorted({heard.device for heard in windows}))


def from_device(device: str, windows: Iterable[Window]) -> tuple[DeviceWindow, ...]:
    """All windows as one device's."""
    return tuple(DeviceWindow(device, window) for window in windows)


def summarise(window: Window, signal: Signal) -> Summary:
    """Read one window by itself: a run over several windows is seen in `readings_of` only.

    Args:
        window: Merged from all frames of one device that touch it.
        signal: Its channel.
    """
    told, marks = _summarise(*_flat([window]), _no_device(1), _limits(signal))
    count, twice_median, four_times_mad = (int(value) for value in told[0])
    if not count:
        return Summary(0, np.nan, np.nan, np.nan, int(marks[0]))
    return Summary(
        samples=count,
        median=twice_median * signal.resolution / 2,
        mean=window.total * signal.resolution / count,
        robust_sd=NORMAL_SD_OVER_MAD * four_times_mad * signal.resolution / 4,
        marks=int(marks[0]),
    )


def readings_of(heard: Iterable[DeviceWindow], signal: Signal, scatter_sd: float) -> Readings:
    """One reading a window and device: its median, how far that scatters, and its marks.

    A window's own robust SD counts when it is larger than `scatter_sd`: a noisier device is trusted less. One or two
    samples show no spread of their own; then the published spread of the device counts.

    Args:
        heard: One window for each index and device, in any order.
        signal: Their channel.
        scatter_sd: Least SD of one sample within its window, in the signal's unit.
    """
    windows, index, device = _in_order(list(heard))
    told, marks = _summarise(*_flat(windows), device, _limits(signal))
    begin = window_start_h(index)
    end = window_start_h(index + 1)
    resolution = signal.resolution
    samples = told[:, 0].astype(np.float64)
    robust_sd = NORMAL_SD_OVER_MAD * told[:, 2] * resolution / 4
    of_one = np.maximum(scatter_sd, robust_sd) ** 2 * MEDIAN_OVER_MEAN
    unseen_sd = max(scatter_sd, signal.device_sd or 0.0)
    of_one[samples < LEAST_TO_SHOW_SPREAD] = unseen_sd**2
    empty = samples == 0
    samples[empty] = np.nan
    value = told[:, 1] * resolution / 2
    value[empty] = np.nan
    return Readings(
        window=index,
        time_h=0.5 * (begin + end),
        end_h=end,
        value=value,
        scatter=of_one / samples + resolution**2 / 12.0,
        usable=np.where(empty | (marks & UNUSABLE_MARKS > 0), 0, 1),
        device=device,
        marks=marks,
        spread=np.where(samples >= LEAST_TO_SHOW_SPREAD, robust_sd**2, np.nan),
    )


def _limits(signal: Signal) -> Limits:
    step = signal.resolution
    still, stands = signal.still_minutes / 5.0, signal.reject.low <= STANDSTILL
    if signal.usual is None:
        return Limits(-np.inf, np.inf, np.inf, still, stands)
    usual = signal.usual
    spread = max(
        ERRATIC_SHARE_OF_USUAL * (usual.high - usual.low), ERRATIC_DEVICE_SDS * (signal.device_sd or 0.0)
    )
    # Half a step more: a value on the bound itself may lie a rounding error beside it.
    return Limits(usual.low / step - 0.5, usual.high / step + 0.5, spread / step, still, stands)


def _no_device(windows: int) -> Integers:
    return np.zeros(windows, np.int64)


def _in_order(heard: list[DeviceWindow]) -> tuple[list[Window], Integers, Integers]:
    """The windows by index, then device; their indices and devices, (windows,) both."""
    place = {name: position for position, name in enumerate(devices_of(heard))}
    windows = [window for _, window in heard]
    index = np.array([window.index for window in windows], dtype=np.int64)
    device = np.array([place[name] for name, _ in heard], dtype=np.int64)
    order = np.lexsort((device, index))
    if (order[1:] > order[:-1]).all():  # as a twin keeps them
        return windows, index, device
    return [windows[position] for position in order.tolist()], index[order], device[order]


def _flat(windows: Sequence[Window]) -> tuple[Integers, Integers, Integers]:
    """Histograms one after another, where each begins, and index, artefacts and gaps of each window, (windows, 3)."""
    histograms = [window.histogram for window in windows]
    pairs = chain.from_iterable(chain.from_iterable(histograms))
    begin = np.zeros(len(windows) + 1, dtype=np.int64)
    begin[1:] = np.cumsum([len(histogram) for histogram in histograms])
    bins = np.fromiter(pairs, np.int64, 2 * int(begin[-1])).reshape(-1, 2)
    rest = [(window.index, window.artefacts, window.missing) for window in windows]
    return bins, begin, np.fromiter(chain.from_iterable(rest), np.int64, 3 * len(rest)).reshape(-1, 3)


@kernel
def _summarise(
    bins: Integers, begin: Integers, rest: Integers, device: Integers, limits: Limits
) -> tuple[Integers, Integers]:
    """Read every window.

    Args:
        bins: Step and count, window after window, (bins, 2).
        begin: Where each window's bins begin, (windows + 1,).
        rest: Index, artefacts and gaps, (windows, 3), by ascending index.
        device: Of each window, (windows,).
        limits: What the marks compare with.

    Returns:
        Samples, twice the median and four times the median absolute deviation in steps, (windows, 3); marks (windows,).
    """
    windows = device.size
    told = np.zeros((windows, 3), np.int64)
    marks = np.zeros(windows, np.int64)
    devices = device.max() + 1 if windows else 0
    # Of each device's run so far: its last window, windows, samples; first the flat, then the unreadable one.
    flat = np.zeros((devices, 4), np.int64)
    blind = np.zeros((devices, 3), np.int64)
    wide = np.full(devices, -RUN_GAP - 1, np.int64)  # last window of few samples and too wide a spread
    for window in range(windows):
        first, end = begin[window], begin[window + 1]
        index, artefacts, missing = rest[window, 0], rest[window, 1], rest[window, 2]
        count = bins[first:end, 1].sum()
        told[window, 0] = count
        who = device[window]
        if artefacts > count:
            marks[window] |= ARTEFACTS
        sent = count + artefacts + missing
        if count * READABLE_SHARE <= sent:
            if index - blind[who, 0] > RUN_GAP or blind[who, 1] == 0:
                blind[who, 1] = blind[who, 2] = 0
            blind[who, 0] = index
            blind[who, 1] += 1
            blind[who, 2] += sent
            if _long(blind[who, 1], blind[who, 2]):
                marks[window] |= OFF_BODY
        else:
            blind[who, 1] = 0
        if count == 0:
            continue
        twice_median = _twice_median(bins[first:end, 0], bins[first:end, 1], count)
        told[window, 1] = twice_median
        deviation = np.abs(2 * bins[first:end, 0] - twice_median)
        order = np.argsort(deviation)
        told[window, 2] = _twice_median(deviation[order], bins[first:end, 1][order], count)
        standstill = limits.may_stand_still and bins[first, 0] == STANDSTILL
        if end - first == 1:
            step = bins[first, 0]
            if index - flat[who, 0] > RUN_GAP or flat[who, 3] != step or flat[who, 1] == 0:
                flat[who, 1] = flat[who, 2] = 0
            flat[who, 0] = index
            flat[who, 1] += 1
            flat[who, 2] += count
            flat[who, 3] = step
            long = _long(flat[who, 1], flat[who, 2]) and flat[who, 1] > limits.still_windows
            if long and not standstill:
                marks[window] |= FLAT_LINE
        else:
            flat[who, 1] = 0
            low_rail = _at_rail(bins[first:end], count) and not standstill
            if low_rail or _at_rail(bins[first:end][::-1], count):
                marks[window] |= CLIPPED
        spread = NORMAL_SD_OVER_MAD * told[window, 2] / 4.0
        if count >= ERRATIC_FEW and spread > limits.erratic_sd:
            if count >= ERRATIC_SAMPLES or index - wide[who] <= RUN_GAP:
                marks[window] |= ERRATIC
            wide[who] = index
        if bins[first, 0] < limits.usual_low or bins[end - 1, 0] > limits.usual_high:
            marks[window] |= UNUSUAL
    return told, marks


@kernel
def _long(windows: int, samples: int) -> bool:
    """Whether a run is one of a device gone wrong."""
    return samples >= LONG_RUN_SAMPLES or (windows >= SHORT_RUN_WINDOWS and samples >= SHORT_RUN_SAMPLES)


@kernel
def _at_rail(bins: Integers, count: int) -> bool:
    """Whether the first of these bins is where a device's range ends."""
    held = bins[0, 1]
    if count < CLIPPED_SAMPLES or held * CLIPPED_SHARE < count or held < CLIPPED_OVER_NEXT * bins[1, 1]:
        return False
    passed = 0
    for place in range(1, bins.shape[0]):
        passed += bins[place, 1]
        if 2 * passed >= count - held:
            far = abs(bins[place, 0] - bins[0, 0]) >= CLIPPED_DISTANCE
            return bool(far and count - held >= CLIPPED_DISTANCE)
    return False


@kernel
def _twice_median(steps: Integers, counts: Integers, count: int) -> int:
    """The two middle ones of `count` ascending integers, added: exact, without a half."""
    lower, upper = (count + 1) // 2, count // 2 + 1
    passed = 0
    low = 0
    found = False
    for place in range(steps.size):
        passed += counts[place]
        if not found and passed >= lower:
            low = steps[place]
            found = True
        if found and passed >= upper:
            return int(low + steps[place])
    return 0
