"""The wearable windows of one patient, by signal, device and the UTC hour their frames came in.

A twin holds three months of them and changes one hour at a time. Each hour is kept as the bytes it is stored as and
decoded only when it is read or changed, so that one more sample costs the same on the first day and on the ninetieth.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

import msgspec

from twinstate.assimilation.readings import DeviceWindow
from twinstate.assimilation.windows import add_window, remove_window
from twinstate.history import Window

# Signal, device, then the windows of each hour by the hour's end (UTC ns); encoded hour by hour.
Stored = dict[str, dict[str, tuple[tuple[int, msgspec.Raw], ...]]]

# Built once, as modules are loaded: msgspec crashes when two threads build the decoder of one type at the same time.
_HOUR = msgspec.msgpack.Decoder(tuple[Window, ...])


@dataclass
class Hour:
    """Windows that one device's frames of one UTC hour brought; decoded, encoded, or both."""

    windows: dict[int, Window] | None = None
    encoded: msgspec.Raw | None = None

    def decoded(self) -> dict[int, Window]:
        """By index."""
        if self.windows is None:
            assert self.encoded is not None
            self.windows = {window.index: window for window in _HOUR.decode(self.encoded)}
        return self.windows

    def bytes(self) -> msgspec.Raw:
        """Ascending by index, encoded."""
        if self.encoded is None:
            windows = self.decoded()
            self.encoded = msgspec.Raw(msgspec.msgpack.encode(tuple(windows[i] for i in sorted(windows))))
        return self.encoded


@dataclass
class Telemetry:
    """Every window that still counts.

    A frame counts from the end of the UTC hour its event time lies in (its release), although its samples may fall in
    a window that ended before it; keeping the hours apart keeps "what was known at 14:00" answerable for ever.
    """

    hours: dict[str, dict[str, dict[int, Hour]]] = field(default_factory=dict)

    @classmethod
    def of(cls, stored: Mapping[str, Mapping[str, tuple[tuple[int, msgspec.Raw], ...]]]) -> Telemetry:
        """Bring back what `stored` gave."""
        return cls(
            {
                signal: {
                    device: {release: Hour(encoded=windows) for release, windows in hours}
                    for device, hours in devices.items()
                }
                for signal, devices in stored.items()
            }
        )

    def stored(self, until: int | None = None) -> Stored:
        """As a twin is kept; with `until` (UTC ns) only the hours that ended by then."""
        return {
            signal: {
                device: tuple(
                    (release, hours[release].bytes())
                    for release in sorted(hours)
                    if until is None or release <= until
                )
                for device, hours in sorted(devices.items())
            }
            for signal, devices in sorted(self.hours.items())
        }

    def add(self, signal: str, device: str, release: int, share: Window) -> None:
        """Let a frame's share of a window count."""
        self._change(signal, device, release, share, add_window)

    def remove(self, signal: str, device: str, release: int, share: Window) -> None:
        """Take a frame's share out again, as if it had never come."""
        self._change(signal, device, release, share, remove_window)

    def releases(self) -> Iterator[int]:
        """Ends of the hours in which frames came, UTC ns, in no order, some of them more than once."""
        for devices in self.hours.values():
            for hours in devices.values():
                yield from hours

    def heard(self, signal: str, after: int, until: int) -> list[DeviceWindow]:
        """What a signal's devices brought in the hours that ended in (after, until], UTC ns.

        Returns:
            One window for each device and index, by index, then device.
        """
        found: list[DeviceWindow] = []
        devices = self.hours.get(signal, {})
        for device, hours in devices.items():
            windows: dict[int, Window] = {}
            for release, hour in hours.items():
                if not after < release <= until:
                    continue
                brought = hour.decoded()
                shared = {
                    index: add_window(windows[index], brought[index])
                    for index in windows.keys() & brought.keys()
                }
                windows |= brought
                windows |= shared
            found += [DeviceWindow(device, windows[index]) for index in sorted(windows)]
        if len(devices) > 1:
            found.sort(key=lambda one: (one.window.index, one.device))
        return found

    def forget(self, signal: str, before: int) -> None:
        """Drop the hours that ended before a time (UTC ns)."""
        for device, hours in list(self.hours.get(signal, {}).items()):
            for release in [release for release in hours if release < before]:
                del hours[release]
            self._tidy(signal, device)

    def _change(
        self,
        signal: str,
        device: str,
        release: int,
        share: Window,
        change: Callable[[Window, Window], Window],
    ) -> None:
        hours = self.hours.setdefault(signal, {}).setdefault(device, {})
        hour = hours.setdefault(release, Hour(windows={}))
        windows = hour.decoded()
        empty = Window(share.index, 0, 0, 0, (), 0, 0)
        changed = change(windows.get(share.index, empty), share)
        if changed == empty:
            windows.pop(share.index, None)
        else:
            windows[share.index] = changed
        hour.encoded = None
        if not windows:
            del hours[release]
        self._tidy(signal, device)

    def _tidy(self, signal: str, device: str) -> None:
        """A signal or device of which nothing counts is as if it had never been."""
        devices = self.hours[signal]
        if not devices[device]:
            del devices[device]
        if not devices:
            del self.hours[signal]
