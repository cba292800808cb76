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
from dataclasses import dataclass
from typing import Any

from streams.ports import OUTBOXES, Answer, Claim, Lease, Verdict
from tests.protocol.kafka_model import Broker, ViolationError, activates, fold, under
from tests.protocol.processor_model import FIRST, Processor
from tests.protocol.publisher_model import Publisher, Steps, T
from tests.protocol.store_model import Held, ModelStore, Write

RECORDS = 36
STEPS_OF_TROUBLE = 400
STEPS_TO_REST = 4_000
STEP_MS = 100
HEARS_IN_A_STEP = 0.08
OUTBOX_LIMIT = 6
LEASE_MS = 3_000


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
        last = [under(record) for record in self.broker.log if activates(record)]
        if held.fingerprint != (last[-1] if last else FIRST):
            raise ViolationError(f"the store stands under {held.fingerprint}, the log under {last}")
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
