"""TwinStore on Redis 7 and later: every key of a partition under one hash tag, every change one script.

Redis holds the position that counts; Kafka's committed offset is a hint. The scripts in `scripts/` check everything
before their first write, since Redis does not roll back.
"""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha1
from importlib import resources
from typing import Any, NamedTuple

import msgspec
from redis.asyncio.cluster import RedisCluster
from redis.exceptions import NoScriptError

from streams.adapters.redis_client import CLIENT_ERRORS, AnyRedis, unavailable
from streams.adapters.redis_client import connect as connect
from streams.ports import (
    OUTBOXES,
    Answer,
    BatchOutcome,
    Claim,
    Lease,
    OutboxEntry,
    OutboxName,
    Outgoing,
    Recalled,
    StaleClaimError,
    StoredTwin,
    StoreRefusedError,
    StoreUnavailableError,
    Verdict,
)

OLDEST_MAJOR = 7


class PartitionKeys:
    """Names of one partition's keys; the hash tag `{group.partition}` keeps them in one slot of a cluster."""

    def __init__(self, group: str, partition: int) -> None:
        stem = f"tw:{{{group}.{partition}}}:"
        self.meta = stem + "m"
        self.twins = stem + "twins"
        self.versions = stem + "versions"
        self.standing = stem + "standing"
        self.index = stem + "index"
        self.outboxes: dict[OutboxName, str] = {"risk": stem + "ob:risk", "dead_letters": stem + "ob:dead"}
        self.audit = stem + "au"
        self.trace = stem + "tr"
        self.counters = stem + "n"
        self.staged = stem + "staged"


@dataclass(frozen=True, slots=True)
class StoreLimits:
    """How much a partition may hold beside its twins, and how long an idle owner is respected.

    Attributes:
        outbox_messages: Entries of one outbox; at the limit the partition's intake pauses.
        audit_batches: Entries of the audit stream, about.
        trace_batches: Entries of the trace stream, about.
        lease_ms: A claim of an older generation is refused while the owner was seen within this time; three session
            timeouts, so that a deleted group (its generations restart) is not fenced out for ever.
        command_bytes: Twins of a whole partition go in pieces of about this size: each is written well within the time
            that a command may take, and Redis answers others between two of them.
    """

    outbox_messages: int = 10_000
    audit_batches: int = 10_000
    trace_batches: int = 2_000
    lease_ms: int = 30_000
    command_bytes: int = 4 * 1024 * 1024


class PartitionMeta(NamedTuple):
    """Where a partition stands.

    `position` is the next input offset; the stored twins are true for every record before it. `risk_topic_position` is
    the output partition's offset from which a newcomer to the risk topic reads on from the standing episodes.
    """

    position: int
    epoch: int
    generation: int
    instance: str
    fingerprint: str
    risk_mark: str
    dead_letters_mark: str
    risk_topic_position: int


class AuditEntry(NamedTuple):
    """One applied batch: who wrote the records of [begin, end)."""

    epoch: int
    owner: str
    begin: int
    end: int


class _Script:
    def __init__(self, name: str) -> None:
        self.text = resources.files("streams.adapters").joinpath("scripts", f"{name}.lua").read_text("utf-8")
        self.digest = sha1(self.text.encode(), usedforsecurity=False).hexdigest()


ACQUIRE, STAGE, APPLY, ACK = (_Script(name) for name in ("acquire", "stage", "apply", "ack"))
READ_TWINS, READ_ROWS = _Script("read_twins"), _Script("read_rows")


