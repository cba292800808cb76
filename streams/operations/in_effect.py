"""Which library reads a record that is sent now: the one in effect where each partition's log ends.

Twins tell which one they stand under; what activates another may wait behind them in the log.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from streams.activation import Activation, read_activation
from streams.adapters.log_reader import LogReader
from streams.adapters.redis_rebuild import RebuildStore
from streams.library_change import Change, judge_activation
from streams.operations import OperationError, ask_store
from streams.releases import MissingLibraryError, Releases
from streams.settings import Settings
from twinstate.library import Library

# The library that the log begins under, by name.
FIRST = "first"


class _Stands(NamedTuple):
    """Under which fingerprint and at which position a partition stands: None if it was never acquired."""

    fingerprint: str | None
    position: int | None


def libraries_at_the_end(
    settings: Settings, topic: str, partitions: int, releases: Releases
) -> tuple[Library, ...]:
    """The library in effect at the end of the log, by partition.

    Args:
        settings: Of the service.
        topic: Of the input.
        partitions: How many it has.
        releases: What the log may have activated.

    Raises:
        OperationError: A partition stands under a library, or its log activates one, that is not here.
        LogError: Kafka does not answer, or records are gone before they were applied.
        StoreError: Redis does not answer.
    """
    stands = ask_store(settings, lambda store: _stands(store, partitions))
    with LogReader(settings.kafka.connection(), topic) as log:
        return tuple(
            _followed(log, number, one, _stands_under(number, one.fingerprint, releases), releases, settings)
            for number, one in enumerate(stands)
        )


def name_of(library: Library, releases: Releases) -> str:
    """The name by which `twin ops activate` knows a library."""
    if library.fingerprint == releases.first.fingerprint:
        return FIRST
    return next(name for name, other in releases.others.items() if other.fingerprint == library.fingerprint)


async def _stands(store: RebuildStore, partitions: int) -> Sequence[_Stands]:
    found = []
    for number in range(partitions):
        meta, _ = await store.read_counters(number)
        found.append(_Stands(await store.stands_under(number), None if meta is None else meta.position))
    return found


def _stands_under(partition: int, fingerprint: str | None, releases: Releases) -> Library:
    if fingerprint is None:
        return releases.first
    found = releases.of_twins(fingerprint)
    if found is None:
        raise OperationError(
            f"partition {partition}: its twins were made under fingerprint {fingerprint}, which no library makes with "
            "the code here: run this with the version that its workers run"
        )
    return found


def _followed(
    log: LogReader, partition: int, stands: _Stands, library: Library, releases: Releases, settings: Settings
) -> Library:
    """Follow the activations that wait, as the worker will."""
    first, end = log.bounds(partition)
    begin = first if stands.position is None else stands.position
    for stretch in log.read(partition, end, settings.kafka.batch_max_records, begin):
        for raw in stretch.records:
            asked = read_activation(raw)
            if not isinstance(asked, Activation):
                continue
            try:
                change = judge_activation(asked, library, releases)
            except MissingLibraryError as error:
                raise OperationError(f"partition {partition}, offset {raw.offset}: {error}") from error
            if isinstance(change, Change) and change.library is not None:
                library = change.library
    return library
