"""The worker process: waits for its servers, runs the Faust application, and ends with a status that says why.

0   asked to stop (SIGTERM, SIGINT)
65  records between the stored twins and the log are missing
70  no progress while records wait, or a fault in the program: start it again
75  another worker runs under the same instance id: do not start this one again
78  a setting, a topic, Redis or the stored twins do not fit: mend it first
"""

from __future__ import annotations

import asyncio
import functools
import importlib
import logging
import os
import secrets
import signal
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Mapping
from enum import IntEnum
from typing import Any, NoReturn, cast

import structlog
from confluent_kafka import IsolationLevel, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec

from streams.adapters.faust_transport import ConsumerOptions, check_faust
from streams.adapters.kafka_sink import PartitionPublisher
from streams.adapters.redis_store import RedisStore, StoreLimits, connect
from streams.adapters.topics import TopicError, Topics, compare_topics, read_topics
from streams.agents import build_app
from streams.crew import Crew
from streams.partition import Backoff, InstanceTakenError, LogLostError, PartitionProcessor
from streams.ports import PipelineFactory, StoreRefusedError, StoreUnavailableError
from streams.releases import MissingLibraryError
from streams.settings import Settings
from twinstate.twin import FORMAT

LOOK_EVERY_S = 1.0
ENDS_EVERY_S = 5.0
ANSWER_WITHIN_S = 5.0
# For Faust to take its leave, 0.1 s; while the group rebalances it takes whatever it is given. Nothing depends on it.
STOPS_WITHIN_S = 2.0

log = structlog.get_logger()


class Exit(IntEnum):
    """Exit statuses, after sysexits.h where it has one."""

    OK = 0
    LOG_LOST = 65
    STALLED = 70
    INSTANCE_TAKEN = 75
    REFUSED = 78


class RefusedError(Exception):
    """The worker cannot start as things are; the text says what to mend."""


def run_worker(settings: Settings, observe: Callable[[Crew], None] | None = None) -> int:
    """Run a worker until it is asked to stop.

    Args:
        settings: Of the service.
        observe: Called once with the crew before it holds anything: metrics and readiness read from it.

    Returns:
        The exit status; some failures end the process at once, with theirs.
    """
    configure_logging(settings.worker.log_level)
    try:
        check_faust()
        return asyncio.run(_run(settings, observe))
    except (RefusedError, StoreRefusedError, TopicError) as error:
        log.critical("refused", reason=str(error))
        return Exit.REFUSED
    except Exception:
        log.critical("failed", exc_info=True)
        return Exit.STALLED


async def _run(settings: Settings, observe: Callable[[Crew], None] | None) -> int:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    factory = load_factory(settings.worker.pipeline_factory)
    topics = read_topics(settings.paths.topics)
    store = _store(settings)
    stopped = asyncio.create_task(stop.wait())
    owner = secrets.token_hex(8)
    ready = asyncio.create_task(_wait_for_servers(settings, topics, store, owner))
    await asyncio.wait((ready, stopped), return_when=asyncio.FIRST_COMPLETED)
    if stop.is_set():
        ready.cancel()
        await store.close()
        return Exit.OK
    ready.result()

    crew = _crew(settings, topics, store, factory, owner)
    if observe is not None:
        observe(crew)
    app = build_app(_consumer_options(settings, topics), topics.partitions, crew)
    beating = asyncio.create_task(_beat(crew))
    Watchdog(settings, topics.names.records, crew).start()
    running = asyncio.create_task(app.start())
    ended = asyncio.create_task(app.wait_until_stopped())
    await asyncio.wait((stopped, ended), return_when=asyncio.FIRST_COMPLETED)
    if not stop.is_set():
        _fail(app.crash_reason or RuntimeError("Faust ended by itself"))
    log.info("stopping")
    beating.cancel()
    # What is in work is given up: it was not applied, and whoever comes next computes the same.
    await crew.stop()
    try:
        async with asyncio.timeout(STOPS_WITHIN_S):
            await app.stop()
    except TimeoutError:
        log.warning("Faust does not stop in time, leaving it")
    running.cancel()
    await store.close()
    log.info("stopped")
    _leave(Exit.OK)


