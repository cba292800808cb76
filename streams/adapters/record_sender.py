"""Sends records to the input topic as every producer must: key = pseudonym, murmur2, acks from all."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from confluent_kafka import KafkaError, Message, Producer

from streams.adapters.raw_records import sendable

# Of librdkafka's queue: waited for, then the broker is told to be away.
PATIENCE_S = 30.0
# What docs/contract.md asks of every producer, beside the key. librdkafka's default partitioner agrees with Java's
# murmur2 on a quarter of keys only.
DUTIES = {"partitioner": "murmur2_random", "acks": "all"}
BACKFILL = ("twin-backfill", b"1")


@dataclass
class Delivery:
    """What became of the records of one run."""

    delivered: int = 0
    by_partition: dict[int, int] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)


class RecordSender:
    """An idempotent producer of the input topic.

    Args:
        connection: librdkafka settings that reach the broker.
        topic: The input topic.
    """

    def __init__(self, connection: Mapping[str, str], topic: str) -> None:
        self._producer = Producer(
            {
                **DUTIES,
                "enable.idempotence": True,
                "linger.ms": 20,
                "delivery.timeout.ms": int(PATIENCE_S * 1000),
                "log_level": 0,
                **connection,
            }
        )
        self._topic = topic
        self._delivery = Delivery()

    def send(
        self,
        patient: str,
        value: bytes,
        *,
        backfill: bool = False,
        headers: Sequence[tuple[str, bytes]] = (),
    ) -> None:
        """Queue a record; waits while the queue is full.

        Raises:
            ValueError: The name of a header cannot be sent.
        """
        for name, _ in headers:
            if not sendable(name):
                raise ValueError(f"header {name!r}: a name is UTF-8 without NUL; nothing was sent")
        while True:
            try:
                self._producer.produce(
                    self._topic,
                    key=patient.encode(),
                    value=value,
                    headers=[*headers, BACKFILL] if backfill else list(headers),
                    on_delivery=self._note,
                )
                break
            except BufferError:
                self._producer.poll(0.1)
        self._producer.poll(0)

    def rest(self, seconds: float) -> None:
        """Wait, hearing meanwhile what became of the records sent."""
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0.0:
            self._producer.poll(min(left, 1.0))

    @property
    def failure(self) -> str | None:
        """What the first record that was given up failed of; None while all is well."""
        return self._delivery.failures[0] if self._delivery.failures else None

    def finish(self) -> Delivery:
        """Wait until every record is delivered or has failed, and begin to count anew."""
        left = self._producer.flush(PATIENCE_S + 5.0)
        done, self._delivery = self._delivery, Delivery()
        if left:
            done.failures.append(f"{left} records were not acknowledged in time")
        return done

    def _note(self, error: KafkaError | None, message: Message) -> None:
        if error is not None:
            self._delivery.failures.append(error.str())
            return
        partition = message.partition()
        self._delivery.delivered += 1
        if partition is not None:
            self._delivery.by_partition[partition] = self._delivery.by_partition.get(partition, 0) + 1
