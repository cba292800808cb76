"""What goes out: risk events as CloudEvents in binary mode, and refused records."""

from __future__ import annotations

import datetime as dt

import msgspec

from streams.oracle.acceptance import nanoseconds
from streams.oracle.episodes import Event, hashed
from streams.ports import Outgoing, RawRecord
from twinstate.library import Library

LARGEST_BODY = 256 * 1024  # bytes


def utc(nanoseconds_since_1970: int) -> str:
    """An event time as RFC 3339."""
    instant = dt.datetime(1970, 1, 1, tzinfo=dt.UTC) + dt.timedelta(
        microseconds=nanoseconds_since_1970 // 1000
    )
    return instant.isoformat().replace("+00:00", "Z")


def risk_event(
    raw: RawRecord, number: int, patient: str, event: Event, source: str, watermark: int, library: Library
) -> Outgoing:
    """The CloudEvent of a transition.

    Args:
        raw: The record that caused it.
        number: Which of that record's events, from 1.
        patient: Pseudonym.
        event: The transition.
        source: CloudEvents source.
        watermark: The patient's, UTC ns, after the record.
        library: Tells the threshold's limit, unit and source.
    """
    spell, risk = event.spell, event.spell.risk
    model = library.drugs[spell.drug]
    [threshold] = [row for row in model.thresholds if row.name == spell.threshold]
    concerns = spell.crossing if event.type in ("raised", "retracted") else spell.latest
    body = {
        "episode": spell.id,
        "drug": spell.drug,
        "threshold": spell.threshold,
        "metric": threshold.metric,
        "limit": threshold.limit,
        "unit": threshold.unit,
        "threshold_version": risk.version,
        "threshold_status": threshold.status,
        "threshold_source": threshold.source,
        "severity": spell.severity,
        "crossing": utc(spell.crossing),
        "evaluated": utc(spell.latest),
        "ended": utc(spell.ended) if spell.ended is not None else None,
        "reason": spell.reason,
        "probability": risk.probability,
        "probability_error": risk.error,
        "forecast": {"median": risk.median, "low": risk.low, "high": risk.high, "unit": threshold.unit},
        "horizon_h": threshold.horizon_h,
        "levels": risk.levels,
        "distrusted": list(risk.distrusted),
        "assumes": (
            "planned doses given when due" if risk.planned else "no further doses: no regimen is known"
        ),
        "model": model.model,
        "patient": patient,
        "type": event.type,
        "revision": event.revision,
        "settled": concerns <= watermark - nanoseconds(library.policy.settled_h),
        "replaces": event.replaces,
        "replaced_by": event.replaced_by,
    }
    headers = [
        ("ce_specversion", "1.0"),
        ("ce_id", hashed(spell.id, event.type, str(event.revision))),
        ("ce_source", source),
        ("ce_type", f"org.twin-updater.risk.{event.type}.v1"),
        ("ce_time", utc(concerns)),
        ("ce_subject", spell.id),
        ("ce_partitionkey", patient),
        ("content-type", "application/json"),
    ]
    return Outgoing(
        id=f"{raw.offset}-{number}",
        topic="risk",
        key=patient.encode(),
        headers=tuple((name, value.encode()) for name, value in headers),
        value=msgspec.json.encode(body),
    )


def dead_letter(raw: RawRecord, reason: str, partition: int) -> Outgoing:
    """A refused record as it came; of the headers that say why, all but the sentence for people."""
    body = raw.value or b""
    return Outgoing(
        id=f"{raw.offset}-1",
        topic="dead_letters",
        key=raw.key or b"",
        headers=(
            *raw.headers,
            ("twin-error-class", reason.encode()),
            ("twin-error-partition", str(partition).encode()),
            ("twin-error-offset", str(raw.offset).encode()),
        ),
        value=None if len(body) > LARGEST_BODY else body,
    )
