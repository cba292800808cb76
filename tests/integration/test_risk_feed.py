"""The risk topic as a listener reads it, on a real Kafka whose topic has lost its head."""

from __future__ import annotations

import asyncio

import pytest
from confluent_kafka import Producer, TopicPartition
from confluent_kafka.admin import AdminClient

from streams.adapters.risk_feed import FeedLostError, RiskFeed, Told
from streams.adapters.topics import Topics
from streams.settings import load_settings


def publish(connection: dict[str, str], topic: str, *values: bytes) -> None:
    producer = Producer(dict(connection))
    for value in values:
        producer.produce(topic, value, partition=0)
    assert producer.flush(30) == 0


async def next_event(feed: RiskFeed, at: int) -> Told:
    reader = await feed.open({0: at})
    try:
        async with asyncio.timeout(30):
            return await anext(aiter(reader.read()))
    finally:
        await reader.close()


def test_the_first_offset_left_is_where_a_listener_begins_once_retention_has_passed_his_place(
    connection: dict[str, str], topics: Topics, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KAFKA_BOOTSTRAP_SERVERS", connection["bootstrap.servers"])
    feed = RiskFeed(load_settings().kafka, topics.names.risk)
    publish(connection, topics.names.risk, b"a", b"b", b"c")
    place = TopicPartition(topics.names.risk, 0, 3)
    admin = AdminClient(dict(connection))  # the answer comes while it is held
    admin.delete_records([place])[place].result(30)
    assert asyncio.run(feed.firsts(range(2))) == {0: 3, 1: 0}
    with pytest.raises(FeedLostError):
        asyncio.run(next_event(feed, 1))
    publish(connection, topics.names.risk, b"d")
    assert asyncio.run(next_event(feed, 3)) == Told(0, 4, b"d")
