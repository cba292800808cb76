"""What operators may ask of the stored twins. It reads, never writes, and knows neither HTTP nor Redis.

A twin, its version and the position it is true for come from one script call, as do a partition's episodes with
theirs: no answer mixes two moments of one partition. What is asked as of an earlier moment is computed again from the
records that the stored twin holds.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import msgspec

from streams.codec import partition_of
from streams.ports import OUTBOXES, OutboxName, Recalled, StoreUnavailableError
from streams.queries import answers
from streams.queries.export import export_drug
from streams.queries.forecast import Span, forecast_drug
from streams.queries.listing import Page, cut, read_row
from streams.queries.trails import arrivals_in, holdings, note
from streams.queries.views import AsOf, QuestionError, View, describe_twin, look
from streams.releases import Releases
from twinstate.library import Library
from twinstate.twin import Rules


class PartitionState(Protocol):
    """Where a partition stands (`streams.adapters.redis_store.PartitionMeta`)."""

    @property
    def position(self) -> int:
        """Next input offset."""

    @property
    def fingerprint(self) -> str:
        """Of the worker that made the twins."""

    @property
    def risk_topic_position(self) -> int:
        """Where a newcomer reads the risk topic on."""


class TwinReader(Protocol):
    """Reads of the store, each from one moment of a partition."""

    async def read_twins(
        self, partition: int, patients: Sequence[str]
    ) -> tuple[PartitionState | None, Mapping[str, Recalled]]:
        """Twins by patient."""

    async def read_standing(self, partition: int) -> tuple[PartitionState | None, Mapping[str, bytes]]:
        """Standing episodes (JSON lists) by patient."""

    async def read_index(self, partition: int) -> tuple[PartitionState | None, Mapping[str, bytes]]:
        """Rows of lists (JSON) by patient."""

    async def read_counters(self, partition: int) -> tuple[PartitionState | None, Mapping[str, int]]:
        """Counters."""

    async def read_trace(self, partition: int) -> list[bytes]:
        """JSON lines of what became of records, newest batch first."""

    async def outbox_length(self, partition: int, outbox: OutboxName) -> int:
        """Messages waiting."""

    async def seconds_since_seen(self, partition: int) -> float | None:
        """Since a worker last wrote, s."""


class Queries:
    """The questions.

    Args:
        reader: Of the store.
        library: The worker's, which the log begins under.
        partitions: Of the input topic.
        source: CloudEvents source of the risk events, part of the episodes' names.
        clock: Wall clock, UTC ns; it tells ages, nothing else.
        releases: Libraries that the log may have activated.
    """

    def __init__(
        self,
        reader: TwinReader,
        library: Library,
        partitions: int,
        source: str,
        clock: Callable[[], int],
        releases: Releases | None = None,
    ) -> None:
        self.reader = reader
        self.rules = Rules(library, source)
        self.partitions = partitions
        self.clock = clock
        self.releases = Releases(library) if releases is None else releases
        self._furthest: dict[
            int, int
        ] = {}  # input offset of the latest place an answer was given of, by partition

    def rules_of(self, fingerprint: str) -> Rules:
        """What twins of this fingerprint were made by; the first library where none here makes such twins."""
        library = self.releases.of_twins(fingerprint)
        return self.rules if library is None else Rules(library, self.rules.source)

    async def twin(self, patient: str, as_of: AsOf = "live") -> answers.TwinAnswer:
        """One twin, as stored or as of an earlier moment.

        Raises:
            QuestionError: Nobody by that name, or no twin of that moment.
            StoreUnavailableError: The store does not answer.
        """
        found, position, fingerprint = await self._recall(patient)
        rules = self.rules_of(fingerprint)
        view = await asyncio.to_thread(self._look, found, as_of, rules)
        return describe_twin(view, found.version, position, fingerprint, self.clock(), rules)

    async def forecast(
        self, patient: str, drug: str | None = None, span: Span | None = None, as_of: AsOf = "live"
    ) -> answers.ForecastAnswer:
        """One drug's level over time.

        Args:
            patient: Pseudonym.
            drug: Which drug; may be left out for a patient with one.
            span: How far back and ahead.
            as_of: The moment from which is forecast.

        Raises:
            QuestionError: No such patient or drug, or no estimate to start from.
            StoreUnavailableError: The store does not answer.
        """
        found, position, fingerprint = await self._recall(patient)
        rules = self.rules_of(fingerprint)

        def compute() -> answers.ForecastAnswer:
            view = self._look(found, as_of, rules)
            return forecast_drug(view, drug, span or Span(), found.version, position, rules)

        return await asyncio.to_thread(compute)

    async def export(
        self, patient: str, drug: str | None = None, as_of: AsOf = "live"
    ) -> answers.ExportAnswer:
        """One drug's doses, levels, covariates, predictions and etas as rows.

        Args:
            patient: Pseudonym.
            drug: Which drug; may be left out for a patient with one.
            as_of: The moment up to which records count.

        Raises:
            QuestionError: No such patient or drug, or no estimate.
            StoreUnavailableError: The store does not answer.
        """
        found, position, fingerprint = await self._recall(patient)
        rules = self.rules_of(fingerprint)

        def compute() -> answers.ExportAnswer:
            return export_drug(self._look(found, as_of, rules), drug, fingerprint, position, rules)

        return await asyncio.to_thread(compute)

    async def twins(self, page: Page) -> answers.TwinList:
        """A page of the list, over all partitions.

        Raises:
            QuestionError: The cursor is not one of ours.
            StoreUnavailableError: The store does not answer.
        """
        rows, positions = await self.rows()
        return cut(rows, page, positions)

    async def rows(self) -> tuple[list[answers.TwinRow], tuple[answers.Position, ...]]:
        """Every twin's row, and where each partition stands.

        Raises:
            StoreUnavailableError: The store does not answer.
        """
        rows: list[answers.TwinRow] = []
        positions: list[answers.Position] = []
        for partition in range(self.partitions):
            meta, index = await self.reader.read_index(partition)
            here = self._position(partition, 0 if meta is None else meta.position)
            if meta is not None or here.rolled_back:
                positions.append(here)
            if meta is None:
                continue
            drugs = self.rules_of(meta.fingerprint).library.drugs
            rows += [read_row(content, drugs) for content in index.values()]
        return rows, tuple(positions)

    async def risks(self) -> answers.RisksAnswer:
        """Standing episodes; per partition they, the position and the topic's offset are of one moment.

        Raises:
            StoreUnavailableError: The store does not answer.
        """
        partitions = []
        for partition in range(self.partitions):
            meta, rows = await self.reader.read_standing(partition)
            episodes: list[dict[str, Any]] = [
                episode for _, content in sorted(rows.items()) for episode in msgspec.json.decode(content)
            ]
            episodes.sort(key=lambda e: (-float(e["probability"]), str(e["episode"])))
            here = self._position(partition, 0 if meta is None else meta.position)
            partitions.append(
                answers.RiskPartition(
                    partition=partition,
                    next_offset=here.next_offset,
                    risk_topic_offset=0 if meta is None else meta.risk_topic_position,
                    episodes=tuple(episodes),
                    rolled_back=here.rolled_back,
                )
            )
        return answers.RisksAnswer(
            standing=sum(len(p.episodes) for p in partitions), partitions=tuple(partitions)
        )

    async def trace(self, record_id: str, patient: str | None = None) -> answers.TraceAnswer:
        """What became of a record, by its id.

        Args:
            record_id: The record's `id`.
            patient: Whose; looks into one partition and into the twin even when the trace has forgotten.

        Raises:
            StoreUnavailableError: The store does not answer.
        """
        where = range(self.partitions) if patient is None else (self._partition(patient),)
        arrivals: list[answers.Trail] = []
        for partition in where:
            for batch in await self.reader.read_trace(partition):
                arrivals += arrivals_in(batch, partition, record_id, patient)
        arrivals.sort(key=lambda t: (t.partition, t.offset))
        whose = {t.patient for t in arrivals if t.patient} | ({patient} if patient else set())
        held: list[answers.Holding] = []
        for name in sorted(whose):
            _, found = await self.reader.read_twins(self._partition(name), [name])
            held += holdings(found[name], name, record_id)
        return answers.TraceAnswer(
            id=record_id, arrivals=tuple(arrivals), held=tuple(held), note=note(arrivals, held, patient)
        )

    async def counts(self) -> answers.Counts:
        """Counters and gauges over all partitions.

        Raises:
            StoreUnavailableError: The store does not answer.
        """
        totals: Counter[str] = Counter()
        states: Counter[str] = Counter()
        severities: Counter[str] = Counter()
        clocks: Counter[str] = Counter()
        positions: dict[int, int] = {}
        waiting: dict[int, dict[str, int]] = {}
        seen: dict[int, float] = {}
        fingerprints: set[str] = set()
        for partition in range(self.partitions):
            meta, counters = await self.reader.read_counters(partition)
            if meta is None:
                continue
            totals.update(counters)
            positions[partition] = meta.position
            fingerprints.add(meta.fingerprint)
            _, index = await self.reader.read_index(partition)
            drugs = self.rules_of(meta.fingerprint).library.drugs
            rows = [read_row(row, drugs) for row in index.values()]
            states.update([str(row.state) for row in rows])
            clocks.update(doubt for row in rows for doubt in row.doubted_clocks)
            for content in (await self.reader.read_standing(partition))[1].values():
                severities.update([str(e["severity"]) for e in msgspec.json.decode(content)])
            waiting[partition] = {o: await self.reader.outbox_length(partition, o) for o in OUTBOXES}
            age = await self.reader.seconds_since_seen(partition)
            if age is not None:
                seen[partition] = age
        return answers.Counts(
            records={k: n for k, n in totals.items() if "." not in k and k != "records"},
            events={k.partition(".")[2]: n for k, n in totals.items() if k.startswith("events.")},
            dead_letters={k.partition(".")[2]: n for k, n in totals.items() if k.startswith("dead_letters.")},
            twins=dict(states),
            standing=dict(severities),
            doubted_clocks=dict(clocks),
            positions=positions,
            waiting=waiting,
            seen_s=seen,
            fingerprints=tuple(sorted(fingerprints)),
        )

    async def never_acquired(self) -> list[int]:
        """Partitions to which no worker has come yet.

        Raises:
            StoreUnavailableError: The store does not answer.
        """
        metas = [(await self.reader.read_twins(partition, []))[0] for partition in range(self.partitions)]
        return [partition for partition, meta in enumerate(metas) if meta is None]

    def _partition(self, patient: str) -> int:
        return partition_of(patient.encode(), self.partitions)

    async def _recall(self, patient: str) -> tuple[Recalled, answers.Position, str]:
        partition = self._partition(patient)
        meta, found = await self.reader.read_twins(partition, [patient])
        here = self._position(partition, 0 if meta is None else meta.position)
        if meta is None or found[patient].twin is None:
            if here.rolled_back:
                raise StoreUnavailableError(
                    f"Redis lost its newest writes: partition {partition} is read again from the log and has come to "
                    f"offset {here.next_offset} of {self._furthest[partition]}; the patient may come after it"
                )
            raise QuestionError(
                "no-such-twin",
                "no record of this patient has been accepted; check the pseudonym, or trace a record: twin trace ID",
            )
        return (
            found[patient],
            here,
            meta.fingerprint,
        )

    def _position(self, partition: int, offset: int) -> answers.Position:
        """The place of an answer, marked when one given before was of a later place."""
        furthest = self._furthest.setdefault(partition, offset)
        self._furthest[partition] = max(furthest, offset)
        return answers.Position(partition=partition, next_offset=offset, rolled_back=offset < furthest)

    def _look(self, found: Recalled, as_of: AsOf, rules: Rules) -> View:
        assert found.twin is not None  # _recall has checked
        return look(found.twin, as_of, rules)
