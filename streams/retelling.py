"""What subscribers were told of a patient, read from a stored twin or, where that is lost, from its rows."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from typing import Any

import msgspec

from streams.codec import to_ns
from twinstate.risk.episodes import RAISED, Announcement, Episode, PointRisk
from twinstate.twin import StoredTwin, TwinMemory

Told = dict[str, Announcement]


def told_by(packed: bytes) -> Told | None:
    """What a stored twin says subscribers were told; None when it cannot be read.

    Only that part is looked at: the others may have been written in another format.
    """
    try:
        parts = msgspec.msgpack.decode(msgspec.msgpack.decode(packed, type=StoredTwin).rest, type=list[Any])
        place = TwinMemory.__struct_fields__.index("announced")
        announced = msgspec.convert(parts[place], type=tuple[Announcement, ...])
    except (msgspec.MsgspecError, IndexError):
        return None
    return {known.episode.id: known for known in announced}


def told_by_rows(standing: bytes, derived: Mapping[str, Announcement], *, same_fingerprint: bool) -> Told:
    """What subscribers were told, where the twin that knew is lost or unreadable.

    The row of standing episodes is what newcomers are told, with revisions: it is believed. The rest is taken from the
    log's own telling, which under one fingerprint is what was told; under another, only its revisions of what is over.

    Args:
        standing: The patient's row of standing episodes; empty for none.
        derived: What the log alone makes of it.
        same_fingerprint: Whether the twin was made by this code and library.
    """
    told = {i: known for i, known in derived.items() if same_fingerprint or not known.standing}
    for identifier, row in rows_of(standing).items():
        known = told.get(identifier)
        if known is None or not known.standing or known.revision != row["revision"]:
            told[identifier] = Announcement(_episode(row), RAISED, row["revision"])
    return told


def rows_of(standing: bytes) -> dict[str, dict[str, Any]]:
    """The standing episodes of a row, by episode, as subscribers know them; none when it cannot be read."""
    try:
        rows = msgspec.json.decode(standing or b"[]", type=list[dict[str, Any]])
    except msgspec.MsgspecError:
        return {}
    return {row["episode"]: row for row in rows if "episode" in row}


def _episode(row: Mapping[str, Any]) -> Episode:
    """An episode from its description (`messages.describe_episode`): enough to retract, clear or go on with it."""
    forecast = row["forecast"]
    risk = PointRisk(
        drug=row["drug"],
        threshold=row["threshold"],
        version=row["threshold_version"],
        probability=row["probability"],
        error=row["probability_error"],
        median=forecast["median"],
        low=forecast["low"],
        high=forecast["high"],
        capped=False,
        planned=row["assumes"].startswith("planned"),
        levels=row["levels"],
        distrusted=tuple(row.get("distrusted", ())),
    )
    return Episode(
        id=row["episode"],
        drug=row["drug"],
        threshold=row["threshold"],
        crossing=_ns(row["crossing"]),
        severity=row["severity"],
        ended=None,
        reason="",
        latest=_ns(row["evaluated"]),
        risk=risk,
    )


def _ns(text: str) -> int:
    return to_ns(dt.datetime.fromisoformat(text))
