"""Which records count: identities, corrections, the watermark and what comes too late.

A chart is a dictionary of winning entries by identity, and nothing else: every question is answered by looking through
all of it.
"""

from __future__ import annotations

from twinstate.history import Entry, Identity
from twinstate.library import Library
from twinstate.types import NS_PER_HOUR

Chart = dict[Identity, Entry]

APPLIED, DUPLICATE, SUPERSEDED = "applied", "duplicate", "superseded"
LATE, FUTURE = "late", "future"
# Who the patient is, and whether he is here, holds until something else is said.
NEVER_FORGOTTEN = ("patient", "discharge")


def nanoseconds(hours: float) -> int:
    """A length in hours of the policy, in ns."""
    return round(hours * NS_PER_HOUR)


def records_of(chart: Chart) -> list[Entry]:
    """Everything that holds but frames, in the order of event time, kind, source and id."""
    holding = [entry for entry in chart.values() if entry.kind != "wearable" and not entry.cancelled]
    return sorted(holding, key=lambda entry: entry.place)


def frames_of(chart: Chart) -> list[Entry]:
    """The frames that hold, in the same order."""
    holding = [entry for entry in chart.values() if entry.kind == "wearable" and not entry.cancelled]
    return sorted(holding, key=lambda entry: entry.place)


def watermark_of(chart: Chart) -> int | None:
    """The largest event time of winning, uncancelled records, UTC ns."""
    return max((entry.event_time for entry in chart.values() if not entry.cancelled), default=None)


def is_pending(chart: Chart) -> bool:
    """No patient record holds."""
    return not any(entry.kind == "patient" and not entry.cancelled for entry in chart.values())


def longest_keep(library: Library) -> int:
    """How far back the most patient of the models looks, ns."""
    return int(max((model.keep_h for model in library.drugs.values()), default=0.0) * NS_PER_HOUR)


def memory_of(kind: str, library: Library) -> int | None:
    """How far behind the watermark a record of this kind is remembered, ns; None for ever."""
    if kind in NEVER_FORGOTTEN:
        return None
    if kind == "wearable":
        return nanoseconds(library.policy.revise_wearable_h)
    return longest_keep(library) + nanoseconds(library.policy.revise_h)


def remembered(chart: Chart, identity: Identity, library: Library) -> Entry | None:
    """The winning entry of this identity, unless it has left memory; a pending twin forgets nothing."""
    entry = chart.get(identity)
    watermark = watermark_of(chart)
    memory = memory_of(identity.kind, library)
    if entry is None or watermark is None or memory is None or is_pending(chart):
        return entry
    return entry if entry.event_time >= watermark - memory else None


def judge(chart: Chart, entry: Entry, append_time: int, library: Library, *, backfill: bool) -> str:
    """Say what becomes of a record; the chart does not change.

    Args:
        chart: What was accepted of this patient.
        entry: The record.
        append_time: Of the log, UTC ns.
        library: Its policy holds the limits.
        backfill: The record is marked as history.

    Returns:
        `applied`, `duplicate`, `superseded`, `late` or `future`.
    """
    policy = library.policy
    if entry.event_time > append_time + nanoseconds(policy.future_h):
        return FUTURE
    old = remembered(chart, entry.identity, library)
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
