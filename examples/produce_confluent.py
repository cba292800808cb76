"""Send one level with confluent-kafka: murmur2 partitioner, acks from all replicas, the pseudonym as the key.

python examples/produce_confluent.py 127.0.0.1:9092
"""

from __future__ import annotations

import json
import sys

from confluent_kafka import Producer

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
    producer = Producer(
        {
            "bootstrap.servers": bootstrap,
            "partitioner": "murmur2_random",  # librdkafka's own default sends most keys elsewhere
            "acks": "all",
            "enable.idempotence": True,
        }
    )
    producer.produce(
        "twin.records.v1",
        key=RECORD["patient"],
        value=json.dumps(RECORD),
        on_delivery=lambda error, message: print(
            error or f"partition {message.partition()}, {message.offset()}"
        ),
    )
    producer.flush()


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "127.0.0.1:9092")
