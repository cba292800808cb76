"""Folding as a specification of semantics §3.4: integers, so that order cannot matter."""

from __future__ import annotations

import math
import random
import statistics
from dataclasses import replace

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from twinstate.assimilation.readings import (
    NORMAL_SD_OVER_MAD,
    from_device,
    names_of,
    readings_of,
    summarise,
)
from twinstate.assimilation.windows import (
    WINDOW_NS,
    add_window,
    fold_frame,
    merge_windows,
    remove_window,
)
from twinstate.catalogue import Bounds, Signal
from twinstate.history import Window
from twinstate.types import NS_PER_MINUTE

QTC = Signal("qtc", "QTc", ("8636-3",), "ms", {"ms": 1.0}, 1.0, Bounds(200.0, 800.0), None, 24.0, 33.0, {})
TEMPERATURE = Signal(
    "temperature",
    "Body temperature",
    ("8310-5",),
    "Cel",
    {"Cel": 1.0},
    0.1,
    Bounds(10.0, 50.0),
    None,
    24.0,
    None,
    {},
)
START = 5_900_000 * WINDOW_NS

Sample = tuple[float | None, int]
samples = st.lists(
    st.tuples(
        st.one_of(st.none(), st.floats(150.0, 900.0), st.just(float("nan"))),
        st.integers(START, START + 4 * WINDOW_NS),
    ),
    max_size=60,
)


def fold(part: list[Sample], signal: Signal = QTC) -> tuple[Window, ...]:
    return fold_frame([value for value, _ in part], [time for _, time in part], signal)


def minutes(*values: float | None) -> tuple[Window, ...]:
    return fold([(value, START + i * NS_PER_MINUTE) for i, value in enumerate(values)])


@given(samples, st.randoms(use_true_random=False), st.integers(1, 6))
def test_any_split_and_order_of_samples_and_frames_gives_the_same_bytes(
    whole: list[Sample], dice: random.Random, frames: int
) -> None:
    expected = msgspec.msgpack.encode(merge_windows(fold(whole)))
    shuffled = list(whole)
    dice.shuffle(shuffled)
    parts: list[list[Sample]] = [[] for _ in range(frames)]
    for sample in shuffled:
        dice.choice(parts).append(sample)
    folded = [fold(part) for part in parts]
    dice.shuffle(folded)
    assert msgspec.msgpack.encode(merge_windows(*folded)) == expected


@given(samples, samples)
def test_a_frame_taken_out_again_leaves_the_window_as_if_it_had_never_come(
    kept: list[Sample], withdrawn: list[Sample]
) -> None:
    alone = {w.index: w for w in fold(kept)}
    for share in fold(withdrawn):
        before = alone.get(share.index, Window(share.index, 0, 0, 0, (), 0))
        assert remove_window(add_window(before, share), share) == before


@given(samples)
def test_median_mean_and_spread_are_those_of_the_quantised_samples(whole: list[Sample]) -> None:
    for window in fold(whole):
        steps = [
            round(value)
            for value, time in whole
            if value is not None and time // WINDOW_NS == window.index and QTC.reject.holds(value)
        ]
        summary = summarise(window, QTC)
        assert summary.samples == len(steps)
        if not steps:
            assert math.isnan(summary.median)
            assert math.isnan(summary.robust_sd)
            continue
        median = statistics.median(steps)
        assert summary.median == median
        assert summary.mean == pytest.approx(statistics.fmean(steps), rel=1e-15)
        deviation = statistics.median([abs(step - median) for step in steps])
        assert summary.robust_sd == pytest.approx(NORMAL_SD_OVER_MAD * deviation, rel=1e-15)
        assert window.squares == sum(step * step for step in steps)


def test_samples_are_quantised_to_the_resolution() -> None:
    (window,) = fold([(36.64, START), (36.66, START + 1)], TEMPERATURE)
    assert window.histogram == ((366, 1), (367, 1))
    assert summarise(window, TEMPERATURE).mean == pytest.approx(36.65, abs=1e-12)


def test_a_sample_on_the_boundary_belongs_to_the_window_that_begins_there() -> None:
    assert [w.index for w in fold([(400.0, START - 1), (400.0, START)])] == [
        START // WINDOW_NS - 1,
        START // WINDOW_NS,
    ]


def test_samples_outside_the_bounds_are_counted_as_artefacts_and_nothing_else_of_them_is_kept() -> None:
    (window,) = minutes(410.0, 150.0, 999.0, float("nan"), None)
    assert (window.count, window.artefacts, window.missing, window.histogram) == (1, 2, 2, ((410, 1),))
    assert "artefacts" in names_of(summarise(window, QTC).marks)


def test_the_bounds_themselves_are_kept() -> None:
    (window,) = minutes(200.0, 800.0)
    assert (window.count, window.artefacts) == (2, 0)


