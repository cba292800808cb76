"""The protocol with one rule left out each: a simulation that finds nothing wrong with these proves nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from streams.ports import Answer, Claim, Lease, OutboxName, Verdict
from tests.protocol.kafka_model import Broker, Record
from tests.protocol.processor_model import Processor
from tests.protocol.publisher_model import Publisher, Steps
from tests.protocol.simulation import GuardedStore, Rules
from tests.protocol.store_model import NONE_PUBLISHED, Applied, Id, Message, Write


class AnyEpochWrites(GuardedStore):
    def is_owner(self, lease: Lease) -> bool:
        return True


class AnyPositionTaken(GuardedStore):
    def misplaced(self, begin: int) -> Verdict | None:
        return None


class SkippedRecordsTaken(GuardedStore):
    def misplaced(self, begin: int) -> Verdict | None:
        return Verdict.AHEAD if (self.held.position or 0) > begin else None


class AppliedRecordsTaken(GuardedStore):
    def misplaced(self, begin: int) -> Verdict | None:
        return Verdict.BEHIND if (self.held.position or 0) < begin else None


class EpochWithoutNonce(GuardedStore):
    def is_owner(self, lease: Lease) -> bool:
        return lease.epoch == self.held.epoch


class AnyGenerationAcquires(GuardedStore):
    def is_stale(self, claim: Claim) -> bool:
        return False


class OlderGenerationNeverAcquires(GuardedStore):
    def is_stale(self, claim: Claim) -> bool:
        return claim.generation < (self.held.generation or 0)


class OutboxWithoutLimit(GuardedStore):
    def is_full(self, name: OutboxName, count: int) -> bool:
        return False


class TwinsBeforePosition(GuardedStore):
    """Two commands instead of one script: a reply lost between them leaves half."""

    def apply(self, lease: Lease, begin: int, end: int, write: Write, versions: Any) -> Answer:
        if self.is_owner(lease) and self.misplaced(begin) is None and self.clock() % 1_700 == 0:
            for patient, value in write.twins.items():
                self.held.twins[patient] = (value, versions.get(patient, 0) + 1)
            return Answer(Verdict.BEHIND, begin)
        return super().apply(lease, begin, end, write, versions)


class PositionBeforeOutbox(GuardedStore):
    """The same, with the events forgotten."""

    def apply(self, lease: Lease, begin: int, end: int, write: Write, versions: Any) -> Answer:
        if self.is_owner(lease) and self.misplaced(begin) is None and self.clock() % 1_700 == 0:
            write = Write(write.twins, {}, write.counts)
        return super().apply(lease, begin, end, write, versions)


class AcquireWithoutEpoch(GuardedStore):
    def acquire(self, partition: int, claim: Claim, start: int) -> Lease:
        lease = super().acquire(partition, claim, start)
        self.held.epoch = 1
        return Lease(lease.partition, 1, lease.owner, lease.position, lease.marks, lease.fingerprint)


class AuditForgotten(GuardedStore):
    def apply(self, lease: Lease, begin: int, end: int, write: Write, versions: Any) -> Answer:
        answer = super().apply(lease, begin, end, write, versions)
        if answer.verdict is Verdict.OK and begin % 5 == 3:
            self.held.audit[-1] = Applied(lease.epoch, lease.owner, begin + 1, end)
        return answer


class VersionsNotCompared(GuardedStore):
    def version_conflicts(self, patient: str, expected: int) -> bool:
        return False


class ProducersNotFenced(Broker):
    def commit(self, epoch: int, name: OutboxName, entries: list[Message]) -> bool:
        self.topics[name].committed += entries
        return True


class KafkaPositionBelieved(Processor):
    """Commit before apply, and start from what Kafka says."""

    def first_position(self, lease: Lease) -> int:
        return self.world.broker.hint

    def position_after(self, answer: Answer, end: int) -> int:
        return self.world.broker.hint


class BatchSkippedWhenBehind(Processor):
    def position_after(self, answer: Answer, end: int) -> int:
        return end if answer.verdict is Verdict.BEHIND else answer.position


class IdleAndBlind(Processor):
    def look(self, lease: Lease) -> Steps[bool]:
        yield
        return True


class EveryAheadIsOurs(Processor):
    def is_our_lost_reply(self, answer: Answer, end: int, repeated: bool) -> bool:
        return answer.verdict is Verdict.AHEAD


class MemoryKeptWhenRefused(Processor):
    def refused(self) -> None:
        pass


class LibraryNotAskedAgain(Processor):
    """Goes on under the library in memory, though the store was set back behind its activation."""

    def read_anew(self) -> Steps[None]:
        self.refused()
        yield


class LibraryNotCompared(GuardedStore):
    def library_conflicts(self, write: Write) -> bool:
        return False


class SomeTwinsLeftOut(GuardedStore):
    def leaves_some_out(self, write: Write, versions: Mapping[str, int]) -> bool:
        return False


class LibraryWrittenApart(GuardedStore):
    """The twins of an activation without the fingerprint they were made under."""

    def apply(self, lease: Lease, begin: int, end: int, write: Write, versions: Any) -> Answer:
        return super().apply(lease, begin, end, write._replace(fingerprint=""), versions)


class AcquireSetsTheLibrary(GuardedStore):
    """A new owner's first library instead of the one the partition stands under."""

    def acquire(self, partition: int, claim: Claim, start: int) -> Lease:
        self.held.fingerprint = None
        return super().acquire(partition, claim, start)


class LostReplyNeverOurs(Processor):
    """AHEAD is always a stranger's write."""

    def is_our_lost_reply(self, answer: Answer, end: int, repeated: bool) -> bool:
        return False


