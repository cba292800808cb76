"""Send one level with kafka-python, whose default partitioner is the right one.

python examples/produce_kafka_python.py 127.0.0.1:9092
"""

from __future__ import annotations

import json
import sys

from kafka import KafkaProducer
from produce_confluent import RECORD


def main(bootstrap: str) -> None:
    """Send, wait for the broker's word, and say where the record went."""
    producer = KafkaProducer(bootstrap_servers=bootstrap, acks="all")
    sent = producer.send(
        "twin.records.v1", key=str(RECORD["patient"]).encode(), value=json.dumps(RECORD).encode()
    ).get(timeout=10)
    print(f"partition {sent.partition}, {sent.offset}")
    producer.close()


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "127.0.0.1:9092")
