"""The risk topic for one listener of the API: a consumer of its own, in no group, from a place on.

Each listener reads at his own pace and is held up by nobody; what is fetched ahead for him is bounded.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from typing import NamedTuple

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError, OffsetOutOfRangeError

from streams.settings import KafkaSettings

FETCH_BYTES = 64 * 1024  # of a partition at once; a larger event still comes, alone
CONNECT_WITHIN_S = 5.0


class Told(NamedTuple):
    """An event of the risk topic, and the offset after it."""

    partition: int
    next_offset: int
    value: bytes


class FeedLostError(Exception):
    """The place to read from is not in the topic any more: begin with what stands."""


class FeedAwayError(Exception):
    """Kafka does not answer; the same may succeed later."""


class RiskFeed:
    """Makes readers of the risk topic.

    Args:
        kafka: How to reach the broker.
        topic: Its name.
    """

    def __init__(self, kafka: KafkaSettings, topic: str) -> None:
        self._kafka = kafka
        self._topic = topic

    async def open(self, positions: Mapping[int, int]) -> RiskReader:
        """Read on from these offsets.

        Raises:
            FeedAwayError: Kafka does not answer.
        """
        consumer = AIOKafkaConsumer(
            **self._kafka.python_connection(),
            isolation_level="read_committed",
            enable_auto_commit=False,
            group_id=None,
            auto_offset_reset="none",
            max_partition_fetch_bytes=FETCH_BYTES,
        )
        try:
            async with asyncio.timeout(CONNECT_WITHIN_S):
                await consumer.start()
        except (KafkaError, OSError, TimeoutError) as error:
            await consumer.stop()
            raise FeedAwayError(f"Kafka does not answer: {type(error).__name__}") from error
        places = {TopicPartition(self._topic, partition): at for partition, at in positions.items()}
        consumer.assign(list(places))
        for place, at in places.items():
            consumer.seek(place, at)
        return RiskReader(consumer)


class RiskReader:
    """One listener's consumer."""

    def __init__(self, consumer: AIOKafkaConsumer) -> None:
        self._consumer = consumer

    async def read(self) -> AsyncIterator[Told]:
        """Give events as they come, for ever.

        Raises:
            FeedLostError: The place to read from is not in the topic any more.
            FeedAwayError: Kafka does not answer.
        """
        try:
            async for message in self._consumer:
                yield Told(message.partition, message.offset + 1, message.value or b"{}")
        except OffsetOutOfRangeError as error:
            raise FeedLostError("the events after this place are gone by retention") from error
        except KafkaError as error:
            raise FeedAwayError(f"Kafka does not answer: {type(error).__name__}") from error

    async def close(self) -> None:
        """Leave the broker."""
        await self._consumer.stop()
