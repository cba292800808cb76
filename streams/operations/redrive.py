"""`twin ops redrive`: refused records sent again, body, id and revision as they were.

Only what may succeed is sent: each record is decoded as the worker would, and one that would be refused again stays
where it is. Sending twice is harmless: the same bytes are a duplicate.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from typing import NamedTuple

from streams.adapters.kafka_link import GROUP_HEADER, ID_HEADER
from streams.adapters.log_reader import LogReader
from streams.adapters.raw_records import sendable
from streams.adapters.record_sender import BACKFILL, RecordSender
from streams.adapters.topics import read_topics
from streams.codec import Accepted, Decoder, Refusal, partition_of
from streams.operations import OperationError
from streams.operations.in_effect import libraries_at_the_end, name_of
from streams.ports import RawRecord
from streams.releases import Releases, load_releases
from streams.settings import Settings
from twinstate.library import Library
from twinstate.policy import Policy
from twinstate.types import NS_PER_HOUR

# Headers the service added to a refused record.
ADDED = ("twin-error-", ID_HEADER, GROUP_HEADER)


class Letter(NamedTuple):
    """One refused record and what is to become of it.

    Attributes:
        partition: Where it was refused, in the input topic.
        offset: There.
        reason: Its class when it was refused.
        send: Whether it may be sent again.
        backfill: Whether it goes as history.
        why: Why it is not sent; empty when it is.
        key: As it came.
        value: As it came.
        headers: The sender's own.
    """

    partition: int
    offset: int
    reason: str
    send: bool
    backfill: bool
    why: str
    key: bytes
    value: bytes
    headers: tuple[tuple[str, bytes], ...]


class Redriven(NamedTuple):
    """The chosen letters, and how many of them Kafka acknowledged."""

    letters: tuple[Letter, ...]
    delivered: int


def redrive(
    settings: Settings,
    *,
    reasons: Collection[str] = (),
    places: Collection[tuple[int, int]] = (),
    send: bool = False,
) -> Redriven:
    """Choose dead letters, and send those that may succeed.

    Args:
        settings: Of the service.
        reasons: Only these classes; empty for all.
        places: Only those refused at these partitions and offsets of the input topic; empty for all.
        send: Send them; else only say what would be sent.

    Raises:
        OperationError: A place holds no dead letter, or Kafka did not take a record.
        LogError: Kafka does not answer.
        StoreError: Redis does not answer.
    """
    topics = read_topics(settings.paths.topics)
    releases = load_releases(settings.paths.library)
    under = libraries_at_the_end(settings, topics.names.records, topics.partitions, releases)
    now = time.time_ns()
    letters: list[Letter] = []
    seen: set[tuple[bytes, bytes]] = set()
    with LogReader(settings.kafka.connection(), topics.names.dead_letters) as log:
        for partition in range(topics.partitions):
            _, end = log.bounds(partition)
            for stretch in log.read(partition, end, settings.kafka.batch_max_records):
                for raw in stretch.records:
                    letter = judge_letter(raw, under, releases, now)
                    if reasons and letter.reason not in reasons:
                        continue
                    if places and (letter.partition, letter.offset) not in places:
                        continue
                    if letter.send and (letter.key, letter.value) in seen:
                        letter = letter._replace(send=False, why="the same bytes are sent already")
                    seen.add((letter.key, letter.value))
                    letters.append(letter)
    missing = sorted(set(places) - {(one.partition, one.offset) for one in letters})
    if missing:
        named = ", ".join(f"{partition}/{offset}" for partition, offset in missing)
        raise OperationError(
            f"no dead letter{' of that reason' if reasons else ''} was refused at {named} (partition/offset of the "
            "input topic); nothing was sent. twin dead-letters lists them"
        )
    chosen = [one for one in letters if one.send]
    return Redriven(tuple(letters), _send(settings, topics.names.records, chosen) if send else 0)


def judge_letter(raw: RawRecord, under: Sequence[Library], releases: Releases, now: int) -> Letter:
    """Say what is to become of one dead letter.

    Args:
        raw: From the dead-letter topic.
        under: The library in effect where a record sent now will stand, by partition of the input topic.
        releases: Of the workers; one that reads what the library in effect does not is named.
        now: Wall clock, UTC ns: the broker's stamp on a record sent now, about.
    """
    told = dict(raw.headers)
    reason = told.get("twin-error-class", b"").decode(errors="replace")
    key, value = raw.key or b"", raw.value or b""
    own = tuple((name, content) for name, content in raw.headers if not name.startswith(ADDED))
    right = partition_of(key, len(under)) if key else 0
    again = RawRecord(0, now, key, value, own)
    decoded = Decoder(under[right], right, len(under)).decode(again)
    why = _why_not(decoded, reason, own, under[right].policy, now)
    if isinstance(decoded, Refusal):
        for library in releases.every():
            if isinstance(Decoder(library, right, len(under)).decode(again), Accepted):
                why += f". The release {name_of(library, releases)} reads it: twin ops activate it first"
                break
    first = isinstance(decoded, Accepted) and decoded.entry.revision == 0 and decoded.entry.kind != "wearable"
    return Letter(
        partition=_number(told, "twin-error-partition"),
        offset=_number(told, "twin-error-offset"),
        reason=reason,
        send=not why,
        # Time has passed since it was refused, whatever for: a first revision may be late by now.
        backfill=not why and first,
        why=why,
        key=key,
        value=value,
        headers=own,
    )


def _why_not(
    decoded: Accepted | Refusal, reason: str, own: Sequence[tuple[str, bytes]], policy: Policy, now: int
) -> str:
    if isinstance(decoded, Refusal):
        return f"would be refused again, {decoded.reason}: {decoded.text}"
    entry = decoded.entry
    if not all(sendable(name) for name, _ in own):
        return "the name of one of its headers cannot be sent: have its sender name it in UTF-8 without NUL"
    if entry.event_time > now + round(policy.future_h * NS_PER_HOUR):
        return "would be refused again, future: its event time still lies ahead"
    if reason == "late" and entry.kind == "wearable":
        return "would be refused again, late: 12 h is the limit for wearables, history or not"
    if reason == "late" and (entry.revision > 0 or BACKFILL[0] in dict(own)):
        return "would be refused again, late: it was beyond the 90 days already"
    return ""


def _number(told: dict[str, bytes], name: str) -> int:
    content = told.get(name, b"")
    return int(content) if content.isdigit() else -1


def _send(settings: Settings, topic: str, letters: Sequence[Letter]) -> int:
    sender = RecordSender(settings.kafka.connection(), topic)
    for one in letters:
        own = tuple(pair for pair in one.headers if pair[0] != BACKFILL[0] or not one.backfill)
        sender.send(one.key.decode(), one.value, backfill=one.backfill, headers=own)
    done = sender.finish()
    if done.failures:
        raise OperationError(
            f"{len(done.failures)} of {len(letters)} records were not delivered to "
            f"{settings.kafka.bootstrap_servers}: {done.failures[0]}. Run this again: what did arrive is a duplicate"
        )
    return done.delivered
