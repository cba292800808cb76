"""What the worker asks of the world and of the pipeline: values that pass between them, and Protocols.

Nothing here knows Kafka, Redis or Faust. One batch travels like this:

    RawRecord* -> Pipeline -> BatchOutcome -> TwinStore.apply -> Answer
    OutboxEntry <- TwinStore.pending -> EventSink -> TwinStore.ack
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Literal, NamedTuple, Protocol

from twinstate.twin import StoredTwin as StoredTwin

OutboxName = Literal["risk", "dead_letters"]

OUTBOXES: tuple[OutboxName, ...] = ("risk", "dead_letters")


# In place of a record's headers when a name among them is not UTF-8, which Kafka forbids and no broker checks: the
# record is then refused, whoever reads it.
UNREADABLE_HEADERS: tuple[tuple[str, bytes], ...] = (
    ("twin-error-omitted", b"the sender's headers: a name is not UTF-8"),
)


class RawRecord(NamedTuple):
    """A record of the input topic as Kafka delivered it."""

    offset: int
    append_time: int  # ns since the Unix epoch, from the broker (LogAppendTime, ms resolution)
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes], ...]


class Outgoing(NamedTuple):
    """A message that an outbox must deliver exactly once.

    `id` is `<input offset>-<n>`, n from 1, rising within a partition and outbox. `value` None stands for the value of
    the input record at that offset, too large to pass through the store: the publisher reads it again.
    """

    id: str
    topic: OutboxName
    key: bytes
    headers: tuple[tuple[str, bytes], ...]
    value: bytes | None


class Recalled(NamedTuple):
    """What the store holds of a patient; `version` counts its writes, 0 for a twin never stored."""

    twin: StoredTwin | None
    version: int


@dataclass(frozen=True, slots=True)
class BatchOutcome:
    """Everything one batch changes; it is applied whole or not at all.

    Attributes:
        twins: By patient, each twin that changed.
        standing: By patient, JSON list of standing episodes; empty bytes remove the entry.
        index: By patient, JSON row for lists; empty bytes remove the entry.
        outgoing: Messages for the outboxes, ids rising in each of them.
        counts: What to add to the partition's counters.
        trace: JSON lines, what became of each record.
        under: Fingerprint under which it was computed: the store must stand under it. Empty: not compared.
        fingerprint: Of the partition from here on, when the batch activates another library; else empty.
    """

    twins: Mapping[str, StoredTwin] = field(default_factory=dict)
    standing: Mapping[str, bytes] = field(default_factory=dict)
    index: Mapping[str, bytes] = field(default_factory=dict)
    outgoing: Sequence[Outgoing] = ()
    counts: Mapping[str, int] = field(default_factory=dict)
    trace: bytes = b""
    under: str = ""
    fingerprint: str = ""


class Pipeline(Protocol):
    """One partition's records to outcomes; owns the partition's twins in memory and is used by one thread at a time.

    The object that `decode` returns is passed to the other methods and never looked into.
    """

    @property
    def fingerprint(self) -> str:
        """Name code, library and machine features on which the bits of a twin depend, where the log begins."""

    def fingerprints(self) -> tuple[str, ...]:
        """Name every fingerprint it can go on under: its own, and those of libraries that the log may activate."""

    def stand_under(self, fingerprint: str) -> None:
        """Go on under one of these: the one the store stands under."""

    def decode(self, records: Sequence[RawRecord]) -> Any:
        """Turn bytes into records; a bad one becomes a dead letter, never an exception."""

    def touches_all(self, batch: Any) -> bool:
        """Say whether the batch changes every twin of the partition, so that all must be in memory."""

    def missing(self, batch: Any, stored: Sequence[str] = ()) -> list[str]:
        """Name those of the batch's patients, and of the `stored` ones, that are not in memory."""

    def remember(self, patient: str, stored: StoredTwin | None) -> None:
        """Take a patient into memory as stored; None for one never seen."""

    def update(self, batch: Any, progress: Callable[[], None]) -> BatchOutcome:
        """Fold the batch into its twins: heavy on the processor; `progress` is called while it goes on."""

    def forget(self) -> None:
        """Drop every twin from memory: the store did not take the last outcome."""


class PipelineFactory(Protocol):
    """Makes the pipeline of one partition; named by import path in the settings."""

    def __call__(self, library_dir: str, partition: int, partitions: int, group: str) -> Pipeline:
        """Read the library and return an empty pipeline for `partition` of `partitions`."""


