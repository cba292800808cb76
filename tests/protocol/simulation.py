"""The commit protocol told as a game of interleavings: one partition, three workers, everything that can go wrong.

What runs is a model of the worker (`streams/partition.py`, `streams/adapters/kafka_sink.py`) against the model of the
store and a small Kafka. Each yield is a place where anything else may happen: another worker's step, a lost request or
reply, a crash, a rebalance that is heard late, a Redis set back to an earlier moment or emptied, a group deleted. All
of it follows from one seed. When the faults end, the world must come to rest where one process that reads the log
once would have come.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from typing import Any, TypeVar

from streams.ports import OUTBOXES, Answer, Claim, Lease, OutboxName, Verdict
from tests.protocol.store_model import (
    NONE_PUBLISHED,
    Held,
    Id,
    Message,
    ModelStore,
    OtherFingerprintError,
    StaleError,
    Write,
    as_id,
)

T = TypeVar("T")
Steps = Generator[None, None, T]

PATIENTS = ("p", "q", "r")
RECORDS = 36
STEPS_OF_TROUBLE = 400
STEPS_TO_REST = 4_000
STEP_MS = 100
HEARS_IN_A_STEP = 0.08
OUTBOX_LIMIT = 6
LEASE_MS = 3_000
MOST_CONFLICTS = 3
NO_ANSWER = Answer(Verdict.FULL, -1, "no answer")


class ViolationError(AssertionError):
    """The protocol lost, doubled or changed something, or does not come to rest."""


@dataclass(frozen=True)
class Record:
    """An input record: every third raises a risk, every seventh is refused."""

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


@dataclass
class Rules:
    """What a mutant replaces: the store, the broker, and the two programs of a worker."""

    store: type[ModelStore] = ModelStore
    broker: type[Broker] = Broker
    processor: type[Processor] | None = None
    publisher: type[Publisher] | None = None


@dataclass
class Counts:
    """How often each kind of trouble happened: a simulation that meets none proves nothing."""

    steps: int = 0
    crashes: int = 0
    rebalances: int = 0
    rollbacks: int = 0
    wipes: int = 0
    lost_replies: int = 0
    fenced: int = 0
    stale: int = 0
    ahead: int = 0
    behind: int = 0
    conflicts: int = 0
    full: int = 0
    skipped_by_tail: int = 0
    producer_fenced: int = 0

    def add(self, other: Counts) -> None:
        """Sum up."""
        for name, value in vars(other).items():
            setattr(self, name, getattr(self, name) + value)


class World:
    """One schedule."""

    def __init__(self, seed: int, rules: Rules) -> None:
        self.dice = random.Random(seed)
        self.rules = rules
        self.counts = Counts()
        self.now_ms = 0
        self.trouble = True
        self.broker = rules.broker()
        self.store = rules.store(OUTBOX_LIMIT, LEASE_MS, lambda: self.now_ms)
        self.backups: list[Held] = []
        self.generation = 1
        self.owner_index = 0
        self.static = self.dice.random() < 0.5
        self.may_set_back = self.dice.random() < 0.6
        self.workers = [Worker(self, index) for index in range(3)]
        self.workers[0].hear(True, 1)

    def run(self) -> Counts:
        """Play the schedule to its end and check it.

        Raises:
            ViolationError: Something was lost, doubled, changed, written by a fenced owner, or does not end.
        """
        for _ in range(STEPS_OF_TROUBLE):
            self.step()
            self.disturb()
        self.heal()
        # One more loss when nothing follows that could tell of it: no record, no rebalance, no restart.
        last_loss = self.dice.randrange(400, 800) if self.may_set_back and self.backups else 0
        for number in range(STEPS_TO_REST):
            if number == last_loss and last_loss:
                self.counts.rollbacks += 1
                self.store.held = self.dice.choice(self.backups).copied()
            if number >= last_loss and self.at_rest():
                self.check()
                return self.counts
            self.step()
        raise ViolationError(
            f"no rest: the store stands at {self.store.held.position} of {self.broker.end}, "
            f"{ {name: len(entries) for name, entries in self.store.held.outboxes.items()} } wait"
        )

    def step(self) -> None:
        """Let one program of one worker go one step."""
        self.now_ms += STEP_MS
        self.counts.steps += 1
        awake = [w for w in self.workers if (w.programs or w.news) and self.now_ms >= w.paused_until]
        if awake:
            self.dice.choice(awake).step()

    def disturb(self) -> None:
        """Let something happen."""
        dice = self.dice
        if len(self.broker.log) < RECORDS and dice.random() < 0.1:
            self.broker.append(dice)
        if dice.random() < 0.1:
            self.backups.append(self.store.held.copied())
        fate = dice.random()
        worker = dice.choice(self.workers)
        if fate < 0.008:
            self.counts.crashes += 1
            worker.crash()
        elif fate < 0.013:
            worker.paused_until = self.now_ms + dice.randrange(500, 4_000)
        elif fate < 0.035:
            self.rebalance(dice.randrange(3))
        elif fate < 0.042 and self.backups and self.may_set_back:
            self.counts.rollbacks += 1
            self.store.held = dice.choice(self.backups[-12:]).copied()
        elif fate < 0.043 and self.may_set_back:
            self.counts.wipes += 1
            self.store.held = Held()
            self.backups.clear()
        elif fate < 0.045:
            self.generation = 0  # the group was deleted: its generations begin again
            self.rebalance(dice.randrange(3))

    def rebalance(self, index: int) -> None:
        """Give the partition to a worker; each hears of it in its own time."""
        self.counts.rebalances += 1
        if not (self.static and index == self.owner_index):
            self.generation += 1
        if index != self.owner_index and self.dice.random() < 0.5:
            # The usual reason: the owner has stood still for too long. It will go on where it stood.
            self.workers[self.owner_index].paused_until = self.now_ms + self.dice.randrange(300, 3_000)
        self.owner_index = index
        for worker in self.workers:
            worker.news.append((self.now_ms + self.dice.randrange(0, 1_500), worker.index == index))

    def heal(self) -> None:
        """End the faults: everybody runs, and hears who owns the partition."""
        self.trouble = False
        while len(self.broker.log) < RECORDS:
            self.broker.append(self.dice)
        for worker in self.workers:
            worker.paused_until = 0
            worker.news.clear()
            worker.hear(worker.index == self.owner_index, self.generation)

    def at_rest(self) -> bool:
        """Say whether all is applied and published."""
        held = self.store.held
        return held.position == self.broker.end and not any(held.outboxes.values())

    def ask(self, call: Callable[[], T]) -> Steps[T | None]:
        """Send a request and wait for the reply; None when either is lost. A crash may come at each yield."""
        yield
        if self.trouble and self.dice.random() < 0.05:
            return None
        answer = call()
        yield
        if self.trouble and self.dice.random() < 0.1:
            self.counts.lost_replies += 1
            return None
        return answer

    def check(self) -> None:
        """Compare what came out with a plain fold of the log."""
        twins, outgoing = fold(self.broker.log)
        held = self.store.held
        found = {patient: value for patient, (value, _) in held.twins.items()}
        if found != twins:
            raise ViolationError(f"twins are {found}, not {twins}")
        if held.counts["records"] != len(self.broker.log):
            raise ViolationError(f"{held.counts['records']} records counted of {len(self.broker.log)}")
        for name in OUTBOXES:
            published = self.broker.topics[name].committed
            if published != outgoing[name]:
                raise ViolationError(
                    f"{name}: published {[m.id for m in published]}, not {[m.id for m in outgoing[name]]}"
                )
        begins = [row.begin for row in held.audit]
        ends = [0, *(row.end for row in held.audit)]
        if begins != ends[:-1]:
            raise ViolationError(f"the applied ranges do not tile the log: {held.audit}")
        owners: dict[int, str] = {}
        for row in held.audit:
            if owners.setdefault(row.epoch, row.owner) != row.owner:
                raise ViolationError(f"epoch {row.epoch} had two owners: {held.audit}")
        epochs = [row.epoch for row in held.audit]
        if epochs != sorted(epochs):
            raise ViolationError(f"an earlier epoch wrote after a later one: {held.audit}")


class Worker:
    """A process: it hears of assignments, and runs a processor and a publisher while it holds the partition."""

    def __init__(self, world: World, index: int) -> None:
        self.world = world
        self.index = index
        self.starts = 0
        self.generation = 0
        self.paused_until = 0
        self.news: list[tuple[int, bool]] = []
        self.programs: dict[str, Generator[None, None, None]] = {}

    @property
    def owner(self) -> str:
        """Nonce of this process."""
        return f"w{self.index}.{self.starts}"

    def hear(self, mine: bool, generation: int) -> None:
        """Hear of an assignment: hold the partition, or give it away."""
        self.generation = generation
        if not mine:
            self.programs.clear()
        elif not self.programs:
            rules = self.world.rules
            self.programs["processor"] = (rules.processor or Processor)(self).run()
        else:
            # It stays here under a new generation: acquire again.
            self.programs["processor"] = (self.world.rules.processor or Processor)(self).run()
            self.programs.pop("publisher", None)

    def crash(self) -> None:
        """Die and come back as another process; it joins again, and is told what it holds."""
        self.starts += 1
        self.programs.clear()
        self.paused_until = self.world.now_ms + self.world.dice.randrange(100, 1_500)
        if self.index == self.world.owner_index:
            if not self.world.static:
                self.world.generation += 1
            self.hear(True, self.world.generation)

    def step(self) -> None:
        """Hear what is due, then go on with one of the programs."""
        for due, mine in list(self.news):
            # A process that was stopped goes on where it stood, and hears later.
            if due <= self.world.now_ms and self.world.dice.random() < HEARS_IN_A_STEP:
                self.news.remove((due, mine))
                self.hear(mine and self.world.owner_index == self.index, self.world.generation)
        if not self.programs:
            return
        name = self.world.dice.choice(sorted(self.programs))
        try:
            next(self.programs[name])
        except StopIteration:
            self.programs.pop(name, None)


class Processor:
    """`streams.partition.PartitionProcessor`, step by step."""

    def __init__(self, worker: Worker) -> None:
        self.worker = worker
        self.world = worker.world
        self.memory: dict[str, Any] = {}
        self.versions: dict[str, int] = {}
        self.before: Lease | None = None
        self.position = -1

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
            claim = Claim(worker.generation, worker.owner, f"w{worker.index}", "f")
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
            self.refused()
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
            self.refused()
            if answer.verdict is Verdict.FENCED:
                counts.fenced += 1
                return False
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
        for patient in sorted({record.patient for record in records} - self.memory.keys()):
            while True:
                found = yield from world.ask(lambda patient=patient: world.store.recall(patient))  # type: ignore[misc]
                if found is not None:
                    break
            self.memory[patient], self.versions[patient] = found
        twins = dict(self.memory)
        outgoing: dict[OutboxName, list[Message]] = {name: [] for name in OUTBOXES}
        for record in records:
            fold_one(record, twins, outgoing)
        changed = {r.patient: twins[r.patient] for r in records if not refused(r)}
        return Write(changed, outgoing, {"records": len(records)})

    def remember(self, write: Write) -> None:
        """Take what was written into memory."""
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

    def refused(self) -> None:
        """The store did not take the outcome: what is in memory may be old."""
        self.forget()

    def forget(self) -> None:
        """Drop the memory."""
        self.memory.clear()
        self.versions.clear()


class Publisher:
    """`streams.adapters.kafka_sink.PartitionPublisher`, step by step; it ends when the lease is lost."""

    AT_ONCE = 3

    def __init__(self, worker: Worker, lease: Lease) -> None:
        self.worker = worker
        self.world = worker.world
        self.lease = lease
        self.marks: dict[OutboxName, Id] = {name: as_id(mark) for name, mark in lease.marks.items()}

    def run(self) -> Steps[None]:
        """Hold one producer after another while the lease holds."""
        while True:
            epoch = yield from self.start()
            if epoch is None:
                continue
            if not (yield from self.owns()):
                return
            if (yield from self.session(epoch)):
                return

    def start(self) -> Steps[int | None]:
        """Fence the former producer, and only then read what it published."""
        epoch = yield from self.world.ask(self.world.broker.init_transactions)
        if epoch is not None:
            yield from self.scan()
        return epoch

    def scan(self) -> Steps[None]:
        """Read back the tail of each output topic."""
        for name in OUTBOXES:
            tail = self.world.broker.tail(name)
            yield
            if tail > self.marks[name]:
                self.marks[name] = tail

    def owns(self) -> Steps[bool]:
        """Ask until the store says whether the lease holds."""
        while True:
            found = yield from self.world.ask(lambda: self.world.store.owns(self.lease))
            if found is not None:
                return found

    def session(self, epoch: int) -> Steps[bool]:
        """Publish with one producer; True when the lease is lost, False to start another producer."""
        world = self.world
        while True:
            for name in OUTBOXES:
                entries = yield from world.ask(lambda name=name: world.store.pending(name, self.AT_ONCE))  # type: ignore[misc]
                if not entries:
                    continue
                fresh = [entry for entry in entries if entry.id > self.marks[name]]
                world.counts.skipped_by_tail += len(entries) - len(fresh)
                sound = yield from self.deliver(epoch, name, entries, fresh)
                if sound is not None:
                    return sound
            yield

    def deliver(
        self, epoch: int, name: OutboxName, entries: list[Message], fresh: list[Message]
    ) -> Steps[bool | None]:
        """Publish, then drop from the outbox; None to go on, else the session's end."""
        if fresh:
            sound = yield from self.publish(epoch, name, fresh)
            if sound is not None:
                return sound
        return (yield from self.drop(name, entries, fresh))

    def publish(self, epoch: int, name: OutboxName, fresh: list[Message]) -> Steps[bool | None]:
        """One transaction."""
        world = self.world
        done = yield from world.ask(lambda: world.broker.commit(epoch, name, fresh))
        if done is None:
            return self.outcome_unknown(name, fresh)
        if not done:
            world.counts.producer_fenced += 1
            return not (yield from self.owns())
        self.marks[name] = fresh[-1].id
        return None

    def outcome_unknown(self, name: OutboxName, fresh: list[Message]) -> bool | None:
        """A commit without an answer may have been done: a new producer and the tail will say."""
        return False

    def drop(self, name: OutboxName, entries: list[Message], fresh: list[Message]) -> Steps[bool | None]:
        """Acknowledge what is published."""
        last = fresh[-1].id if fresh else entries[-1].id
        while True:
            done = yield from self.world.ask(lambda: self.ack(name, last))
            if done is not None:
                return None if done else True

    def ack(self, name: OutboxName, last: Id) -> bool:
        """Drop; the check that all of it is out belongs to the simulation."""
        world = self.world
        out = {entry.id for entry in world.broker.topics[name].committed}
        lost = [
            entry.id for entry in world.store.held.outboxes[name] if entry.id <= last and entry.id not in out
        ]
        done = world.store.ack(self.lease, name, last, None)
        if done and lost:
            raise ViolationError(f"{name}: {lost} dropped, and never published")
        return done


