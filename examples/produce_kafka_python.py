"""Send one level with kafka-python, whose default partitioner is the right one.

python examples/produce_kafka_python.py 127.0.0.1:9092
"""

from __future__ import annotations

import argparse
import json

from kafka import KafkaProducer

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
    producer = KafkaProducer(bootstrap_servers=bootstrap, acks="all")
    sent = producer.send(
        "twin.records.v1", key=str(RECORD["patient"]).encode(), value=json.dumps(RECORD).encode()
    ).get(timeout=10)
    print(f"partition {sent.partition}, offset {sent.offset}")
    producer.close()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("bootstrap", nargs="?", default="127.0.0.1:9092", help="host:port of the broker")
    main(parser.parse_args().bootstrap)
