"""How a device's frames reach the broker: by its own clock, late after an outage, twice, or not at all."""

from __future__ import annotations

from typing import NamedTuple

from streams.simulation.devices import NS_PER_SECOND, Frame, Worn
from streams.simulation.dice import Dice
from streams.simulation.person import Span
from streams.simulation.wire import DemoRecord, Sender
from twinstate.types import NS_PER_HOUR, hours

LOST = 0.01
TWICE = 0.02
WRONG_CLOCKS = 0.15
OUTAGE_H = (0.5, 6.0)  # frames are refused 12 h behind the watermark
BETWEEN_OUTAGES_H = (8.0, 30.0)
SOON_S = (1.0, 20.0)
AGAIN_S = (5.0, 600.0)
AHEAD_S = (60.0, 180.0)  # more than 5 min ahead of the broker a record is refused
BEHIND_S = (-2400.0, -1200.0)
LATE_NS = NS_PER_HOUR


class Clock(NamedTuple):
    """A device's clock: how far ahead of the true time it is at the start, and how it goes on."""

    offset_s: float
    drift_ppm: float

    def reads(self, true: int, start: int) -> int:
        """What it shows at a true time, UTC ns, to the second."""
        elapsed_s = (true - start) / NS_PER_SECOND
        ahead_s = self.offset_s + 1e-6 * self.drift_ppm * elapsed_s
        return true + round(ahead_s) * NS_PER_SECOND


class Arrival(NamedTuple):
    """A record on its way: when it reaches the broker, true UTC ns."""

    at: int
    record: DemoRecord


class Delivered(NamedTuple):
    """What became of a device's frames.

    Attributes:
        clock: The device's.
        outages: When it had no link; what it read meanwhile arrives at the end.
        arrivals: Frames, those sent twice twice, in no order.
        lost: Frames that never arrive.
        twice: Frames that arrive twice.
        late: Frames whose first arrival is more than an hour after they were taken.
    """

    clock: Clock
    outages: tuple[Span, ...]
    arrivals: list[Arrival]
    lost: int
    twice: int
    late: int


def draw_clock(dice: Dice) -> Clock:
    """Most clocks are right to some seconds and drift by some ten ppm; one in seven was set wrong."""
    offset_s, drift_ppm = 2.0 * dice.normal(-3.0, 3.0), 30.0 * dice.normal(-3.0, 3.0)
    wrong, ahead = dice.chance(WRONG_CLOCKS), dice.chance(0.5)
    gross_s = dice.between(*(AHEAD_S if ahead else BEHIND_S))
    return Clock(round(offset_s + (gross_s if wrong else 0.0), 3), round(drift_ppm, 3))


def deliver(dice: Dice, patient: str, worn: Worn, start: int, end: int) -> Delivered:
    """Send a device's frames.

    Args:
        dice: Of this device's network alone.
        patient: Pseudonym.
        worn: The device and its frames.
        start: When it was put on, UTC ns.
        end: When all links are up again, UTC ns: nothing arrives later.
    """
    clock = draw_clock(dice)
    newest_first = dice.chance(0.5)
    outages = _draw_outages(dice, hours(start), hours(end))
    sender = Sender(patient, "wearables")
    sent: list[tuple[Frame, DemoRecord, int]] = []
    lost = 0
    for sequence, frame in enumerate(worn.frames, start=1):
        vanishes, delay_s = dice.chance(LOST), dice.between(*SOON_S)
        if vanishes:
            lost += 1
            continue
        channel = frame.channel
        record = sender.frame(
            clock.reads(frame.taken, start),
            f"{worn.name}:{sequence}",
            channel.signal,
            channel.unit,
            frame.values,
            float(channel.period_s) if channel.frame > 1 else None,
        )
        sent.append((frame, record, frame.taken + round(delay_s * 1e9)))
    arrivals: list[Arrival] = []
    twice = late = 0
    for place, (frame, record, soon) in enumerate(sent):
        outage = next((o for o in outages if o.begin_h <= hours(soon) < o.end_h), None)
        at = soon
        if outage is not None:
            # A burst when the link is back, a tenth of a second a frame.
            order = len(sent) - place if newest_first else place
            at = round(outage.end_h * NS_PER_HOUR) + order * NS_PER_SECOND // 10
        at = min(at, end)
        late += at - frame.taken > LATE_NS
        arrivals.append(Arrival(at, record))
        again, again_s = dice.chance(TWICE), dice.between(*AGAIN_S)
        if again:
            twice += 1
            arrivals.append(Arrival(min(at + round(again_s * 1e9), end), record))
    return Delivered(clock, outages, arrivals, lost, twice, late)


def _draw_outages(dice: Dice, begin_h: float, end_h: float) -> tuple[Span, ...]:
    found = []
    at_h = begin_h + dice.between(1.0, BETWEEN_OUTAGES_H[1])
    while at_h < end_h:
        span = Span(at_h, min(at_h + dice.between(*OUTAGE_H), end_h))
        found.append(span)
        at_h = span.end_h + dice.between(*BETWEEN_OUTAGES_H)
    return tuple(found)
