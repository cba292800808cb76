"""`streams.partition.PartitionProcessor`, step by step: each yield is a place where anything else may happen."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from streams.ports import OUTBOXES, Answer, Claim, Lease, OutboxName, Verdict
from tests.protocol.kafka_model import Record, ViolationError, activates, fold_one, refused, under
from tests.protocol.publisher_model import Publisher, Steps
from tests.protocol.store_model import Message, OtherFingerprintError, StaleError, Write

if TYPE_CHECKING:
    from tests.protocol.simulation import Worker

MOST_CONFLICTS = 3
FIRST = "f0"
LATER = ("f1", "f2", "f3")
LIBRARIES = (FIRST, *LATER)


class Processor:
    """`streams.partition.PartitionProcessor`, step by step."""

    def __init__(self, worker: Worker) -> None:
        self.worker = worker
        self.world = worker.world
        self.memory: dict[str, Any] = {}
        self.versions: dict[str, int] = {}
        self.before: Lease | None = None
        self.position = -1
        self.library = FIRST

    def run(self) -> Steps[None]:
        """Acquire and work, for ever."""
        while True:
            lease = yield from self.acquire()
            self.worker.programs["publisher"] = (self.world.rules.publisher or Publisher)(
                self.worker, lease
            ).run()
            self.position = self.first_position(lease)
            yield from self.work(lease)
            self.worker.programs.pop("publisher", None)

    def first_position(self, lease: Lease) -> int:
        """Redis holds the position; Kafka's is a hint."""
        return lease.position

    def acquire(self) -> Steps[Lease]:
        """Ask until granted."""
        world, worker = self.world, self.worker
        while True:
            claim = Claim(worker.generation, worker.owner, f"w{worker.index}", FIRST, LATER)
            try:
                lease = yield from world.ask(lambda claim=claim: world.store.acquire(0, claim, 0))  # type: ignore[misc]
            except StaleError:
                world.counts.stale += 1
                yield
                continue
            except OtherFingerprintError as error:
                raise ViolationError(str(error)) from error
            if lease is None:
                continue
            before = self.before
            if before is None or (before.epoch + 1, self.position) != (lease.epoch, lease.position):
                self.forget()
                self.library = lease.fingerprint
            self.before = lease
            return lease

    def work(self, lease: Lease) -> Steps[None]:
        """Fold batches until fenced."""
        while "publisher" in self.worker.programs:
            records, end = self.fetch()
            yield
            if end == self.position:
                if not (yield from self.look(lease)):
                    return
                continue
            if not (yield from self.handle(lease, records, end)):
                return

    def look(self, lease: Lease) -> Steps[bool]:
        """With nothing to do, see whether the store still stands where this worker left it; False when fenced."""
        world = self.world
        found = yield from world.ask(lambda: (world.store.owns(lease), world.store.held.position))
        if found is None:
            return True
        mine, position = found
        if mine and position != self.position:
            yield from self.read_anew()
            world.counts.behind += 1
            self.position = position or 0
        return mine

    def fetch(self) -> tuple[list[Record], int]:
        """Give some records from the position on, and the position after them: holes are inside."""
        size = self.world.dice.choice((1, 2, 5))
        following = [record for record in self.world.broker.log if record.offset >= self.position]
        taken = following[:size]
        end = following[size].offset if len(following) > size else self.world.broker.end
        return taken, end

    def handle(self, lease: Lease, records: list[Record], end: int) -> Steps[bool]:
        """Compute and write a batch; False when fenced."""
        world, counts = self.world, self.world.counts
        for _ in range(MOST_CONFLICTS):
            write = yield from self.compute(records)
            answer, repeated = yield from self.apply(lease, end, write)
            if self.is_our_lost_reply(answer, end, repeated):
                answer = Answer(Verdict.OK, end)
            if answer.verdict is Verdict.OK:
                self.remember(write)
                self.position = end
                world.broker.hint = end
                return True
            if answer.verdict is Verdict.FENCED:
                self.refused()
                counts.fenced += 1
                return False
            yield from self.read_anew()
            if answer.verdict is Verdict.AHEAD or answer.verdict is Verdict.BEHIND:
                counts.ahead += answer.verdict is Verdict.AHEAD
                counts.behind += answer.verdict is Verdict.BEHIND
                self.position = self.position_after(answer, end)
                return True
            counts.conflicts += 1
        raise ViolationError(f"conflict without end at {self.position}: {answer.detail}")

    def position_after(self, answer: Answer, end: int) -> int:
        """Where to read on when the store stands elsewhere."""
        return answer.position

    def is_our_lost_reply(self, answer: Answer, end: int, repeated: bool) -> bool:
        """Say whether AHEAD means that an earlier try of this very batch was written."""
        return answer.verdict is Verdict.AHEAD and repeated and answer.position == end

    def compute(self, records: list[Record]) -> Steps[Write]:
        """Read what is not in memory, then fold."""
        world = self.world
        wanted = {record.patient for record in records if not activates(record)}
        if any(map(activates, records)):
            while True:
                names = yield from world.ask(lambda: world.store.held.patients)
                if names is not None:
                    break
            wanted |= names
        for patient in sorted(wanted - self.memory.keys()):
            while True:
                found = yield from world.ask(lambda patient=patient: world.store.recall(patient))  # type: ignore[misc]
                if found is not None:
                    break
            self.memory[patient], self.versions[patient] = found
        twins = dict(self.memory)
        outgoing: dict[OutboxName, list[Message]] = {name: [] for name in OUTBOXES}
        library = self.library
        for record in records:
            if activates(record):
                library = self.switched(library, record)
                twins = {patient: known for patient, known in twins.items() if known is not None}
            fold_one(record, twins, outgoing)
        changed = {r.patient: twins[r.patient] for r in records if not refused(r) and not activates(r)}
        if any(map(activates, records)):
            changed = dict(twins)
        changed = {patient: known for patient, known in changed.items() if known is not None}
        return Write(
            changed,
            outgoing,
            {"records": len(records)},
            self.library,
            "" if library == self.library else library,
        )

    def switched(self, library: str, record: Record) -> str:
        """The library in effect after an activation; each is activated once, where the one before it holds."""
        if under(record) != LIBRARIES[LIBRARIES.index(library) + 1]:
            raise ViolationError(f"{under(record)} activated at {record.offset}, where {library} holds")
        return under(record)

    def remember(self, write: Write) -> None:
        """Take what was written into memory."""
        self.library = write.fingerprint or self.library
        self.memory.update(write.twins)
        for patient in write.twins:
            self.versions[patient] = self.versions.get(patient, 0) + 1

    def apply(self, lease: Lease, end: int, write: Write) -> Steps[tuple[Answer, bool]]:
        """Write, as often as there is no answer or no room."""
        world, tries = self.world, 0
        while True:
            tries += 1
            answer = yield from world.ask(
                lambda: world.store.apply(lease, self.position, end, write, dict(self.versions))
            )
            if answer is None:
                continue
            if answer.verdict is not Verdict.FULL:
                return answer, tries > 1
            world.counts.full += 1
            yield

    def read_anew(self) -> Steps[None]:
        """Forget, and ask under which library the store stands now; it may be set back again after the answer."""
        self.refused()
        while True:
            found = yield from self.world.ask(lambda: (self.world.store.stands_under(),))
            if found is not None:
                break
        self.library = found[0] or FIRST

    def refused(self) -> None:
        """The store did not take the outcome: what is in memory may be old."""
        self.forget()

    def forget(self) -> None:
        """Drop the memory."""
        self.memory.clear()
        self.versions.clear()
