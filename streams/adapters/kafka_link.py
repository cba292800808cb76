"""The blocking side of publishing: transactions, the tail of an output partition, and large records read again."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import structlog
from confluent_kafka import Consumer, KafkaError, KafkaException, Message, Producer, TopicPartition

from streams.adapters.raw_records import sendable
from streams.ports import OutboxEntry, OutboxName, outbox_order

# What identifies a message of an outbox in its topic; both are read back by the tail scan.
ID_HEADER = "twin-outbox"
GROUP_HEADER = "twin-group"

ANSWER_WITHIN_S = 10.0
LARGEST_MESSAGE = 4 * 1024 * 1024
LARGEST_HEADERS = 64 * 1024
LARGEST_BODY = LARGEST_MESSAGE - 2 * LARGEST_HEADERS  # room for headers and for Kafka's own framing
OMITTED_HEADER = "twin-error-omitted"
Headers = tuple[tuple[str, bytes], ...]
# The tail is read from this many offsets before its end, then eight times as many, up to the last number.
FIRST_TAIL, LONGEST_TAIL = 256, 131_072
# The broker holds back an empty answer, which is how the end of a partition shows, for so long.
END_SHOWS_AFTER_MS = 10

FENCED_CODES = (
    KafkaError._FENCED,
    KafkaError.PRODUCER_FENCED,
    KafkaError.INVALID_PRODUCER_EPOCH,
    KafkaError.TRANSACTION_COORDINATOR_FENCED,
)

log = structlog.get_logger()
LIBRARY_LOG = logging.getLogger("librdkafka")


class PublishError(Exception):
    """A transaction did not come to its end; what it did is found out by the next tail scan."""


class ProducerFencedError(Exception):
    """A later producer with the same transactional id has started."""


def fitting(body: bytes, headers: Headers) -> tuple[bytes, Headers]:
    """What of a letter fits into one message.

    A compressed batch may bring a body that is larger, unpacked, than any message may be. Such a letter goes out
    without its body, or without its sender's headers: its place in the input topic is in ours, and there it stands
    whole. Left as it is, it would be refused for ever, and fill its outbox.

    Args:
        body: The refused record's.
        headers: Its own, then ours (`twin-...`).

    Returns:
        Body and headers, with a header that names what was left out: also when a name among them cannot be sent.
    """
    own = tuple((name, value) for name, value in headers if name.startswith("twin-") and sendable(name))
    if not all(sendable(name) for name, _ in headers):
        headers = (*own, (OMITTED_HEADER, b"the sender's headers: a name cannot be sent"))
    if sum(len(name) + len(value) for name, value in headers) > LARGEST_HEADERS:
        headers = (*own, (OMITTED_HEADER, b"the sender's headers"))
    if len(body) > LARGEST_BODY:
        return b"", (*headers, (OMITTED_HEADER, f"the body of {len(body)} bytes".encode()))
    return body, headers


class OutputLink:
    """The blocking side: a producer and, when needed, a consumer. Every method runs in the publisher's thread."""

    def __init__(
        self,
        group: str,
        partition: int,
        connection: Mapping[str, str],
        topics: Mapping[OutboxName, str],
        records_topic: str,
        timeout_ms: int,
    ) -> None:
        self.broken = False
        self._group = group
        self._partition = partition
        self._connection = connection
        self._topics = topics
        self._records_topic = records_topic
        self._timeout_ms = timeout_ms
        self._producer: Producer | None = None

    def open(self) -> None:
        """Start the producer: fence the former one and end its transaction."""
        self._producer = Producer(
            {
                **self._connection,
                "transactional.id": f"{self._group}.{self._partition}",
                "transaction.timeout.ms": self._timeout_ms,
                "message.timeout.ms": self._timeout_ms,
                "message.max.bytes": LARGEST_MESSAGE,
                "linger.ms": 0,
                "log_level": 2,
            },
            logger=LIBRARY_LOG,
        )
        _checked(lambda producer: producer.init_transactions(ANSWER_WITHIN_S), self._producer)

    def close(self) -> None:
        """Drop the producer without waiting for what it has not sent."""
        producer, self._producer = self._producer, None
        if producer is not None:
            producer.purge(blocking=False)

    def publish(self, outbox: OutboxName, entries: Sequence[OutboxEntry]) -> int:
        """Send messages in one transaction; the output partition's next offset after the last of them."""
        producer = self._producer
        if producer is None:
            raise PublishError("the producer is closed")
        failures: list[KafkaError] = []
        offsets = [-1]

        def delivered(error: KafkaError | None, message: Message) -> None:
            if error is not None:
                failures.append(error)
            else:
                offsets.append(message.offset() or 0)

        bodies = [self._read_again(entry) if entry.value is None else entry.value for entry in entries]
        try:
            producer.begin_transaction()
            for entry, whole in zip(entries, bodies, strict=True):
                body, headers = fitting(whole, entry.headers)
                producer.produce(
                    self._topics[outbox],
                    key=entry.key,
                    value=body,
                    partition=self._partition,
                    headers=[
                        *headers,
                        (ID_HEADER, entry.id.encode()),
                        (GROUP_HEADER, self._group.encode()),
                    ],
                    on_delivery=delivered,
                )
                producer.poll(0)
            producer.commit_transaction(ANSWER_WITHIN_S)
        except (KafkaException, BufferError) as error:
            self._give_up(error, failures)
        return max(offsets) + 1

    def _give_up(self, error: KafkaException | BufferError, failures: Sequence[KafkaError]) -> None:
        """Abort what can be aborted; leave the rest to a new producer."""
        reason = error.args[0] if isinstance(error, KafkaException) else None
        text = "; ".join(sorted({failure.str() for failure in failures})) or str(error)
        if isinstance(reason, KafkaError) and reason.code() in FENCED_CODES:
            raise ProducerFencedError(text) from error
        self.broken = True
        # A commit whose answer is late may have been done: only a fresh start and the tail can say.
        if reason is None or reason.txn_requires_abort() or failures:
            try:
                if self._producer is not None:
                    self._producer.abort_transaction(ANSWER_WITHIN_S)
                self.broken = False
            except KafkaException as second:
                text = f"{text}; abort: {second}"
        raise PublishError(text) from error

    def tail(self, outbox: OutboxName) -> tuple[str, int] | None:
        """Find the last message of this outbox in its topic.

        Returns:
            Its id and the topic offset after it; None when the tail holds none (empty, or expired).
        """
        where = TopicPartition(self._topics[outbox], self._partition)
        consumer = self._consumer()
        try:
            low, high = consumer.get_watermark_offsets(where, ANSWER_WITHIN_S)
            length = FIRST_TAIL
            while high > low:
                start = max(low, high - length)
                last = self._last_id(consumer, where, start)
                if last is not None or start == low or length >= LONGEST_TAIL:
                    return last
                length *= 8
            return None
        finally:
            consumer.close()

    def _last_id(self, consumer: Consumer, where: TopicPartition, start: int) -> tuple[str, int] | None:
        found: tuple[str, int] | None = None
        for message in self._read(consumer, where, start):
            headers = dict(_headers(message))
            identifier = headers.get(ID_HEADER, b"").decode()
            mine = headers.get(GROUP_HEADER) == self._group.encode()
            # Not simply the last one: a store that was rolled back and a rebuild may have left ids out of order.
            if mine and identifier and (found is None or outbox_order(identifier) > outbox_order(found[0])):
                found = (identifier, (message.offset() or 0) + 1)
        return found

    def _read_again(self, entry: OutboxEntry) -> bytes:
        """Read the value of the input record that an outbox entry stands for."""
        offset = outbox_order(entry.id)[0]
        consumer = self._consumer()
        try:
            where = TopicPartition(self._records_topic, self._partition)
            for message in self._read(consumer, where, offset):
                if message.offset() == offset:
                    return message.value() or b""
                break
        finally:
            consumer.close()
        log.error(
            "a large record left the log before it was dead-lettered",
            partition=self._partition,
            offset=offset,
        )
        return b""

    def _consumer(self) -> Consumer:
        return Consumer(
            {
                **self._connection,
                "group.id": f"{self._group}.tail",
                "enable.auto.commit": False,
                "isolation.level": "read_committed",
                "enable.partition.eof": True,
                "auto.offset.reset": "earliest",
                "fetch.message.max.bytes": LARGEST_MESSAGE,
                "fetch.wait.max.ms": END_SHOWS_AFTER_MS,
                "log_level": 0,
            }
        )

    def _read(self, consumer: Consumer, where: TopicPartition, start: int) -> Any:
        """Yield messages from `start` to the end of the partition."""
        consumer.assign([TopicPartition(where.topic, where.partition, start)])
        while True:
            message = consumer.poll(ANSWER_WITHIN_S)
            if message is None:
                raise PublishError(
                    f"{where.topic}, partition {where.partition}: no answer in {ANSWER_WITHIN_S:g} s"
                )
            error = message.error()
            if error is None:
                yield message
            elif error.code() == KafkaError._PARTITION_EOF:
                return
            else:
                raise KafkaException(error)


def _checked(act: Callable[[Producer], None], producer: Producer) -> None:
    try:
        act(producer)
    except KafkaException as error:
        reason = error.args[0]
        if isinstance(reason, KafkaError) and reason.code() in FENCED_CODES:
            raise ProducerFencedError(str(reason)) from error
        raise PublishError(str(error)) from error


def _headers(message: Message) -> list[tuple[str, bytes]]:
    found: Any = message.headers() or []
    return [(name, value if isinstance(value, bytes) else b"") for name, value in found]
