"""`twin ops status`: where each partition stands, and what of it needs a person."""

from __future__ import annotations

import functools
import time
from collections.abc import Iterator
from typing import NamedTuple

from streams.adapters.log_reader import LogReader
from streams.adapters.redis_rebuild import RebuildStore
from streams.adapters.redis_store import PartitionMeta
from streams.adapters.topics import read_topics
from streams.operations import ask_store
from streams.ports import OUTBOXES
from streams.releases import load_releases
from streams.settings import Settings
from twinstate.twin import FORMAT

# A worker that has not written for so long while records or messages wait is away or stuck.
STALLED_AFTER_S = 60.0


class Stands(NamedTuple):
    """One partition as Redis and Kafka hold it.

    Attributes:
        partition: Its number.
        instance: Instance id of the owner that acquired it last; None for a partition never acquired.
        epoch: How often it was acquired.
        next_offset: The twins are true for every record before it.
        first_offset: Oldest record the log still has.
        end_offset: After the last committed record.
        lag: Offsets between the two, markers of transactions included.
        seen_s: Since a worker last wrote or acquired, s.
        waiting: Messages in each outbox.
        oldest: By outbox, id `<input offset>-<n>` of the oldest message not yet acknowledged by Kafka.
        fingerprint: Under which the twins were made.
        formats: State formats among the twins looked at; empty when there are none.
    """

    partition: int
    instance: str | None
    epoch: int
    next_offset: int
    first_offset: int
    end_offset: int
    lag: int
    seen_s: float | None
    waiting: dict[str, int]
    oldest: dict[str, str | None]
    fingerprint: str
    formats: tuple[int, ...]


class Expected(NamedTuple):
    """What this code, library and settings are: what a partition is held against."""

    fingerprints: tuple[str, ...]
    format: int
    outbox_limit: int


class Status(NamedTuple):
    """All partitions, and by partition the sentences for whoever must act."""

    partitions: tuple[Stands, ...]
    needs: tuple[tuple[int, str], ...]
    expected: Expected


def status(settings: Settings) -> Status:
    """Look at every partition; it changes nothing.

    Raises:
        LogError: Kafka does not answer.
        StoreError: Redis does not answer.
    """
    topics = read_topics(settings.paths.topics)
    expected = Expected(
        load_releases(settings.paths.library).fingerprints(), FORMAT, settings.worker.outbox_max_messages
    )
    found = []
    with LogReader(settings.kafka.connection(), topics.names.records) as log:
        for partition in range(topics.partitions):
            # Redis first: a worker moves on while we look, and its position must not seem to lie behind the log's end.
            stands = ask_store(settings, functools.partial(_look, partition=partition))
            first, end = log.bounds(partition)
            lag = max(0, end - (first if stands.instance is None else stands.next_offset))
            found.append(stands._replace(first_offset=first, end_offset=end, lag=lag))
    return Status(
        tuple(found), tuple((one.partition, text) for one in found for text in needs(one, expected)), expected
    )


async def _look(store: RebuildStore, partition: int) -> Stands:
    meta, _ = await store.read_counters(partition)
    waiting: dict[str, int] = {outbox: await store.outbox_length(partition, outbox) for outbox in OUTBOXES}
    heads = {outbox: await store.pending(partition, outbox, 1) for outbox in OUTBOXES}
    held = meta or PartitionMeta(0, 0, 0, "", "", "", "", 0)
    seen = await store.seen_ms(partition)
    return Stands(
        partition=partition,
        instance=None if meta is None else held.instance,
        epoch=held.epoch,
        next_offset=held.position,
        first_offset=0,
        end_offset=0,
        lag=0,
        seen_s=None if seen is None else max(0.0, time.time() - seen / 1000.0),
        waiting=waiting,
        oldest={outbox: entries[0].id if entries else None for outbox, entries in heads.items()},
        fingerprint=held.fingerprint,
        formats=await store.twin_formats(partition),
    )


def needs(stands: Stands, expected: Expected) -> Iterator[str]:
    """Say what of a partition will not mend itself, each with the way out."""
    if stands.instance is None:
        yield "no worker has ever acquired it: start one, twin worker"
        return
    yield from misfits(stands, expected)
    for outbox, count in stands.waiting.items():
        if count >= expected.outbox_limit:
            yield (
                f"outbox {outbox} is full ({count} of {expected.outbox_limit}), so nothing is taken in: see whether "
                "the output topic takes messages (twin doctor) and whether a worker runs. It drains by itself then"
            )
    idle = stands.seen_s is not None and stands.seen_s > STALLED_AFTER_S
    if idle and stands.lag:
        yield (
            f"{stands.lag} offsets wait and nothing was written for {stands.seen_s:.0f} s: see the worker's log, or "
            "start one, twin worker"
        )
    elif idle and any(stands.waiting.values()):
        yield (
            f"{sum(stands.waiting.values())} messages wait and nothing was written for {stands.seen_s:.0f} s: start a "
            "worker, twin worker, or see its log for what the output topic says"
        )


def misfits(stands: Stands, expected: Expected) -> Iterator[str]:
    """Say what of a partition's twins does not go with the log, or with the code and libraries here."""
    if stands.next_offset > stands.end_offset:
        yield (
            f"its twins stand at offset {stands.next_offset}, the log ends at {stands.end_offset}: the topic was made "
            "anew, or Redis belongs to another Kafka. Join the two that belong together"
        )
    if stands.next_offset < stands.first_offset:
        yield (
            f"records {stands.next_offset} to {stands.first_offset - 1} are gone from the log and were never applied, "
            "so workers end with status 65: restore the topic, or a Redis that had applied them"
        )
    other = [number for number in stands.formats if number != expected.format]
    if other:
        yield (
            f"it holds twins of state format {', '.join(map(str, other))}, this code reads {expected.format}: "
            f"stop the workers and derive them again, twin rebuild --partition {stands.partition}"
        )
    elif stands.fingerprint not in expected.fingerprints:
        yield (
            f"its twins were made under fingerprint {stands.fingerprint}, code and library here are "
            f"{expected.fingerprints[0]}: run the version that made them, or stop the workers and derive them again, "
            f"twin rebuild --partition {stands.partition}"
        )