def test_a_frame_of_nulls_leaves_nothing_but_how_many_there_were() -> None:
    assert minutes(None, None) == (Window(START // WINDOW_NS, 0, 0, 0, (), 0, 2),)


def marks(values: list[float | None], every_s: float, signal: Signal = QTC) -> list[tuple[str, ...]]:
    """Of the windows of one device, `every_s` seconds from sample to sample."""
    windows = fold([(value, START + round(i * every_s * 1e9)) for i, value in enumerate(values)], signal)
    return [names_of(int(found)) for found in readings_of(from_device("watch", windows), signal, 1.0).marks]


def test_a_long_run_without_any_change_is_a_flat_line_and_a_short_one_is_not() -> None:
    assert marks([400.0] * 300, 1.0) == [("flat_line",)]
    assert marks([400.0] * 5, 1.0) == [()]
    assert marks([400.0 + i % 2 for i in range(300)], 1.0) == [()]


def test_a_slow_device_that_hangs_is_seen_in_the_third_window_and_one_that_moves_is_not() -> None:
    assert marks([400.0] * 20, 60.0) == [(), (), ("flat_line",), ("flat_line",)]
    assert marks([400.0] * 10 + [401.0] * 5, 60.0) == [(), (), ()]
    assert marks([400.0] * 6, 300.0) == [()] * 6


def test_a_signal_that_may_stand_still_is_flat_only_beyond_that() -> None:
    still = Signal(
        "spo2",
        "",
        (),
        "%",
        {},
        0.1,
        Bounds(1.0, 100.0),
        Bounds(70.0, 100.0),
        24.0,
        None,
        {},
        still_minutes=20.0,
    )
    found = marks([98.0] * 60 * 25, 1.0, still)
    assert found == [(), (), (), (), ("flat_line",)]


def test_nothing_readable_for_long_means_off_the_body_and_for_a_moment_it_does_not() -> None:
    assert marks([None] * 300, 1.0) == [("off_body",)]
    assert marks([None] * 20, 60.0)[2:] == [("off_body",)] * 2
    assert marks([410.0, None, None, None, None] * 3, 60.0) == [()] * 3
    assert marks([0.0] * 300, 1.0) == [("artefacts", "off_body")]


def test_samples_heaped_on_a_rail_are_clipped_and_a_coarse_device_is_not() -> None:
    dice = np.random.default_rng(3)
    wandering = np.round(dice.normal(480.0, 12.0, 300))
    assert marks(list(np.minimum(wandering, 485.0)), 1.0) == [("clipped",)]
    assert marks(list(np.maximum(wandering, 475.0)), 1.0) == [("clipped",)]
    assert marks(list(wandering), 1.0) == [()]
    assert marks([float(400 + 10 * (i % 3)) for i in range(300)], 1.0) == [()]


def test_a_spread_no_body_has_is_erratic_and_what_lies_beyond_the_usual_is_marked_but_used() -> None:
    dice = np.random.default_rng(5)
    usual = replace(QTC, usual=Bounds(350.0, 500.0), device_sd=None)
    assert "erratic" in marks(list(dice.uniform(200.0, 800.0, 300)), 1.0, usual)[0]
    assert marks(list(dice.normal(520.0, 5.0, 300)), 1.0, usual) == [("unusual",)]
    (usable,) = readings_of(
        from_device("watch", fold([(520.0 + i % 3, START + i) for i in range(20)], usual)), usual, 1.0
    ).usable
    assert usable == 1


def test_two_devices_give_two_readings_of_one_window() -> None:
    one, other = from_device("a", minutes(400.0)), from_device("b", minutes(420.0))
    told = readings_of([*other, *one], QTC, 1.0)
    assert told.value.tolist() == [400.0, 420.0]
    assert told.device.tolist() == [0, 1]


def test_half_the_samples_may_be_wild_before_the_median_follows_them() -> None:
    (window,) = minutes(410.0, 411.0, 409.0, 790.0, 795.0)
    assert summarise(window, QTC).median == 411.0


def test_robust_spread_of_normal_samples_is_their_standard_deviation() -> None:
    readings = np.random.default_rng(7).normal(420.0, 12.0, 4000)
    (window,) = fold([(float(value), START) for value in readings])
    assert summarise(window, QTC).robust_sd == pytest.approx(12.0, rel=0.06)  # 4 SE of a MAD


def test_different_windows_are_never_made_one() -> None:
    one, other = fold([(400.0, START), (400.0, START + WINDOW_NS)])
    with pytest.raises(ValueError, match="different times"):
        add_window(one, other)


def test_what_was_never_added_cannot_be_taken_out() -> None:
    (one,) = minutes(400.0)
    (other,) = minutes(401.0)
    with pytest.raises(ValueError, match="never in it"):
        remove_window(one, other)


def test_one_lone_reading_is_trusted_no_more_than_the_device_is_known_for() -> None:
    start = 1_770_000_000 * 1_000_000_000 // WINDOW_NS * WINDOW_NS
    lone = fold([(410.0, start)])
    several = fold([(410.0 + step, start + step) for step in range(5)])
    spread = 33.0
    for windows, least in ((lone, spread**2), (several, 0.0)):
        (scatter,) = readings_of(from_device("watch", windows), QTC, 2.0).scatter
        assert (scatter > spread**2 / 2) == (least > 0)
