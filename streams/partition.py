"""One assigned partition: acquire it, fold its batches, commit them; free of Kafka and Faust.

    acquire -> seek -> [ decode -> recall -> update -> apply ]* -> revoked

The store's answers decide everything: OK goes on, AHEAD and BEHIND seek to where the store stands, CONFLICT computes
the batch again from what is stored, FULL waits, FENCED acquires again. Only input and output are retried, with the
partition's intake at rest; a batch is never skipped.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, NamedTuple, Protocol, TypeVar

import structlog

from streams.failpoints import fail_point
from streams.ports import (
    Answer,
    BatchOutcome,
    Claim,
    Lease,
    Pipeline,
    RawRecord,
    StaleClaimError,
    StoreUnavailableError,
    TwinStore,
    Verdict,
)

T = TypeVar("T")

# Retries wait 0.05 s, then twice as long each time up to 3 s, each shortened at random by up to a half: 5 s after a
# server is back, however long it was away, records are applied again.
FIRST_WAIT_S = 0.05
LONGEST_WAIT_S = 3.0
# An intake that owes a batch for this long has lost it on the way (Faust drops messages in a rebalance): seek again.
LOST_AFTER_S = 5.0
# The same batch in conflict this often is not a race: something else writes the partition's keys.
MOST_CONFLICTS = 3
# Two owners that fence each other must not do so in a tight loop.
AFTER_FENCE_S = 0.1
LAGGING_END_S = 10.0
# Twins read in one round trip when a batch touches all of them.
MOST_RECALLED = 1000

log = structlog.get_logger()


class Fetched(NamedTuple):
    """One list of records as fetched: every record of [begin, end) that a read_committed reader sees.

    `end` is the consumer's position after the fetch, so holes (markers, aborted records, compaction) are inside.
    `seeks` is the partition's seek counter when it was fetched: a batch from before the last seek is recognised.
    """

    partition: int
    seeks: int
    begin: int
    end: int
    records: tuple[RawRecord, ...]


class Call(Enum):
    """What is put between batches."""

    RENEW = "acquire again"
    REWIND = "seek again"


class Intake(Protocol):
    """Where a partition's batches come from."""

    async def bounds(self, partition: int) -> tuple[int, int]:
        """Give the log's first retained offset and its end."""

    async def seek(self, partition: int, position: int) -> int:
        """Deliver from `position` on; the partition's new seek counter, which every later batch carries."""

    def confirm(self, partition: int, position: int) -> None:
        """Say that the store has everything before `position`: what may be committed to Kafka as a hint."""


class Publisher(Protocol):
    """Moves the partition's outboxes to Kafka while the lease holds."""

    async def run(self, lease: Lease) -> None:
        """Publish until cancelled, or return when another owner has acquired the partition."""

    def wake(self) -> None:
        """Say that an outbox has new messages."""


class InstanceTakenError(Exception):
    """Another process has started with this one's `group.instance.id`."""


class LogLostError(Exception):
    """The position to read from is not in the log."""


class BrokenCommitError(Exception):
    """The store's answers make no sense: another program writes the partition's keys."""


class FencedError(Exception):
    """Another owner has acquired the partition."""


class IntakeError(Exception):
    """The broker does not answer; the same call may succeed later."""


@dataclass
class PartitionStatus:
    """What metrics and readiness ask of a partition; written by its processor alone."""

    state: str = "starting"
    position: int | None = None
    epoch: int | None = None
    batches: int = 0
    records: int = 0
    fenced: int = 0
    rolled_back: int = 0
    ahead: int = 0
    conflicts: int = 0
    full: int = 0
    update_s: float = 0.0
    apply_s: float = 0.0
    last_sign_of_life: float = field(default_factory=time.monotonic)

    def alive(self, state: str = "running") -> None:
        """Note progress, or a wait whose reason is known: what the watchdog must not end."""
        self.state = state
        self.last_sign_of_life = time.monotonic()


