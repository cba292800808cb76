"""`twin ops activate`: a release of the library takes effect at one place of every partition.

One record goes to each partition, all in one transaction: a worker that reads committed records meets all or none of
them. Everything that would make workers refuse the release is looked at before.
"""

from __future__ import annotations

import secrets
from typing import NamedTuple

from confluent_kafka import KafkaError, KafkaException, Message, Producer

from streams.activation import CONTROL_KEY, activation
from streams.adapters.log_reader import LogError
from streams.adapters.redis_rebuild import RebuildStore
from streams.adapters.topics import read_topics
from streams.operations import OperationError, ask_store
from streams.operations.in_effect import FIRST, libraries_at_the_end, name_of
from streams.releases import FOLDER, Releases, load_releases
from streams.settings import Settings
from twinstate.library import Library
from twinstate.succession import breaches

SOURCE = "twin-ops-activate"
WITHIN_S = 30.0


class Activated(NamedTuple):
    """What was done, or would be.

    Attributes:
        release: Its folder's name.
        library: Fingerprint of its content.
        id: Of the records sent; empty when none were.
        changes: Models that come, go or change, a sentence each, by the first partition's library.
        places: By partition, the offset of its record; empty when nothing was sent.
        twins: How many will be derived again.
    """

    release: str
    library: str
    id: str
    changes: tuple[str, ...]
    places: dict[int, int]
    twins: int


def activate(settings: Settings, release: str, *, send: bool = False) -> Activated:
    """Check a release, and put it into effect.

    Args:
        settings: Of the service.
        release: Name of its folder below `config/releases`, or `first`.
        send: Write the records; else only say what would change.

    Raises:
        OperationError: There is no such release, it may not follow the library in effect at the end of the log, or
            is that library already.
        LogError: Kafka does not answer.
        StoreError: Redis does not answer.
    """
    topics = read_topics(settings.paths.topics)
    releases = load_releases(settings.paths.library)
    wanted = _wanted(settings, releases, release)
    before = libraries_at_the_end(settings, topics.names.records, topics.partitions, releases)
    for number, library in enumerate(before):
        wrong = breaches(library, wanted)
        if wrong:
            raise OperationError(
                f"{release} cannot follow {name_of(library, releases)}, which is in effect at the end of partition "
                f"{number}: {'; '.join(wrong)}. Nothing was sent. Change the release; or put it in the place of "
                "config/ and derive the twins again, twin rebuild"
            )
    if all(library.fingerprint == wanted.fingerprint for library in before):
        raise OperationError(
            f"{release} is in effect in every partition already, or will be when its records are applied; nothing was "
            "sent"
        )
    twins = ask_store(settings, lambda store: _count_twins(store, topics.partitions))
    identifier = f"activate-{secrets.token_hex(8)}" if send else ""
    value = activation(identifier or "none", SOURCE, wanted.fingerprint)
    places = _publish(settings, topics.names.records, topics.partitions, value) if send else {}
    return Activated(
        release, wanted.fingerprint, identifier, tuple(changes(before[0], wanted)), places, twins
    )


def changes(before: Library, after: Library) -> list[str]:
    """What differs between two libraries, model by model."""
    told = []
    for name in sorted({*before.models, *after.models}):
        old, new = before.models.get(name), after.models.get(name)
        if old is None:
            told.append(f"{name} comes")
        elif new is None:
            told.append(f"{name} goes")
        elif old.digest != new.digest:
            told.append(f"{name} changes")
    for drug in sorted({*before.drugs, *after.drugs}):
        was, becomes = before.drugs.get(drug), after.drugs.get(drug)
        if was is not None and becomes is not None and was.model != becomes.model:
            told.append(f"{drug} is modelled by {becomes.model} instead of {was.model}")
    return told


def _wanted(settings: Settings, releases: Releases, release: str) -> Library:
    if release == FIRST:
        return releases.first
    found = releases.others.get(release)
    if found is None:
        folder = settings.paths.library / FOLDER
        broken = "".join(f"; {text}" for text in releases.broken)
        names = ", ".join([FIRST, *releases.others])
        raise OperationError(
            f"there is no release {release} in {folder}, there are {names}{broken}. A release is a folder there with "
            "signals.yaml, risk.yaml and drugs/, the same on every machine that runs workers or the API"
        )
    return found


async def _count_twins(store: RebuildStore, partitions: int) -> int:
    return sum([len(await store.patients(number)) for number in range(partitions)])


def _publish(settings: Settings, topic: str, partitions: int, value: bytes) -> dict[int, int]:
    places: dict[int, int] = {}
    failures: list[str] = []

    def delivered(error: KafkaError | None, message: Message) -> None:
        partition, offset = message.partition(), message.offset()
        if error is not None:
            failures.append(error.str())
        elif partition is not None and offset is not None:
            places[partition] = offset

    producer = Producer(
        {
            **settings.kafka.connection(),
            "transactional.id": f"{settings.kafka.group}.activate",
            "acks": "all",
            "log_level": 0,
        }
    )
    try:
        producer.init_transactions(WITHIN_S)
        producer.begin_transaction()
        for partition in range(partitions):
            producer.produce(topic, value, CONTROL_KEY, partition, on_delivery=delivered)
        producer.commit_transaction(WITHIN_S)
    except KafkaException as error:
        raise LogError(
            f"{settings.kafka.bootstrap_servers}: the records were not written: {error.args[0].str()}. Either all "
            "partitions have one or none: twin ops status shows under what they stand; running this again is harmless"
        ) from error
    if failures:
        raise LogError(f"{settings.kafka.bootstrap_servers}: the records were not written: {failures[0]}")
    return places
