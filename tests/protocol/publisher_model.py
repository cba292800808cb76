"""`streams.adapters.kafka_sink.PartitionPublisher`, step by step."""

from __future__ import annotations

from collections.abc import Generator
from typing import TYPE_CHECKING, TypeVar

from streams.ports import OUTBOXES, Lease, OutboxName
from tests.protocol.kafka_model import ViolationError
from tests.protocol.store_model import Id, Message, as_id

if TYPE_CHECKING:
    from tests.protocol.simulation import Worker

T = TypeVar("T")
Steps = Generator[None, None, T]


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
