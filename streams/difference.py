"""What a store must take over so that it holds what the log makes of a partition, and what subscribers must hear."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import msgspec

from streams.adapters.redis_rebuild import Rows
from streams.messages import index_row, risk_event, standing_episodes
from streams.ports import Outgoing, RawRecord, StoredTwin
from streams.retelling import rows_of, told_by, told_by_rows
from twinstate.risk.episodes import RETRACTED, Transition, retell
from twinstate.twin import Rules, Twin, encode, thaw


class Told(NamedTuple):
    """One event that a rebuild sends, or would send."""

    patient: str
    type: str
    drug: str
    threshold: str
    episode: str
    revision: int


@dataclass(frozen=True)
class Derived:
    """What the log alone makes of the patients."""

    records: int
    twins: Mapping[str, StoredTwin]
    standing: Mapping[str, bytes]
    index: Mapping[str, bytes]


@dataclass
class Difference:
    """What must be written so that the store holds what was derived."""

    rows: Rows
    gone: list[str]
    unreadable: list[str]
    told: list[Told]
    outgoing: list[Outgoing]


def compare(
    stored: Rows, derived: Derived, rules: Rules, position: int, *, same_fingerprint: bool
) -> Difference:
    """Say which rows differ, and what subscribers must hear, patients in order."""
    twins: dict[str, bytes] = {}
    standing: dict[str, bytes] = {}
    index: dict[str, bytes] = {}
    difference = Difference(Rows(twins, standing, index), [], [], [], [])
    for patient in sorted({*stored.twins, *stored.standing, *stored.index, *derived.twins}):
        before = stored.of(patient)
        known = derived.twins.get(patient)
        twin = Twin(patient) if known is None else thaw(known, rules)
        told = told_by(before[0])
        if told is None:
            if before[0]:
                difference.unreadable.append(patient)
            told = told_by_rows(before[1], twin.announced, same_fingerprint=same_fingerprint)
        transitions, told = retell(twin.story, told)
        if known is None:
            difference.gone.append(patient)
            after = (b"", b"", b"")
        elif told == twin.announced:
            after = (_packed(known), derived.standing[patient], derived.index[patient])
        else:
            twin.announced = told
            document, memory = twin.describe(rules)
            after = (
                _packed(StoredTwin(encode(document), encode(memory))),
                standing_episodes(twin, rules),
                index_row(document, memory),
            )
        for rows, old, new in zip((twins, standing, index), before, after, strict=True):
            if old != new:
                rows[patient] = new
        rows_before = rows_of(before[1])
        for transition in transitions:
            difference.told.append(_told(patient, transition))
            difference.outgoing.append(
                _event(transition, twin, rules, position, rows_before.get(transition.episode.id))
            )
    return difference


def _event(
    transition: Transition, twin: Twin, rules: Rules, position: int, row: Mapping[str, Any] | None
) -> Outgoing:
    """The event of a transition; what is retracted is described as it was told, by the limit that counted then."""
    described = None
    if transition.type == RETRACTED:
        described = row or _bare(transition, rules)
    # The script gives out the id; the place stands for the last record applied.
    place = RawRecord(position - 1, 0, None, None, ())
    return risk_event(place, 1, twin, transition, rules, described)


def _bare(transition: Transition, rules: Rules) -> dict[str, Any] | None:
    """What is left to say of an episode whose row is lost and whose threshold no library knows; None where one does."""
    episode = transition.episode
    model = rules.library.drugs.get(episode.drug)
    if model is not None and any(t.name == episode.threshold for t in model.thresholds):
        return None
    return {
        "episode": episode.id,
        "drug": episode.drug,
        "threshold": episode.threshold,
        "severity": episode.severity,
    }


def _told(patient: str, transition: Transition) -> Told:
    episode = transition.episode
    return Told(patient, transition.type, episode.drug, episode.threshold, episode.id, transition.revision)


def _packed(stored: StoredTwin) -> bytes:
    return msgspec.msgpack.encode(stored)