class PartitionProcessor:
    """Folds one partition's batches into its twins.

    Args:
        partition: Its number.
        make_pipeline: Makes the pipeline; called once, in a thread.
        store: Twins and positions.
        intake: Batches.
        publisher: Outboxes to Kafka.
        make_claim: Claim for a pipeline's fingerprint and those it can go on under, in the group's generation.
        still_mine: Raises InstanceTakenError when another process runs under this one's instance id.
    """

    def __init__(
        self,
        partition: int,
        make_pipeline: Callable[[], Pipeline],
        store: TwinStore,
        intake: Intake,
        publisher: Publisher,
        make_claim: Callable[[str, tuple[str, ...]], Claim],
        still_mine: Callable[[], Awaitable[None]],
    ) -> None:
        self.partition = partition
        self.status = PartitionStatus()
        self.owed = 0  # batches fetched since the last seek and not yet handled
        self._make_pipeline = make_pipeline
        self._store = store
        self._intake = intake
        self._publisher = publisher
        self._make_claim = make_claim
        self._still_mine = still_mine
        self._inbox: asyncio.Queue[Fetched | Call] = asyncio.Queue()
        self._position = -1
        self._seeks = -1
        self._lease: Lease | None = None
        self._versions: dict[str, int] = {}
        self._log = log.bind(partition=partition)

    def offer(self, batch: Fetched) -> None:
        """Take a batch to be handled in its turn."""
        self._inbox.put_nowait(batch)

    def renew(self) -> None:
        """Acquire again: the group has a new generation, and the partition stayed here."""
        self._inbox.put_nowait(Call.RENEW)

    def rewind(self) -> None:
        """Seek again to where the store stands: what was fetched since may have been dropped."""
        self._inbox.put_nowait(Call.REWIND)

    async def run(self) -> None:
        """Work until cancelled.

        Raises:
            InstanceTakenError: See there.
            LogLostError: See there.
            BrokenCommitError: See there.
            StoreRefusedError: The stored twins were made under another fingerprint.
            Exception: What the pipeline raises, such as for a library that it does not have.
        """
        pipeline = await asyncio.to_thread(self._make_pipeline)
        while True:
            lease = await self._acquire(pipeline)
            publishing = asyncio.create_task(self._publisher.run(lease), name=f"publish-{self.partition}")
            publishing.add_done_callback(self._publisher_ended)
            try:
                await self._seek(lease.position)
                await self._work(pipeline, lease, publishing)
            except FencedError as error:
                self.status.fenced += 1
                self._log.warning("fenced", by=str(error))
                await self._patiently(self._still_mine, "asking who owns this instance id")
                await asyncio.sleep(AFTER_FENCE_S)
            finally:
                publishing.cancel()
                await asyncio.gather(publishing, return_exceptions=True)

    def _publisher_ended(self, publishing: asyncio.Task[None]) -> None:
        if not publishing.cancelled():
            self.renew()

    async def _acquire(self, pipeline: Pipeline) -> Lease:
        async def attempt() -> Lease:
            await self._still_mine()
            first, _ = await self._intake.bounds(self.partition)
            known = await asyncio.to_thread(pipeline.fingerprints)
            claim = self._make_claim(pipeline.fingerprint, known)
            return await self._store.acquire(self.partition, claim, first)

        lease = await self._patiently(attempt, "acquiring")
        fail_point("in_acquire")
        before = self._lease
        if before is None or (before.epoch + 1, self._position) != (lease.epoch, lease.position):
            # Somebody else has written since: what is in memory may be old.
            self._forget(pipeline, lease.fingerprint)
        self._lease = lease
        self.status.epoch = lease.epoch
        self._log.info("acquired", epoch=lease.epoch, position=lease.position)
        return lease

    async def _seek(self, position: int) -> None:
        # After a hard restart the broker shows an end that lags for a moment.
        deadline = time.monotonic() + LAGGING_END_S

        async def attempt() -> int:
            first, end = await self._intake.bounds(self.partition)
            if position > end and time.monotonic() < deadline:
                raise IntakeError(f"the log ends at {end}, before the twins' position {position}")
            if not first <= position <= end:
                raise LogLostError(
                    f"partition {self.partition}: the twins stand at offset {position}, the log has {first} to {end}. "
                    + (
                        f"Records {position} to {first - 1} are gone by retention, and were never applied. Restore "
                        "them, or a Redis that had applied them; or begin with an empty Redis and what the log has: "
                        "docs/operations.md, Retention lost"
                        if position < first
                        else "The topic was made anew, or Redis belongs to another Kafka: join the two that belong "
                        "together, or start with an empty Redis"
                    )
                )
            return await self._intake.seek(self.partition, position)

        self._seeks = await self._patiently(attempt, "seeking")
        self._position = position
        self.owed = 0
        self.status.position = position
        self._intake.confirm(self.partition, position)

    async def _work(self, pipeline: Pipeline, lease: Lease, publishing: asyncio.Task[None]) -> None:
        while True:
            if publishing.done():
                publishing.result()
                raise FencedError("the publisher's transactional id, or its lease")
            try:
                async with asyncio.timeout(LOST_AFTER_S):
                    batch = await self._inbox.get()
            except TimeoutError:
                if self.owed:
                    self._log.warning("batch lost on the way", position=self._position)
                    await self._seek(self._position)
                else:
                    await self._look(pipeline, lease)
                continue
            if batch is Call.RENEW:
                return
            if batch is Call.REWIND:
                await self._seek(self._position)
                continue
            if batch.seeks != self._seeks:
                continue
            self.owed = max(0, self.owed - 1)
            if batch.begin != self._position:
                self._log.warning("batch out of place", begin=batch.begin, position=self._position)
                await self._seek(self._position)
                continue
            await self._handle(pipeline, lease, batch)

    async def _look(self, pipeline: Pipeline, lease: Lease) -> None:
        """With nothing to do, see where the store stands.

        One that lost its last seconds would show old twins until the next record comes, and an emptied one none.
        """
        stands = await self._patiently(lambda: self._store.whereabouts(lease), "looking where it stands")
        if stands is None:
            raise FencedError("another owner, or the store was set back")
        if stands != self._position:
            await self._read_anew(pipeline)
            self.status.rolled_back += 1
            self._log.warning("store stands elsewhere", begin=self._position, store=stands)
            await self._seek(stands)

    async def _handle(self, pipeline: Pipeline, lease: Lease, batch: Fetched) -> None:
        self.status.alive("updating")
        for _ in range(MOST_CONFLICTS):
            # Each time: after a conflict the partition may stand under another library than before.
            decoded = await asyncio.to_thread(pipeline.decode, batch.records)
            outcome = await self._compute(pipeline, decoded)
            answer, repeated = await self._apply(lease, batch, outcome)
            if answer.verdict is Verdict.AHEAD and repeated and answer.position == batch.end:
                # Nobody else can write under this lease: our own lost reply.
                self.status.ahead += 1
                self._log.warning("applied already", begin=batch.begin, store=answer.position)
                answer = Answer(Verdict.OK, batch.end)
            if answer.verdict is Verdict.OK:
                for patient in outcome.twins:
                    self._versions[patient] = self._versions.get(patient, 0) + 1
                self._position = batch.end
                self.status.position = batch.end
                self.status.batches += 1
                self.status.records += len(batch.records)
                self.status.alive()
                self._intake.confirm(self.partition, batch.end)
                if outcome.outgoing:
                    self._publisher.wake()
                return
            if answer.verdict is Verdict.FENCED:
                self._forget(pipeline, lease.fingerprint)
                raise FencedError(answer.detail)
            await self._read_anew(pipeline)
            if answer.verdict in (Verdict.AHEAD, Verdict.BEHIND):
                if answer.verdict is Verdict.BEHIND:
                    self.status.rolled_back += 1
                else:
                    self.status.ahead += 1
                self._log.warning("store stands elsewhere", begin=batch.begin, store=answer.position)
                await self._seek(answer.position)
                return
            self.status.conflicts += 1
            self._log.warning("conflict", detail=answer.detail)
        raise BrokenCommitError(
            f"partition {self.partition}, offset {batch.begin}: {answer.detail}, {MOST_CONFLICTS} times in a row, "
            "though the twins were read again each time. Does another program write these keys? "
            f"If the store was restored from parts: twin rebuild --partition {self.partition}"
        )

    async def _compute(self, pipeline: Pipeline, decoded: Any) -> BatchOutcome:
        stored: list[str] = []
        if pipeline.touches_all(decoded):
            stored = await self._patiently(lambda: self._store.patients(self.partition), "reading names")
        missing = pipeline.missing(decoded, stored)
        for begin in range(0, len(missing), MOST_RECALLED):
            await self._recall(pipeline, missing[begin : begin + MOST_RECALLED])
        began = time.monotonic()
        outcome = await asyncio.to_thread(pipeline.update, decoded, lambda: self.status.alive("updating"))
        self.status.update_s += time.monotonic() - began
        return outcome

    async def _apply(self, lease: Lease, batch: Fetched, outcome: BatchOutcome) -> tuple[Answer, bool]:
        """Write, as often as the store is away or full; also say whether an earlier try may have been written."""
        tries = 0
        wait = Backoff()

        def going_on() -> None:
            self.status.alive("writing")
            fail_point("between_pieces")

        fail_point("before_apply")
        while True:

            async def attempt() -> Answer:
                nonlocal tries
                tries += 1
                return await self._store.apply(
                    lease,
                    batch.begin,
                    batch.end,
                    outcome,
                    self._versions,
                    going_on,
                )

            began = time.monotonic()
            answer = await self._patiently(attempt, "writing twins")
            self.status.apply_s += time.monotonic() - began
            fail_point("after_apply_before_reply")
            if answer.verdict is not Verdict.FULL:
                return answer, tries > 1
            self.status.full += 1
            self.status.alive(f"outbox {answer.detail} is full")
            self._publisher.wake()
            await wait.sleep()

    async def _recall(self, pipeline: Pipeline, patients: list[str]) -> None:
        recalled = await self._patiently(
            lambda: self._store.recall(self.partition, patients), "reading twins"
        )
        for patient, found in recalled.items():
            self._versions[patient] = found.version

        def remember() -> None:
            for patient, found in recalled.items():
                self.status.alive("updating")
                pipeline.remember(patient, found.twin)

        await asyncio.to_thread(remember)

    async def _read_anew(self, pipeline: Pipeline) -> None:
        """Forget what is in memory, and go on under the library of where the store stands now.

        The store may be set back again after this answer; then the next apply is BEHIND once more.
        """
        under = await self._patiently(lambda: self._store.stands_under(self.partition), "reading its library")
        self._forget(pipeline, under or pipeline.fingerprint)

    def _forget(self, pipeline: Pipeline, under: str) -> None:
        pipeline.forget()
        pipeline.stand_under(under)
        self._versions.clear()

    async def _patiently(self, call: Callable[[], Awaitable[T]], doing: str) -> T:
        wait = Backoff()
        while True:
            try:
                return await call()
            except (StoreUnavailableError, StaleClaimError, IntakeError) as error:
                if wait.rounds == 0:
                    self._log.warning("waiting", doing=doing, reason=str(error))
                self.status.alive(f"waiting, {doing}: {error}")
            await wait.sleep()


class Backoff:
    """Waits that double, shortened at random so that workers do not return all at once."""

    def __init__(self) -> None:
        self.rounds = 0

    async def sleep(self) -> None:
        """Wait for this round."""
        full = min(LONGEST_WAIT_S, FIRST_WAIT_S * 2.0**self.rounds)
        self.rounds = min(self.rounds + 1, 16)
        await asyncio.sleep(full * (1.0 - 0.5 * random.random()))
