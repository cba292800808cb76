"""Virtual devices: what a patch, a watch, a thermometer and a cuff read of a body, well worn or not, sound or broken.

A device reads each of its signals at its own rate and sends frames of so many readings. It leaves gaps where it cannot
read, reads nonsense in motion, lies on a table for a while, and one in some is broken from an hour on.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from streams.simulation.dice import Dice, Floats, wandering
from streams.simulation.moxifloxacin_ward import (
    ARTEFACTS,
    NOISE,
    NOISE_TIME_CONSTANT_H,
    SCATTER_MS,
    UNREADABLE,
)
from streams.simulation.person import Person, Span
from twinstate.types import NS_PER_HOUR, hours

NS_PER_SECOND = NS_PER_HOUR // 3600
OFF_BODY_SHOWS = ("nothing", "nulls", "noise")
FAULTS = ("stuck", "twice the gain", "5 % an hour upwards")


class Channel(NamedTuple):
    """How a device reads one signal.

    Attributes:
        signal: Slug.
        unit: UCUM, as sent.
        decimals: Of a reading.
        period_s: Between two readings.
        frame: Readings in a frame; 1 is a single reading, sent without a period.
        wander: SD of noise that remembers; of QTc a share of the expected value.
        wander_h: How long it remembers: its autocorrelation is 1/e after so many hours.
        scatter: SD of a single reading round that.
        unreadable: Share of readings without a value at rest.
        unreadable_moving: The same in motion.
        artefacts: Share of readings that are nonsense at rest.
        artefacts_moving: The same in motion.
        nonsense: Between which values nonsense lies.
        noise_off: Between which values the noise of a device off the body lies.
    """

    signal: str
    unit: str
    decimals: int
    period_s: int
    frame: int
    wander: float
    wander_h: float
    scatter: float
    unreadable: float
    unreadable_moving: float
    artefacts: float
    artefacts_moving: float
    nonsense: tuple[float, float]
    noise_off: tuple[float, float]


class Kind(NamedTuple):
    """A sort of device."""

    name: str
    channels: tuple[Channel, ...]
    worn: bool  # a cuff is put on to read, so it is never found off the body


# Rates and noise: docs/devices.md says which are published and which assumed.
KINDS = (
    Kind(
        "patch",
        (
            Channel("qtc", "ms", 0, 60, 10, NOISE, NOISE_TIME_CONSTANT_H, SCATTER_MS,
                    UNREADABLE, 0.6, ARTEFACTS, 0.02, (900.0, 1200.0), (220.0, 780.0)),
        ),
        worn=True,
    ),
    Kind(
        "watch",
        (
            Channel("heart_rate", "/min", 0, 5, 60, 4.0, 1.0 / 6.0, 1.5,
                    0.01, 0.3, 0.001, 0.3, (145.0, 185.0), (30.0, 240.0)),
            Channel("respiratory_rate", "/min", 1, 60, 15, 1.2, 0.25, 1.0,
                    0.05, 0.7, 0.002, 0.1, (35.0, 60.0), (4.0, 60.0)),
            Channel("oxygen_saturation", "%", 0, 600, 1, 0.6, 0.3, 1.0,
                    0.15, 0.8, 0.005, 0.15, (70.0, 84.0), (40.0, 100.0)),
        ),
        worn=True,
    ),
    Kind(
        "thermometer",
        (
            Channel("body_temperature", "Cel", 2, 60, 60, 0.1, 1.0, 0.05,
                    0.01, 0.02, 0.0005, 0.001, (15.0, 30.0), (19.0, 26.0)),
        ),
        worn=True,
    ),
    Kind(
        "cuff",
        (
            Channel("systolic_pressure", "mm[Hg]", 0, 6 * 3600, 1, 5.0, 2.0, 4.0,
                    0.02, 0.3, 0.005, 0.2, (160.0, 230.0), (70.0, 250.0)),
            Channel("diastolic_pressure", "mm[Hg]", 0, 6 * 3600, 1, 4.0, 2.0, 3.0,
                    0.02, 0.3, 0.005, 0.2, (100.0, 140.0), (40.0, 150.0)),
        ),
        worn=False,
    ),
)  # fmt: skip


class OffBody(NamedTuple):
    """A while in which a device was not worn, and what it then sent: one of `OFF_BODY_SHOWS`."""

    span: Span
    shows: str


class Fault(NamedTuple):
    """What is wrong with a device, one of `FAULTS`, and from when, h since 1970."""

    name: str
    begin_h: float


class Frame(NamedTuple):
    """Readings a device took, by true time.

    Attributes:
        channel: Which signal.
        taken: When the last was read, true UTC ns, to the second.
        values: The readings; None where there was none.
        artefacts: How many of them are nonsense of motion or of a device off the body.
    """

    channel: Channel
    taken: int
    values: tuple[float | None, ...]
    artefacts: int


class Worn(NamedTuple):
    """One patient's device over a stay.

    Attributes:
        name: Of this one device.
        kind: What it is.
        off_body: When it was not worn.
        fault: What is wrong with it; None with a sound one.
        frames: By true time, those of equal times in the order of the kind's channels.
    """

    name: str
    kind: Kind
    off_body: tuple[OffBody, ...]
    fault: Fault | None
    frames: tuple[Frame, ...]


def wear(dice: Dice, person: Person, kind: Kind, length_h: float, faulty: float) -> Worn:
    """Let a person wear a device.

    Args:
        dice: Of this device alone.
        person: Whose body it reads.
        kind: What it is.
        length_h: From admission on.
        faulty: Probability that it breaks.
    """
    begin_h = hours(person.stay.admitted)
    off_body = _draw_off_body(dice, begin_h, length_h) if kind.worn else ()
    breaks, fault_name = dice.chance(faulty), FAULTS[dice.whole(0, len(FAULTS) - 1)]
    fault_h = begin_h + length_h * dice.between(0.25, 0.75)
    fault = Fault(fault_name, fault_h) if breaks else None
    frames = [
        frame
        for channel in kind.channels
        for frame in _read(dice, person, channel, length_h, off_body, fault)
    ]
    frames.sort(key=lambda frame: frame.taken)  # stable: equal times keep the order of channels
    return Worn(f"{kind.name}-{person.patient}", kind, off_body, fault, tuple(frames))


def _draw_off_body(dice: Dice, begin_h: float, length_h: float) -> tuple[OffBody, ...]:
    """Once in some 20 hours, for 20 to 90 minutes: to charge it, to wash."""
    found = []
    at_h = begin_h + dice.between(2.0, 20.0)
    while at_h < begin_h + length_h:
        span = Span(at_h, at_h + dice.between(1.0 / 3.0, 1.5))
        found.append(OffBody(span, OFF_BODY_SHOWS[dice.whole(0, len(OFF_BODY_SHOWS) - 1)]))
        at_h = span.end_h + dice.between(10.0, 30.0)
    return tuple(found)


def _read(
    dice: Dice,
    person: Person,
    channel: Channel,
    length_h: float,
    off_body: tuple[OffBody, ...],
    fault: Fault | None,
) -> list[Frame]:
    """Every reading of one signal, in frames; the readings after the last whole frame are never sent."""
    readings = math.floor(length_h * 3600.0 / channel.period_s)
    # Devices do not start at the same second.
    start = person.stay.admitted + dice.whole(0, channel.period_s - 1) * NS_PER_SECOND
    taken = start + channel.period_s * NS_PER_SECOND * np.arange(readings, dtype=np.int64)
    taken = taken[taken <= person.stay.admitted + round(length_h * 3600.0) * NS_PER_SECOND]
    count = len(taken)
    time_h: Floats = taken / NS_PER_HOUR
    expected = person.expected(channel.signal, time_h)
    moving = person.moving(time_h)
    size = channel.wander * expected if channel.signal == "qtc" else np.full(count, channel.wander)
    value = expected + size * wandering(dice, count, channel.period_s / 3600.0, channel.wander_h)
    value += channel.scatter * dice.normals(count)
    if fault is not None:
        value = _broken(value, time_h, fault)
    if channel.unit == "%":
        value = np.minimum(value, 100.0)
    nonsense = dice.uniforms(count) < np.where(moving, channel.artefacts_moving, channel.artefacts)
    low, high = channel.nonsense
    value = np.where(nonsense, low + (high - low) * dice.uniforms(count), value)
    gaps = dice.uniforms(count) < np.where(moving, channel.unreadable_moving, channel.unreadable)
    silent = np.zeros(count, np.bool_)
    low, high = channel.noise_off
    rubbish = low + (high - low) * dice.uniforms(count)
    for off in off_body:
        within = off.span.holds(time_h)
        if off.shows == "noise":
            value = np.where(within, rubbish, value)
            nonsense |= within
            gaps &= ~within
        elif off.shows == "nulls":
            gaps |= within
        else:
            silent |= within
    nonsense &= ~gaps
    return _frames(channel, taken, np.round(value, channel.decimals), gaps, nonsense, silent)


def _broken(value: Floats, time_h: Floats, fault: Fault) -> Floats:
    since_h = np.maximum(time_h - fault.begin_h, 0.0)
    begun = time_h >= fault.begin_h
    if not begun.any():
        return value
    if fault.name == "stuck":
        return np.where(begun, value[int(np.argmax(begun))], value)
    return np.where(begun, 2.0 * value, value) if fault.name == FAULTS[1] else value * (1.0 + 0.05 * since_h)


def _frames(
    channel: Channel,
    taken: NDArray[np.int64],
    value: Floats,
    gaps: NDArray[np.bool_],
    nonsense: NDArray[np.bool_],
    silent: NDArray[np.bool_],
) -> list[Frame]:
    frames = []
    for begin in range(0, len(taken) - channel.frame + 1, channel.frame):
        part = slice(begin, begin + channel.frame)
        if silent[part].any():
            continue
        values = tuple(
            None if gap else _number(float(v), channel.decimals)
            for v, gap in zip(value[part], gaps[part], strict=True)
        )
        frames.append(
            Frame(channel, int(taken[begin + channel.frame - 1]), values, int(nonsense[part].sum()))
        )
    return frames


def _number(value: float, decimals: int) -> float:
    """A whole number is written as one."""
    return int(value) if decimals == 0 else value
