"""Messages of an MQTT broker to the input topic, each acknowledged to the one only when the other holds it.

At least once: a message is acknowledged (QoS 1, in the order it came, as MQTT asks) after all replicas of Kafka have
it, and never for a connection that has ended meanwhile: the broker then sends it again, and the record's identity makes
it a duplicate without effect. Nothing is judged here: what is no record goes to the input topic as it came, with its
MQTT topic in a header, and the worker dead-letters it with that header, the reason and the original bytes.
"""

from __future__ import annotations

import math
import queue
import ssl
import threading
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import structlog
from confluent_kafka import KafkaError, KafkaException, Message, Producer
from paho.mqtt.client import Client, ConnectFlags, DisconnectFlags, MQTTMessage
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode
from paho.mqtt.subscribeoptions import SubscribeOptions

from streams.adapters.record_sender import DUTIES
from streams.codec import LARGEST_RECORD, MQTT_TOPIC_HEADER
from streams.failpoints import fail_point
from streams.ndjson import patient_of

CUT_HEADER = "twin-mqtt-bytes"
# Kafka's client tries for so long, then the bridge ends: a supervisor starts it again, and the broker sends again.
GIVEN_UP_AFTER_S = 300.0
# MQTT 5 reason codes that only a person can mend, and the one of a second bridge under our name.
FATAL_CODES = {
    132: "the broker does not speak MQTT 5",
    133: "the broker refuses the client id; set mqtt.client_id",
    134: "the broker refuses user or password; set TWIN_MQTT__USERNAME and TWIN_MQTT__PASSWORD",
    135: "the broker does not admit this user; set TWIN_MQTT__USERNAME and TWIN_MQTT__PASSWORD, or its rights there",
}
TAKEN_OVER = 142
NO_ANSWER = "no MQTT broker answers"
NOBODY_THERE = "no MQTT broker is there"
# So many connections in a row that end within so short a time are no accident. Whoever connected last is disturbed
# most, so that a bridge that was there before goes on.
SHORT_S = 5.0
MANY_SHORT = 3
GOODBYE_WITHIN_S = 5.0

log = structlog.get_logger()


class MqttError(RuntimeError):
    """The bridge cannot work with these settings; the text says what to change."""


class TakenOverError(RuntimeError):
    """Another bridge runs under our client id."""


class LostRecordError(RuntimeError):
    """Kafka's client gave a record up: nothing is lost while the MQTT broker holds it, but this process must end."""


class Where(NamedTuple):
    """An MQTT broker, and what of it is bridged.

    Attributes:
        host: Address.
        port: TCP.
        topic: Filter, such as `twin/records/#`; `$share/group/...` shares the work between bridges.
        client_id: Names the session in which the broker keeps messages while the bridge is away.
        username: None without.
        password: None without.
        tls: How to trust the broker; None without TLS.
        session_expiry_s: How long the broker keeps the session.
        most_waiting: Messages not yet acknowledged, at most 65,535.
        keepalive_s: A broker not heard of for one and a half times this is gone.
        longest_backoff_s: Between two attempts to connect; the first waits 1 s, each further one twice as long.
    """

    host: str
    port: int
    topic: str
    client_id: str
    username: str | None
    password: str | None
    tls: ssl.SSLContext | None
    session_expiry_s: int
    most_waiting: int
    keepalive_s: int
    longest_backoff_s: int


@dataclass
class Figures:
    """What this process did, since its start."""

    connected: bool = False
    connections: int = 0
    received: int = 0
    acknowledged: int = 0
    without_guarantee: int = 0  # sent with QoS 0: lost if this process dies meanwhile
    unnamed: int = 0  # no `patient` could be read


@dataclass
class _Waiting:
    """A message on its way through Kafka."""

    number: int  # MQTT's packet identifier, the broker's to use again once acknowledged
    qos: int
    held: bool = False  # by all replicas
    since: float = field(default_factory=time.monotonic)  # s


def ask(where: Where, within_s: float) -> str:
    """Connect once under a name of its own and leave again; nothing is subscribed or kept.

    Args:
        where: The broker.
        within_s: So long it may take to answer.

    Returns:
        What is wrong, in a sentence; empty when the broker lets us in.
    """
    answers: queue.SimpleQueue[ReasonCode] = queue.SimpleQueue()
    client = Client(CallbackAPIVersion.VERSION2, client_id="", protocol=MQTTProtocolVersion.MQTTv5)
    client.connect_timeout = within_s
    if where.username is not None:
        client.username_pw_set(where.username, where.password)
    if where.tls is not None:
        client.tls_set_context(where.tls)
    client.on_connect = lambda client, _, flags, reason, properties: answers.put(reason)
    try:
        client.connect(where.host, where.port, where.keepalive_s, clean_start=True)
        client.loop_start()
        reason = answers.get(timeout=within_s)
    except ConnectionRefusedError as error:
        return f"{NOBODY_THERE}: {error}"
    except (OSError, queue.Empty) as error:
        return f"{NO_ANSWER}: {str(error) or 'it is silent'}"
    finally:
        client.disconnect()
        client.loop_stop()
    return FATAL_CODES.get(reason.value, f"the broker refuses: {reason}") if reason.is_failure else ""


