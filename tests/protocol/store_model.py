"""The commit protocol's store in a page of Python: what the Lua scripts must do, and what the simulation runs on.

The simulation tells workers against it, thousands of schedules in seconds, and `tests/integration/test_commit_model.py`
compares it with the real scripts, call by call on a real Redis.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from streams.ports import OUTBOXES, Answer, Claim, Lease, OutboxName, Verdict

Id = tuple[int, int]  # (input offset, number from 1)
NONE_PUBLISHED: Id = (-1, -1)


class Message(NamedTuple):
    """What waits in an outbox; `body` is whatever the caller compares."""

    id: Id
    body: Any


class Write(NamedTuple):
    """What one batch changes."""

    twins: Mapping[str, Any] = {}
    outgoing: Mapping[OutboxName, Sequence[Message]] = {}
    counts: Mapping[str, int] = {}
    under: str = ""
    fingerprint: str = ""


class Applied(NamedTuple):
    """A row of the audit stream."""

    epoch: int
    owner: str
    begin: int
    end: int


class StaleError(Exception):
    """A newer generation owns the partition and was seen within the lease."""


class OtherFingerprintError(Exception):
    """The twins were made under another fingerprint."""


@dataclass
class Held:
    """Everything Redis holds of a partition; a copy of it is a backup."""

    epoch: int = 0
    owner: str = ""
    instance: str = ""
    generation: int | None = None
    fingerprint: str | None = None
    position: int | None = None
    seen_ms: int = 0
    twins: dict[str, tuple[Any, int]] = field(default_factory=dict)
    outboxes: dict[OutboxName, list[Message]] = field(default_factory=lambda: {name: [] for name in OUTBOXES})
    newest: dict[OutboxName, Id] = field(default_factory=lambda: dict.fromkeys(OUTBOXES, (0, 0)))
    marks: dict[OutboxName, Id] = field(default_factory=lambda: dict.fromkeys(OUTBOXES, NONE_PUBLISHED))
    topic_next: dict[OutboxName, int | None] = field(default_factory=lambda: dict.fromkeys(OUTBOXES, None))
    counts: Counter[str] = field(default_factory=Counter)
    audit: list[Applied] = field(default_factory=list)

    @property
    def patients(self) -> set[str]:
        """Those with a twin: one that a rebuild took away left its version alone."""
        return {patient for patient, (value, _) in self.twins.items() if value is not None}

    def copied(self) -> Held:
        """A backup: the values in it are never changed in place."""
        twin = copy.copy(self)
        twin.twins = dict(self.twins)
        twin.outboxes = {name: list(entries) for name, entries in self.outboxes.items()}
        twin.newest, twin.marks, twin.topic_next = dict(self.newest), dict(self.marks), dict(self.topic_next)
        twin.counts, twin.audit = Counter(self.counts), list(self.audit)
        return twin


class ModelStore:
    """One partition's store.

    Args:
        outbox_limit: Entries of one outbox at most, but for a batch that meets it empty.
        lease_ms: An older generation is refused while the owner was seen within this time.
        clock: Milliseconds; Redis's own time in the scripts.
    """

    def __init__(self, outbox_limit: int, lease_ms: int, clock: Callable[[], int]) -> None:
        self.held = Held()
        self.outbox_limit = outbox_limit
        self.lease_ms = lease_ms
        self.clock = clock

    def acquire(self, partition: int, claim: Claim, start: int) -> Lease:
        """Take over and fence the former owner."""
        held = self.held
        if held.fingerprint not in (None, claim.fingerprint, *claim.others):
            raise OtherFingerprintError(held.fingerprint)
        if self.is_stale(claim):
            raise StaleError(held.generation)
        held.epoch += 1
        held.generation, held.owner, held.instance = claim.generation, claim.owner, claim.instance
        held.fingerprint = claim.fingerprint if held.fingerprint is None else held.fingerprint
        held.position = start if held.position is None else held.position
        held.seen_ms = self.clock()
        marks = {name: as_text(mark) for name, mark in held.marks.items()}
        return Lease(partition, held.epoch, claim.owner, held.position, marks, held.fingerprint)

    def is_stale(self, claim: Claim) -> bool:
        """Say whether an older generation asks for what a live owner holds."""
        held = self.held
        older = held.generation is not None and claim.generation < held.generation
        return older and self.clock() - held.seen_ms < self.lease_ms and held.owner != claim.owner

    def is_owner(self, lease: Lease) -> bool:
        """Say whether nobody has acquired since."""
        return (lease.epoch, lease.owner) == (self.held.epoch, self.held.owner)

    def misplaced(self, begin: int) -> Verdict | None:
        """Compare a batch's first position with the store's."""
        position = self.held.position or 0
        if position == begin:
            return None
        return Verdict.AHEAD if position > begin else Verdict.BEHIND

    def version_conflicts(self, patient: str, expected: int) -> bool:
        """Say whether the twin is not the one that the caller built on."""
        return self.held.twins.get(patient, (None, 0))[1] != expected

    def library_conflicts(self, write: Write) -> bool:
        """Say whether the batch was computed under another library than the partition stands under."""
        return write.under not in ("", self.held.fingerprint)

    def leaves_some_out(self, write: Write, versions: Mapping[str, int]) -> bool:
        """Say whether another library would take effect in some twins only."""
        known = sum(patient in self.held.patients for patient in write.twins)
        return write.fingerprint != "" and known != len(self.held.patients)

    def apply(self, lease: Lease, begin: int, end: int, write: Write, versions: Mapping[str, int]) -> Answer:
        """Write all, or, for any answer but OK, nothing."""
        held = self.held
        position = held.position or 0
        if not self.is_owner(lease):
            return Answer(Verdict.FENCED, position, held.instance)
        misplaced = self.misplaced(begin)
        if misplaced is not None:
            return Answer(misplaced, position)
        if self.library_conflicts(write):
            return Answer(Verdict.CONFLICT, position, "library")
        if any(self.version_conflicts(patient, versions.get(patient, 0)) for patient in write.twins):
            return Answer(Verdict.CONFLICT, position, "twin")
        if self.leaves_some_out(write, versions):
            return Answer(Verdict.CONFLICT, position, "twins of two libraries")
        for name in OUTBOXES:
            entries = write.outgoing.get(name, ())
            newest = held.newest[name]
            for entry in entries:
                if entry.id <= newest:
                    return Answer(Verdict.CONFLICT, position, name)
                newest = entry.id
            if self.is_full(name, len(entries)):
                return Answer(Verdict.FULL, position, name)
        for name, entries in write.outgoing.items():
            held.outboxes[name] += entries
            held.newest[name] = entries[-1].id if entries else held.newest[name]
        for patient, value in write.twins.items():
            held.twins[patient] = (value, versions.get(patient, 0) + 1)
        held.counts.update(write.counts)
        held.fingerprint = write.fingerprint or held.fingerprint
        held.audit.append(Applied(lease.epoch, lease.owner, begin, end))
        held.position = end
        held.seen_ms = self.clock()
        return Answer(Verdict.OK, end)

    def rewrite(self, lease: Lease, position: int, fingerprint: str, twins: Mapping[str, Any]) -> Answer:
        """Put twins derived again in place; None removes one. Events are not modelled."""
        held = self.held
        stands = held.position or 0
        if not self.is_owner(lease):
            return Answer(Verdict.FENCED, stands, held.instance)
        if stands != position:
            return Answer(Verdict.CONFLICT, stands, "position")
        for patient, value in twins.items():
            held.twins[patient] = (value, held.twins.get(patient, (None, 0))[1] + 1)
        held.fingerprint = fingerprint
        held.audit.append(Applied(lease.epoch, lease.owner, position, position))
        return Answer(Verdict.OK, position)

    def is_full(self, name: OutboxName, count: int) -> bool:
        """Say whether an outbox that holds something cannot take so many more."""
        waiting = len(self.held.outboxes[name])
        return count > 0 and waiting > 0 and waiting + count > self.outbox_limit

    def owns(self, lease: Lease) -> bool:
        """See `TwinStore.owns`."""
        return self.is_owner(lease)

    def stands_under(self) -> str | None:
        """See `TwinStore.stands_under`."""
        return self.held.fingerprint

    def recall(self, patient: str) -> tuple[Any, int]:
        """Give a twin and its version; (None, 0) for one never stored."""
        return self.held.twins.get(patient, (None, 0))

    def pending(self, name: OutboxName, count: int) -> list[Message]:
        """Give the oldest messages of an outbox."""
        return self.held.outboxes[name][:count]

    def ack(self, lease: Lease, name: OutboxName, last: Id, topic_position: int | None) -> bool:
        """Drop what is published; False when fenced."""
        if not self.is_owner(lease):
            return False
        held = self.held
        held.marks[name] = max(held.marks[name], last)
        held.topic_next[name] = held.topic_next[name] if topic_position is None else topic_position
        held.outboxes[name] = [entry for entry in held.outboxes[name] if entry.id > last]
        return True


def as_text(identifier: Id) -> str:
    """Write an id as the scripts do; empty for none."""
    return "" if identifier == NONE_PUBLISHED else f"{identifier[0]}-{identifier[1]}"


def as_id(text: str) -> Id:
    """Read an id; an empty one comes before all."""
    if not text:
        return NONE_PUBLISHED
    offset, _, number = text.partition("-")
    return int(offset), int(number)
