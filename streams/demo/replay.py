"""Run the oracle over a records topic as it stands, in a process of its own.

`python -m streams.demo.replay FILE` reads the whole input topic that the settings name, tells it to the oracle record
by record, and writes digest, event ids by partition and counts to FILE as JSON.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

from confluent_kafka import OFFSET_BEGINNING, Consumer, TopicPartition

from streams.adapters.raw_records import raw_record
from streams.adapters.topics import read_topics
from streams.oracle import Account, Oracle
from streams.ports import RawRecord
from streams.settings import Settings, load_settings
from twinstate.library import load_library

ANSWER_WITHIN_S = 10.0


def read_partition(consumer: Consumer, topic: str, partition: int) -> Iterator[RawRecord]:
    """Every committed record of one partition, up to its end as of now."""
    place = TopicPartition(topic, partition, OFFSET_BEGINNING)
    _, end = consumer.get_watermark_offsets(place, timeout=ANSWER_WITHIN_S)
    consumer.assign([place])
    position = 0
    while position < end:
        messages = consumer.consume(2000, timeout=1.0)
        for message in messages:
            if message.error() is not None:
                raise RuntimeError(f"{topic}[{partition}]: {message.error()}")
            yield raw_record(message)
        # Transaction markers move the position without a message.
        (where,) = consumer.position([place])
        position = max(where.offset, 0)


def replay(settings: Settings) -> Account:
    """Tell the oracle the whole input topic."""
    topics = read_topics(settings.paths.topics)
    consumer = Consumer(
        {
            **settings.kafka.connection(),
            "group.id": "oracle",
            "enable.auto.commit": False,
            "isolation.level": "read_committed",
            "auto.offset.reset": "earliest",
        }
    )
    oracle = Oracle(load_library(settings.paths.library), topics.partitions)
    try:
        for partition in range(topics.partitions):
            oracle.read(partition, read_partition(consumer, topics.names.records, partition))
    finally:
        consumer.close()
    return oracle.account()


def main(arguments: list[str]) -> int:
    """Replay, and write the account's digest, event ids and counts."""
    account = replay(load_settings())
    told = {"digest": account.digest, "events": account.event_ids, "counts": account.counts}
    Path(arguments[0]).write_text(json.dumps(told))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
