"""`twin ops verify`: stored twins against the oracle, byte by byte; it changes nothing.

Worth its time because the oracle shares little with the pipeline (`streams.oracle`): a rebuild would make the same
mistake twice.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import NamedTuple

import msgspec

from streams.activation import CONTROL_KEY
from streams.adapters.log_reader import LogReader
from streams.adapters.redis_rebuild import RebuildStore, Rows
from streams.adapters.redis_store import PartitionMeta
from streams.adapters.topics import read_topics
from streams.codec import partition_of
from streams.fingerprint import fingerprint_of
from streams.operations import OperationError, ask_store, checked_partition
from streams.oracle import Oracle
from streams.ports import StoredTwin
from streams.releases import MissingLibraryError, Releases, load_releases
from streams.settings import Settings

# Partition, log offsets read, and how many there are to read.
Watch = Callable[[int, int, int], None]


class Verified(NamedTuple):
    """What became of one partition.

    Attributes:
        partition: Its number.
        position: Up to which the log was told to the oracle.
        records: How many those were.
        twins: Compared.
        differing: Pseudonyms whose stored bytes are not the oracle's, with what is wrong in a few words.
    """

    partition: int
    position: int
    records: int
    twins: int
    differing: dict[str, str]


def verify(
    settings: Settings,
    *,
    partition: int | None = None,
    patient: str | None = None,
    watch: Watch = lambda partition, done, total: None,
) -> list[Verified]:
    """Tell the log to the oracle, and compare its twins with those stored.

    A worker may go on meanwhile: twins and position are read from one moment, and the log up to there.

    Args:
        settings: Of the service.
        partition: This one only; None for all.
        patient: This one only; then `partition` is his.
        watch: Is told of progress.

    Returns:
        What became of each partition; one never acquired is left out.

    Raises:
        OperationError: There is nothing to compare, or bytes cannot be compared here.
        LogError: Kafka does not answer.
        StoreError: Redis does not answer.
    """
    topics = read_topics(settings.paths.topics)
    releases = load_releases(settings.paths.library)
    if patient is not None:
        partition = partition_of(patient.encode(), topics.partitions)
    chosen = (
        range(topics.partitions) if partition is None else [checked_partition(partition, topics.partitions)]
    )
    done = []
    with LogReader(settings.kafka.connection(), topics.names.records) as log:
        for number in chosen:
            question = functools.partial(_read, partition=number, patient=patient)
            meta, rows, needed = ask_store(settings, question)
            if meta is None:
                continue
            _check(number, meta, releases, needed, log.bounds(number))
            oracle = Oracle(releases.first, topics.partitions, releases=releases)
            records = 0
            for stretch in log.read(number, meta.position, settings.kafka.batch_max_records):
                mine = [
                    r for r in stretch.records if patient is None or r.key in (patient.encode(), CONTROL_KEY)
                ]
                for begin in range(0, len(mine), 20):  # the oracle is slow: let the bar move within a stretch
                    try:
                        oracle.read(number, mine[begin : begin + 20])
                    except MissingLibraryError as error:
                        raise OperationError(f"partition {number}: {error}") from error
                    watch(number, mine[begin].offset, meta.position)
                records += len(mine)
            watch(number, meta.position, meta.position)
            told = fingerprint_of(oracle.active(number))
            if told != meta.fingerprint:
                raise OperationError(
                    f"partition {number}: the log ends under fingerprint {told}, its twins were made under "
                    f"{meta.fingerprint}: another library was the first one then. Restore it in config/, or stop "
                    f"the workers and derive them again, twin rebuild --partition {number}"
                )
            expected = oracle.account().twins
            differing = compare_twins(rows.twins, expected)
            done.append(Verified(number, meta.position, records, len({*rows.twins, *expected}), differing))
    if patient is not None and not any(one.twins for one in done):
        raise OperationError(
            f"there is no twin of {patient}, and no record in partition {partition} that makes one; check the pseudonym"
        )
    return done


def compare_twins(stored: Mapping[str, bytes], expected: Mapping[str, bytes]) -> dict[str, str]:
    """Name the patients whose stored canonical bytes are not the expected ones.

    Args:
        stored: By patient, the packed pair as Redis keeps it.
        expected: By patient, canonical bytes.

    Returns:
        By patient, what is wrong.
    """
    wrong = {}
    for patient in sorted({*stored, *expected}):
        if patient not in stored:
            wrong[patient] = "the log makes a twin, none is stored"
        elif patient not in expected:
            wrong[patient] = "a twin is stored, the log makes none"
        else:
            try:
                canonical = msgspec.msgpack.decode(stored[patient], type=StoredTwin).canonical
            except (msgspec.DecodeError, ValueError):
                wrong[patient] = "the stored twin cannot be read"
                continue
            if canonical != expected[patient]:
                wrong[patient] = "the stored bytes are not the oracle's"
    return wrong


async def _read(
    store: RebuildStore, partition: int, patient: str | None
) -> tuple[PartitionMeta | None, Rows, int | None]:
    meta, rows = await store.read_rows(partition, patient)
    return meta, rows, await store.first_applied(partition)


def _check(
    partition: int, meta: PartitionMeta, releases: Releases, needed: int | None, bounds: tuple[int, int]
) -> None:
    """See that bytes can be compared, and that the log holds what the twins rest on."""
    if releases.of_twins(meta.fingerprint) is None:
        here = fingerprint_of(releases.first)
        raise OperationError(
            f"partition {partition}: its twins were made under fingerprint {meta.fingerprint}, this code and library "
            f"have {here}, and bytes agree under one fingerprint only. Run this with the code, library and kind of "
            "machine that made them"
        )
    first, end = bounds
    needed = meta.position if needed is None else needed
    if first > needed:
        raise OperationError(
            f"partition {partition}: the log begins at offset {first}, but the twins rest on records from {needed} on, "
            "so they cannot be told again: restore those records first"
        )
    if meta.position > end:
        raise OperationError(
            f"partition {partition}: the twins stand at offset {meta.position}, but the log ends at {end}: the topic "
            "was made anew, or Redis belongs to another Kafka"
        )
