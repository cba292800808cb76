"""Which records count: identities, corrections, the watermark, what comes too late and what leaves memory.

A chart is a dictionary of winning entries by identity, beside frames of which only the samples are still known: every
question is answered by looking through all of it.
"""

from __future__ import annotations

from twinstate.history import Entry, Identity
from twinstate.library import Library
from twinstate.types import NS_PER_HOUR


class Chart(dict[Identity, Entry]):
    """Winning entries by identity, and what is still known of those that have left memory.

    Attributes:
        old_frames: Frames that can no longer be revised or recognised; their samples still count.
        gone_until: Largest event time of uncancelled records that have left memory, UTC ns: they still won.
        erased_until: Nothing up to this event time (UTC ns) is taken any more: the patient was forgotten.
    """

    def __init__(self) -> None:
        """Begin with nothing."""
        super().__init__()
        self.old_frames: list[Entry] = []
        self.gone_until: int | None = None
        self.erased_until: int | None = None


APPLIED, DUPLICATE, SUPERSEDED = "applied", "duplicate", "superseded"
LATE, FUTURE, FORGOTTEN = "late", "future", "forgotten"
# Who the patient is, and whether he is here, holds until something else is said.
NEVER_FORGOTTEN = ("patient", "regimen", "discharge")


def nanoseconds(hours: float) -> int:
    """A length in hours of the policy, in ns."""
    return round(hours * NS_PER_HOUR)


def records_of(chart: Chart) -> list[Entry]:
    """Everything that holds but frames, in the order of event time, kind, source and id."""
    holding = [entry for entry in chart.values() if entry.kind != "wearable" and not entry.cancelled]
    return sorted(holding, key=lambda entry: entry.place)


def frames_of(chart: Chart) -> list[Entry]:
    """The frames that hold, old ones too, in the same order."""
    holding = [entry for entry in chart.values() if entry.kind == "wearable" and not entry.cancelled]
    return sorted([*holding, *chart.old_frames], key=lambda entry: entry.place)


def watermark_of(chart: Chart) -> int | None:
    """The largest event time of winning, uncancelled records, UTC ns."""
    times = [entry.event_time for entry in chart.values() if not entry.cancelled]
    if chart.gone_until is not None:
        times.append(chart.gone_until)
    return max(times, default=None)


def is_pending(chart: Chart) -> bool:
    """No patient record holds."""
    return not any(entry.kind == "patient" and not entry.cancelled for entry in chart.values())


def is_empty(chart: Chart) -> bool:
    """No record was accepted, or none since the patient was forgotten."""
    return not chart and chart.gone_until is None


def erase(chart: Chart, at: int) -> Chart:
    """What is left of a patient who is forgotten: until when."""
    empty = Chart()
    empty.erased_until = max(at, watermark_of(chart) or at)
    return empty


def longest_keep(library: Library) -> int:
    """How far back the most patient of the models looks, ns."""
    return int(max((model.keep_h for model in library.drugs.values()), default=0.0) * NS_PER_HOUR)


def forgotten_before(kind: str, hour: int | None, library: Library) -> int | None:
    """Event time (UTC ns) before which a record of this kind has left memory; None when none has.

    Args:
        kind: Of the record.
        hour: Last full hour that the watermark has reached since the patient is known; None before.
        library: Keeps and limits.
    """
    if hour is None or kind in NEVER_FORGOTTEN:
        return None
    if kind == "wearable":
        longest = max((signal.keep_h for signal in library.signals.values()), default=0.0)
        return hour - nanoseconds(longest) - nanoseconds(library.policy.revise_wearable_h)
    return hour - longest_keep(library) - nanoseconds(library.policy.revise_h)


def judge(
    chart: Chart, entry: Entry, append_time: int, library: Library, hour: int | None, *, backfill: bool
) -> str:
    """Say what becomes of a record; the chart does not change.

    Args:
        chart: What was accepted of this patient.
        entry: The record.
        append_time: Of the log, UTC ns.
        library: Its policy holds the limits.
        hour: Last full hour that the watermark has reached since the patient is known.
        backfill: The record is marked as history.

    Returns:
        `applied`, `duplicate`, `superseded`, `late`, `future` or `forgotten`.
    """
    policy = library.policy
    if entry.event_time > append_time + nanoseconds(policy.future_h):
        return FUTURE
    before = chart.erased_until is not None and entry.event_time <= chart.erased_until
    if entry.kind == "forget":
        return DUPLICATE if before else APPLIED
    if before or (entry.kind == "tick" and chart.erased_until is not None and is_empty(chart)):
        return FORGOTTEN
    gone = forgotten_before(entry.kind, hour, library)
    if gone is not None and entry.event_time < gone:
        return LATE
    old = chart.get(entry.identity)
    if old is not None:
        if (entry.revision, entry.digest) == (old.revision, old.digest):
            return DUPLICATE
        if (entry.revision, entry.digest) < (old.revision, old.digest):
            return SUPERSEDED
    watermark = watermark_of(chart)
    if watermark is None or is_pending(chart):
        return APPLIED
    wearable = entry.kind == "wearable"
    to_revise = nanoseconds(policy.revise_wearable_h if wearable else policy.revise_h)
    to_arrive = nanoseconds(policy.late_wearable_h if wearable else policy.late_h)
    if entry.revision == 0:
        limit = to_revise if backfill else to_arrive
        times = [entry.event_time]
    else:
        limit = to_revise
        times = [entry.event_time] if old is None else [entry.event_time, old.event_time]
    return APPLIED if all(time >= watermark - limit for time in times) else LATE


def accept(chart: Chart, entry: Entry) -> None:
    """Let the highest (revision, digest) of an identity win."""
    old = chart.get(entry.identity)
    if old is None or (entry.revision, entry.digest) > (old.revision, old.digest):
        chart[entry.identity] = entry


def hour_reached(chart: Chart, hour: int | None) -> int | None:
    """Last full hour (UTC ns) that the watermark has reached since the patient is known; it never falls."""
    watermark = watermark_of(chart)
    if watermark is None or is_pending(chart):
        return hour
    return max(watermark // NS_PER_HOUR * NS_PER_HOUR, hour or 0)


def forget(chart: Chart, hour: int | None, library: Library) -> None:
    """Take out of the chart what has left memory."""
    for entry in list(chart.values()):
        gone = forgotten_before(entry.kind, hour, library)
        if gone is not None and entry.event_time < gone:
            del chart[entry.identity]
            if not entry.cancelled:
                before = entry.event_time if chart.gone_until is None else chart.gone_until
                chart.gone_until = max(before, entry.event_time)
                if entry.kind == "wearable":
                    chart.old_frames.append(entry)


def hour_end(event_time: int) -> int:
    """The first full UTC hour at or after an event time, UTC ns."""
    full, rest = divmod(event_time, NS_PER_HOUR)
    return (full + (1 if rest else 0)) * NS_PER_HOUR


def absences(chart: Chart) -> list[tuple[int, int | None]]:
    """From each discharge to the patient record that re-admits, UTC ns; None while the patient is away."""
    away: list[tuple[int, int | None]] = []
    left: int | None = None
    for entry in records_of(chart):
        if entry.kind == "discharge" and left is None:
            left = entry.event_time
        elif entry.kind == "patient" and left is not None:
            away.append((left, entry.event_time))
            left = None
    if left is not None:
        away.append((left, None))
    return away
