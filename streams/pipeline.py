"""From a batch of one partition's records to everything that must be committed with it.

One record makes seven hops: decode, recall its twin, place it in time, observe it in canonical units, assimilate,
assess exposure, commit. Decoding and observing happen in `codec`, recalling and committing in the partition's
processor; `Pipeline.update` does what lies between, for the whole batch, one patient after another and one record
after another: a batch shares work and round trips, never transitions.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from streams.activation import Activation, read_activation
from streams.codec import Accepted, Decoder, Refusal
from streams.fingerprint import fingerprint_of
from streams.library_change import Change, judge_activation, trace_of
from streams.messages import (
    EVENT_SOURCE,
    dead_letter,
    describe_episode,
    index_row,
    risk_event,
    standing_episodes,
)
from streams.ports import BatchOutcome, Outgoing, RawRecord, StoredTwin
from streams.releases import MissingLibraryError, Releases, load_releases
from twinstate.library import Library
from twinstate.outlook import Memo
from twinstate.risk.episodes import RETRACTED
from twinstate.timeline import Outcome
from twinstate.twin import Rules, Twin, encode, thaw

# Fits and forecasts remembered, some 10 kB each.
MEMO_SIZE = 4096


@dataclass
class Batch:
    """A decoded batch, in offset order."""

    records: list[tuple[RawRecord, Accepted | Refusal | Change]]
    patients: list[str]


class Pipeline:
    """The twins of one partition, hot in memory, and how records change them."""

    def __init__(
        self,
        library: Library,
        partition: int,
        partitions: int,
        source: str = EVENT_SOURCE,
        releases: Releases | None = None,
    ) -> None:
        """Begin with no twin in memory.

        Args:
            library: Models, signals and policy that the log begins under.
            partition: Which one this is.
            partitions: How many the topic has.
            source: CloudEvents source of the risk events; part of every episode's name.
            releases: Libraries that the log may activate; None for the first one alone.
        """
        self.rules = Rules(library, source)
        self.partition = partition
        self._partitions = partitions
        self._releases = Releases(library) if releases is None else releases
        self._decoder = Decoder(library, partition, partitions)
        self._twins: dict[str, Twin] = {}
        self._stored: set[str] = set()
        self._memo = Memo(MEMO_SIZE)

    @property
    def fingerprint(self) -> str:
        """Whatever could change a bit of a twin (code, library, interpreter, arithmetic), where the log begins."""
        return fingerprint_of(self._releases.first)

    @property
    def active(self) -> str:
        """The fingerprint under the library in effect now."""
        return fingerprint_of(self.rules.library)

    def fingerprints(self) -> tuple[str, ...]:
        """Every fingerprint it can go on under."""
        return self._releases.fingerprints()

    def stand_under(self, fingerprint: str) -> None:
        """Go on under the library with which twins of this fingerprint were made.

        Raises:
            MissingLibraryError: It was taken away since the partition was acquired.
        """
        library = self._releases.of_twins(fingerprint)
        if library is None:
            raise MissingLibraryError(
                f"partition {self.partition}: no library here makes twins of fingerprint {fingerprint} any more. Put "
                "the release it was activated from back below config/releases"
            )
        self._take_effect(library)

    def decode(self, records: Sequence[RawRecord]) -> Batch:
        """Turn bytes into entries, or into refusals with their reason, each under the library in effect at its place.

        Raises:
            MissingLibraryError: One is activated that is not here.
        """
        library, decoder = self.rules.library, self._decoder
        decoded: list[tuple[RawRecord, Accepted | Refusal | Change]] = []
        for raw in records:
            asked = read_activation(raw)
            if asked is None:
                decoded.append((raw, decoder.decode(raw)))
                continue
            change = (
                judge_activation(asked, library, self._releases) if isinstance(asked, Activation) else asked
            )
            decoded.append((raw, change))
            if isinstance(change, Change) and change.library is not None:
                library = change.library
                decoder = Decoder(library, self.partition, self._partitions)
        patients = dict.fromkeys(d.patient for _, d in decoded if isinstance(d, Accepted))
        return Batch(decoded, list(patients))

    def touches_all(self, batch: Batch) -> bool:
        """Whether another library takes effect in the batch."""
        return any(isinstance(d, Change) and d.library is not None for _, d in batch.records)

    def missing(self, batch: Batch, stored: Sequence[str] = ()) -> list[str]:
        """Patients of the batch, and of the stored ones, whose twins are not in memory."""
        return [p for p in dict.fromkeys((*batch.patients, *stored)) if p not in self._twins]

    def remember(self, patient: str, stored: StoredTwin | None) -> None:
        """Take a twin into memory; None begins a new one."""
        if stored is None:
            self._twins[patient] = Twin(patient, memo=self._memo)
        else:
            self._stored.add(patient)
            self._twins[patient] = thaw(stored, self.rules, self._memo)

    def forget(self) -> None:
        """Drop every twin from memory: what Redis holds is the truth."""
        self._twins.clear()
        self._stored.clear()

    def update(self, batch: Batch, progress: Callable[[], None] = lambda: None) -> BatchOutcome:
        """Apply a decoded batch whose twins are all in memory.

        Args:
            batch: From `decode`.
            progress: Called before each record and each twin: a batch may be long work, and its watchdog must know that
                it goes on.
        """
        outgoing: list[Outgoing] = []
        counts: Counter[str] = Counter()
        trace: list[Mapping[str, Any]] = []
        changed: dict[str, None] = {}
        under, fingerprint = self.active, ""
        for raw, decoded in batch.records:
            progress()
            if isinstance(decoded, Change):
                counts["duplicate" if decoded.library is None else "activated"] += 1
                trace.append(trace_of(raw, decoded))
                if decoded.library is not None:
                    outgoing += self._adopt(decoded.library, raw, changed, counts, progress)
                    fingerprint = self.active
                continue
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
        self._stored.update(changed)
        counts["records"] = len(batch.records)
        twins, standing, index = {}, {}, {}
        for patient in changed:
            progress()  # these may be all the partition's twins
            twin = self._twins[patient]
            document, memory = twin.describe(self.rules)
            twins[patient] = StoredTwin(encode(document), encode(memory))
            standing[patient] = standing_episodes(twin, self.rules)
            index[patient] = index_row(document, memory)
        return BatchOutcome(
            twins=twins,
            standing=standing,
            index=index,
            outgoing=outgoing,
            counts=dict(counts),
            trace=b"\n".join(msgspec.json.encode(line) for line in trace),
            under=under,
            fingerprint=fingerprint,
        )

    def _adopt(
        self,
        library: Library,
        raw: RawRecord,
        changed: dict[str, None],
        counts: Counter[str],
        progress: Callable[[], None],
    ) -> list[Outgoing]:
        """Derive every twin again under another library; the events are this record's, patients in order."""
        before = self.rules.library
        self._take_effect(library)
        outgoing: list[Outgoing] = []
        for patient, twin in sorted(self._twins.items()):
            if twin.timeline.blank and patient not in self._stored:
                continue
            progress()
            changed[patient] = None
            for transition in twin.adopt(self.rules):
                # What was a mistake is described as it was told, by the limit that counted then.
                undone = transition.type == RETRACTED
                described = describe_episode(transition.episode, before) if undone else None
                n = len(outgoing) + 1
                outgoing.append(risk_event(raw, n, twin, transition, self.rules, described))
                counts[f"events.{transition.type}"] += 1
        return outgoing

    def _take_effect(self, library: Library) -> None:
        if library.fingerprint != self.rules.library.fingerprint:
            self.rules = Rules(library, self.rules.source)
            self._decoder = Decoder(library, self.partition, self._partitions)


def create_pipeline(library_dir: str, partition: int, partitions: int, group: str) -> Pipeline:
    """Make the pipeline of one partition, as the worker asks for it by name.

    Args:
        library_dir: The folder `config/`.
        partition: Which partition.
        partitions: How many the topic has.
        group: The consumer group; it names keys in the store and enters no twin and no event.
    """
    releases = load_releases(Path(library_dir))
    return Pipeline(releases.first, partition, partitions, releases=releases)


def _trace(raw: RawRecord, record: tuple[Any, ...] | None, outcome: str, reason: str) -> Mapping[str, Any]:
    names = ("patient", "kind", "source", "id", "revision")
    named = dict(zip(names, record, strict=True)) if record is not None else {}
    return {"offset": raw.offset, **named, "outcome": outcome, "reason": reason}
