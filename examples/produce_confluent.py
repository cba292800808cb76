"""Send one level with confluent-kafka: murmur2 partitioner, acks from all replicas, the pseudonym as the key.

python examples/produce_confluent.py 127.0.0.1:9092
"""

from __future__ import annotations

import argparse
import json

from confluent_kafka import Message, Producer

RECORD = {
    "schema": "twin.record/1",
    "id": "lab-4711",
    "patient": "p-3f9a",
    "kind": "lab",
    "event_time": "2026-03-01T07:30:00Z",
    "source": "lab-a",
    "payload": {"analyte": "vancomycin", "value": 14.2, "unit": "mg/L"},
}


def main(bootstrap: str) -> None:
    """Send, wait for the broker's word, and say where the record went."""
    failures = []

    def delivered(error: object, message: Message) -> None:
        if error is not None:
            failures.append(error)
        else:
            print(f"partition {message.partition()}, offset {message.offset()}")

    producer = Producer(
        {
            "bootstrap.servers": bootstrap,
            "partitioner": "murmur2_random",  # librdkafka's own default sends most keys elsewhere
            "acks": "all",
            "enable.idempotence": True,
            "delivery.timeout.ms": 10_000,  # how long to try; five minutes otherwise
        }
    )
    producer.produce(
        "twin.records.v1",
        # headers=[("twin-backfill", b"1")] for history: up to 90 days behind what came before
        key=RECORD["patient"],
        value=json.dumps(RECORD),
        on_delivery=delivered,
    )
    producer.flush()
    if failures:
        raise SystemExit(f"not delivered to {bootstrap}: {failures[0]}; send it again, twice does no harm")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("bootstrap", nargs="?", default="127.0.0.1:9092", help="host:port of the broker")
    main(parser.parse_args().bootstrap)
