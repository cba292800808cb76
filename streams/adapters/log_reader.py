"""Reads a partition of the input topic again from its beginning, as the worker first read it."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from types import TracebackType
from typing import NamedTuple, Self

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, TopicPartition

from streams.adapters.raw_records import raw_record
from streams.ports import RawRecord

ANSWER_WITHIN_S = 10.0
# A broker that gives neither a record nor the end of the log for so long does not answer.
SILENT_AFTER_S = 30.0
LOOK_EVERY_S = 0.5


class LogError(Exception):
    """The log cannot be read; the text says what to look at."""


class Stretch(NamedTuple):
    """Some records, and the position after them."""

    position: int
    records: list[RawRecord]


class LogReader:
    """Committed records of one topic, in no consumer group: it commits nothing.

    Args:
        connection: librdkafka settings that reach the broker.
        topic: Its name.
    """

    def __init__(self, connection: Mapping[str, str], topic: str) -> None:
        self._topic = topic
        self._where = connection["bootstrap.servers"]
        self._consumer = Consumer(
            {
                "log_level": 0,
                **connection,
                "group.id": "twin-rebuild",  # librdkafka wants a name; the partitions are assigned by hand
                "enable.auto.commit": False,
                "isolation.level": "read_committed",
                "enable.partition.eof": True,
                "auto.offset.reset": "error",
            }
        )

    def __enter__(self) -> Self:
        """Use the reader."""
        return self

    def __exit__(self, *failure: type[BaseException] | BaseException | TracebackType | None) -> None:
        """Leave the broker."""
        self._consumer.close()

    def bounds(self, partition: int) -> tuple[int, int]:
        """Give the log's first retained offset and its end.

        Raises:
            LogError: The broker does not answer, or has no such partition.
        """
        try:
            low, end = self._consumer.get_watermark_offsets(
                TopicPartition(self._topic, partition), timeout=ANSWER_WITHIN_S, cached=False
            )
        except KafkaException as error:
            raise self._failed(partition, error.args[0].str()) from error
        return low, end

    def read(self, partition: int, end: int, count: int, begin: int = OFFSET_BEGINNING) -> Iterator[Stretch]:
        """Read every committed record from `begin` (the log's first by default) to before `end`, `count` at a time.

        Holes (transaction markers, aborted records, compaction) are passed over in silence, also just before `end`.

        Raises:
            LogError: The broker does not answer, or the log begins after `begin`.
        """
        position = max(begin, 0)
        if position >= end:
            return
        self._consumer.assign([TopicPartition(self._topic, partition, begin)])
        heard = time.monotonic()
        while position < end:
            records: list[RawRecord] = []
            for message in self._consumer.consume(count, timeout=LOOK_EVERY_S):
                heard = time.monotonic()
                error = message.error()
                if error is not None:
                    if error.code() == KafkaError._PARTITION_EOF:
                        position = end  # whatever is missing before it was never committed
                    elif not error.retriable():
                        raise self._failed(partition, error.str())
                    continue
                offset = message.offset() or 0
                position = max(position, min(offset + 1, end))
                if offset < end:
                    records.append(raw_record(message))
                else:
                    position = end
            if time.monotonic() - heard > SILENT_AFTER_S:
                raise self._failed(partition, f"no answer in {SILENT_AFTER_S:g} s")
            if records:
                yield Stretch(position, records)

    def _failed(self, partition: int, reason: str) -> LogError:
        return LogError(
            f"{self._topic}, partition {partition}: cannot be read from {self._where}: {reason}; see twin doctor"
        )
