"""How fast telemetry is folded, merged and assimilated: `python bench/telemetry.py`.

Question answered: on one core, how many 1 Hz samples a second fold into 5-minute windows when they come in frames of
60, alone and with each frame added to a twin's telemetry; how long one window takes the filter when many are taken at
once, for every drug whose effect a device reads; how long one look ahead at such a signal takes; and what one more
sample costs a twin that holds 90 days of telemetry. Each is repeated; median and range told.

Options: `--json` prints one JSON object instead of the table. Exit 1 when a target fails.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from bench._report import Check, report  # noqa: E402
from twinstate.assimilation.channel import ChannelState, LastWindow, filter_windows  # noqa: E402
from twinstate.assimilation.channel_extremes import extreme_ahead  # noqa: E402
from twinstate.assimilation.channel_model import channel_model  # noqa: E402
from twinstate.assimilation.points import FEWEST_POINTS  # noqa: E402
from twinstate.assimilation.readings import Readings, from_device, readings_of  # noqa: E402
from twinstate.assimilation.windows import WINDOW_NS, fold_frame  # noqa: E402
from twinstate.history import Window  # noqa: E402
from twinstate.library import Library, load_library  # noqa: E402
from twinstate.telemetry import Telemetry  # noqa: E402
from twinstate.types import NS_PER_HOUR  # noqa: E402

SEED = 20260301
SECOND = 1_000_000_000
FRAME = 60
FRAMES = 1440  # a day of 1 Hz
REPEATS = 9
WINDOWS = 864  # three days
DAYS = 90


def timed(work: Callable[[], object]) -> list[float]:
    """Seconds of each repeat, the first (which may compile) left out."""
    work()
    spent = []
    for _ in range(REPEATS):
        began = time.perf_counter()
        work()
        spent.append(time.perf_counter() - began)
    return spent


def rates(name: str, count: int, spent: list[float], least: float = -np.inf) -> list[Check]:
    """Median and range of a rate, in millions a second."""
    found = sorted(count / 1e6 / seconds for seconds in spent)
    middle = float(np.median(found))
    return [
        Check(f"{name}, median", middle, "million/s", least),
        Check(f"{name}, slowest and fastest", found[0], f"to {found[-1]:.3g} million/s"),
    ]


def lengths(name: str, count: int, spent: list[float], most: float, unit: str, per_s: float) -> list[Check]:
    """Median and range of what one costs."""
    found = sorted(per_s * seconds / count for seconds in spent)
    return [
        Check(f"{name}, median", float(np.median(found)), unit, -np.inf, most),
        Check(f"{name}, fastest and slowest", found[0], f"to {found[-1]:.3g} {unit}"),
    ]


def run() -> list[Check]:
    """Measure each."""
    library = load_library(ROOT / "config")
    dice = np.random.default_rng(SEED)
    heart, qtc = library.signals["heart_rate"], library.signals["qtc"]
    start = 5_900_000 * WINDOW_NS
    day = [np.round(dice.normal(72.0, 4.0, FRAME)).tolist() for _ in range(FRAMES)]
    times = [start + SECOND * (FRAME * frame + np.arange(FRAME)) for frame in range(FRAMES)]

    def fold() -> None:
        for values, at in zip(day, times, strict=True):
            fold_frame(values, at, heart)

    def fold_and_add() -> None:
        telemetry = Telemetry()
        for values, at in zip(day, times, strict=True):
            release = -(-int(at[-1]) // NS_PER_HOUR) * NS_PER_HOUR
            for window in fold_frame(values, at, heart):
                telemetry.add("heart_rate", "watch", release, window)

    drug = library.drugs["moxifloxacin"].channel
    assert drug is not None
    model = channel_model(drug)
    stamps = start + WINDOW_NS // 5 * np.arange(5 * WINDOWS)
    windows = from_device("patch", fold_frame(dice.normal(410.0, 6.0, 5 * WINDOWS), stamps, qtc))
    readings = readings_of(windows, qtc, model.scatter_sd)
    expected, slope = np.full(WINDOWS, 0.4), np.full((WINDOWS, 3), 0.05)

    telemetry = Telemetry()
    for index in range(DAYS * 288):
        at = start + index * WINDOW_NS
        telemetry.add("qtc", "patch", -(-(at + 1) // NS_PER_HOUR) * NS_PER_HOUR, lone(at // WINDOW_NS))
    telemetry.stored()
    last = start + DAYS * 288 * WINDOW_NS

    def one_more() -> None:
        telemetry.add("qtc", "patch", last + NS_PER_HOUR, lone(last // WINDOW_NS))
        telemetry.stored()

    return [
        *rates("fold, 60-sample frames", FRAME * FRAMES, timed(fold), 2.0),
        *rates("fold and add to the twin", FRAME * FRAMES, timed(fold_and_add)),
        *lengths(
            f"read {WINDOWS} windows, each",
            WINDOWS,
            timed(lambda: readings_of(windows, qtc, model.scatter_sd)),
            np.inf,
            "µs",
            1e6,
        ),
        *lengths(
            f"update by {WINDOWS} windows, each",
            WINDOWS,
            timed(lambda: filter_windows(model, readings, expected, slope, readings.end_h[-1:])),
            5.0,
            "µs",
            1e6,
        ),
        *of_every_channel(library, readings),
        *lengths(f"one more sample after {DAYS} days", 1, timed(one_more), 10.0, "ms", 1e3),
    ]


def of_every_channel(library: Library, readings: Readings) -> list[Check]:
    """What a window costs each drug's channel, and one look ahead at a signal that may pass a limit."""
    checks: list[Check] = []
    for drug in library.drugs.values():
        if drug.channel is None:
            continue
        model = channel_model(drug.channel)
        etas = len(drug.etas)
        # Every reading near what is expected, so that none is left out.
        told = readings._replace(value=np.full(WINDOWS, model.mean[0] + 0.4 * model.sign * model.mean[1]))
        expected, slope = np.full(WINDOWS, 0.4 * model.sign), np.full((WINDOWS, etas), 0.05)
        spent = timed(partial(filter_windows, model, told, expected, slope, told.end_h[-1:]))
        checks += lengths(
            f"{drug.drug}, {etas} uncertain parameters: update, each window", WINDOWS, spent, 5.0, "µs", 1e6
        )
        state = ChannelState(
            float(readings.time_h[-1]),
            model.mean,
            np.ascontiguousarray(model.covariance),
            1.0,
            (1, 0, 0, 0),
            LastWindow(-1, np.nan, np.nan, np.nan, ""),
        )
        ahead = readings.time_h[-1] + np.arange(49) / 2.0
        level = np.full((FEWEST_POINTS, ahead.size), model.ec50_mg_L)
        weights = np.full(FEWEST_POINTS, 1.0 / FEWEST_POINTS)
        limit, quantiles = float(model.mean[0]), np.array([0.05, 0.5, 0.95])
        look = partial(extreme_ahead, state, model, level, weights, ahead, limit, quantiles, lowest=False)
        spent = timed(look)
        checks += lengths(f"{drug.drug}: the signal's highest value in a day", 1, spent, np.inf, "ms", 1e3)
    return checks


def lone(index: int) -> Window:
    """A window of five samples."""
    bins = ((405, 1), (408, 2), (411, 2))
    return Window(index, 5, 2043, 834_795, bins, 0, 0)


def main() -> int:
    """Run, print, and say by the exit status whether every target holds."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--json", action="store_true", help="one JSON object instead of the table")
    asked = parser.parse_args()
    return report("Telemetry, one core", run(), SEED, as_json=asked.json)


if __name__ == "__main__":
    sys.exit(main())
