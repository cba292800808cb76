"""`twin forget`: one patient erased from the live store, by a record that every replay meets again.

The worker's own commit does it, so it happens once, under kill and replay; what is left is the pseudonym and until when
nothing of him is taken. Afterwards the trace, which no replay needs, loses what names him.
"""

from __future__ import annotations

import datetime as dt
import secrets
import time
from collections import Counter
from typing import NamedTuple

import msgspec

from streams.adapters.record_sender import RecordSender
from streams.adapters.redis_rebuild import RebuildStore
from streams.adapters.topics import read_topics
from streams.codec import partition_of
from streams.operations import OperationError, ask_store
from streams.records import SCHEMA
from streams.settings import Settings
from twinstate.twin import FORGOTTEN, StoredTwin, TwinDocument, TwinMemory

SOURCE = "twin-forget"
APPLIED_WITHIN_S = 30.0
LOOK_EVERY_S = 0.2


class Forgetting(NamedTuple):
    """What was erased, or would be.

    Attributes:
        patient: Pseudonym.
        partition: His.
        state: Of the twin before.
        records: By kind, those the twin rested on.
        standing: How many of his episodes stood.
        id: Of the record sent; empty when none was.
        erased: Whether a worker has applied it.
        trace_batches: Removed from the trace.
    """

    patient: str
    partition: int
    state: str
    records: dict[str, int]
    standing: int
    id: str
    erased: bool
    trace_batches: int


def forget(settings: Settings, patient: str, *, send: bool = False) -> Forgetting:
    """Erase a patient, or say what would be erased.

    Args:
        settings: Of the service.
        patient: Pseudonym.
        send: Do it.

    Raises:
        OperationError: There is no twin of him, it cannot be read, or Kafka did not take the record.
        StoreError: Redis does not answer.
    """
    topics = read_topics(settings.paths.topics)
    partition = partition_of(patient.encode(), topics.partitions)
    found = _twin(settings, partition, patient)
    if found is None:
        raise OperationError(
            f"there is no twin of {patient}, so there is nothing to forget; check the pseudonym: twin twins lists them"
        )
    before, erased_before = found
    done = Forgetting(
        patient=patient,
        partition=partition,
        state=before.state,
        records=dict(Counter(entry.kind for entry in before.entries)),
        standing=len(before.standing),
        id="",
        erased=before.state == FORGOTTEN,
        trace_batches=0,
    )
    if not send:
        return done
    if not done.erased:
        done = done._replace(id=_send(settings, topics.names.records, patient))
        done = done._replace(erased=_wait(settings, partition, patient, erased_before))
    if done.erased:
        gone = ask_store(settings, lambda store: store.erase_trace(partition, patient))
        done = done._replace(trace_batches=gone)
    return done


def _twin(settings: Settings, partition: int, patient: str) -> tuple[TwinDocument, int | None] | None:
    """The stored twin, and until when he is forgotten already."""

    async def ask(store: RebuildStore) -> StoredTwin | None:
        return (await store.recall(partition, [patient]))[patient].twin

    stored = ask_store(settings, ask)
    if stored is None:
        return None
    try:
        return (
            msgspec.msgpack.decode(stored.canonical, type=TwinDocument),
            msgspec.msgpack.decode(stored.rest, type=TwinMemory).forgotten,
        )
    except msgspec.MsgspecError as error:
        raise OperationError(
            f"the twin of {patient} was stored by another version ({error}): run this with the version of the workers"
        ) from error


def _send(settings: Settings, topic: str, patient: str) -> str:
    identifier = f"forget-{secrets.token_hex(8)}"
    record = {
        "schema": SCHEMA,
        "id": identifier,
        "patient": patient,
        "kind": "forget",
        "event_time": dt.datetime.now(dt.UTC).isoformat(),
        "source": SOURCE,
        "payload": {},
    }
    sender = RecordSender(settings.kafka.connection(), topic)
    sender.send(patient, msgspec.json.encode(record))
    done = sender.finish()
    if done.failures:
        raise OperationError(
            f"the record was not delivered to {settings.kafka.bootstrap_servers}: {done.failures[0]}; nothing was "
            "erased, or it will be; run this again"
        )
    return identifier


def _wait(settings: Settings, partition: int, patient: str, before: int | None) -> bool:
    """Give a worker time to apply it; a newcomer's record may follow at once, so the twin's state does not tell."""
    deadline = time.monotonic() + APPLIED_WITHIN_S
    while time.monotonic() < deadline:
        found = _twin(settings, partition, patient)
        if found is not None and found[1] != before:
            return True
        time.sleep(LOOK_EVERY_S)
    return False