def configure_logging(level: str) -> None:
    """Send our events and those of the libraries to standard error, one line each."""
    number = logging.getLevelName(level.upper())
    stamps: list[Any] = [
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
    ]
    line = structlog.processors.JSONRenderer()
    structlog.configure(
        processors=[*stamps, line],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.WriteLoggerFactory(file=sys.stderr),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*stamps, structlog.stdlib.add_logger_name],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, line],
        )
    )
    logging.basicConfig(handlers=[handler], level=max(number, logging.WARNING), force=True)


def load_factory(path: str) -> PipelineFactory:
    """Import `module:function`.

    Raises:
        RefusedError: There is no such function.
    """
    module, _, name = path.partition(":")
    try:
        return cast(PipelineFactory, getattr(importlib.import_module(module), name))
    except (ImportError, AttributeError) as error:
        raise RefusedError(
            f"worker.pipeline_factory is {path!r}: {error}. It must be module:function"
        ) from error


def _store(settings: Settings) -> RedisStore:
    limits = StoreLimits(
        outbox_messages=settings.worker.outbox_max_messages,
        audit_batches=settings.worker.audit_max_batches,
        trace_batches=settings.worker.trace_max_batches,
        lease_ms=int(3000 * settings.kafka.session_timeout_seconds),
    )
    client = connect(settings.redis.url, cluster=settings.redis.cluster, **settings.redis.client_arguments())
    return RedisStore(client, settings.kafka.group, limits)


def _consumer_options(settings: Settings, topics: Topics) -> ConsumerOptions:
    kafka = settings.kafka
    return ConsumerOptions(
        arguments=kafka.python_connection(),
        connection=kafka.connection(),
        topic=topics.names.records,
        group=kafka.group,
        instance=kafka.instance_id,
        session_timeout_s=kafka.session_timeout_seconds,
        heartbeat_interval_s=kafka.heartbeat_interval_seconds,
        batch_records=kafka.batch_max_records,
        partition_fetch_bytes=kafka.partition_fetch_max_bytes,
    )


def _crew(
    settings: Settings, topics: Topics, store: RedisStore, factory: PipelineFactory, owner: str
) -> Crew:
    kafka = settings.kafka

    def make_processor(partition: int, crew: Crew) -> PartitionProcessor:
        publisher = PartitionPublisher(
            partition,
            kafka.group,
            store,
            kafka.connection(),
            {"risk": topics.names.risk, "dead_letters": topics.names.dead_letters},
            topics.names.records,
            transaction_timeout_s=kafka.transaction_timeout_seconds,
        )
        library = str(settings.paths.library)
        make_pipeline = functools.partial(factory, library, partition, topics.partitions, kafka.group)
        return PartitionProcessor(
            partition, make_pipeline, store, crew, publisher, crew.claim, crew.still_mine
        )

    return Crew(kafka.instance_id, owner, store, make_processor, _fail)


async def _wait_for_servers(settings: Settings, topics: Topics, store: RedisStore, owner: str) -> None:
    """Return when Kafka and Redis answer and are as they should be."""

    async def kafka() -> None:
        missing = await asyncio.to_thread(_missing_topics, settings.kafka.connection(), topics)
        if missing:
            raise TopicError(f"not made yet: {', '.join(missing)}")
        differences = await asyncio.to_thread(compare_topics, settings.kafka.connection(), topics)
        if differences:
            raise RefusedError("\n".join(differences))

    async def redis() -> None:
        await store.check()
        await _check_state_format(store, topics.partitions)
        await store.claim_instance(settings.kafka.instance_id, owner)

    await asyncio.gather(_until_there("Kafka", kafka), _until_there("Redis", redis))


async def _check_state_format(store: RedisStore, partitions: int) -> None:
    """See before anything is acquired that the stored twins can be read."""
    for partition in range(partitions):
        other = [number for number in await store.twin_formats(partition) if number != FORMAT]
        if other:
            raise RefusedError(
                f"partition {partition} holds twins of state format {', '.join(map(str, other))}, this code reads "
                f"{FORMAT}: run the version that made them, or derive them again from the log: "
                f"twin rebuild --partition {partition}"
            )


