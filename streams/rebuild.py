"""`twin rebuild`: derive twins again from the log, put them in place at once, and tell what stands differently.

    check the log -> acquire -> read what is stored -> replay the log up to the position -> compare -> rewrite

One script writes everything of a partition (`scripts/rewrite.lua`), so a rebuild that dies leaves the old twins or the
new ones, and running it again is always right: what was told is part of a twin, so nothing is told twice. The events
wait in the outbox for the next worker's publisher.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import NamedTuple, TypeVar

import msgspec
from confluent_kafka import KafkaException

from streams.activation import CONTROL_KEY
from streams.adapters.kafka_link import OutputLink, PublishError
from streams.adapters.log_reader import LogError, LogReader
from streams.adapters.redis_rebuild import RebuildStore, Rows
from streams.adapters.redis_store import PartitionMeta, StoreLimits, connect
from streams.adapters.topics import read_topics
from streams.codec import partition_of
from streams.difference import Derived, Difference, Told, compare
from streams.failpoints import fail_point
from streams.pipeline import Pipeline
from streams.ports import (
    Claim,
    Lease,
    OutboxName,
    StoredTwin,
    StoreUnavailableError,
    Verdict,
    outbox_order,
)
from streams.releases import MissingLibraryError, load_releases
from streams.settings import Settings

T = TypeVar("T")
# Partition, log offsets read, and how many there are to read.
Watch = Callable[[int, int, int], None]

# A whole partition goes through one command: give Redis time for it.
ANSWER_WITHIN_S = 60.0


class RebuildError(Exception):
    """The twins cannot be derived again as things are; nothing of this partition was changed."""


class Rebuilt(NamedTuple):
    """What became of one partition.

    Attributes:
        partition: Its number.
        position: The twins are true for every record before this offset, as they were.
        records: Read from the log and folded.
        twins: Derived.
        changed: Patients of whom anything stored differs from what was derived.
        gone: Those of them of whom the log knows nothing.
        unreadable: Those whose stored twin could not be read, so that what subscribers were told was taken from the
            standing episodes and the log.
        events: In the order in which they go out.
        fingerprint_before: Under which the twins were made.
        fingerprint: Of this code and library.
        written: Whether Redis was changed.
    """

    partition: int
    position: int
    records: int
    twins: int
    changed: tuple[str, ...]
    gone: tuple[str, ...]
    unreadable: tuple[str, ...]
    events: tuple[Told, ...]
    fingerprint_before: str
    fingerprint: str
    written: bool


def rebuild(
    settings: Settings,
    *,
    partition: int | None = None,
    patient: str | None = None,
    dry_run: bool = False,
    watch: Watch = lambda partition, done, total: None,
) -> list[Rebuilt]:
    """Derive twins again from the log and put them in place.

    Args:
        settings: Of the service.
        partition: This one only; None for all.
        patient: This one only; then `partition` is his.
        dry_run: Say what would change; acquire and write nothing.
        watch: Is told of progress.

    Returns:
        What became of each partition; one that no worker ever acquired is left out.

    Raises:
        RebuildError: The log does not reach back or activates a library that is not here, a worker is in the way, or
            the patient's partition was made under another fingerprint.
        LogError: The broker does not answer.
        StoreError: Redis does not answer, or a worker has just acquired the partition.
    """
    topics = read_topics(settings.paths.topics)
    if patient is not None:
        partition = partition_of(patient.encode(), topics.partitions)
    if partition is not None and not 0 <= partition < topics.partitions:
        raise RebuildError(f"there is no partition {partition}; they are 0 to {topics.partitions - 1}")
    chosen = range(topics.partitions) if partition is None else [partition]
    with LogReader(settings.kafka.connection(), topics.names.records) as log:
        work = _Rebuild(settings, log, patient, dry_run=dry_run, watch=watch)
        # Every partition is checked before the first is touched.
        ready = [(number, meta) for number in chosen if (meta := work.check(number)) is not None]
        if patient is not None and not ready:
            raise RebuildError(
                f"there is no twin of {patient}: no worker has ever acquired partition {partition}"
            )
        return [work.partition(number, meta) for number, meta in ready]


class _Rebuild:
    """One call of `rebuild`."""

    def __init__(
        self, settings: Settings, log: LogReader, patient: str | None, *, dry_run: bool, watch: Watch
    ) -> None:
        self._settings = settings
        self._topics = read_topics(settings.paths.topics)
        self._releases = load_releases(settings.paths.library)
        self._log = log
        self._patient = patient
        self._dry_run = dry_run
        self._watch = watch
        self._owner = secrets.token_hex(8)

    def check(self, partition: int) -> PartitionMeta | None:
        """See that the log still holds every record the twins rest on; None where there are no twins.

        Raises:
            RebuildError: It does not, or the patient's twin cannot be derived alone.
        """

        async def ask(store: RebuildStore) -> tuple[PartitionMeta | None, int | None]:
            meta, _ = await store.read_counters(partition)
            return meta, await store.first_applied(partition)

        meta, needed = self._ask(ask)
        if meta is None:
            return None
        needed = meta.position if needed is None else needed
        first, end = self._log.bounds(partition)
        if first > needed:
            raise RebuildError(
                f"partition {partition}: the log begins at offset {first}, but the twins rest on records from {needed} "
                f"on, so they cannot be derived again; nothing was changed. Restore records {needed} to {first - 1}, "
                "or go on with the code and library that made these twins"
            )
        if meta.position > end:
            raise RebuildError(
                f"partition {partition}: the twins stand at offset {meta.position}, but the log ends at {end}; nothing "
                "was changed. The topic was made anew, or Redis belongs to another Kafka: join the two that belong "
                "together"
            )
        if self._patient is not None and self._releases.of_twins(meta.fingerprint) is None:
            raise self._mixed(partition, meta, self._pipeline(partition).fingerprint)
        return meta

    def _mixed(self, partition: int, meta: PartitionMeta, here: str) -> RebuildError:
        return RebuildError(
            f"partition {partition} of {self._patient} was made under fingerprint {meta.fingerprint}, this code and "
            f"library have {here}. Twins of two fingerprints do not mix: derive the whole partition, "
            f"twin rebuild --partition {partition}"
        )

    def partition(self, partition: int, meta: PartitionMeta) -> Rebuilt:
        """Derive, compare, and write what differs."""
        lease, meta, stored = self._begin(partition, meta)
        pipeline = self._pipeline(partition)
        derived = self._replay(pipeline, meta.position)
        if self._patient is not None and not derived.twins and not stored.twins:
            raise RebuildError(
                f"there is no twin of {self._patient}, and no record in partition {partition} that makes one"
            )
        same = meta.fingerprint == pipeline.active
        if self._patient is not None and not same:
            raise self._mixed(partition, meta, pipeline.active)
        difference = compare(stored, derived, pipeline.rules, meta.position, same_fingerprint=same)
        changed = sorted({*difference.rows.twins, *difference.rows.standing, *difference.rows.index})
        write = lease is not None and bool(changed or not same)
        if lease is not None and write:
            self._write(lease, meta, pipeline.active, difference)
        return Rebuilt(
            partition=partition,
            position=meta.position,
            records=derived.records,
            twins=len(derived.twins),
            changed=tuple(changed),
            gone=tuple(difference.gone),
            unreadable=tuple(difference.unreadable),
            events=tuple(difference.told),
            fingerprint_before=meta.fingerprint,
            fingerprint=pipeline.active,
            written=write,
        )

    def _begin(self, partition: int, meta: PartitionMeta) -> tuple[Lease | None, PartitionMeta, Rows]:
        """Take the partition over from whoever has it, and read what it holds."""

        async def ask(store: RebuildStore) -> tuple[Lease | None, PartitionMeta, Rows]:
            lease = None
            if not self._dry_run:
                # Of the generation and fingerprint that are there: a rebuild is no member of the group.
                claim = Claim(meta.generation, self._owner, "twin-rebuild", meta.fingerprint)
                lease = await store.acquire(partition, claim, 0)
            now, rows = await store.read_rows(partition, self._patient)
            if now is None or (lease is not None and now.epoch != lease.epoch):
                raise _taken(partition, "another process")
            return lease, now, rows

        return self._ask(ask)

    def _replay(self, pipeline: Pipeline, end: int) -> Derived:
        """Fold the log before `end` as a worker does, from nothing."""
        key = None if self._patient is None else self._patient.encode()
        twins: dict[str, StoredTwin] = {}
        standing: dict[str, bytes] = {}
        index: dict[str, bytes] = {}
        records = 0
        for stretch in self._log.read(pipeline.partition, end, self._settings.kafka.batch_max_records):
            mine = [r for r in stretch.records if key is None or r.key in (key, CONTROL_KEY)]
            records += len(mine)
            try:
                batch = pipeline.decode(mine)
            except MissingLibraryError as error:
                raise RebuildError(f"partition {pipeline.partition}: {error}; nothing was changed") from error
            for patient in pipeline.missing(batch):
                pipeline.remember(patient, None)
            outcome = pipeline.update(batch)
            twins |= outcome.twins
            standing |= outcome.standing
            index |= outcome.index
            self._watch(pipeline.partition, stretch.position, end)
        self._watch(pipeline.partition, end, end)
        return Derived(records, twins, standing, index)

    def _write(self, lease: Lease, meta: PartitionMeta, fingerprint: str, difference: Difference) -> None:
        if difference.outgoing:
            self._see_that_nothing_later_was_published(lease.partition, meta)
        fail_point("before_rewrite")
        try:
            answer = self._ask(
                lambda store: store.rewrite(
                    lease, meta.position, fingerprint, difference.rows, difference.outgoing
                )
            )
        except StoreUnavailableError as error:
            raise RebuildError(
                f"partition {lease.partition}: {error}. It was written whole or not at all; run this again, nothing is "
                "told twice"
            ) from error
        fail_point("after_rewrite_before_reply")
        if answer.verdict is Verdict.FENCED:
            raise _taken(lease.partition, answer.detail)
        if answer.verdict is not Verdict.OK:
            raise RebuildError(
                f"partition {lease.partition}: Redis stands at offset {answer.position}: {answer.detail}; nothing was "
                "changed. Run this again"
            )

    def _see_that_nothing_later_was_published(self, partition: int, meta: PartitionMeta) -> None:
        """A store that was set back stands before events that are out: the tail scan would take ours for published.

        Raises:
            RebuildError: It was.
        """
        names = self._topics.names
        kafka = self._settings.kafka
        topics: Mapping[OutboxName, str] = {"risk": names.risk, "dead_letters": names.dead_letters}
        link = OutputLink(kafka.group, partition, kafka.connection(), topics, names.records, timeout_ms=0)
        try:
            found = link.tail("risk")
        except (PublishError, KafkaException) as error:
            raise LogError(f"{names.risk}, partition {partition}: its end cannot be read: {error}") from error
        published = -1 if found is None else outbox_order(found[0])[0]
        if published >= meta.position:
            raise RebuildError(
                f"partition {partition}: Redis stands at offset {meta.position}, but risk up to offset "
                f"{published} is published: Redis was set back; nothing was changed. Let a worker of the "
                "code and library that made these twins catch up first: twin worker"
            )

    def _pipeline(self, partition: int) -> Pipeline:
        releases = self._releases
        return Pipeline(releases.first, partition, self._topics.partitions, releases=releases)

    def _ask(self, question: Callable[[RebuildStore], Awaitable[T]]) -> T:
        """One visit to the store, with a connection of its own: a replay may outlast an idle one."""
        redis = self._settings.redis
        arguments = {**redis.client_arguments(), "socket_timeout": ANSWER_WITHIN_S}
        limits = StoreLimits(audit_batches=self._settings.worker.audit_max_batches)

        async def run() -> T:
            client = connect(redis.url, cluster=redis.cluster, **arguments)
            store = RebuildStore(client, self._settings.kafka.group, limits)
            try:
                return await question(store)
            finally:
                await store.close()

        return asyncio.run(run())


def _taken(partition: int, by: str) -> RebuildError:
    return RebuildError(
        f"partition {partition}: {by or 'a worker'} acquired it while its twins were derived; nothing was changed. "
        "Stop the workers (SIGTERM), run this again, and start them afterwards"
    )


def as_json(rebuilt: Sequence[Rebuilt], *, dry_run: bool) -> bytes:
    """What a rebuild did, for machines."""
    partitions = [{**one._asdict(), "events": [told._asdict() for told in one.events]} for one in rebuilt]
    return msgspec.json.format(msgspec.json.encode({"dry_run": dry_run, "partitions": partitions}), indent=2)