class RedisStore:
    """Twins, positions and outboxes of one consumer group.

    Args:
        client: From `connect`.
        group: Name of the consumer group, without braces.
        limits: Bounds of streams and lease.
    """

    def __init__(self, client: AnyRedis, group: str, limits: StoreLimits | None = None) -> None:
        if "{" in group or "}" in group:
            raise ValueError(
                f"group {group!r}: braces mark the hash tag of Redis keys; use a name without them"
            )
        self._client = client
        self.group = group
        self.limits = limits or StoreLimits()
        self._keys: dict[int, PartitionKeys] = {}
        # What is put aside, and its token, by partition.
        self._aside: dict[int, tuple[BatchOutcome, str]] = {}

    def keys(self, partition: int) -> PartitionKeys:
        """Name the keys of a partition."""
        if partition not in self._keys:
            self._keys[partition] = PartitionKeys(self.group, partition)
        return self._keys[partition]

    async def close(self) -> None:
        """Give back the connections."""
        await self._client.aclose()

    async def check(self) -> None:
        """Check what the commit protocol needs of the server.

        Raises:
            StoreRefusedError: Redis is older than 7, or may throw keys out.
            StoreUnavailableError: It does not answer.
        """
        for about in await self._about():
            version = str(about.get("redis_version", "0"))
            if int(version.partition(".")[0]) < OLDEST_MAJOR:
                raise StoreRefusedError(
                    f"Redis {version} is too old: its scripts are not refused as a whole when memory or disk is short. "
                    f"Use Redis {OLDEST_MAJOR} or later."
                )
            policy = str(about.get("maxmemory_policy", "noeviction"))
            if policy != "noeviction":
                raise StoreRefusedError(
                    f"Redis: maxmemory-policy is {policy}, so Redis may throw patients out when memory is short. "
                    "It must be noeviction: redis-cli CONFIG SET maxmemory-policy noeviction, and so in redis.conf."
                )

    async def _about(self) -> list[dict[str, Any]]:
        try:
            if isinstance(self._client, RedisCluster):
                answers = await self._client.info(target_nodes=RedisCluster.PRIMARIES)
                several = all(isinstance(value, dict) for value in answers.values())
                return list(answers.values()) if several else [answers]
            return [await self._client.info()]
        except CLIENT_ERRORS as error:
            raise unavailable(error) from error

    async def claim_instance(self, instance: str, owner: str) -> None:
        """Take a static membership's id; an older process with the same id finds itself replaced."""
        await self._command("SET", self._instance_key(instance), owner)

    async def instance_owner(self, instance: str) -> str | None:
        """Give the nonce of the process that took this id last."""
        answer = await self._command("GET", self._instance_key(instance))
        return None if answer is None else answer.decode()

    def _instance_key(self, instance: str) -> str:
        return f"tw:{{{self.group}}}:instance:{instance}"

    async def acquire(self, partition: int, claim: Claim, start: int) -> Lease:
        """Take over a partition and fence its former owner.

        Args:
            partition: Its number.
            claim: Who asks.
            start: Position of a partition to which nothing was ever applied.

        Raises:
            StaleClaimError: A newer generation owns it and was seen within the lease.
            StoreRefusedError: Its twins were made under another fingerprint.
            StoreUnavailableError: No answer.
        """
        self._aside.pop(partition, None)
        answer = await self._run(
            ACQUIRE,
            [self.keys(partition).meta],
            [
                claim.generation,
                claim.owner,
                claim.instance,
                claim.fingerprint,
                start,
                self.limits.lease_ms,
                *claim.others,
            ],
        )
        word = answer[0]
        if word == b"STALE":
            raise StaleClaimError(
                f"partition {partition}: generation {claim.generation} of group {self.group} is over, "
                f"generation {answer[1].decode()} owns it"
            )
        if word == b"FINGERPRINT":
            raise StoreRefusedError(
                f"partition {partition}: its twins were made under fingerprint {answer[1].decode()}, this worker has "
                f"{claim.fingerprint}. Twins of two fingerprints do not mix: run the code and library that made them, "
                f"or derive them again from the log: twin rebuild --partition {partition}"
            )
        return Lease(
            partition=partition,
            epoch=int(answer[1]),
            owner=claim.owner,
            position=int(answer[2]),
            marks={"risk": answer[3].decode(), "dead_letters": answer[4].decode()},
            fingerprint=answer[5].decode(),
        )

    async def apply(
        self,
        lease: Lease,
        begin: int,
        end: int,
        outcome: BatchOutcome,
        versions: Mapping[str, int],
        progress: Callable[[], None] = lambda: None,
    ) -> Answer:
        """Write the outcome of the records in [begin, end) if the store stands at `begin`.

        Args:
            lease: From `acquire`.
            begin: The position the outcome was computed from.
            end: Position after its last record; holes in offsets are legal.
            outcome: What to write.
            versions: By patient, the version each twin was built on; a patient without one is new (0).
            progress: Called after each piece of a write that takes several.

        Returns:
            The answer; nothing was written unless it is OK.

        Raises:
            StoreUnavailableError: No answer: it may or may not have been written; ask again with the same arguments.
        """
        keys = self.keys(lease.partition)
        limits = self.limits
        arguments: list[bytes | str | int] = [lease.epoch, lease.owner, begin, end]
        arguments += [
            limits.outbox_messages,
            limits.outbox_messages,
            limits.audit_batches,
            limits.trace_batches,
        ]
        token = ""
        if outcome.fingerprint and _size(outcome.twins) > limits.command_bytes:
            put = self._aside.pop(lease.partition, None)
            token = secrets.token_hex(8) if put is None or put[0] is not outcome else put[1]
            if put is None or put[0] is not outcome:
                refused = await self._stage(lease, token, outcome.twins, progress)
                if refused is not None:
                    return refused
        arguments += [outcome.trace, outcome.under, outcome.fingerprint, token, len(outcome.twins)]
        for patient, twin in outcome.twins.items():
            arguments += [patient, versions.get(patient, 0), b"" if token else msgspec.msgpack.encode(twin)]
        for rows in (outcome.standing, outcome.index):
            arguments.append(len(rows))
            for patient, row in rows.items():
                arguments += [patient, row]
        for outbox in OUTBOXES:
            messages = [message for message in outcome.outgoing if message.topic == outbox]
            arguments.append(len(messages))
            for message in messages:
                arguments += _message(message)
        arguments.append(len(outcome.counts))
        for name, addend in outcome.counts.items():
            arguments += [name, addend]
        answer = await self._run(
            APPLY,
            [keys.meta, keys.twins, keys.versions, keys.standing, keys.index, *keys.outboxes.values(), keys.audit,
             keys.trace, keys.counters, keys.staged],
            arguments,
        )  # fmt: skip
        verdict = _answer(answer)
        if token and verdict.verdict in (Verdict.AHEAD, Verdict.BEHIND, Verdict.CONFLICT):
            await self._forget_staged(lease.partition)
        if token and verdict.verdict is Verdict.FULL:
            self._aside[lease.partition] = (outcome, token)  # the same call comes again, perhaps for hours
        return verdict

    async def _stage(
        self, lease: Lease, token: str, twins: Mapping[str, StoredTwin], progress: Callable[[], None]
    ) -> Answer | None:
        """Put all twins of a partition aside, in pieces; the refusal when another owner has acquired it meanwhile.

        Raises:
            StoreUnavailableError: No answer, or the store was set back between two pieces; apply again.
        """
        keys = self.keys(lease.partition)
        arguments: list[bytes | str | int] = [lease.epoch, lease.owner, token, 1]
        size, left = 0, len(twins)
        for patient, twin in twins.items():
            packed = msgspec.msgpack.encode(twin)
            arguments += [patient, packed]
            size, left = size + len(packed), left - 1
            if size < self.limits.command_bytes and left:
                continue
            try:
                answer = await self._run(STAGE, [keys.meta, keys.staged], arguments)
            except StoreUnavailableError:
                # Partitions that fill the memory together would each keep its part, and no script runs without memory.
                await self._forget_staged(lease.partition)
                raise
            if answer[0] == b"FENCED":
                return _answer(answer)
            if answer[0] == b"LOST":
                raise StoreUnavailableError("Redis was set back while the twins of a partition were written")
            progress()
            arguments, size = [lease.epoch, lease.owner, token, 0], 0
        return None

    async def _forget_staged(self, partition: int) -> None:
        """Drop what was put aside, if Redis answers; another owner's too, which is told so and begins again."""
        with contextlib.suppress(StoreUnavailableError):
            await self._command("UNLINK", self.keys(partition).staged)

    async def recall(self, partition: int, patients: Sequence[str]) -> dict[str, Recalled]:
        """Read the twins of `patients`, all from one moment.

        Raises:
            StoreUnavailableError: No answer.
        """
        return (await self.read_twins(partition, patients))[1]

    async def read_twins(
        self, partition: int, patients: Sequence[str]
    ) -> tuple[PartitionMeta | None, dict[str, Recalled]]:
        """Read twins and the position they are true for; meta is None for a partition never acquired."""
        keys = self.keys(partition)
        fields, twins, versions = await self._run(
            READ_TWINS, [keys.meta, keys.twins, keys.versions], list(patients)
        )
        found = {
            patient: Recalled(
                None if twin is None else msgspec.msgpack.decode(twin, type=StoredTwin), int(version or 0)
            )
            for patient, twin, version in zip(patients, twins, versions, strict=True)
        }
        return _meta(fields), found

    async def read_standing(self, partition: int) -> tuple[PartitionMeta | None, dict[str, bytes]]:
        """Read the standing episodes by patient, and the positions they are true for."""
        return await self._rows(partition, self.keys(partition).standing)

    async def read_index(self, partition: int) -> tuple[PartitionMeta | None, dict[str, bytes]]:
        """Read the list rows by patient, and the position they are true for."""
        return await self._rows(partition, self.keys(partition).index)

    async def read_counters(self, partition: int) -> tuple[PartitionMeta | None, dict[str, int]]:
        """Read the counters, and the position they are true for."""
        meta, rows = await self._rows(partition, self.keys(partition).counters)
        return meta, {name: int(number) for name, number in rows.items()}

    async def _rows(self, partition: int, key: str) -> tuple[PartitionMeta | None, dict[str, bytes]]:
        fields, rows = await self._run(READ_ROWS, [self.keys(partition).meta, key], [])
        return _meta(fields), {patient.decode(): row for patient, row in _pairs(rows)}

    async def owns(self, lease: Lease) -> bool:
        """Say whether nobody has acquired the partition since.

        Raises:
            StoreUnavailableError: No answer.
        """
        return await self.whereabouts(lease) is not None

    async def whereabouts(self, lease: Lease) -> int | None:
        """Give the store's position; None when another owner has acquired the partition, or the store was emptied.

        Raises:
            StoreUnavailableError: No answer.
        """
        fields = ("epoch", "owner", "next")
        epoch, owner, position = await self._command("HMGET", self.keys(lease.partition).meta, *fields)
        mine = epoch == str(lease.epoch).encode() and owner == lease.owner.encode()
        return int(position) if mine else None

    async def patients(self, partition: int) -> list[str]:
        """Name every patient of whom a twin is stored, in order.

        Raises:
            StoreUnavailableError: No answer.
        """
        return sorted(
            patient.decode() for patient in await self._command("HKEYS", self.keys(partition).twins)
        )

    async def stands_under(self, partition: int) -> str | None:
        """Give the partition's fingerprint; None for one never acquired.

        Raises:
            StoreUnavailableError: No answer.
        """
        found = await self._command("HGET", self.keys(partition).meta, "fingerprint")
        return None if found is None else found.decode()

    async def seen_ms(self, partition: int) -> int | None:
        """When a worker last acquired the partition or applied a batch to it, ms since 1970 by Redis's clock."""
        seen = await self._command("HGET", self.keys(partition).meta, "seen_ms")
        return None if seen is None else int(seen)

    async def twin_formats(self, partition: int, sample: int = 20) -> tuple[int, ...]:
        """State formats among some of a partition's twins, ascending.

        A sample does: twins are written under one fingerprint, which covers the format; others come in only with a
        store restored from parts.

        Raises:
            StoreUnavailableError: No answer.
        """
        found = await self._command("HRANDFIELD", self.keys(partition).twins, sample, "WITHVALUES")
        packed = (
            [value for pair in found for value in pair[1:]] if found and _is_pair(found[0]) else found[1::2]
        )
        return tuple(sorted({n for n in map(state_format, packed) if n is not None}))

    async def pending(self, partition: int, outbox: OutboxName, count: int) -> list[OutboxEntry]:
        """Read the oldest `count` messages of an outbox.

        Raises:
            StoreUnavailableError: No answer.
        """
        found = await self._command("XRANGE", self.keys(partition).outboxes[outbox], "-", "+", "COUNT", count)
        entries = []
        for identifier, fields in found:
            values = fields if isinstance(fields, dict) else dict(_pairs(fields))
            headers = msgspec.msgpack.decode(values[b"h"], type=tuple[tuple[str, bytes], ...])
            entries.append(OutboxEntry(identifier.decode(), values[b"k"], headers, values.get(b"v")))
        return entries

    async def outbox_length(self, partition: int, outbox: OutboxName) -> int:
        """Count the messages that wait in an outbox."""
        return int(await self._command("XLEN", self.keys(partition).outboxes[outbox]))

    async def ack(self, lease: Lease, outbox: OutboxName, last_id: str, topic_position: int | None) -> bool:
        """Drop messages up to `last_id`: they are published.

        Args:
            lease: From `acquire`.
            outbox: Which.
            last_id: Id of the last message published.
            topic_position: The output partition's next offset after them; None leaves the stored one.

        Returns:
            False when another owner has acquired the partition; nothing is changed then.

        Raises:
            StoreUnavailableError: No answer.
        """
        keys = self.keys(lease.partition)
        answer = await self._run(
            ACK,
            [keys.meta, keys.outboxes[outbox]],
            [lease.epoch, lease.owner, f"{outbox}_mark", last_id, f"{outbox}_topic_next",
             "" if topic_position is None else topic_position],
        )  # fmt: skip
        return bool(answer[0] == b"OK")

    async def audit(self, partition: int) -> list[AuditEntry]:
        """Read the audit stream, oldest first: which owner applied which offsets."""
        found = await self._command("XRANGE", self.keys(partition).audit, "-", "+")
        entries = []
        for _, fields in found:
            values = fields if isinstance(fields, dict) else dict(_pairs(fields))
            entries.append(
                AuditEntry(
                    int(values[b"epoch"]),
                    values[b"owner"].decode(),
                    int(values[b"begin"]),
                    int(values[b"end"]),
                )
            )
        return entries

    async def _run(self, script: _Script, keys: Sequence[str], arguments: Sequence[bytes | str | int]) -> Any:
        try:
            try:
                return await self._client.evalsha(script.digest, len(keys), *keys, *arguments)
            except NoScriptError:
                # A restarted Redis has forgotten the script. EVAL loads it for the next time.
                return await self._client.eval(script.text, len(keys), *keys, *arguments)
        except CLIENT_ERRORS as error:
            raise unavailable(error) from error

    async def _command(self, *words: str | int) -> Any:
        try:
            return await self._client.execute_command(*words)
        except CLIENT_ERRORS as error:
            raise unavailable(error) from error


