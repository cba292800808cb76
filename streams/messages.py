"""What goes out of a batch: risk events, dead letters, and the rows that lists show of a twin."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from typing import Any

import msgspec

from streams.codec import Refusal
from streams.ports import Outgoing, RawRecord
from twinstate.clocks import doubted
from twinstate.library import Library
from twinstate.risk.episodes import Episode, Transition, event_id
from twinstate.twin import FORGOTTEN, Rules, Twin, TwinDocument, TwinMemory

EVENT_SOURCE = "urn:twin-updater"
EVENT_TYPE = "org.twin-updater.risk.{}.v1"
# A larger body does not pass through Redis: the publisher reads it again from the input topic.
LARGEST_OUTBOX_BODY = 256 * 1024


def moment(nanoseconds: int) -> str:
    """UTC nanoseconds as RFC 3339 with microseconds."""
    seconds, rest = divmod(nanoseconds, 1_000_000_000)
    instant = dt.datetime.fromtimestamp(seconds, dt.UTC).replace(microsecond=rest // 1000)
    return instant.isoformat().replace("+00:00", "Z")


def dead_letter(raw: RawRecord, refusal: Refusal, partition: int, n: int) -> Outgoing:
    """The refused record, untouched, with the reason and its place in headers."""
    body = raw.value if raw.value is not None else b""
    return Outgoing(
        id=f"{raw.offset}-{n}",
        topic="dead_letters",
        key=raw.key if raw.key is not None else b"",
        headers=(
            *raw.headers,
            ("twin-error-class", refusal.reason.encode()),
            ("twin-error-message", refusal.text.encode()),
            ("twin-error-partition", str(partition).encode()),
            ("twin-error-offset", str(raw.offset).encode()),
        ),
        value=body if len(body) <= LARGEST_OUTBOX_BODY else None,
    )


def risk_event(
    raw: RawRecord,
    n: int,
    twin: Twin,
    transition: Transition,
    rules: Rules,
    described: Mapping[str, Any] | None = None,
) -> Outgoing:
    """A CloudEvents 1.0 event in binary mode.

    `described` is the episode as it was told before, for one of another library; else it is described by this one.
    """
    episode = transition.episode
    at = episode.crossing if transition.type in ("raised", "retracted") else episode.latest
    watermark = twin.timeline.watermark or 0
    data = {
        **(describe_episode(episode, rules.library) if described is None else described),
        "patient": twin.patient,
        "type": transition.type,
        "revision": transition.revision,
        "settled": at <= watermark - rules.times.settled,
        "replaces": transition.replaces,
        "replaced_by": transition.replaced_by,
    }
    headers = {
        "ce_specversion": "1.0",
        "ce_id": event_id(transition),
        "ce_source": rules.source,
        "ce_type": EVENT_TYPE.format(transition.type),
        "ce_time": moment(at),
        "ce_subject": episode.id,
        "ce_partitionkey": twin.patient,
        "content-type": "application/json",
    }
    return Outgoing(
        id=f"{raw.offset}-{n}",
        topic="risk",
        key=twin.patient.encode(),
        headers=tuple((name, text.encode()) for name, text in headers.items()),
        value=msgspec.json.encode(data),
    )


def describe_episode(episode: Episode, library: Library) -> dict[str, Any]:
    """An episode as events, lists and people read it."""
    model = library.drugs[episode.drug]
    threshold = next(t for t in model.thresholds if t.name == episode.threshold)
    risk = episode.risk
    return {
        "episode": episode.id,
        "drug": episode.drug,
        "threshold": episode.threshold,
        "metric": threshold.metric,
        "limit": threshold.limit,
        "unit": threshold.unit,
        "threshold_version": risk.version,
        "threshold_status": threshold.status,
        "threshold_source": threshold.source,
        "severity": episode.severity,
        "crossing": moment(episode.crossing),
        "evaluated": moment(episode.latest),
        "ended": None if episode.ended is None else moment(episode.ended),
        "reason": episode.reason,
        "probability": risk.probability,
        "probability_error": risk.error,
        "forecast": {"median": risk.median, "low": risk.low, "high": risk.high, "unit": threshold.unit},
        "horizon_h": threshold.horizon_h,
        "levels": risk.levels,
        "distrusted": risk.distrusted,
        "assumes": "planned doses given when due"
        if risk.planned
        else "no further doses: no regimen is known",
        "model": model.model,
    }


def standing_episodes(twin: Twin, rules: Rules) -> bytes:
    """The patient's standing episodes as a JSON list; empty bytes when there are none."""
    rows = [
        {
            **describe_episode(e, rules.library),
            "patient": twin.patient,
            "revision": twin.announced[e.id].revision,
        }
        for e in twin.story
        if e.ended is None
    ]
    return msgspec.json.encode(rows) if rows else b""


def index_row(document: TwinDocument, memory: TwinMemory) -> bytes:
    """What a list of twins shows of this one; empty bytes when it does not show it."""
    if document.state == FORGOTTEN:
        return b""
    return msgspec.json.encode(
        {
            "patient": document.patient,
            "state": document.state,
            "watermark": moment(document.watermark),
            "drugs": [e.drug for e in document.estimates],
            "last_input": moment(max((e.last_input for e in document.estimates), default=0)),
            "levels": sum(e.levels for e in document.estimates),
            "standing": len(document.standing),
            "highest_probability": max(
                (r.probability for e in document.estimates for r in e.risks), default=None
            ),
            "doubted_clocks": [clock.doubt for clock in doubted(memory.clocks)],
        }
    )
