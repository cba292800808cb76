"""Reads output topics as any subscriber would: kafka-python, read_committed, partitions assigned by hand."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import TracebackType
from typing import Any, NamedTuple, Self

from kafka import KafkaConsumer, TopicPartition

from streams.settings import KafkaSettings


class Received(NamedTuple):
    """A message of an output topic."""

    partition: int
    offset: int
    timestamp_ms: int
    key: bytes | None
    value: bytes | None
    headers: dict[str, str]


class TopicReader:
    """A reader of one topic, in no consumer group: it commits nothing.

    Args:
        kafka: How to reach the broker.
        topic: Its name.
        partitions: Of the topic.
    """

    def __init__(self, kafka: KafkaSettings, topic: str, partitions: int) -> None:
        self._consumer = KafkaConsumer(
            **kafka.python_connection(),
            isolation_level="read_committed",  # kafka-python's default is not
            enable_auto_commit=False,
            group_id=None,
            auto_offset_reset="earliest",
        )
        self._partitions = [TopicPartition(topic, p) for p in range(partitions)]
        self._consumer.assign(self._partitions)

    def __enter__(self) -> Self:
        """Use the reader."""
        return self

    def __exit__(self, *failure: type[BaseException] | BaseException | TracebackType | None) -> None:
        """Leave the broker."""
        self._consumer.close()

    def seek(self, positions: Mapping[int, int]) -> None:
        """Read on from these offsets."""
        for partition in self._partitions:
            self._consumer.seek(partition, positions.get(partition.partition, 0))

    def ends(self) -> dict[int, int]:
        """Where each partition ends now."""
        found = self._consumer.end_offsets(self._partitions)
        return {p.partition: int(end) for p, end in found.items()}

    def begins(self) -> dict[int, int]:
        """The first offset each partition still has."""
        found = self._consumer.beginning_offsets(self._partitions)
        return {p.partition: int(begin) for p, begin in found.items()}

    def until(self, ends: Mapping[int, int], patience_polls: int = 50) -> Iterator[Received]:
        """Read up to these offsets; transaction markers count as read."""
        idle = 0
        while idle < patience_polls and any(
            self._consumer.position(p) < ends.get(p.partition, 0) for p in self._partitions
        ):
            found = list(self._poll(100))
            idle = 0 if found else idle + 1
            yield from (m for m in found if m.offset < ends.get(m.partition, 0))

    def forever(self) -> Iterator[Received]:
        """Read and wait for more."""
        while True:
            yield from self._poll(500)

    def _poll(self, wait_ms: int) -> Iterator[Received]:
        for messages in self._consumer.poll(timeout_ms=wait_ms).values():
            for message in messages:
                yield _received(message)


def _received(message: Any) -> Received:
    headers = {name: (value or b"").decode(errors="replace") for name, value in message.headers}
    return Received(message.partition, message.offset, message.timestamp, message.key, message.value, headers)