class HolesRefused(Processor):
    """'The first offset must be the position': stands still for ever after a transaction's marker."""

    def fetch(self) -> tuple[list[Record], int]:
        records, end = super().fetch()
        if records and records[0].offset != self.position:
            return [], self.position
        return records, records[-1].offset + 1 if records else end


class TailNotScanned(Publisher):
    def scan(self) -> Steps[None]:
        yield


class TailScannedBeforeTheFence(Publisher):
    def start(self) -> Steps[int | None]:
        yield from self.scan()
        return (yield from self.world.ask(self.world.broker.init_transactions))


class AcknowledgedBeforePublished(Publisher):
    def deliver(
        self, epoch: int, name: OutboxName, entries: list[Message], fresh: list[Message]
    ) -> Steps[bool | None]:
        dropped = yield from self.drop(name, entries, fresh)
        if dropped is not None or not fresh:
            return dropped
        return (yield from self.publish(epoch, name, fresh))


class UnknownOutcomeSentAgain(Publisher):
    def outcome_unknown(self, name: OutboxName, fresh: list[Message]) -> bool | None:
        self.marks[name] = min(self.marks[name], (fresh[0].id[0] - 1, 0))
        return None if not fresh else self._again(name, fresh)

    def _again(self, name: OutboxName, fresh: list[Message]) -> bool | None:
        done = self.world.broker.commit(self.world.broker.epoch, name, fresh)
        self.marks[name] = fresh[-1].id
        return None if done else False


class UnknownOutcomeTakenForDone(Publisher):
    def outcome_unknown(self, name: OutboxName, fresh: list[Message]) -> bool | None:
        self.marks[name] = fresh[-1].id
        return None


class MarkNotBelieved(Publisher):
    """The tail alone, and the tail has expired."""

    def scan(self) -> Steps[None]:
        yield
        self.marks = dict.fromkeys(self.marks, NONE_PUBLISHED)


class TailTakenForOneMore(Publisher):
    def scan(self) -> Steps[None]:
        yield from super().scan()
        for name, mark in self.marks.items():
            following: list[Id] = [
                entry.id for entry in self.world.store.held.outboxes[name] if entry.id > mark
            ]
            self.marks[name] = following[0] if following else mark


MUTANTS: dict[str, Rules] = {
    "no check of the epoch": Rules(store=AnyEpochWrites),
    "no check of the position": Rules(store=AnyPositionTaken),
    "a batch after a gap is taken": Rules(store=SkippedRecordsTaken),
    "a batch already applied is taken": Rules(store=AppliedRecordsTaken),
    "an epoch without the owner's nonce": Rules(store=EpochWithoutNonce),
    "an older generation takes over a live owner": Rules(store=AnyGenerationAcquires),
    "an older generation never acquires": Rules(store=OlderGenerationNeverAcquires),
    "an outbox without a limit": Rules(store=OutboxWithoutLimit),
    "twins written apart from the position": Rules(store=TwinsBeforePosition),
    "the position written apart from the outbox": Rules(store=PositionBeforeOutbox),
    "an acquire that does not raise the epoch": Rules(store=AcquireWithoutEpoch),
    "an audit with a gap": Rules(store=AuditForgotten),
    "producers that are not fenced": Rules(store=GuardedStore, broker=ProducersNotFenced),
    "Kafka's committed offset believed": Rules(store=GuardedStore, processor=KafkaPositionBelieved),
    "versions not compared": Rules(store=VersionsNotCompared),
    "an idle worker that does not look at the store": Rules(store=GuardedStore, processor=IdleAndBlind),
    "memory kept, and versions not compared": Rules(
        store=VersionsNotCompared, processor=MemoryKeptWhenRefused
    ),
    "memory kept when the store refuses": Rules(store=GuardedStore, processor=MemoryKeptWhenRefused),
    "holes in the offsets refused": Rules(store=GuardedStore, processor=HolesRefused),
    "the library neither asked for again nor compared": Rules(
        store=LibraryNotCompared, processor=LibraryNotAskedAgain
    ),
    "an activation that leaves twins out": Rules(store=SomeTwinsLeftOut, processor=LostReplyNeverOurs),
    "the library not asked for again": Rules(store=GuardedStore, processor=LibraryNotAskedAgain),
    "twins written apart from their library": Rules(store=LibraryWrittenApart),
    "an acquire that sets the library": Rules(store=AcquireSetsTheLibrary),
    "no tail scan": Rules(store=GuardedStore, publisher=TailNotScanned),
    "the tail scanned before the fence": Rules(store=GuardedStore, publisher=TailScannedBeforeTheFence),
    "acknowledged before published": Rules(store=GuardedStore, publisher=AcknowledgedBeforePublished),
    "an unknown outcome sent again": Rules(store=GuardedStore, publisher=UnknownOutcomeSentAgain),
    "an unknown outcome taken for done": Rules(store=GuardedStore, publisher=UnknownOutcomeTakenForDone),
    "an expired tail, and the mark not believed": Rules(store=GuardedStore, publisher=MarkNotBelieved),
    "one message too many taken for published": Rules(store=GuardedStore, publisher=TailTakenForOneMore),
}
# Right, if slower or with one guard less: they must not be reported, or the checks are too strict.
HARMLESS: dict[str, Rules] = {
    "a lost reply never recognised": Rules(store=GuardedStore, processor=LostReplyNeverOurs),
    # What the store holds ahead was computed from the same log; should memory differ, the versions say so.
    "every AHEAD taken for one's own": Rules(store=GuardedStore, processor=EveryAheadIsOurs),
    # The store refuses whatever follows the gap, until the idle worker looks where it stands.
    "a batch skipped when the store is behind": Rules(store=GuardedStore, processor=BatchSkippedWhenBehind),
}
