"""Records as librdkafka delivers them, also those that Kafka's Python clients cannot parse."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from streams.ports import UNREADABLE_HEADERS, RawRecord

NS_PER_MS = 1_000_000
ANSWER_WITHIN_S = 10.0


class Reread(NamedTuple):
    """Records from a position on, and the position after them; whether the last one has unreadable headers."""

    records: tuple[RawRecord, ...]
    end: int
    unreadable: bool


def sendable(name: str) -> bool:
    """Whether a header of this name can be sent.

    confluent-kafka ends the whole process on a lone surrogate, and cuts a name at NUL in silence.
    """
    try:
        return b"\0" not in name.encode()
    except UnicodeEncodeError:
        return False


def raw_record(message: Message) -> RawRecord:
    """Give a record as the pipeline wants it; the same for every reader of the log."""
    return RawRecord(
        message.offset() or 0,
        message.timestamp()[1] * NS_PER_MS,
        message.key(),
        message.value(),
        _headers(message),
    )


def _headers(message: Message) -> tuple[tuple[str, bytes], ...]:
    try:
        # confluent-kafka returns from a name that is not UTF-8 with an exception pending, which comes up at a later
        # step: so all of it stands inside.
        found: Any = message.headers()
        return tuple((str(name), bytes(value or b"")) for name, value in list(found or ()))
    except (SystemError, UnicodeDecodeError):
        return UNREADABLE_HEADERS


def read_again(connection: Mapping[str, str], where: TopicPartition, count: int) -> Reread:
    """Read committed records from a position, up to the first whose headers cannot be read.

    Args:
        connection: librdkafka settings that reach the broker.
        where: Topic, partition and position.
        count: Records at most.

    Raises:
        KafkaException: The broker does not answer, or a record is damaged.
    """
    consumer = Consumer(
        {
            "log_level": 0,
            **connection,
            "group.id": "twin-reread",  # librdkafka wants a name; the partition is assigned by hand
            "enable.auto.commit": False,
            "enable.partition.eof": True,
            "isolation.level": "read_committed",
            "auto.offset.reset": "error",
        }
    )
    records: list[RawRecord] = []
    try:
        consumer.assign([where])
        while len(records) < count:
            message = consumer.poll(ANSWER_WITHIN_S)
            error = KafkaError(KafkaError._TIMED_OUT) if message is None else message.error()
            if error is not None and error.code() == KafkaError._PARTITION_EOF:
                break
            if message is None or error is not None:
                raise KafkaException(error)
            records.append(raw_record(message))
            if records[-1].headers == UNREADABLE_HEADERS:
                break
    finally:
        consumer.close()
    end = records[-1].offset + 1 if records else where.offset
    return Reread(tuple(records), end, bool(records) and records[-1].headers == UNREADABLE_HEADERS)
