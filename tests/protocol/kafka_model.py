"""The simulation's log and output topics: one partition of Kafka as far as the protocol meets it, and a plain fold."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Any

from streams.ports import OUTBOXES, OutboxName
from tests.protocol.store_model import NONE_PUBLISHED, Id, Message

PATIENTS = ("p", "q", "r")


class ViolationError(AssertionError):
    """The protocol lost, doubled or changed something, or does not come to rest."""


@dataclass(frozen=True)
class Record:
    """An input record: every third raises a risk, every seventh is refused, every fourteenth activates a library."""

    offset: int
    patient: str
    number: int


@dataclass
class OutputTopic:
    """One partition of an output topic: transactions by one producer at a time."""

    committed: list[Message] = field(default_factory=list)


@dataclass
class Broker:
    """The log with its holes, the output topics, and the transactional id's epoch."""

    log: list[Record] = field(default_factory=list)
    end: int = 0
    topics: dict[OutboxName, OutputTopic] = field(
        default_factory=lambda: {name: OutputTopic() for name in OUTBOXES}
    )
    epoch: int = 0
    hint: int = 0

    def append(self, dice: random.Random) -> None:
        """Add a record, and at times the marker that ends its transaction."""
        number = len(self.log)
        self.log.append(Record(self.end, dice.choice(PATIENTS), number))
        self.end += 1 + (dice.random() < 0.2)

    def init_transactions(self) -> int:
        """Fence whoever published before."""
        self.epoch += 1
        return self.epoch

    def commit(self, epoch: int, name: OutboxName, entries: list[Message]) -> bool:
        """End a transaction; False when fenced."""
        if epoch != self.epoch:
            return False
        self.topics[name].committed += entries
        return True

    def tail(self, name: OutboxName) -> Id:
        """Give the highest id in the output partition."""
        return max((entry.id for entry in self.topics[name].committed), default=NONE_PUBLISHED)


def refused(record: Record) -> bool:
    """Say whether a record is a dead letter."""
    return record.number % 7 == 6 and not activates(record)


def activates(record: Record) -> bool:
    """Say whether another library takes effect with a record."""
    return record.number % 14 == 13


def under(record: Record) -> str:
    """Name the library that a record activates."""
    return f"f{record.number // 14 + 1}"


def fold_one(record: Record, twins: dict[str, Any], outgoing: dict[OutboxName, list[Message]]) -> None:
    """Fold one record: a twin that knows its whole history, a risk for every third record.

    A library that takes effect changes every twin, and what is folded afterwards, since each knows its history.
    """
    if activates(record):
        for patient, known in twins.items():
            twins[patient] = (*known, under(record))
        return
    if refused(record):
        outgoing["dead_letters"].append(Message((record.offset, 1), record.number))
        return
    twin = (*(twins.get(record.patient) or ()), record.number)
    twins[record.patient] = twin
    if record.number % 3 == 0:
        outgoing["risk"].append(Message((record.offset, 1), twin))


def fold(log: list[Record]) -> tuple[dict[str, Any], dict[OutboxName, list[Message]]]:
    """Fold a log in one process."""
    twins: dict[str, Any] = {}
    outgoing: dict[OutboxName, list[Message]] = {name: [] for name in OUTBOXES}
    for record in log:
        fold_one(record, twins, outgoing)
    return twins, outgoing
