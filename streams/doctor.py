"""Looks at everything a deployment needs and says what is wrong, and what to do; it changes nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from confluent_kafka import IsolationLevel, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec
from redis.exceptions import RedisError

from streams.adapters.mqtt_bridge import NOBODY_THERE, MqttError, ask
from streams.adapters.redis_reader import RedisReader
from streams.adapters.redis_store import connect
from streams.adapters.topics import TopicError, Topics, compare_topics, read_topics
from streams.bridge import broker
from streams.ports import StoreError
from streams.queries import Queries
from streams.queries.answers import Counts
from streams.releases import load_releases
from streams.settings import MqttSettings, Settings
from streams.web.token import TokenError, load_token
from streams.wiring import create_queries
from twinstate.errors import LibraryError
from twinstate.library import Library, load_library

ANSWER_WITHIN_S = 10.0
LOOPBACK = ("127.0.0.1", "::1", "localhost")
# A worker that has not written for so long while records wait has stalled.
STALLED_AFTER_S = 60.0


class Finding(NamedTuple):
    """One check.

    Attributes:
        check: What was looked at.
        ok: Whether it is as it must be.
        found: What was found; when it is wrong, also what to do.
    """

    check: str
    ok: bool
    found: str


def examine(settings: Settings) -> list[Finding]:
    """Look at everything; what cannot be looked at is a finding too."""
    findings: list[Finding] = []
    topics = _topics(settings, findings)
    library = _library(settings, findings)
    findings.append(_token("API token", settings.web.token_file))
    if settings.intake.token_file is not None:
        findings.append(_token("intake token", settings.intake.token_file))
    ends = None if topics is None else _broker(settings, topics, findings)
    findings.append(_mqtt(settings.mqtt))
    redis = asyncio.run(_redis(settings))
    findings += redis
    if topics is not None and library is not None and all(f.ok for f in redis[:1]):
        findings += asyncio.run(_twins(settings, ends))
    return findings


def _topics(settings: Settings, findings: list[Finding]) -> Topics | None:
    try:
        return read_topics(settings.paths.topics)
    except TopicError as error:
        findings.append(Finding("topics file", False, str(error)))
        return None


def _library(settings: Settings, findings: list[Finding]) -> Library | None:
    try:
        library = load_library(settings.paths.library)
    except LibraryError as error:
        findings.append(Finding("library", False, str(error)))
        return None
    unverified = [
        f"{m.drug} {t.name}" for m in library.drugs.values() for t in m.thresholds if t.status == "R"
    ]
    note = f"; limits not verified in their source: {', '.join(unverified)}" if unverified else ""
    findings.append(
        Finding("library", True, f"{len(library.models)} drug models, {len(library.signals)} signals{note}")
    )
    return library


def _token(check: str, path: Path) -> Finding:
    if not path.exists():
        return Finding(check, True, f"{path} is made at the first twin serve")
    try:
        load_token(path)
    except TokenError as error:
        return Finding(check, False, str(error))
    return Finding(check, True, f"{path}, readable by its owner only")


def _broker(settings: Settings, topics: Topics, findings: list[Finding]) -> dict[int, int] | None:
    """Compare the topics; give where each partition of the input ends."""
    connection = settings.kafka.connection()
    try:
        differences = compare_topics(connection, topics)
    except TopicError as error:
        findings.append(Finding("broker", False, str(error)))
        return None
    findings.append(Finding("broker", True, f"{settings.kafka.bootstrap_servers} answers"))
    names = ", ".join(topics.names.model_dump().values())
    if differences:
        findings += [Finding("topics", False, difference) for difference in differences]
        return None
    stamp = topics.settings.get("message.timestamp.type", "not set")
    findings.append(
        Finding("topics", True, f"{names}: {topics.partitions} partitions each, timestamps {stamp}")
    )
    newest: Any = OffsetSpec  # its methods carry no types
    wanted = {TopicPartition(topics.names.records, p): newest.latest() for p in range(topics.partitions)}
    try:
        admin = AdminClient({"log_level": 0, **connection})
        answers = admin.list_offsets(
            wanted, isolation_level=IsolationLevel.READ_COMMITTED, request_timeout=ANSWER_WITHIN_S
        )
        return {p.partition: int(answer.result(ANSWER_WITHIN_S).offset) for p, answer in answers.items()}
    except KafkaException as error:
        findings.append(Finding("end of the input", False, f"cannot be read: {error.args[0].str()}"))
        return None


def _mqtt(settings: MqttSettings) -> Finding:
    """Whether `twin mqtt` would be let in. Who has none on this machine and names no other needs none."""
    place = f"{settings.host}:{settings.port}"
    try:
        wrong = ask(broker(settings), ANSWER_WITHIN_S)
    except MqttError as error:
        wrong = str(error)
    if not wrong:
        return Finding("MQTT broker", True, f"{place} lets us in")
    if settings.host in LOOPBACK and wrong.startswith(NOBODY_THERE):
        return Finding("MQTT broker", True, f"none at {place}; only twin mqtt needs one")
    return Finding("MQTT broker", False, f"{place}: {wrong}; until then what devices publish waits there")


async def _redis(settings: Settings) -> list[Finding]:
    client = connect(settings.redis.url, cluster=settings.redis.cluster, **settings.redis.client_arguments())
    reader = RedisReader(client, settings.kafka.group)
    try:
        await reader.check()
        findings = [Finding("Redis", True, "answers, 7 or later, throws no keys out (noeviction)")]
        findings += list(_durability(await reader.durability()))
        return findings
    except (StoreError, RedisError) as error:
        return [Finding("Redis", False, str(error))]
    finally:
        await reader.close()


def _durability(servers: list[dict[str, str]]) -> Iterator[Finding]:
    for about in servers:
        if about["aof_enabled"] != "1":
            yield Finding(
                "Redis append-only file",
                False,
                "appendonly is no: a restart of Redis forgets the twins, and they are derived anew from the log. "
                "redis-cli CONFIG SET appendonly yes, and the same in redis.conf",
            )
        elif about["aof_last_write_status"] != "ok":
            yield Finding(
                "Redis append-only file",
                False,
                "the last write failed: make room on its disk, and see Redis's log",
            )
        else:
            yield Finding(
                "Redis append-only file", True, "written; the loss of its last second heals by replay"
            )


async def _twins(settings: Settings, ends: dict[int, int] | None) -> list[Finding]:
    queries, reader = create_queries(settings)
    try:
        never = await queries.never_acquired()
        counts = await queries.counts()
        return [
            _acquired(queries, never),
            *_fingerprint(counts, load_releases(settings.paths.library).fingerprints()),
            _partitioning(counts),
            *_progress(counts, ends),
            _quarantine(counts),
        ]
    except StoreError as error:
        return [Finding("twins", False, str(error))]
    finally:
        await reader.close()


def _acquired(queries: Queries, never: list[int]) -> Finding:
    if never:
        which = ", ".join(map(str, never))
        return Finding(
            "partitions", False, f"no worker has ever acquired partition {which}; start one: twin worker"
        )
    return Finding("partitions", True, f"all {queries.partitions} have been acquired by a worker")


def _fingerprint(counts: Counts, here: tuple[str, ...]) -> Iterator[Finding]:
    if not counts.fingerprints:
        return
    others = [f for f in counts.fingerprints if f not in here]
    if others:
        yield Finding(
            "fingerprint",
            False,
            f"twins were made under {', '.join(others)}, code and library here are {here[0]}. A worker started here "
            "would be refused: run the version that made them, or derive the twins again: twin rebuild",
        )
    else:
        first = counts.fingerprints == here[:1]
        under = f"library ({here[0]})" if first else "a library of config/releases"
        yield Finding("fingerprint", True, f"twins were made by this code and {under}")


def _partitioning(counts: Counts) -> Finding:
    strayed = counts.dead_letters.get("wrong_partition", 0)
    if strayed:
        return Finding(
            "partitioning",
            False,
            f"{strayed} records came on the wrong partition: a producer does not use murmur2 (confluent-kafka: "
            "partitioner=murmur2_random). twin dead-letters shows them; send them again",
        )
    return Finding("partitioning", True, "no record came on a wrong partition")


def _progress(counts: Counts, ends: dict[int, int] | None) -> Iterator[Finding]:
    if ends is None:
        return
    behind = {p: ends[p] - n for p, n in counts.positions.items() if ends.get(p, 0) > n}
    stalled = [p for p in behind if counts.seen_s.get(p, 0.0) > STALLED_AFTER_S]
    lost = [p for p, n in counts.positions.items() if n > ends.get(p, n)]
    waiting = sum(n for outboxes in counts.waiting.values() for n in outboxes.values())
    if lost:
        yield Finding(
            "progress",
            False,
            f"the twins of partition {', '.join(map(str, lost))} are ahead of the topic, which was made anew or "
            "belongs to another broker: use the topic they came from, or another kafka.group",
        )
    elif stalled:
        which = ", ".join(f"{p} ({behind[p]} records)" for p in stalled)
        yield Finding(
            "progress",
            False,
            f"records wait and nothing was written for a minute in partition {which}: twin worker",
        )
    else:
        lag = sum(behind.values())
        yield Finding(
            "progress", True, f"{lag} offsets behind the input, {waiting} messages still to publish"
        )


def _quarantine(counts: Counts) -> Finding:
    held = counts.twins.get("quarantined", 0)
    total = sum(counts.twins.values())
    if held:
        return Finding(
            "twins",
            False,
            f"{held} of {total} are quarantined; twin twins --state quarantined, then twin state says why",
        )
    return Finding("twins", True, f"{total}, none quarantined")
