"""The published moxifloxacin QTc channel, a course of infusions, and windows to feed it."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from tests.twinstate.courses import START_H, Given, course
from twinstate.assimilation.channel_model import channel_model
from twinstate.assimilation.readings import DeviceWindow, Readings, from_device
from twinstate.assimilation.windows import WINDOW_NS, fold_frame, window_start_h
from twinstate.catalogue import Bounds, Signal
from twinstate.drug import Channel, Rhythm
from twinstate.pk.course import Course
from twinstate.types import NS_PER_HOUR

Floats = NDArray[np.float64]

QTC = Signal("qtc", "QTc", ("8636-3",), "ms", {"ms": 1.0}, 1.0, Bounds(200.0, 800.0), None, 72.0, None, {})
CHANNEL = Channel(
    signal="qtc",
    unit="ms",
    baseline_typical=406.0,
    baseline_cv=0.0382,
    rhythms=(Rhythm(24.0, 0.0090, 9.11), Rhythm(6.0, 0.0045, 0.65)),
    emax=34.7,
    emax_cv=0.329,
    ec50_mg_L=3.92,
    residual_cv=0.0152,
    noise_time_constant_h=2.0,
    baseline_drift_per_sqrt_h=0.73,
    keep_h=72.0,
    provenance={},
)
MODEL = channel_model(CHANNEL)
FIRST = round(START_H * NS_PER_HOUR) // WINDOW_NS
ETA_COVARIANCE = np.array([[0.0704, 0.0421], [0.0421, 0.0298]])


def infusions(*mg: float) -> Course:
    """One-hour infusions, one a day from `START_H` on."""
    doses = [Given(24.0 * day, amount, duration=1.0) for day, amount in enumerate(mg)]
    return course(1, doses, eta_index=(0, 1, -1, -1, -1, -1, -1, -1))


def readings(value: Floats, *, start: int = FIRST, scatter: float = 4.0, every: int = 1) -> Readings:
    window = start + every * np.arange(len(value))
    begin = np.array([window_start_h(int(index)) for index in window])
    end = np.array([window_start_h(int(index) + 1) for index in window])
    return Readings(
        window=window.astype(np.int64),
        time_h=0.5 * (begin + end),
        end_h=end,
        value=value.astype(np.float64),
        scatter=np.full(len(value), scatter),
        usable=np.ones(len(value), dtype=np.int64),
        device=np.zeros(len(value), dtype=np.int64),
        marks=np.zeros(len(value), dtype=np.int64),
        spread=np.full(len(value), np.nan),
    )


def windows_of(value: Floats, *, each: int = 5, start: int = FIRST) -> list[DeviceWindow]:
    """`each` samples in each window, one step apart at most: equal ones would be a flat line."""
    samples = [float(v) + (k + 1) % 3 - 1 for v in value for k in range(each)]
    times = [
        (start + i) * WINDOW_NS + k * (WINDOW_NS // each) for i in range(len(value)) for k in range(each)
    ]
    return list(from_device("patch", fold_frame(samples, times, QTC)))


def operator_at(time_h: float, occupancy: float) -> Floats:
    """The observation operator, longhand."""
    day = 2.0 * math.pi * time_h / 24.0
    shorter = 1.0 + 0.0045 * math.cos(2.0 * math.pi * (time_h - 0.65) / 6.0)
    return np.array([shorter, occupancy, math.cos(day), math.sin(day), 1.0])