class Verdict(Enum):
    """How the store answers an `apply`."""

    OK = "OK"  # written
    AHEAD = "AHEAD"  # the store's position is after `from`: this batch, or a part of it, is in already
    BEHIND = "BEHIND"  # the store's position is before `from`: it lost its tail, or records were skipped
    CONFLICT = "CONFLICT"  # a twin, an outbox or the library is not what the caller built on
    FENCED = "FENCED"  # another owner has acquired the partition
    FULL = "FULL"  # an outbox has reached its limit; try again when it has drained


class Answer(NamedTuple):
    """The store's answer; nothing was written unless `verdict` is OK.

    `position` is the store's next offset. `detail` names what conflicts, what is full, or the owner's instance id.
    """

    verdict: Verdict
    position: int
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Claim:
    """Who asks for a partition.

    Attributes:
        generation: Of the consumer group, as the coordinator gave it with the assignment.
        owner: Nonce of this process; a new one at every start.
        instance: Static membership's `group.instance.id`; empty without.
        fingerprint: Of the pipeline; a partition never acquired takes it.
        others: Further ones under which the partition may stand.
    """

    generation: int
    owner: str
    instance: str
    fingerprint: str
    others: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Lease:
    """A partition acquired: the token (`epoch`, `owner`) that every write must show.

    Attributes:
        partition: Its number.
        epoch: One more at each acquire.
        owner: The claim's nonce.
        position: Offset of the next record to apply.
        marks: By outbox, id of the last message known to be published; empty for none.
        fingerprint: Under which the partition stands.
    """

    partition: int
    epoch: int
    owner: str
    position: int
    marks: Mapping[OutboxName, str]
    fingerprint: str = ""


class OutboxEntry(NamedTuple):
    """A message waiting in an outbox; see `Outgoing` for a `value` of None."""

    id: str
    key: bytes
    headers: tuple[tuple[str, bytes], ...]
    value: bytes | None


class StoreError(Exception):
    """Root of what a store raises on purpose."""


class StoreUnavailableError(StoreError):
    """The store does not answer or does not take writes now; the same call may succeed later."""


class StoreRefusedError(StoreError):
    """The store, or what it holds, does not fit this worker; the text says what to change."""


class StaleClaimError(StoreError):
    """A newer generation of the group owns the partition and was seen within the lease."""


class TwinStore(Protocol):
    """Where twins, positions and outboxes live, changed together or not at all."""

    async def acquire(self, partition: int, claim: Claim, start: int) -> Lease:
        """Take over a partition and fence its former owner; `start` is the position of one never applied to."""

    async def apply(
        self,
        lease: Lease,
        begin: int,
        end: int,
        outcome: BatchOutcome,
        versions: Mapping[str, int],
        progress: Callable[[], None] = ...,
    ) -> Answer:
        """Write the outcome of the records in [begin, end), if the store stands at `begin`.

        `progress` is called as a long write goes on.
        """

    async def recall(self, partition: int, patients: Sequence[str]) -> dict[str, Recalled]:
        """Read the twins of `patients`, all from one moment."""

    async def patients(self, partition: int) -> list[str]:
        """Name every patient of whom a twin is stored."""

    async def stands_under(self, partition: int) -> str | None:
        """Give the partition's fingerprint; None for one never acquired."""

    async def owns(self, lease: Lease) -> bool:
        """Say whether nobody has acquired the partition since."""

    async def whereabouts(self, lease: Lease) -> int | None:
        """Give the store's position; None when another owner has acquired the partition."""

    async def pending(self, partition: int, outbox: OutboxName, count: int) -> list[OutboxEntry]:
        """Read the oldest `count` messages of an outbox."""

    async def ack(self, lease: Lease, outbox: OutboxName, last_id: str, topic_position: int | None) -> bool:
        """Drop messages up to `last_id`: they are published. False when fenced.

        `topic_position` is the output partition's next offset after them; None when it is not known.
        """


def outbox_order(identifier: str) -> tuple[int, int]:
    """Give the sort key of an outbox id `<offset>-<n>`; an empty id comes before all."""
    if not identifier:
        return (-1, -1)
    offset, _, number = identifier.partition("-")
    return (int(offset), int(number))