def refused(record: Record) -> bool:
    """Say whether a record is a dead letter."""
    return record.number % 7 == 6


def fold_one(record: Record, twins: dict[str, Any], outgoing: dict[OutboxName, list[Message]]) -> None:
    """Fold one record: a twin that knows its whole history, a risk for every third record."""
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


class GuardedStore(ModelStore):
    """The store, watched: whoever writes must hold the latest lease that the store knows of."""

    def apply(self, lease: Lease, begin: int, end: int, write: Write, versions: Any) -> Answer:
        """Apply, and see who did."""
        held = self.held
        rightful = (lease.epoch, lease.owner) == (held.epoch, held.owner)
        answer = super().apply(lease, begin, end, write, versions)
        if answer.verdict is Verdict.OK and not rightful:
            raise ViolationError(f"{lease.owner} wrote with epoch {lease.epoch}, {held.owner} owns")
        for name in OUTBOXES:
            more = len(write.outgoing.get(name, ()))
            if answer.verdict is Verdict.OK and len(held.outboxes[name]) > max(self.outbox_limit, more):
                raise ViolationError(f"outbox {name} holds {len(held.outboxes[name])}")
        return answer

    def acquire(self, partition: int, claim: Claim, start: int) -> Lease:
        """Acquire, and see that a live owner of a newer generation keeps the partition."""
        held = self.held
        live = self.clock() - held.seen_ms < self.lease_ms and held.owner != claim.owner
        older = live and claim.generation < (held.generation or 0)
        lease = super().acquire(partition, claim, start)
        if older:
            raise ViolationError(f"generation {claim.generation} took the partition from a newer one")
        return lease


def play(seed: int, rules: Rules | None = None) -> Counts:
    """Play one schedule; raises ViolationError."""
    rules = rules or Rules(store=GuardedStore)
    return World(seed, rules).run()
