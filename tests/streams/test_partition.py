"""What a partition's processor makes of each answer of the store, without Kafka or Redis."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Coroutine, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from streams import partition as module
from streams.activation import CONTROL_KEY, activation
from streams.fingerprint import fingerprint_of
from streams.partition import BrokenCommitError, Fetched, InstanceTakenError, LogLostError, PartitionProcessor
from streams.pipeline import Pipeline as RealPipeline
from streams.ports import (
    Answer,
    BatchOutcome,
    Claim,
    Lease,
    OutboxEntry,
    OutboxName,
    Pipeline,
    RawRecord,
    Recalled,
    StaleClaimError,
    StoredTwin,
    StoreUnavailableError,
    Verdict,
)
from streams.releases import load_releases
from tests.fakes import FakePipeline, fold
from tests.streams.releases import config_with, stricter


class FakeStore:
    """A store in memory whose next answers a test may set; `lose_reply` writes and then does not answer."""

    def __init__(self) -> None:
        self.epoch = 0
        self.position = 0
        self.twins: dict[str, Recalled] = {}
        self.answers: list[Answer | Exception] = []
        self.lose_reply = 0
        self.claims: list[Claim | Exception] = []
        self.applied: list[tuple[int, int]] = []
        self.under = FakePipeline.fingerprint
        self.counts: Counter[str] = Counter()

    async def acquire(self, partition: int, claim: Claim, start: int) -> Lease:
        if self.claims:
            first = self.claims.pop(0)
            if isinstance(first, Exception):
                raise first
        self.epoch += 1
        marks: dict[OutboxName, str] = {"risk": "", "dead_letters": ""}
        return Lease(partition, self.epoch, claim.owner, self.position, marks, self.under)

    async def apply(
        self,
        lease: Lease,
        begin: int,
        end: int,
        outcome: BatchOutcome,
        versions: Mapping[str, int],
        progress: Callable[[], None],
    ) -> Answer:
        if self.answers:
            answer = self.answers.pop(0)
            if isinstance(answer, Exception):
                raise answer
            return answer
        if lease.epoch != self.epoch:
            return Answer(Verdict.FENCED, self.position, "other")
        if begin != self.position:
            return Answer(Verdict.AHEAD if self.position > begin else Verdict.BEHIND, self.position)
        for patient in outcome.twins:
            if self.twins.get(patient, Recalled(None, 0)).version != versions.get(patient, 0):
                return Answer(Verdict.CONFLICT, self.position, f"twin {patient}")
        for patient, twin in outcome.twins.items():
            self.twins[patient] = Recalled(twin, versions.get(patient, 0) + 1)
        self.position = end
        self.counts.update(outcome.counts)
        self.applied.append((begin, end))
        if self.lose_reply:
            self.lose_reply -= 1
            raise StoreUnavailableError("no answer")
        return Answer(Verdict.OK, end)

    async def recall(self, partition: int, patients: Sequence[str]) -> dict[str, Recalled]:
        return {patient: self.twins.get(patient, Recalled(None, 0)) for patient in patients}

    async def patients(self, partition: int) -> list[str]:
        return sorted(self.twins)

    async def stands_under(self, partition: int) -> str | None:
        return self.under

    async def owns(self, lease: Lease) -> bool:
        return lease.epoch == self.epoch

    async def whereabouts(self, lease: Lease) -> int | None:
        return self.position if lease.epoch == self.epoch else None

    async def pending(self, partition: int, outbox: OutboxName, count: int) -> list[OutboxEntry]:
        return []

    async def ack(self, lease: Lease, outbox: OutboxName, last_id: str, topic_position: int | None) -> bool:
        return True


class FakeIntake:
    """A log of one record an offset, delivered in batches of three from wherever it was sought."""

    def __init__(self, records: Sequence[RawRecord], first: int = 0) -> None:
        self.records = records
        self.first = first
        self.sought: list[int] = []
        self.confirmed: list[int] = []

    async def bounds(self, partition: int) -> tuple[int, int]:
        return self.first, len(self.records)

    async def seek(self, partition: int, position: int) -> int:
        self.sought.append(position)
        return len(self.sought)

    def confirm(self, partition: int, position: int) -> None:
        self.confirmed.append(position)

    def batches(self) -> list[Fetched]:
        """Give what a consumer would fetch after the last seek."""
        position, end = self.sought[-1], len(self.records)
        return [
            Fetched(0, len(self.sought), begin, min(begin + 3, end), tuple(self.records[begin : begin + 3]))
            for begin in range(position, end, 3)
        ]


class FakePublisher:
    """Publishes nothing."""

    def __init__(self) -> None:
        self.ends: asyncio.Event | None = None
        self.runs = 0

    async def run(self, lease: Lease) -> None:
        self.runs += 1
        self.ends = asyncio.Event()
        await self.ends.wait()

    def wake(self) -> None:
        pass


class Bench:
    """One processor with its fakes."""

    def __init__(
        self,
        count: int = 12,
        first: int = 0,
        make_pipeline: Callable[[], Pipeline] = lambda: FakePipeline(0, 1),
    ) -> None:
        self.records = [RawRecord(n, 0, b"p-%d" % (n % 3), b"%d" % n, ()) for n in range(count)]
        self.store = FakeStore()
        self.intake = FakeIntake(self.records, first)
        self.publisher = FakePublisher()
        self.taken = False
        self.processor = PartitionProcessor(
            0,
            make_pipeline,
            self.store,
            self.intake,
            self.publisher,
            lambda fingerprint, others: Claim(1, "me", "w1", fingerprint, others),
            self.still_mine,
        )

    async def still_mine(self) -> None:
        if self.taken and self.processor.status.fenced:
            raise InstanceTakenError("taken")

    async def drive(self, until: Callable[[], bool] | None = None) -> None:
        """Feed the processor after each seek, until the whole log is applied."""
        task = asyncio.create_task(self.processor.run())
        fed = 0
        try:
            for _ in range(2_000):
                if len(self.intake.sought) > fed:
                    fed = len(self.intake.sought)
                    for batch in self.intake.batches():
                        self.processor.owed += 1
                        self.processor.offer(batch)
                if task.done():
                    task.result()
                if until() if until is not None else self.store.position == len(self.records):
                    await asyncio.sleep(0.01)
                    return
                await asyncio.sleep(0.005)
            raise AssertionError("not done in 10 s")
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    def check(self) -> None:
        expected = fold(self.records, 0, 1).twins
        assert {
            patient: found.twin.canonical for patient, found in self.store.twins.items() if found.twin
        } == expected
        starts = [0, *(end for _, end in self.store.applied)]
        assert [begin for begin, _ in self.store.applied] == starts[:-1]


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FIRST_WAIT_S", 0.001)
    monkeypatch.setattr(module, "AFTER_FENCE_S", 0.001)
    monkeypatch.setattr(module, "LOST_AFTER_S", 0.05)
    monkeypatch.setattr(module, "LAGGING_END_S", 0.05)


def run(work: Coroutine[Any, Any, None]) -> None:
    asyncio.run(work)


def test_log_is_folded_batch_by_batch() -> None:
    bench = Bench()
    run(bench.drive())
    bench.check()
    assert bench.intake.sought == [0]
    assert bench.intake.confirmed[-1] == 12


def test_lost_reply_is_asked_again_and_counts_once() -> None:
    bench = Bench()
    bench.store.lose_reply = 2
    run(bench.drive())
    bench.check()
    assert bench.intake.sought == [0], "our own write is no reason to seek"
    assert bench.processor.status.ahead == 2, "one for each lost reply"


def test_store_that_does_not_answer_is_asked_until_it_does() -> None:
    bench = Bench()
    bench.store.answers = [StoreUnavailableError("away")] * 5
    run(bench.drive())
    bench.check()


def test_store_that_is_ahead_is_followed() -> None:
    bench = Bench()
    bench.store.answers = [Answer(Verdict.AHEAD, 0)]
    run(bench.drive())
    bench.check()
    assert bench.processor.status.ahead == 1


def test_store_that_lost_its_tail_is_filled_again() -> None:
    bench = Bench()

    async def scenario() -> None:
        def lost() -> bool:
            if bench.store.position == 6 and bench.processor.status.rolled_back == 0:
                # Everything after the first batch is gone, in the middle of work.
                bench.store.position = 3
                bench.store.twins = {patient: Recalled(None, 0) for patient in bench.store.twins}
                expected = fold(bench.records[:3], 0, 1).twins
                for patient, canonical in expected.items():
                    twin = bench.store.twins[patient].twin
                    assert twin is None
                    bench.store.twins[patient] = Recalled(StoredTwin(canonical, b""), 1)
                bench.store.applied = [(0, 3)]
            return bench.store.position == 12

        await bench.drive(lost)

    run(scenario())
    bench.check()


def test_store_that_lost_its_tail_is_filled_again_though_no_record_follows() -> None:
    bench = Bench()

    async def scenario() -> None:
        lost = False

        def healed() -> bool:
            nonlocal lost
            if bench.store.position == 12 and not lost:
                lost = True
                bench.store.position, bench.store.twins, bench.store.applied = 0, {}, []
            return lost and bench.store.position == 12

        await bench.drive(healed)

    run(scenario())
    bench.check()
    assert bench.processor.status.rolled_back == 1


def test_conflict_is_computed_again_from_what_is_stored() -> None:
    bench = Bench()
    bench.store.answers = [Answer(Verdict.CONFLICT, 0, "twin p-0")]
    run(bench.drive())
    bench.check()
    assert bench.processor.status.conflicts == 1


def test_batch_is_decoded_again_under_the_library_that_the_conflict_showed(tmp_path: Path) -> None:
    releases = load_releases(config_with(tmp_path / "config", stricter=stricter))
    other = releases.others["stricter"]
    bench = Bench(1, make_pipeline=lambda: RealPipeline(releases.first, 0, 1, releases=releases))
    control = RawRecord(0, 0, CONTROL_KEY, activation("a", "test", other.fingerprint), ())
    bench.intake.records = bench.records = [control]
    bench.store.under = fingerprint_of(releases.first)
    apply = bench.store.apply

    async def set_back_and_forth(*arguments: Any) -> Answer:
        # Between decoding and writing the store came to stand under the other library, at the same offset.
        if bench.store.under != fingerprint_of(other):
            bench.store.under = fingerprint_of(other)
            return Answer(Verdict.CONFLICT, 0, "the library is another")
        return await apply(*arguments)

    bench.store.apply = set_back_and_forth  # type: ignore[method-assign]
    run(bench.drive())
    assert bench.store.counts == {"duplicate": 1, "records": 1}  # it is in effect already


def test_conflict_that_stays_ends_the_worker() -> None:
    bench = Bench()
    bench.store.answers = [Answer(Verdict.CONFLICT, 0, "twin p-0")] * 3
    with pytest.raises(BrokenCommitError, match=r"twin p-0, 3 times in a row.*twin rebuild --partition 0"):
        run(bench.drive())


def test_full_outbox_waits_and_writes_the_same_batch() -> None:
    bench = Bench()
    bench.store.answers = [Answer(Verdict.FULL, 0, "risk")] * 4
    run(bench.drive())
    bench.check()
    assert bench.processor.status.full == 4


def test_fenced_owner_acquires_again() -> None:
    bench = Bench()
    bench.store.answers = [Answer(Verdict.FENCED, 0, "w2")]
    run(bench.drive())
    bench.check()
    assert bench.store.epoch == 2
    assert bench.publisher.runs == 2


def test_fenced_by_a_worker_with_the_same_instance_id_ends() -> None:
    bench = Bench()
    bench.store.answers = [Answer(Verdict.FENCED, 0, "w1")]

    bench.taken = True
    with pytest.raises(InstanceTakenError):
        run(bench.drive())


def test_stale_generation_waits_its_turn() -> None:
    bench = Bench()
    bench.store.claims = [StaleClaimError("generation 1 is over")] * 3
    run(bench.drive())
    bench.check()


def test_batch_from_before_a_seek_is_dropped() -> None:
    bench = Bench()

    async def scenario() -> None:
        old = Fetched(0, 0, 0, 3, tuple(bench.records[9:12]))
        bench.processor.offer(old)
        await bench.drive()

    run(scenario())
    bench.check()


def test_batch_lost_on_its_way_is_fetched_again() -> None:
    bench = Bench()

    async def scenario() -> None:
        task = asyncio.create_task(bench.processor.run())
        while not bench.intake.sought:
            await asyncio.sleep(0.005)
        bench.processor.owed = 1
        while len(bench.intake.sought) < 2:
            await asyncio.sleep(0.005)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    run(asyncio.wait_for(scenario(), 5))
    assert bench.intake.sought == [0, 0]


def test_batch_without_records_moves_the_position() -> None:
    bench = Bench(0)

    async def scenario() -> None:
        bench.processor.offer(Fetched(0, 1, 0, 2, ()))
        await bench.drive(lambda: bench.store.position == 2)

    run(scenario())
    assert bench.store.applied == [(0, 2)]


def test_renewed_partition_that_nobody_touched_keeps_its_memory() -> None:
    bench = Bench()
    recalls = 0
    recall = bench.store.recall

    async def counted(partition: int, patients: Sequence[str]) -> dict[str, Recalled]:
        nonlocal recalls
        recalls += 1
        return await recall(partition, patients)

    bench.store.recall = counted  # type: ignore[method-assign]

    async def scenario() -> None:
        def renewed() -> bool:
            if bench.store.position == 12 and bench.store.epoch == 1:
                bench.processor.renew()
                bench.intake.records = bench.records = bench.records + [
                    RawRecord(n, 0, b"p-%d" % (n % 3), b"%d" % n, ()) for n in range(12, 15)
                ]
            return bench.store.position == 15

        await bench.drive(renewed)

    run(scenario())
    bench.check()
    assert bench.store.epoch == 2
    assert recalls == 1


def test_position_that_retention_has_passed_is_said_and_not_skipped() -> None:
    bench = Bench(first=5)
    with pytest.raises(LogLostError, match="Records 0 to 4 are gone by retention"):
        run(bench.drive())


def test_position_after_the_end_of_the_log_is_said() -> None:
    bench = Bench()
    bench.store.position = 99
    with pytest.raises(LogLostError, match="The topic was made anew"):
        run(bench.drive())
