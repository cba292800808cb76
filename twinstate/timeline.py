"""One patient's accepted records in event time: watermark, lateness, duplicates, corrections.

The watermark is the largest event time of the winning, uncancelled records. It decides what is too late, what is
settled and how far risk has been evaluated; no other clock exists here. The time at which the broker appended a
record decides one thing only: whether the record claims to come from the future.
"""

from __future__ import annotations

import bisect
import enum
import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from twinstate.assimilation.readings import DeviceWindow
from twinstate.clocks import Clocks
from twinstate.history import Entry, Frame, Identity, device_of
from twinstate.library import Library
from twinstate.telemetry import Telemetry
from twinstate.types import NS_PER_HOUR, NS_PER_MINUTE


@dataclass(frozen=True)
class TimeRules:
    """How late, how far ahead and how long: the library's hours in nanoseconds.

    Attributes:
        late: Limit behind the watermark for first revisions.
        late_wearable: The same for wearable frames.
        revise: Limit for corrections, cancellations and history.
        revise_wearable: The same for wearable frames.
        future: How far an event time may lie ahead of the broker's clock.
        settled: What lies this far behind the watermark is settled.
        keep: Longest time any model looks back at a record.
        keep_signal: How long windows count, by signal.
    """

    late: int
    late_wearable: int
    revise: int
    revise_wearable: int
    future: int
    settled: int
    keep: int
    keep_signal: Mapping[str, int]

    @classmethod
    def of(cls, library: Library) -> TimeRules:
        """Take the limits from a library."""
        policy = library.policy
        return cls(
            late=_ns(policy.late_h),
            late_wearable=_ns(policy.late_wearable_h),
            revise=_ns(policy.revise_h),
            revise_wearable=_ns(policy.revise_wearable_h),
            future=_ns(policy.future_h),
            settled=_ns(policy.settled_h),
            keep=_ns(max((m.keep_h for m in library.drugs.values()), default=0.0)),
            keep_signal={slug: _ns(signal.keep_h) for slug, signal in library.signals.items()},
        )

    def lateness(self, kind: str) -> int:
        """Limit behind the watermark for a record seen for the first time."""
        return self.late_wearable if kind == "wearable" else self.late

    def revision(self, kind: str) -> int:
        """Limit behind the watermark for a correction or a cancellation."""
        return self.revise_wearable if kind == "wearable" else self.revise

    def memory(self, kind: str) -> int:
        """How far behind the highest watermark a record of this kind is remembered: while it counts or may change."""
        if kind == "wearable":
            return max(self.keep_signal.values(), default=0) + self.revise_wearable
        return self.keep + self.revise


class Outcome(enum.StrEnum):
    """What became of a record."""

    APPLIED = "applied"
    DUPLICATE = "duplicate"
    SUPERSEDED = "superseded"
    LATE = "late"
    FUTURE = "future"
    FORGOTTEN = "forgotten"


class Verdict(NamedTuple):
    """An outcome, and why in one sentence where a person will ask."""

    outcome: Outcome
    reason: str


# What holds until another is told, however long ago it was said: a weight, an order, an absence.
LASTING_KINDS = ("patient", "regimen", "discharge")


def hour_end(event_time: int) -> int:
    """End of the UTC hour that holds this event time; an event at a full hour belongs to the hour it ends."""
    return -(-event_time // NS_PER_HOUR) * NS_PER_HOUR


@dataclass
class Timeline:
    """What has been accepted for one patient.

    Attributes:
        entries: Winning records but frames, by identity, tombstones included.
        frames: Recent winning frames by identity, kept while a revision may still come.
        telemetry: Folded samples.
        watermark: UTC ns; None before the first record.
        highest: Last full hour (UTC ns) that the watermark has reached since the patient is known: what left memory
            then stays gone, also when the watermark falls. None while the twin is pending.
        gone_until: Largest event time of uncancelled records that have left memory, UTC ns; they still hold the
            watermark up.
        forgotten: Everything up to this event time (UTC ns) was erased at a `forget` record, and stays so; None when
            nothing was.
        clocks: What append times tell of devices' clocks; nothing here depends on it.
    """

    entries: dict[Identity, Entry] = field(default_factory=dict)
    frames: dict[Identity, Entry] = field(default_factory=dict)
    telemetry: Telemetry = field(default_factory=Telemetry)
    watermark: int | None = None
    highest: int | None = None
    gone_until: int | None = None
    forgotten: int | None = None
    clocks: Clocks = field(default_factory=Clocks)
    _ordered: list[Entry] | None = None

    def known(self, identity: Identity) -> Entry | None:
        """The entry that wins for this identity so far."""
        return self.frames.get(identity) if identity.kind == "wearable" else self.entries.get(identity)

    @property
    def blank(self) -> bool:
        """No record was accepted since the beginning, or since the patient was forgotten."""
        return not self.entries and not self.frames and self.gone_until is None

    @property
    def pending(self) -> bool:
        """No patient record has told who this is."""
        return not any(e.kind == "patient" and not e.cancelled for e in self.entries.values())

    def in_order(self) -> list[Entry]:
        """Winning, uncancelled records but frames, in event time."""
        if self._ordered is None:
            self._ordered = sorted(
                (e for e in self.entries.values() if not e.cancelled), key=lambda e: e.place
            )
        return self._ordered

    def judge(self, entry: Entry, append_time: int, rules: TimeRules, *, backfill: bool) -> Verdict:
        """Decide whether a record is accepted; the timeline does not change.

        Args:
            entry: The record's entry.
            append_time: When the broker appended it, UTC ns.
            rules: Limits.
            backfill: The record carries the header `twin-backfill`: history, or a redrive.
        """
        if entry.event_time - append_time > rules.future:
            ahead = (entry.event_time - append_time) / NS_PER_MINUTE
            return Verdict(
                Outcome.FUTURE,
                f"event_time is {ahead:.1f} min ahead of the broker's clock, more than the "
                f"{rules.future / NS_PER_MINUTE:.0f} min allowed; set the sender's clock and send the record again",
            )
        erased = self.forgotten is not None and entry.event_time <= self.forgotten
        if entry.kind == "forget":
            return (
                Verdict(Outcome.DUPLICATE, "what was known up to then is erased already")
                if erased
                else Verdict(Outcome.APPLIED, "")
            )
        if erased:
            return Verdict(Outcome.FORGOTTEN, "it tells of a time before this patient was forgotten: dropped")
        if self.forgotten is not None and entry.kind == "tick" and self.blank:
            return Verdict(
                Outcome.FORGOTTEN, "a tick alone brings back no patient who was forgotten: dropped"
            )
        if self.has_left(entry.kind, entry.event_time, rules):
            return Verdict(
                Outcome.LATE,
                f"records of kind {entry.kind} leave memory {rules.memory(entry.kind) / NS_PER_HOUR:g} h behind the "
                "patient's watermark; this one can neither count nor be recognised any more",
            )
        old = self.known(entry.identity)
        if old is not None and entry.rank == old.rank:
            return Verdict(Outcome.DUPLICATE, "same identity, revision and bytes as an accepted record")
        if old is not None and entry.rank < old.rank:
            return Verdict(Outcome.SUPERSEDED, f"revision {old.revision} of this record is already accepted")
        if self.watermark is None or self.pending:
            return Verdict(Outcome.APPLIED, "")
        if entry.revision == 0:
            limit = rules.revision(entry.kind) if backfill else rules.lateness(entry.kind)
            oldest = entry.event_time
        else:
            limit = rules.revision(entry.kind)
            oldest = entry.event_time if old is None else min(entry.event_time, old.event_time)
        behind = self.watermark - oldest
        if behind > limit:
            what = "first revision" if entry.revision == 0 else f"revision {entry.revision}"
            return Verdict(
                Outcome.LATE,
                f"{behind / NS_PER_HOUR:.2f} h behind the patient's watermark; a {what} of kind {entry.kind} may come "
                f"{limit / NS_PER_HOUR:g} h behind it at most"
                + (
                    "; send history with the header twin-backfill"
                    if limit < rules.revision(entry.kind)
                    else ""
                ),
            )
        return Verdict(Outcome.APPLIED, "")

    def has_left(self, kind: str, event_time: int, rules: TimeRules) -> bool:
        """Whether a record of this kind and event time has left memory."""
        if self.highest is None or kind in LASTING_KINDS:
            return False
        return event_time < self.highest - rules.memory(kind)

    def closed(self, rules: TimeRules) -> int | None:
        """Evaluation points before this time (UTC ns) stay as they were decided: no record can reach them any more."""
        return None if self.highest is None else self.highest - rules.revise

    def accept(self, entry: Entry) -> int | None:
        """Let an entry that was judged `APPLIED` win.

        Returns:
            The earliest event time (UTC ns) whose view of the patient changed; None when none did (a tombstone for a
            record never seen).
        """
        old = self.known(entry.identity)
        touched = [_takes_effect(e) for e in (old, entry) if e is not None and not e.cancelled]
        if entry.kind == "wearable":
            self._replace_frame(old, entry)
        else:
            self.entries[entry.identity] = entry
            if old is not None and not old.cancelled:
                self._ordered = None
            elif self._ordered is not None and not entry.cancelled:
                bisect.insort(self._ordered, entry, key=lambda e: e.place)
        if old is not None and not old.cancelled:
            times = [e.event_time for e in self._counting()]
            if self.gone_until is not None:
                times.append(self.gone_until)
            self.watermark = max(times, default=None)
        elif not entry.cancelled:
            self.watermark = max(entry.event_time, self.watermark or entry.event_time)
        return min(touched, default=None)

    def advance(self, rules: TimeRules) -> None:
        """Let the watermark's hours pass, and forget what has then left memory.

        Called after each accepted record and what it changed: not later, since when a twin is written must not decide
        what it knows; not earlier, since a patient who was pending for long is evaluated from the beginning first.
        """
        if self.watermark is None or self.pending:
            return
        hour = self.watermark // NS_PER_HOUR * NS_PER_HOUR
        if self.highest is None or hour > self.highest:
            self.highest = hour
            self._forget(rules)

    def trim(self, rules: TimeRules) -> None:
        """Forget what has left memory under other rules than before."""
        if self.highest is not None:
            self._forget(rules)

    def points(self, rules: TimeRules) -> list[int]:
        """Evaluation points still open, up to the watermark, ascending: fixed in event time, whatever the arrival."""
        if self.watermark is None:
            return []
        times = {e.event_time for e in self.in_order()}
        times.update(release for release in self.telemetry.releases() if release <= self.watermark)
        closed = self.closed(rules)
        return sorted(t for t in times if closed is None or t >= closed)

    def counted_windows(self, signal: str, as_of: int, keep: int, *, whole: bool) -> list[DeviceWindow]:
        """The windows of a signal that count at a time, by window index, then device.

        Args:
            signal: Slug of the channel.
            as_of: UTC ns.
            keep: How far back they count, ns.
            whole: True takes every frame accepted so far (the live estimate at the watermark), False only frames up to
                the last full hour (evaluation points).
        """
        return self.telemetry.heard(signal, as_of - keep, hour_end(as_of) if whole else as_of)

    def frames_overlap(self, signal: str, as_of: int, keep: int) -> bool:
        """Whether two frames of one device that count at a time tell of the same seconds: samples count twice then.

        Args:
            signal: Slug of the channel.
            as_of: UTC ns.
            keep: How far back they count, ns; not longer than frames are remembered.
        """
        spans: list[tuple[str, int, int]] = []
        for frame in self.frames.values():
            content = frame.content
            if isinstance(content, Frame) and content.signal == signal and frame.event_time > as_of - keep:
                spans.append((device_of(frame.id), content.first, frame.event_time))
        spans.sort()
        return any(one[0] == other[0] and other[1] <= one[2] for one, other in itertools.pairwise(spans))

    def _forget(self, rules: TimeRules) -> None:
        """Drop what has left memory; windows stay as long as an open evaluation point may look back at them."""
        assert self.highest is not None
        for entries in (self.entries, self.frames):
            gone = [i for i, e in entries.items() if self.has_left(e.kind, e.event_time, rules)]
            for identity in gone:
                entry = entries.pop(identity)
                if not entry.cancelled:
                    self.gone_until = max(entry.event_time, self.gone_until or entry.event_time)
            if gone:
                self._ordered = None
        for signal in list(self.telemetry.hours):
            self.telemetry.forget(signal, self.highest - rules.revise - rules.keep_signal[signal])

    def _counting(self) -> Iterator[Entry]:
        for entries in (self.entries, self.frames):
            yield from (e for e in entries.values() if not e.cancelled)

    def _replace_frame(self, old: Entry | None, entry: Entry) -> None:
        for frame, change in ((old, self.telemetry.remove), (entry, self.telemetry.add)):
            if frame is None or not isinstance(frame.content, Frame):
                continue
            for share in frame.content.windows:
                change(frame.content.signal, device_of(frame.id), hour_end(frame.event_time), share)
        self.frames[entry.identity] = entry


def _ns(length_h: float) -> int:
    return round(length_h * NS_PER_HOUR)


def _takes_effect(entry: Entry) -> int:
    return hour_end(entry.event_time) if entry.kind == "wearable" else entry.event_time
