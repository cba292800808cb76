"""Records of other processes to the input topic, each acknowledged by name: where it stands, or that nobody knows."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import NamedTuple

from confluent_kafka import KafkaError, KafkaException, Message, Producer

from streams.adapters.record_sender import DUTIES


class Place(NamedTuple):
    """Where a record stands in the log."""

    topic: str
    partition: int
    offset: int


class FullError(Exception):
    """Too many records wait for the broker; none of these was sent."""


class NotAcknowledgedError(Exception):
    """Not every record was acknowledged; some may stand in the log. The text is librdkafka's, without data."""


class RecordIntake:
    """A producer of the input topic that many requests share, in one event loop.

    Not idempotent in Kafka's sense: a record sent twice is a duplicate without effect, and an idempotent producer has
    errors after which only a new one sends again. Not confluent-kafka's AIOProducer: it holds a lone record back for
    its buffer's time, and forgets a future that is cancelled while the record still waits.

    Args:
        connection: librdkafka settings that reach the broker.
        topic: The input topic.
        most_waiting: Records sent and neither acknowledged nor given up.
        within_s: Time for the acknowledgement from all replicas, 1 s or more.
    """

    def __init__(
        self, connection: Mapping[str, str], topic: str, *, most_waiting: int, within_s: float
    ) -> None:
        self._topic = topic
        self._most_waiting = most_waiting
        self._within_s = within_s
        self._waiting = 0
        self._lock = threading.Lock()
        self._producer = Producer(
            {
                **DUTIES,
                "linger.ms": 2,
                "delivery.timeout.ms": int(within_s * 1000),
                "request.timeout.ms": int(within_s * 1000),
                "log_level": 0,
                **connection,
            }
        )
        self._ended = threading.Event()
        self._poller = threading.Thread(target=self._poll, name="record-intake", daemon=True)
        self._poller.start()

    @property
    def waiting(self) -> int:
        """Records sent and neither acknowledged nor given up."""
        return self._waiting

    async def send(self, records: Sequence[tuple[str, bytes]]) -> list[Place]:
        """Send records and wait until each is acknowledged by all replicas.

        Args:
            records: Pseudonym, which becomes the key, and body.

        Returns:
            Their places, in the same order.

        Raises:
            FullError: They would be more than may wait.
            NotAcknowledgedError: In time not all were acknowledged; sending all again is harmless.
        """
        with self._lock:
            if self._waiting + len(records) > self._most_waiting:
                raise FullError
            self._waiting += len(records)
        loop = asyncio.get_running_loop()
        futures: list[asyncio.Future[Place]] = []
        for sent, (patient, body) in enumerate(records):
            future: asyncio.Future[Place] = loop.create_future()
            try:
                self._producer.produce(
                    self._topic,
                    key=patient.encode(),
                    value=body,
                    on_delivery=partial(self._settle, loop, future),
                )
            except (BufferError, KafkaException) as error:
                self._free(len(records) - sent)
                for waiting in futures:
                    waiting.cancel()
                raise NotAcknowledgedError(str(error)) from error
            futures.append(future)
        try:
            async with asyncio.timeout(self._within_s):
                return list(await asyncio.gather(*futures))
        except TimeoutError:
            raise NotAcknowledgedError(f"no answer within {self._within_s:g} s") from None
        finally:
            # A failure among many: the others' would otherwise be reported as never looked at.
            for future in futures:
                if future.done() and not future.cancelled():
                    future.exception()
                future.cancel()

    async def close(self) -> None:
        """Wait for what is on its way, for as long as a sender would, and stop."""
        await asyncio.to_thread(self._producer.flush, self._within_s)
        self._ended.set()
        await asyncio.to_thread(self._poller.join)

    def _poll(self) -> None:
        while not self._ended.is_set():
            self._producer.poll(0.1)

    def _settle(
        self,
        loop: asyncio.AbstractEventLoop,
        future: asyncio.Future[Place],
        error: KafkaError | None,
        message: Message,
    ) -> None:
        """Runs in the poller's thread. The slot is freed here and not when a request ends: only now is it free."""
        self._free(1)
        partition, offset = message.partition(), message.offset()

        def finish() -> None:
            if future.done():
                return
            if error is None and partition is not None and offset is not None:
                future.set_result(Place(self._topic, partition, offset))
            else:
                told = "an acknowledgement without an offset" if error is None else error.str()
                future.set_exception(NotAcknowledgedError(told))

        with suppress(RuntimeError):  # the loop has ended: nobody waits
            loop.call_soon_threadsafe(finish)

    def _free(self, slots: int) -> None:
        with self._lock:
            self._waiting -= slots
