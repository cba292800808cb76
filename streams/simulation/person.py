"""A virtual patient's body: what each signal truly is at a time, awake or asleep, at rest or in motion.

QTc is the heart's of the moxifloxacin ward (Hong et al. 2015). The other signals are not moved by the drug; their
levels, rhythms and noise are assumed (docs/devices.md), and serve to be measured, gapped and disturbed.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from streams.simulation.dice import Dice, Floats
from streams.simulation.moxifloxacin_ward import Heart, Stay
from twinstate.pk.propagate import solve
from twinstate.types import hours

ASLEEP_FROM_H, ASLEEP_UNTIL_H = 23.0, 7.0
BOUTS_EVERY_H = 3.0  # of being awake, on average
BOUT_H = (10.0 / 60.0, 40.0 / 60.0)


class Rhythm(NamedTuple):
    """One signal of a body, in its canonical unit.

    Attributes:
        level: Mean over people.
        level_sd: Between people.
        night: Added while asleep.
        motion: Added in motion.
        low: The body gives no less.
        high: And no more.
    """

    level: float
    level_sd: float
    night: float
    motion: float
    low: float
    high: float


RHYTHMS = {
    "heart_rate": Rhythm(72.0, 7.0, -10.0, 35.0, 38.0, 190.0),
    "respiratory_rate": Rhythm(15.0, 1.5, -2.0, 6.0, 8.0, 40.0),
    "oxygen_saturation": Rhythm(97.0, 0.8, -0.7, -0.3, 90.0, 100.0),
    "body_temperature": Rhythm(36.7, 0.2, -0.4, 0.1, 35.2, 38.5),
    "systolic_pressure": Rhythm(122.0, 9.0, -12.0, 15.0, 90.0, 190.0),
    "diastolic_pressure": Rhythm(78.0, 6.0, -8.0, 5.0, 50.0, 110.0),
}
SIGNALS = ("qtc", *RHYTHMS)


class Span(NamedTuple):
    """A stretch of true time, h since 1970."""

    begin_h: float
    end_h: float

    def holds(self, time_h: Floats) -> NDArray[np.bool_]:
        """Which of the times (times,) lie in it."""
        return (time_h >= self.begin_h) & (time_h < self.end_h)


class Person(NamedTuple):
    """One virtual patient.

    Attributes:
        patient: Pseudonym.
        heart: His QTc without and with the drug.
        stay: When he came and what he took.
        levels: His own mean of each signal but QTc, by slug.
        motion: When he moves.
    """

    patient: str
    heart: Heart
    stay: Stay
    levels: dict[str, float]
    motion: tuple[Span, ...]

    def concentration(self, time_h: Floats) -> Floats:
        """Moxifloxacin, mg/L, at times in h since 1970, shape (times,)."""
        return np.asarray(solve(self.stay.course(self.stay.dose_h), self.heart.eta, time_h)[0])

    def moving(self, time_h: Floats) -> NDArray[np.bool_]:
        """Whether he moves, (times,)."""
        found = np.zeros(len(time_h), np.bool_)
        for span in self.motion:
            found |= span.holds(time_h)
        return found

    def expected(self, signal: str, time_h: Floats) -> Floats:
        """The true signal, in its canonical unit, without noise, at ascending times in h since 1970, (times,)."""
        if signal == "qtc":
            return self.heart.without_drug(time_h) + self.heart.rise(self.concentration(time_h))
        rhythm = RHYTHMS[signal]
        value = self.levels[signal] + rhythm.night * asleep(time_h) + rhythm.motion * self.moving(time_h)
        return np.clip(value, rhythm.low, rhythm.high)


def asleep(time_h: Floats) -> NDArray[np.bool_]:
    """Whether people sleep at times in h since 1970, (times,)."""
    of_day = time_h % 24.0
    return (of_day >= ASLEEP_FROM_H) | (of_day < ASLEEP_UNTIL_H)


def draw_levels(dice: Dice) -> dict[str, float]:
    """A person's own mean of each signal but QTc."""
    return {name: r.level + r.level_sd * dice.normal(-2.0, 2.0) for name, r in RHYTHMS.items()}


def draw_motion(dice: Dice, stay: Stay, length_h: float) -> tuple[Span, ...]:
    """Bouts of 10 to 40 minutes while awake, one in three hours on average."""
    found: list[Span] = []
    at_h = hours(stay.admitted)
    end_h = at_h + length_h
    while True:
        at_h += dice.between(0.2, 2.0 * BOUTS_EVERY_H - 0.2)
        if at_h >= end_h:
            return tuple(found)
        span = Span(at_h, at_h + dice.between(*BOUT_H))
        if not asleep(np.array([at_h]))[0]:
            found.append(span)
        at_h = span.end_h
