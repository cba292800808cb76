"""The bridge's book of what is on its way: acknowledged in order, and never for a connection that has ended."""

from __future__ import annotations

import time
from typing import Any

import pytest
from confluent_kafka import KafkaError
from paho.mqtt.client import DisconnectFlags, MQTTMessage
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.reasoncodes import ReasonCode

from streams.adapters.mqtt_bridge import (
    CUT_HEADER,
    LostRecordError,
    MqttBridge,
    TakenOverError,
    Where,
)
from streams.codec import LARGEST_RECORD, MQTT_TOPIC_HEADER

NOWHERE = Where("127.0.0.1", 1, "twin/#", "test", None, None, None, 60, 10, 30, 1)


class Producer:
    """Takes records, and says they are held when the test does."""

    def __init__(self) -> None:
        self.taken: list[dict[str, Any]] = []

    def produce(self, topic: str, **record: Any) -> None:
        self.taken.append(record)

    def hold(self, place: int, error: KafkaError | None = None) -> None:
        self.taken[place]["on_delivery"](error, None)


class Client:
    """Notes what is acknowledged to the MQTT broker."""

    def __init__(self) -> None:
        self.acknowledged: list[int] = []

    def reconnect_delay_set(self, first_s: int, longest_s: int) -> None:
        self.first_s = first_s

    def ack(self, number: int, qos: int) -> None:
        assert qos == 1
        self.acknowledged.append(number)


@pytest.fixture
def bridge() -> MqttBridge:
    bridge = MqttBridge(NOWHERE, {"bootstrap.servers": "127.0.0.1:1"}, "records")
    bridge._producer = Producer()  # type: ignore[assignment]
    bridge._client = Client()  # type: ignore[assignment]
    return bridge


def came(bridge: MqttBridge, number: int, payload: bytes = b'{"patient":"p-1"}', qos: int = 1) -> None:
    message = MQTTMessage(number, b"twin/records/watch")
    message.payload, message.qos = payload, qos
    bridge._on_message(None, None, message)  # type: ignore[arg-type]


def test_messages_are_acknowledged_in_the_order_they_came_whatever_partition_answers_first(
    bridge: MqttBridge,
) -> None:
    for number in (1, 2, 3):
        came(bridge, number)
    bridge._producer.hold(2)  # type: ignore[attr-defined]
    bridge._producer.hold(1)  # type: ignore[attr-defined]
    assert bridge._client.acknowledged == []  # type: ignore[attr-defined]
    assert bridge.waiting == 3
    bridge._producer.hold(0)  # type: ignore[attr-defined]
    assert bridge._client.acknowledged == [1, 2, 3]  # type: ignore[attr-defined]
    assert bridge.waiting == 0


def test_a_message_of_a_connection_that_ended_is_not_acknowledged_under_a_number_that_is_anothers_by_now(
    bridge: MqttBridge,
) -> None:
    came(bridge, 1, b'{"patient":"old"}')
    bridge._forget()  # the connection ends, and the broker begins to count again
    came(bridge, 1, b'{"patient":"new"}')
    bridge._producer.hold(0)  # type: ignore[attr-defined]
    assert bridge._client.acknowledged == []  # type: ignore[attr-defined]
    bridge._producer.hold(1)  # type: ignore[attr-defined]
    assert bridge._client.acknowledged == [1]  # type: ignore[attr-defined]


def test_a_record_that_kafka_did_not_take_is_not_acknowledged_and_ends_the_bridge(bridge: MqttBridge) -> None:
    came(bridge, 1)
    bridge._producer.hold(0, KafkaError(KafkaError._MSG_TIMED_OUT))  # type: ignore[attr-defined]
    assert bridge._client.acknowledged == []  # type: ignore[attr-defined]
    assert isinstance(bridge._failure, LostRecordError)


def test_a_message_without_guarantee_is_sent_on_and_counted_but_not_acknowledged(bridge: MqttBridge) -> None:
    came(bridge, 0, qos=0)
    bridge._producer.hold(0)  # type: ignore[attr-defined]
    assert bridge._client.acknowledged == []  # type: ignore[attr-defined]
    assert (bridge.figures.without_guarantee, bridge.waiting) == (1, 0)


@pytest.mark.parametrize(
    "payload", [b"", b"not json", b"\xff\xfe", b'{"patient":7}', b"[]", b'{"patient":"p']
)
def test_what_names_no_patient_goes_on_unchanged_without_a_key(bridge: MqttBridge, payload: bytes) -> None:
    came(bridge, 1, payload)
    (sent,) = bridge._producer.taken  # type: ignore[attr-defined]
    assert (sent["key"], sent["value"]) == (None, payload)
    assert sent["headers"] == [(MQTT_TOPIC_HEADER, b"twin/records/watch")]
    assert bridge.figures.unnamed == 1


def test_a_payload_beyond_every_limit_is_cut_to_what_is_still_refused_and_says_how_long_it_was(
    bridge: MqttBridge,
) -> None:
    payload = b'{"patient":"p-1"' + b" " * 5_000_000 + b"}"
    came(bridge, 1, payload)
    (sent,) = bridge._producer.taken  # type: ignore[attr-defined]
    assert sent["value"] == payload[: LARGEST_RECORD + 1]
    assert (CUT_HEADER, b"5000017") in sent["headers"]


def test_once_asked_to_stop_nothing_more_is_taken_so_that_the_broker_keeps_it(bridge: MqttBridge) -> None:
    bridge._draining = True
    came(bridge, 1)
    assert bridge._producer.taken == []  # type: ignore[attr-defined]
    assert bridge.waiting == 0


def lost(bridge: MqttBridge, reason: int) -> None:
    bridge._connected_at = time.monotonic()
    flags = DisconnectFlags(is_disconnect_packet_from_server=True)
    bridge._on_disconnect(None, None, flags, ReasonCode(PacketTypes.DISCONNECT, identifier=reason), None)  # type: ignore[arg-type]


def test_a_session_taken_over_again_and_again_ends_the_bridge_and_other_losses_only_slow_it_down(
    bridge: MqttBridge,
) -> None:
    for _ in range(5):
        lost(bridge, 139)  # server shutting down
    assert bridge._failure is None
    assert bridge._client.first_s == 1  # type: ignore[attr-defined]  # NOWHERE's longest
    other = MqttBridge(
        NOWHERE._replace(longest_backoff_s=60), {"bootstrap.servers": "127.0.0.1:1"}, "records"
    )
    other._client = Client()  # type: ignore[assignment]
    for waits_s in (2, 4):
        lost(other, 142)  # session taken over
        assert other._client.first_s == waits_s  # type: ignore[attr-defined]
        assert other._failure is None
    lost(other, 142)
    assert isinstance(other._failure, TakenOverError)
