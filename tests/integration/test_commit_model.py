"""Any sequence of calls leaves on a real Redis what it leaves in the model that the simulation runs on.

The simulation (`tests/protocol`) proves the protocol on `ModelStore`; this holds the scripts to that very model, answer
by answer and field by field.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import redis
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from streams.adapters.redis_store import StoreLimits
from streams.embedded import EmbeddedRedis
from streams.ports import (
    OUTBOXES,
    BatchOutcome,
    Claim,
    Lease,
    OutboxName,
    Outgoing,
    StaleClaimError,
    StoreRefusedError,
)
from tests.integration.test_commit import LIMITS, PARTITION, Desk, twin
from tests.protocol.store_model import (
    Id,
    Message,
    ModelStore,
    OtherFingerprintError,
    StaleError,
    Write,
    as_text,
)

PATIENTS = ("p1", "p2", "p3")
PATIENT_SETS = st.sets(st.sampled_from(PATIENTS))
IDS = st.tuples(st.integers(0, 12), st.integers(1, 3))
# Most calls are right in most things, or every answer would be FENCED or CONFLICT.
MESSAGES = st.just([]) | st.lists(IDS, max_size=3, unique=True).map(sorted)
LEASES = st.sampled_from([0, 0, 0, 0, 0, 1, 2])
LIBRARIES = ("f0", "f1", "f2")


def message(outbox: OutboxName, identifier: Id) -> Outgoing:
    return Outgoing(as_text(identifier), outbox, b"p", (("ce_id", b"x"),), b"event")


def protocol_machine(url: str, limits: StoreLimits) -> type[RuleBasedStateMachine]:
    """Build the state machine against the Redis at `url`."""

    class Protocol(RuleBasedStateMachine):
        @initialize()
        def empty(self) -> None:
            self.desk = Desk(url, limits)
            with redis.Redis.from_url(url) as client:
                client.flushdb()
            # Redis's clock moves on by less than the lease in one example: every owner is live.
            self.model = ModelStore(LIMITS.outbox_messages, LIMITS.lease_ms, lambda: 0)
            self.leases: list[Lease] = []

        @rule(
            owner=st.sampled_from(["a", "b", "c"]),
            generation=st.sampled_from([1, 2, 2, 2]),
            start=st.integers(0, 2),
            libraries=st.sampled_from([("f0",), ("f1",), ("f0", "f1", "f2"), ("f2", "f0", "f1")]),
        )
        def acquire(self, owner: str, generation: int, start: int, libraries: tuple[str, ...]) -> None:
            claim = Claim(generation, owner, f"instance-{owner}", libraries[0], libraries[1:])
            expected: Lease | str
            found: Lease | str
            try:
                expected = self.model.acquire(PARTITION, claim, start)
            except OtherFingerprintError:
                expected = "refused"
            except StaleError:
                expected = "stale"
            try:
                found = self.desk.runner.run(self.desk.store.acquire(PARTITION, claim, start))
            except StoreRefusedError:
                found = "refused"
            except StaleClaimError:
                found = "stale"
            assert found == expected
            if isinstance(found, Lease):
                self.leases.append(found)

        @rule(
            pick=LEASES,
            shift=st.sampled_from([0, 0, 0, 0, 0, 0, -1, 1]),
            length=st.integers(1, 3),
            changed=PATIENT_SETS,
            wrong=st.sampled_from([0, 0, 0, 0, 0, 0, 1]),
            risk=MESSAGES,
            dead=MESSAGES,
            under=st.sampled_from(["", "", "right", "f0"]),
            activated=st.sampled_from(["", "", "", *LIBRARIES]),
            everybody=st.booleans(),
        )
        def apply(
            self,
            pick: int,
            shift: int,
            length: int,
            changed: set[str],
            wrong: int,
            risk: list[Id],
            dead: list[Id],
            under: str,
            activated: str,
            everybody: bool,
        ) -> None:
            if not self.leases:
                return
            held = self.model.held
            lease = self.leases[max(0, len(self.leases) - 1 - pick)]
            begin = max(0, (held.position or 0) + shift)
            if activated and everybody:
                changed = changed | held.twins.keys()
            versions = {patient: held.twins.get(patient, (None, 0))[1] + wrong for patient in changed}
            under = (held.fingerprint or "") if under == "right" else under
            outgoing: dict[OutboxName, list[Id]] = {"risk": risk, "dead_letters": dead}
            values = {patient: twin(begin + length) for patient in sorted(changed)}
            counts = {"applied": length}
            answer = self.desk.apply(
                lease,
                begin,
                begin + length,
                BatchOutcome(
                    twins=values,
                    outgoing=[message(name, one) for name in OUTBOXES for one in outgoing[name]],
                    counts=counts,
                    under=under,
                    fingerprint=activated,
                ),
                versions,
            )
            expected = self.model.apply(
                lease,
                begin,
                begin + length,
                Write(
                    values,
                    {name: [Message(one, b"event") for one in ids] for name, ids in outgoing.items()},
                    counts,
                    under,
                    activated,
                ),
                versions,
            )
            assert (answer.verdict, answer.position) == (expected.verdict, expected.position)

        @rule(
            pick=LEASES,
            shift=st.sampled_from([0, 0, 0, 0, -1, 1]),
            changed=PATIENT_SETS,
            gone=PATIENT_SETS,
            library=st.sampled_from(LIBRARIES),
        )
        def rewrite(self, pick: int, shift: int, changed: set[str], gone: set[str], library: str) -> None:
            if not self.leases:
                return
            lease = self.leases[max(0, len(self.leases) - 1 - pick)]
            position = max(0, (self.model.held.position or 0) + shift)
            values = {patient: None if patient in gone else twin(position) for patient in sorted(changed)}
            answer = self.desk.rewrite(lease, position, library, values)
            expected = self.model.rewrite(lease, position, library, values)
            assert (answer.verdict, answer.position) == (expected.verdict, expected.position)

        @rule(
            pick=LEASES,
            name=st.sampled_from(OUTBOXES),
            last=IDS,
            topic=st.none() | st.integers(0, 50),
        )
        def ack(self, pick: int, name: OutboxName, last: Id, topic: int | None) -> None:
            if not self.leases:
                return
            lease = self.leases[max(0, len(self.leases) - 1 - pick)]
            found = self.desk.runner.run(self.desk.store.ack(lease, name, as_text(last), topic))
            assert found == self.model.ack(lease, name, last, topic)

        @rule(pick=LEASES)
        def ask_who_owns(self, pick: int) -> None:
            if self.leases:
                lease = self.leases[max(0, len(self.leases) - 1 - pick)]
                assert self.desk.runner.run(self.desk.store.owns(lease)) == self.model.owns(lease)

        @invariant()
        def redis_holds_what_the_model_holds(self) -> None:
            if not self.leases:
                return
            run, store, held = self.desk.runner.run, self.desk.store, self.model.held
            meta, found = run(store.read_twins(PARTITION, PATIENTS))
            assert meta is not None
            assert (meta.position, meta.epoch, meta.generation, meta.instance) == (
                held.position,
                held.epoch,
                held.generation,
                held.instance,
            )
            assert meta.fingerprint == run(store.stands_under(PARTITION)) == self.model.stands_under()
            assert (meta.risk_mark, meta.dead_letters_mark) == tuple(
                as_text(held.marks[name]) for name in OUTBOXES
            )
            assert meta.risk_topic_position == (held.topic_next["risk"] or 0)
            assert {p: tuple(stored) for p, stored in found.items() if stored.version} == held.twins
            assert run(store.patients(PARTITION)) == sorted(held.patients)
            for name in OUTBOXES:
                waiting = run(store.pending(PARTITION, name, 100))
                assert [one.id for one in waiting] == [
                    as_text(one.id) for one in self.model.pending(name, 100)
                ]
            assert run(store.read_counters(PARTITION))[1] == dict(held.counts)
            assert [tuple(row) for row in run(store.audit(PARTITION))] == [tuple(row) for row in held.audit]

        def teardown(self) -> None:
            if hasattr(self, "desk"):
                self.desk.close()

    return Protocol


@pytest.mark.parametrize("command_bytes", [LIMITS.command_bytes, 0], ids=["in one command", "in pieces"])
def test_any_sequence_of_calls_leaves_what_the_model_of_the_simulation_holds(
    redis_client: redis.Redis, redis_server: EmbeddedRedis, command_bytes: int
) -> None:
    run_state_machine_as_test(
        protocol_machine(redis_server.url, replace(LIMITS, command_bytes=command_bytes)),
        settings=settings(
            max_examples=100, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )
