"""How far a device's clock lies off the broker's, seen from when its frames were appended; no part of a twin.

A frame cannot be appended before its last sample was read: whoever is ahead of the broker has a clock that is. Being
behind tells less: the network may be slow, and what was buffered comes hours late. But of many frames some came at
once, so that the least lag of many is the clock's, or a link that is always slow. Append times are no part of the
canonical twin, and nor is this.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import msgspec

from twinstate.types import NS_PER_HOUR, NS_PER_MINUTE

# Least lags are kept for the running stretch of append time and the one before it.
STRETCH = 6 * NS_PER_HOUR
# A broker's and a good device's clock agree to seconds.
AHEAD = NS_PER_MINUTE // 2
BEHIND = 15 * NS_PER_MINUTE
# Fewer frames may all have been buffered.
ENOUGH_FRAMES = 6
# What comes so late is history sent again, and says nothing of a clock; a live frame so late is refused.
HISTORY = 12 * NS_PER_HOUR
# A device not heard of for so many stretches (14 days) is forgotten.
FORGOTTEN = 56


class DeviceClock(msgspec.Struct, frozen=True, array_like=True):
    """What the frames of one device told of its clock.

    Attributes:
        device: Its name.
        stretch: Number since 1970 of the stretch of append time it was last heard in.
        least: Least lag of a frame's append time behind its last sample in that stretch, ns; below 0 it was ahead.
        frames: Frames in it.
        least_before: The same of the stretch before it; None when it was not heard then.
        frames_before: Frames in that.
    """

    device: str
    stretch: int
    least: int
    frames: int
    least_before: int | None = None
    frames_before: int = 0

    @property
    def lag(self) -> int:
        """Least lag of both stretches, ns."""
        return self.least if self.least_before is None else min(self.least, self.least_before)

    @property
    def heard(self) -> int:
        """Frames in both stretches."""
        return self.frames + self.frames_before

    @property
    def doubt(self) -> str:
        """`ahead`, `behind` (its clock, or always late), or nothing."""
        if self.lag < -AHEAD:
            return "ahead"
        return "behind" if self.lag > BEHIND and self.heard >= ENOUGH_FRAMES else ""


@dataclass
class Clocks:
    """The clocks of one patient's devices, by name."""

    devices: dict[str, DeviceClock] = field(default_factory=dict)

    @classmethod
    def of(cls, stored: Iterable[DeviceClock]) -> Clocks:
        """Bring back what `stored` gave."""
        return cls({clock.device: clock for clock in stored})

    def stored(self) -> tuple[DeviceClock, ...]:
        """As a twin keeps them beside its canonical part, by name."""
        return tuple(clock for _, clock in sorted(self.devices.items()))

    def hear(self, device: str, append_time: int, event_time: int) -> None:
        """Take an accepted frame into account.

        Args:
            device: Whose.
            append_time: When the broker appended it, UTC ns.
            event_time: Of its last sample, by the device's clock, UTC ns.
        """
        lag = append_time - event_time
        if lag > HISTORY:
            return
        stretch = append_time // STRETCH
        known = self.devices.get(device)
        if known is None or stretch > known.stretch + 1:
            self.devices[device] = DeviceClock(device, stretch, lag, 1)
        elif stretch == known.stretch + 1:
            self.devices[device] = DeviceClock(device, stretch, lag, 1, known.least, known.frames)
        else:  # this one; a broker's clock may also go back a little
            self.devices[device] = msgspec.structs.replace(
                known, least=min(known.least, lag), frames=known.frames + 1
            )
        gone = [name for name, clock in self.devices.items() if clock.stretch < stretch - FORGOTTEN]
        for name in gone:
            del self.devices[name]


def doubted(clocks: Iterable[DeviceClock]) -> tuple[DeviceClock, ...]:
    """Those that are ahead or behind."""
    return tuple(clock for clock in clocks if clock.doubt)
