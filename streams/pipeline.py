"""From a batch of one partition's records to everything that must be committed with it.

One record makes seven hops: decode, recall its twin, place it in time, observe it in canonical units, assimilate,
assess exposure, commit. Decoding and observing happen in `codec`, recalling and committing in the partition's
processor; `Pipeline.update` does what lies between, for the whole batch, one patient after another and one record
after another: a batch shares work and round trips, never transitions.
"""

from __future__ import annotations

import datetime as dt
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from streams.codec import Accepted, Decoder, Refusal
from streams.fingerprint import fingerprint_of
from streams.ports import BatchOutcome, Outgoing, RawRecord, StoredTwin
from twinstate.clocks import doubted
from twinstate.library import Library, load_library
from twinstate.outlook import Memo
from twinstate.risk.episodes import Episode, Transition, event_id
from twinstate.timeline import Outcome
from twinstate.twin import Rules, Twin, TwinDocument, TwinMemory, encode, thaw

EVENT_SOURCE = "urn:twin-updater"
EVENT_TYPE = "org.twin-updater.risk.{}.v1"
# A larger body does not pass through Redis: the publisher reads it again from the input topic.
LARGEST_OUTBOX_BODY = 256 * 1024
# Fits and forecasts remembered, some 10 kB each.
MEMO_SIZE = 4096


@dataclass
class Batch:
    """A decoded batch, in offset order."""

    records: list[tuple[RawRecord, Accepted | Refusal]]
    patients: list[str]


class Pipeline:
    """The twins of one partition, hot in memory, and how records change them."""

    def __init__(self, library: Library, partition: int, partitions: int, source: str = EVENT_SOURCE) -> None:
        """Begin with no twin in memory.

        Args:
            library: Models, signals and policy.
            partition: Which one this is.
            partitions: How many the topic has.
            source: CloudEvents source of the risk events; part of every episode's name.
        """
        self.rules = Rules(library, source)
        self.partition = partition
        self._decoder = Decoder(library, partition, partitions)
        self._twins: dict[str, Twin] = {}
        self._memo = Memo(MEMO_SIZE)

    @property
    def fingerprint(self) -> str:
        """Whatever could change a bit of a stored twin: code, library, interpreter, arithmetic."""
        return fingerprint_of(self.rules.library)

    def decode(self, records: Sequence[RawRecord]) -> Batch:
        """Turn bytes into entries, or into refusals with their reason."""
        decoded = [(raw, self._decoder.decode(raw)) for raw in records]
        patients = dict.fromkeys(d.patient for _, d in decoded if isinstance(d, Accepted))
        return Batch(decoded, list(patients))

    def missing(self, batch: Batch) -> list[str]:
        """Patients of the batch whose twins are not in memory."""
        return [p for p in batch.patients if p not in self._twins]

    def remember(self, patient: str, stored: StoredTwin | None) -> None:
        """Take a twin into memory; None begins a new one."""
        if stored is None:
            self._twins[patient] = Twin(patient, memo=self._memo)
        else:
            self._twins[patient] = thaw(stored, self.rules, self._memo)

    def forget(self) -> None:
        """Drop every twin from memory: what Redis holds is the truth."""
        self._twins.clear()

    def update(self, batch: Batch, progress: Callable[[], None] = lambda: None) -> BatchOutcome:
        """Apply a decoded batch whose twins are all in memory.

        Args:
            batch: From `decode`.
            progress: Called after each record: a batch may be long work, and its watchdog must know that it goes on.
        """
        outgoing: list[Outgoing] = []
        counts: Counter[str] = Counter()
        trace: list[Mapping[str, Any]] = []
        changed: dict[str, None] = {}
        for raw, decoded in batch.records:
            progress()
            if isinstance(decoded, Refusal):
                outgoing.append(dead_letter(raw, decoded, self.partition, 1))
                counts[f"dead_letters.{decoded.reason}"] += 1
                trace.append(_trace(raw, decoded.record, "dead_letter", f"{decoded.reason}: {decoded.text}"))
                continue
            twin = self._twins[decoded.patient]
            verdict, transitions = twin.take(
                decoded.entry, raw.append_time, self.rules, backfill=decoded.backfill
            )
            record = (decoded.patient, *decoded.entry.identity, decoded.entry.revision)
            if verdict.outcome in (Outcome.LATE, Outcome.FUTURE):
                refusal = Refusal(verdict.outcome.value, verdict.reason, record)
                outgoing.append(dead_letter(raw, refusal, self.partition, 1))
                counts[f"dead_letters.{verdict.outcome}"] += 1
                trace.append(_trace(raw, record, "dead_letter", f"{verdict.outcome}: {verdict.reason}"))
                continue
            counts[verdict.outcome.value] += 1
            if verdict.outcome is not Outcome.APPLIED or decoded.entry.kind != "wearable":
                trace.append(_trace(raw, record, verdict.outcome.value, verdict.reason))
            if verdict.outcome is Outcome.APPLIED:
                changed[decoded.patient] = None
            for n, transition in enumerate(transitions, start=1):
                outgoing.append(risk_event(raw, n, twin, transition, self.rules))
                counts[f"events.{transition.type}"] += 1
        counts["records"] = len(batch.records)
        documents = {patient: self._twins[patient].describe(self.rules) for patient in changed}
        return BatchOutcome(
            twins={
                p: StoredTwin(encode(document), encode(memory)) for p, (document, memory) in documents.items()
            },
            standing={p: standing_episodes(self._twins[p], self.rules) for p in changed},
            index={p: index_row(*described) for p, described in documents.items()},
            outgoing=outgoing,
            counts=dict(counts),
            trace=b"\n".join(msgspec.json.encode(line) for line in trace),
        )


def create_pipeline(library_dir: str, partition: int, partitions: int, group: str) -> Pipeline:
    """Make the pipeline of one partition, as the worker asks for it by name.

    Args:
        library_dir: The folder `config/`.
        partition: Which partition.
        partitions: How many the topic has.
        group: The consumer group; it names keys in the store and enters no twin and no event.
    """
    return Pipeline(load_library(Path(library_dir)), partition, partitions)


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
    """What a list of twins shows of this one."""
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


def _trace(raw: RawRecord, record: tuple[Any, ...] | None, outcome: str, reason: str) -> Mapping[str, Any]:
    names = ("patient", "kind", "source", "id", "revision")
    named = dict(zip(names, record, strict=True)) if record is not None else {}
    return {"offset": raw.offset, **named, "outcome": outcome, "reason": reason}
