"""A subscriber to risk events that survives being killed: standing episodes in SQLite, committed with the offset.

    python examples/subscriber.py --bootstrap 127.0.0.1:9092 --database risks.sqlite [--until-idle 5]

It begins with the topic's first event, so it needs no standing episodes from `GET /v1/risks`. It shows four things:

1. it reads `read_committed`: what an aborted transaction left behind is not an event (kafka-python's default shows it);
2. it keeps its own position, in the same transaction as what it did with the events, and resumes from it;
3. it ignores an event whose revision is not higher than the last one it knows of that episode;
4. it takes the events of one patient in the order of the partition.
"""

from __future__ import annotations

import argparse
import json
import sqlite3
import time
from typing import Any

from kafka import KafkaConsumer, TopicPartition

SCHEMA = """
CREATE TABLE IF NOT EXISTS positions (partition INTEGER PRIMARY KEY, next INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS episodes (
    episode TEXT PRIMARY KEY, revision INTEGER NOT NULL, standing INTEGER NOT NULL, event TEXT NOT NULL
);
"""
STANDING = ("raised", "updated")


def follow(bootstrap: str, topic: str, database: str, until_idle_s: float | None) -> None:
    """Read from where the database stands; end after `until_idle_s` seconds without an event, or never."""
    store = sqlite3.connect(database)
    store.executescript(SCHEMA)
    consumer = KafkaConsumer(
        bootstrap_servers=bootstrap,
        isolation_level="read_committed",
        enable_auto_commit=False,
        auto_offset_reset="earliest",  # where the topic no longer holds our position; "latest" would pass events over
        group_id=None,
    )
    partitions = [TopicPartition(topic, p) for p in sorted(consumer.partitions_for_topic(topic) or ())]
    if not partitions:
        raise SystemExit(f"{topic} has no partitions on {bootstrap}; is the name right?")
    consumer.assign(partitions)
    known = dict(store.execute("SELECT partition, next FROM positions"))
    for partition in partitions:
        consumer.seek(partition, known.get(partition.partition, 0))
    last_event = time.monotonic()
    while until_idle_s is None or time.monotonic() - last_event < until_idle_s:
        for partition, messages in consumer.poll(timeout_ms=500).items():
            last_event = time.monotonic()
            with store:  # one transaction: a crash repeats the whole batch, and rule 3 makes that harmless
                for message in messages:
                    take(store, json.loads(message.value))
                store.execute(
                    "INSERT OR REPLACE INTO positions VALUES (?, ?)",
                    (partition.partition, messages[-1].offset + 1),
                )
    consumer.close()


def take(store: sqlite3.Connection, event: dict[str, Any]) -> None:
    """Act on one event, unless a later revision of its episode is known already."""
    row = store.execute("SELECT revision FROM episodes WHERE episode = ?", (event["episode"],)).fetchone()
    if row is not None and row[0] >= event["revision"]:
        return
    store.execute(
        "INSERT OR REPLACE INTO episodes VALUES (?, ?, ?, ?)",
        (event["episode"], event["revision"], event["type"] in STANDING, json.dumps(event)),
    )
    print(
        f"{event['type']:>9} {event['patient']} {event['drug']} {event['severity']} P={event['probability']:.2f}"
    )


def main() -> None:
    """Read the arguments and follow."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--bootstrap", default="127.0.0.1:9092", help="host:port of the broker")
    parser.add_argument("--topic", default="twin.risk.v1")
    parser.add_argument("--database", default="risks.sqlite", help="SQLite file for position and episodes")
    parser.add_argument(
        "--until-idle", type=float, default=None, metavar="SECONDS", help="end after a silence"
    )
    arguments = parser.parse_args()
    follow(arguments.bootstrap, arguments.topic, arguments.database, arguments.until_idle)


if __name__ == "__main__":
    main()