def state_format(packed: bytes) -> int | None:
    """The format a stored twin says it is in; None for bytes that are no canonical twin."""
    try:
        document = msgspec.msgpack.decode(msgspec.msgpack.decode(packed, type=StoredTwin).canonical)
    except (msgspec.DecodeError, ValueError):
        return None
    return document[0] if isinstance(document, list) and document and isinstance(document[0], int) else None


def _size(twins: Mapping[str, StoredTwin]) -> int:
    return sum(len(one.canonical) + len(one.rest) for one in twins.values())


def _answer(answer: Any) -> Answer:
    return Answer(Verdict(answer[0].decode()), int(answer[1]), answer[2].decode() if len(answer) > 2 else "")


def _is_pair(answer: Any) -> bool:
    return isinstance(answer, list | tuple)  # how RESP3 gives them; RESP2 gives a flat list


def _message(message: Outgoing) -> list[bytes | str]:
    there = message.value is not None
    return [
        message.id, message.key, msgspec.msgpack.encode(message.headers), "1" if there else "0", message.value or b""
    ]  # fmt: skip


def _pairs(flat: Any) -> Iterable[tuple[bytes, bytes]]:
    if isinstance(flat, dict):
        return flat.items()
    return zip(flat[::2], flat[1::2], strict=True)


def _meta(flat: Any) -> PartitionMeta | None:
    fields = {name.decode(): value.decode() for name, value in _pairs(flat)}
    if not fields:
        return None
    return PartitionMeta(
        position=int(fields["next"]),
        epoch=int(fields["epoch"]),
        generation=int(fields["generation"]),
        instance=fields["instance"],
        fingerprint=fields["fingerprint"],
        risk_mark=fields.get("risk_mark", ""),
        dead_letters_mark=fields.get("dead_letters_mark", ""),
        risk_topic_position=int(fields.get("risk_topic_next", "0")),
    )