class MqttBridge:
    """One session with an MQTT broker, and one producer.

    Args:
        where: The broker.
        connection: librdkafka settings that reach Kafka.
        topic: The input topic.
    """

    def __init__(self, where: Where, connection: Mapping[str, str], topic: str) -> None:
        self.figures = Figures()
        self._where = where
        self._topic = topic
        self._lock = threading.Lock()
        self._waiting: deque[_Waiting] = deque()  # of this connection, in the order received
        self._draining = False
        self._ended = threading.Event()
        self._failure: Exception | None = None
        self._gone = threading.Event()
        self._connected_at = -math.inf
        self._short_lived = 0
        self._producer = Producer(
            {
                **DUTIES,
                "enable.idempotence": True,
                "linger.ms": 5,
                "delivery.timeout.ms": int(GIVEN_UP_AFTER_S * 1000),
                "log_level": 0,
                **connection,
            }
        )
        self._client = self._make_client()

    @property
    def waiting(self) -> int:
        """Messages of this connection that are not yet acknowledged."""
        return len(self._waiting)

    @property
    def oldest_s(self) -> float:
        """For how long the oldest of them has waited, s; 0 when none does."""
        with self._lock:
            return time.monotonic() - self._waiting[0].since if self._waiting else 0.0

    def run(self, stopped: threading.Event) -> None:
        """Bridge until asked to stop, then finish what is on its way.

        Args:
            stopped: Set it to stop.

        Raises:
            MqttError: The broker refuses what the settings say.
            TakenOverError: Another bridge has our client id.
            LostRecordError: Kafka did not take a record in 300 s.
        """
        poller = threading.Thread(target=self._poll, name="mqtt-bridge-kafka", daemon=True)
        poller.start()
        self._client.connect_async(
            self._where.host,
            self._where.port,
            self._where.keepalive_s,
            clean_start=False,
            properties=self._session(),
        )
        self._client.loop_start()
        try:
            while self._failure is None and not stopped.wait(0.1):
                pass
        finally:
            self._drain()
            self._ended.set()
            poller.join()
        if self._failure is not None:
            raise self._failure

    def _make_client(self) -> Client:
        client = Client(
            CallbackAPIVersion.VERSION2,
            client_id=self._where.client_id,
            protocol=MQTTProtocolVersion.MQTTv5,
            manual_ack=True,
        )
        if self._where.username is not None:
            client.username_pw_set(self._where.username, self._where.password)
        if self._where.tls is not None:
            client.tls_set_context(self._where.tls)
        client.reconnect_delay_set(1, self._where.longest_backoff_s)
        client.on_pre_connect = lambda *_: self._forget()
        client.on_connect = self._on_connect
        client.on_connect_fail = lambda *_: log.warning("mqtt broker not reached", **self._place())
        client.on_subscribe = self._on_subscribe
        client.on_disconnect = self._on_disconnect
        client.on_message = self._on_message
        return client

    def _session(self) -> Properties:
        properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]  # paho leaves it out
        properties.SessionExpiryInterval = self._where.session_expiry_s
        # The broker holds further messages back: what waits here is bounded.
        properties.ReceiveMaximum = self._where.most_waiting
        return properties

    def _place(self) -> dict[str, Any]:
        return {"broker": f"{self._where.host}:{self._where.port}"}

    def _on_connect(
        self, client: Client, _: Any, flags: ConnectFlags, reason: ReasonCode, properties: Properties | None
    ) -> None:
        if reason.is_failure:
            told = FATAL_CODES.get(reason.value)
            log.warning("mqtt broker refuses the connection", reason=str(reason), **self._place())
            if told is not None:
                self._fail(MqttError(f"{self._where.host}:{self._where.port}: {told}"))
            return
        self.figures.connected = True
        self._gone.clear()
        self._connected_at = time.monotonic()
        self.figures.connections += 1
        log.info("mqtt connected", session_kept=flags.session_present, **self._place())
        try:
            client.subscribe(self._where.topic, options=SubscribeOptions(qos=1))
        except ValueError as error:  # it would end this thread, and nobody would hear of it
            self._fail(
                MqttError(
                    f"mqtt.topic {self._where.topic!r}: {error} + and # stand for whole parts, # at the end"
                )
            )

    def _on_subscribe(
        self, client: Client, _: Any, mid: int, reasons: list[ReasonCode], properties: Properties | None
    ) -> None:
        refused = [reason for reason in reasons if reason.is_failure]
        if refused:
            self._fail(
                MqttError(
                    f"{self._where.host}:{self._where.port} refuses the topic {self._where.topic}: {refused[0]}; set "
                    "mqtt.topic, or the user's rights there"
                )
            )
            return
        log.info("mqtt subscribed", topic=self._where.topic, **self._place())

    def _on_disconnect(
        self,
        client: Client,
        _: Any,
        flags: DisconnectFlags,
        reason: ReasonCode,
        properties: Properties | None,
    ) -> None:
        self.figures.connected = False
        self._forget()
        self._gone.set()
        if self._draining:
            return
        log.warning("mqtt connection lost", reason=str(reason), **self._place())
        if time.monotonic() - self._connected_at > SHORT_S:
            self._short_lived = 0
            self._client.reconnect_delay_set(1, self._where.longest_backoff_s)
            return
        self._short_lived += 1
        # The client begins at 1 s again after each success; two bridges of one name would take turns every second.
        delay_s = min(2**self._short_lived, self._where.longest_backoff_s)
        self._client.reconnect_delay_set(delay_s, self._where.longest_backoff_s)
        if self._short_lived < MANY_SHORT:
            return
        who = self._where.client_id
        told = f"connections end within {SHORT_S:g} s: another client may have the mqtt.client_id {who}"
        log.warning("mqtt connections do not last", why=told, in_a_row=self._short_lived, **self._place())
        if flags.is_disconnect_packet_from_server and reason.value == TAKEN_OVER:
            self._fail(TakenOverError(f"{told}, the broker says; give each bridge its own"))

    def _on_message(self, client: Client, _: Any, message: MQTTMessage) -> None:
        """Runs in the MQTT client's thread, one message after another."""
        if self._draining:
            return  # not acknowledged: the broker keeps it for the next bridge
        try:
            self._take(message)
        except Exception as error:  # it would end that thread, and nobody would hear of it
            self._fail(error)

    def _take(self, message: MQTTMessage) -> None:
        waiting = _Waiting(message.mid, message.qos)
        with self._lock:
            self._waiting.append(waiting)
        self.figures.received += 1
        self.figures.without_guarantee += message.qos == 0
        body = bytes(message.payload)
        headers: list[tuple[str, str | bytes | None]] = [(MQTT_TOPIC_HEADER, message.topic.encode())]
        if len(body) > LARGEST_RECORD:
            # Too large whatever it says: enough of it to be refused for that, and to be recognised.
            headers.append((CUT_HEADER, str(len(body)).encode()))
            body = body[: LARGEST_RECORD + 1]
            key = None
        else:
            patient = patient_of(body)
            key = None if patient is None else patient.encode()
        self.figures.unnamed += key is None
        while True:
            try:
                self._producer.produce(
                    self._topic,
                    key=key,
                    value=body,
                    headers=headers,
                    on_delivery=lambda error, delivered: self._settle(waiting, error, delivered),
                )
                return
            except BufferError:  # messages of QoS 0 are not bounded by the broker
                self._ended.wait(0.05)
            except KafkaException as error:
                self._fail(LostRecordError(f"Kafka takes no more records: {error}"))
                return

    def _settle(self, waiting: _Waiting, error: KafkaError | None, message: Message) -> None:
        """Runs in the poller's thread when Kafka has answered for a message."""
        if error is not None:
            self._fail(LostRecordError(f"Kafka did not take a record: {error.str()}"))
            return
        fail_point("after_kafka_before_mqtt")
        with self._lock:
            waiting.held = True
            # A message of a former connection is no longer here: the broker sends it again, and its number may by
            # then be another's.
            while self._waiting and self._waiting[0].held:
                first = self._waiting.popleft()
                if first.qos > 0:
                    self._client.ack(first.number, first.qos)
                self.figures.acknowledged += 1

    def _forget(self) -> None:
        """A connection has ended: whatever it brought and nobody acknowledged will come again."""
        with self._lock:
            self._waiting.clear()

    def _fail(self, failure: Exception) -> None:
        if self._failure is None:
            self._failure = failure

    def _poll(self) -> None:
        while not self._ended.is_set():
            self._producer.poll(0.1)

    def _drain(self) -> None:
        """Take nothing more, wait for Kafka, acknowledge, say goodbye."""
        self._draining = True
        left = 0 if self._failure is not None else self._producer.flush(GIVEN_UP_AFTER_S)
        if left:
            log.warning("records on their way given up; the mqtt broker sends them again", records=left)
        connected = self.figures.connected
        self._client.disconnect()
        if connected:  # acknowledgements go out before the goodbye
            self._gone.wait(GOODBYE_WITHIN_S)
        self._client.loop_stop()
