"""The oracle's one loop: take a record, judge it, evaluate what it touches, tell what changed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from streams.activation import Activation, read_activation
from streams.codec import Decoder, Refusal, partition_of
from streams.oracle.acceptance import (
    APPLIED,
    FUTURE,
    LATE,
    Chart,
    accept,
    erase,
    forget,
    hour_reached,
    is_empty,
    judge,
    nanoseconds,
    watermark_of,
)
from streams.oracle.document import canonical_bytes
from streams.oracle.episodes import Event, Point, Spell, Told, evaluate, spells_of, tell, tell_what_stands
from streams.oracle.messages import dead_letter, risk_event
from streams.ports import Outgoing, RawRecord
from streams.releases import Releases
from twinstate.digest import digest_of
from twinstate.history import Entry
from twinstate.library import Library
from twinstate.succession import breaches

SOURCE = "urn:twin-updater"


@dataclass
class Patient:
    """One patient, as the oracle follows him.

    Attributes:
        chart: The winning entries that have not left memory.
        hour: Last full hour that the watermark has reached since the patient is known.
        computed: Evaluation points by time, dropped from a changed record's event time on while they are open.
        told: What subscribers know, by episode.
        spells: The episodes now.
    """

    chart: Chart = field(default_factory=Chart)
    hour: int | None = None
    computed: dict[int, Point] = field(default_factory=dict)
    told: dict[str, Told] = field(default_factory=dict)
    spells: list[Spell] = field(default_factory=list)


@dataclass(frozen=True)
class Account:
    """What a log leads to.

    Attributes:
        twins: Canonical bytes by patient.
        risk: Risk events by partition, in order.
        dead_letters: Refused records by partition, in order; without the header `twin-error-message`.
        counts: Records by outcome, dead letters by reason, events by type: the pipeline's counters.
    """

    twins: dict[str, bytes]
    risk: dict[int, list[Outgoing]]
    dead_letters: dict[int, list[Outgoing]]
    counts: dict[str, int]

    @property
    def digest(self) -> str:
        """SHA-256 (hex) over the canonical twins."""
        return digest_of(self.twins)

    @property
    def event_ids(self) -> dict[int, list[str]]:
        """CloudEvents ids by partition, in order; every partition that was read has its list."""
        return {
            partition: [dict(event.headers)["ce_id"].decode() for event in events]
            for partition, events in self.risk.items()
        }


def known(chart: Chart) -> bool:
    """Whether there is something to store: records, or that there were some."""
    return bool(chart) or chart.erased_until is not None


class Oracle:
    """Reads whole partitions and says what a worker must have made of them."""

    def __init__(
        self, library: Library, partitions: int, source: str = SOURCE, releases: Releases | None = None
    ) -> None:
        """Begin before the first record.

        Args:
            library: Models, signals and policy that the log begins under.
            partitions: How many the topic has.
            source: CloudEvents source, part of every episode's name.
            releases: Libraries that the log may activate.
        """
        self._releases = Releases(library) if releases is None else releases
        self._active = dict.fromkeys(range(partitions), library)
        self._partitions = partitions
        self._source = source
        self._patients: dict[str, Patient] = {}
        self._risk: dict[int, list[Outgoing]] = {}
        self._dead_letters: dict[int, list[Outgoing]] = {}
        self._counts: Counter[str] = Counter()

    def active(self, partition: int) -> Library:
        """The library in effect after what was read of a partition."""
        return self._active[partition]

    def read(self, partition: int, records: Iterable[RawRecord]) -> None:
        """Read one partition's log, or the next piece of it, in offset order.

        Raises:
            MissingLibraryError: It activates a library that is not here.
        """
        risk = self._risk.setdefault(partition, [])
        refused = self._dead_letters.setdefault(partition, [])
        for raw in records:
            self._counts["records"] += 1
            asked = read_activation(raw)
            if asked is not None:
                outcome, events = self._switch(partition, asked, raw)
                if outcome in ("activated", "duplicate"):
                    self._counts[outcome] += 1
                    risk.extend(events)
                else:
                    self._counts[f"dead_letters.{outcome}"] += 1
                    refused.append(dead_letter(raw, outcome, partition))
                continue
            library = self._active[partition]
            decoded = Decoder(library, partition, self._partitions).decode(raw)
            if isinstance(decoded, Refusal):
                outcome = decoded.reason
            else:
                patient = self._patients.setdefault(decoded.patient, Patient())
                outcome = judge(
                    patient.chart,
                    decoded.entry,
                    raw.append_time,
                    library,
                    patient.hour,
                    backfill=decoded.backfill,
                )
            if isinstance(decoded, Refusal) or outcome in (LATE, FUTURE):
                self._counts[f"dead_letters.{outcome}"] += 1
                refused.append(dead_letter(raw, outcome, partition))
                continue
            self._counts[outcome] += 1
            if outcome == APPLIED and decoded.entry.kind == "forget":
                risk.extend(self._forget(decoded.patient, patient, decoded.entry, raw, library))
            elif outcome == APPLIED:
                events = self._follow(decoded.patient, patient, decoded.entry, raw, library)
                risk.extend(events)

    def account(self) -> Account:
        """The twins now, and everything emitted so far."""
        return Account(
            twins={
                name: self._document(name, p) for name, p in sorted(self._patients.items()) if known(p.chart)
            },
            risk=self._risk,
            dead_letters=self._dead_letters,
            counts=dict(self._counts),
        )

    def _switch(
        self, partition: int, asked: Activation | Refusal, raw: RawRecord
    ) -> tuple[str, list[Outgoing]]:
        """Let another library take effect for the whole partition."""
        if isinstance(asked, Refusal):
            return asked.reason, []
        before = self._active[partition]
        if asked.library == before.fingerprint:
            return "duplicate", []
        library = self._releases.of_content(asked.library)
        if breaches(before, library):
            return "unfit_library", []
        self._active[partition] = library
        messages: list[Outgoing] = []
        for name, patient in sorted(self._patients.items()):
            if is_empty(patient.chart) or partition_of(name.encode(), self._partitions) != partition:
                continue
            closed = None if patient.hour is None else patient.hour - nanoseconds(library.policy.revise_h)
            patient.computed = {
                time: point
                for time, point in patient.computed.items()
                if closed is not None and time < closed
            }
            points = evaluate(patient.chart, library, patient.computed, closed)
            patient.spells = spells_of(points, library.policy, self._source, name)
            forget(patient.chart, patient.hour, library)
            watermark = watermark_of(patient.chart) or 0
            for event in tell_what_stands(patient.spells, patient.told):
                self._counts[f"events.{event.type}"] += 1
                described = before if event.type == "retracted" else library
                number = len(messages) + 1
                messages.append(risk_event(raw, number, name, event, self._source, watermark, described))
        return "activated", messages

    def _forget(
        self, name: str, patient: Patient, entry: Entry, raw: RawRecord, library: Library
    ) -> list[Outgoing]:
        """Leave nothing of a patient but until when, and end what subscribers hold to be standing."""
        chart = erase(patient.chart, entry.event_time)
        until = chart.erased_until
        assert until is not None
        standing = [known for known in patient.told.values() if known.type in ("raised", "updated")]
        standing.sort(key=lambda known: (known.spell.drug, known.spell.threshold, known.spell.crossing))
        self._patients[name] = Patient(chart)
        messages = []
        for number, known in enumerate(standing, start=1):
            self._counts["events.cleared"] += 1
            spell = replace(known.spell, ended=until, reason="forgotten", latest=until)
            event = Event("cleared", spell, known.revision + 1, None, None)
            messages.append(risk_event(raw, number, name, event, self._source, 0, library))
        return messages

    def _follow(
        self, name: str, patient: Patient, entry: Entry, raw: RawRecord, library: Library
    ) -> list[Outgoing]:
        old = patient.chart.get(entry.identity)
        accept(patient.chart, entry)
        changed = [one.event_time for one in (old, entry) if one is not None and not one.cancelled]
        # Closed is what was closed before this record: a patient just made known is evaluated from the beginning.
        closed = None if patient.hour is None else patient.hour - nanoseconds(library.policy.revise_h)
        for time in [time for time in patient.computed if changed and time >= min(changed)]:
            if closed is None or time >= closed:
                del patient.computed[time]
        points = evaluate(patient.chart, library, patient.computed, closed)
        patient.hour = hour_reached(patient.chart, patient.hour)
        forget(patient.chart, patient.hour, library)
        patient.spells = spells_of(points, library.policy, self._source, name)
        watermark = watermark_of(patient.chart) or 0
        messages = []
        for number, event in enumerate(tell(patient.spells, patient.told), start=1):
            self._counts[f"events.{event.type}"] += 1
            messages.append(risk_event(raw, number, name, event, self._source, watermark, library))
        return messages

    def _document(self, name: str, patient: Patient) -> bytes:
        library = self._active[partition_of(name.encode(), self._partitions)]
        return canonical_bytes(name, patient.chart, patient.spells, library, patient.hour)
