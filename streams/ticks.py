"""Tick records: time passes for patients of whom nobody sends.

A tick is at a full UTC hour and is named after it, so that two senders, or one started twice, send the same bytes: the
second is a duplicate. Windows of wearable samples are judged at full hours too, so that a finer tick would add work and
no decision.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import time
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import msgspec
from confluent_kafka import KafkaException

from streams.adapters.record_sender import RecordSender
from streams.adapters.topics import read_topics
from streams.ports import StoreUnavailableError
from streams.queries import Queries
from streams.queries.answers import TwinRow
from streams.records import SCHEMA
from streams.settings import Settings
from streams.wiring import create_queries

SOURCE = "twin-ticks"


class Tick(NamedTuple):
    """A tick to send."""

    patient: str
    value: bytes


def due(rows: Iterable[TwinRow], now: dt.datetime, active_within_h: float) -> Iterator[Tick]:
    """Ticks that are due.

    A patient gets one when the last full hour lies after the watermark, and the watermark within `active_within_h` of
    now. None for a patient who has left; nor for one who is stale with nothing standing, about whom time changes no
    more: the next record wakes that twin.

    Args:
        rows: Twins.
        now: Wall clock.
        active_within_h: Hours.
    """
    hour = now.astimezone(dt.UTC).replace(minute=0, second=0, microsecond=0)
    for row in rows:
        waits = row.watermark < hour and now - row.watermark <= dt.timedelta(hours=active_within_h)
        over = row.state == "discharged" or (row.state == "stale" and row.standing == 0)
        if waits and not over:
            yield Tick(row.patient, _body(row.patient, hour))


def run_ticks(settings: Settings, *, once: bool, told: Callable[[str], None]) -> None:
    """Send ticks every `ticks.interval_seconds`, until SIGINT; or once.

    Args:
        settings: Of the service.
        once: Look once and end.
        told: Takes a line after each look that sent something, and each that failed.

    Raises:
        StoreUnavailableError: With `once`, Redis does not answer.
    """
    topic = read_topics(settings.paths.topics).names.records
    sender = RecordSender(settings.kafka.connection(), topic)
    with asyncio.Runner() as runner:
        queries, reader = create_queries(settings)
        try:
            while True:
                try:
                    sent = runner.run(_look(queries, sender, settings.ticks.active_within_hours))
                    if sent or once:
                        told(f"{sent} ticks sent")
                except (StoreUnavailableError, KafkaException) as error:
                    told(f"ticks not sent, will try again: {error}")
                    if once:
                        raise
                if once:
                    return
                time.sleep(settings.ticks.interval_seconds)
        except KeyboardInterrupt:
            return
        finally:
            runner.run(reader.close())


async def _look(queries: Queries, sender: RecordSender, active_within_h: float) -> int:
    rows, _ = await queries.rows()
    for tick in due(rows, dt.datetime.now(dt.UTC), active_within_h):
        sender.send(tick.patient, tick.value)
    return sender.finish().delivered


def _body(patient: str, hour: dt.datetime) -> bytes:
    return msgspec.json.encode(
        {
            "schema": SCHEMA,
            "id": f"tick-{hour:%Y-%m-%dT%HZ}",
            "patient": patient,
            "kind": "tick",
            "event_time": f"{hour:%Y-%m-%dT%H:%M:%SZ}",
            "source": SOURCE,
            "payload": {},
        }
    )