def _missing_topics(connection: Mapping[str, str], topics: Topics) -> list[str]:
    try:
        there = AdminClient({"log_level": 0, **connection}).list_topics(timeout=ANSWER_WITHIN_S).topics
    except KafkaException as error:
        raise TopicError(
            f"{connection['bootstrap.servers']} does not answer: {error.args[0].str()}"
        ) from error
    return [name for name in topics.names.model_dump().values() if name not in there]


async def _until_there(name: str, ask: Callable[[], Awaitable[None]]) -> None:
    wait = Backoff()
    said = ""
    while True:
        try:
            return await ask()
        except (TopicError, StoreUnavailableError) as error:
            if str(error) != said:
                log.warning(f"waiting for {name}", reason=str(error))
            said = str(error)
        await wait.sleep()


async def _beat(crew: Crew) -> None:
    """Show that the event loop turns, and look whether the instance id is still ours."""
    while True:
        crew.loop_beat = time.monotonic()
        try:
            await crew.still_mine()
        except InstanceTakenError as error:
            _fail(error)
        except StoreUnavailableError:
            pass  # the processors wait for it, and say so
        await asyncio.sleep(LOOK_EVERY_S)


class Watchdog(threading.Thread):
    """Ends a worker that makes no progress while records wait: it looks alive to its supervisor, and is not.

    A thread of its own with a client of its own, since Faust, aiokafka and the event loop are what it watches. A
    processor that waits for a known reason (Redis away, an outbox full) says so and is left alone.

    Args:
        settings: Of the service.
        topic: Input topic.
        crew: What to watch.
    """

    def __init__(self, settings: Settings, topic: str, crew: Crew) -> None:
        super().__init__(name="watchdog", daemon=True)
        self._limit_s = settings.worker.stalled_after_seconds
        self._topic = topic
        self._crew = crew
        self._admin = AdminClient({"log_level": 0, **settings.kafka.connection()})

    def run(self) -> None:
        """Look every few seconds, for ever."""
        while True:
            time.sleep(ENDS_EVERY_S)
            reason = self.look()
            if reason is not None:
                log.critical("stalled", reason=reason)
                _leave(Exit.STALLED)

    def look(self) -> str | None:
        """Say what does not move, or None."""
        still = time.monotonic() - self._crew.loop_beat
        if still > self._limit_s:
            return f"the event loop has not turned for {still:.0f} s"
        processors = dict(self._crew.processors)
        ends = self._ends(list(processors))
        self._crew.ends.update(ends)
        for partition, processor in processors.items():
            status = processor.status
            end = ends.get(partition)
            if end is None or (status.position is not None and status.position >= end):
                status.last_sign_of_life = time.monotonic()
                continue
            still = time.monotonic() - status.last_sign_of_life
            if still > self._limit_s:
                return (
                    f"partition {partition} has stood at offset {status.position} of {end} for {still:.0f} s "
                    f"(last: {status.state})"
                )
        return None

    def _ends(self, partitions: list[int]) -> dict[int, int]:
        """Ask for the ends of the log; one that is not known counts as no reason to end."""
        latest = OffsetSpec.latest()  # type: ignore[no-untyped-call]
        wanted = {TopicPartition(self._topic, partition): latest for partition in partitions}
        if not wanted:
            return {}
        answers = self._admin.list_offsets(
            wanted, isolation_level=IsolationLevel.READ_COMMITTED, request_timeout=ANSWER_WITHIN_S
        )
        ends = {}
        for where, answer in answers.items():
            try:
                ends[where.partition] = answer.result(ANSWER_WITHIN_S).offset
            except (KafkaException, TimeoutError):
                continue
        return ends


def _fail(error: BaseException) -> NoReturn:
    """End the process at once: the store and the log hold all that counts."""
    status = Exit.STALLED
    if isinstance(error, InstanceTakenError):
        status = Exit.INSTANCE_TAKEN
    elif isinstance(error, LogLostError):
        status = Exit.LOG_LOST
    elif isinstance(error, StoreRefusedError | RefusedError | MissingLibraryError):
        status = Exit.REFUSED
    known = status is not Exit.STALLED
    log.critical("worker ends", status=int(status), reason=str(error), exc_info=None if known else error)
    _leave(status)


def _leave(status: Exit) -> NoReturn:
    """Leave without waiting for threads: a blocked client must not keep a worker that has to go."""
    sys.stderr.flush()
    sys.stdout.flush()
    os._exit(status)
