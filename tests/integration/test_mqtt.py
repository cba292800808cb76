"""`twin mqtt` between a real Mosquitto and a real Kafka: nothing lost, whoever is killed; what is bad is told why."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import ssl
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trustme
import yaml
from confluent_kafka import Message
from paho.mqtt.client import Client
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion

from streams.adapters.mqtt_bridge import CUT_HEADER, NO_ANSWER, NOBODY_THERE, Where, ask
from streams.adapters.topics import Topics, create_topics, read_topics
from streams.codec import LARGEST_RECORD, MQTT_TOPIC_HEADER, partition_of
from streams.embedded import EmbeddedKafka, EmbeddedRedis
from streams.embedded.mosquitto import EmbeddedMosquitto, MissingMosquittoError, Tls
from streams.embedded.ports import free_ports
from streams.embedded.processes import Process
from streams.simulation.stream import Plan, simulate
from tests.integration.conftest import TOPICS_FILE
from tests.integration.ward import ROOT, Ward, wait_until

TOPIC = "twin/records/ward-3/watch-1"


class Site:
    """One Mosquitto, one Kafka, and the bridges between them."""

    def __init__(self, ward: Ward, broker: EmbeddedMosquitto) -> None:
        self.ward = ward
        self.broker = broker
        self.bridges: list[Process] = []

    def bridge(self, **environment: str) -> Process:
        """Start `twin mqtt`."""
        topics_file = self.ward.directory / "topics.yaml"
        topics_file.write_text(yaml.safe_dump(self.ward.topics.model_dump()))
        own = {
            "KAFKA_BOOTSTRAP_SERVERS": self.ward.bootstrap,
            "PYTHONPATH": str(ROOT),
            "TWIN_PATHS__TOPICS": str(topics_file),
            "TWIN_MQTT__PORT": str(self.broker.port),
            "TWIN_MQTT__METRICS_PORT": "0",
            "TWIN_MQTT__RECONNECT_MAX_SECONDS": "2",
        }
        bridge = Process(
            "bridge",
            [sys.executable, "-m", "streams", "mqtt"],
            self.ward.directory / f"bridge-{len(self.bridges)}.log",
            environment={**os.environ, **own, **environment},
            directory=ROOT,
        )
        bridge.start()
        self.bridges.append(bridge)
        return bridge

    def connected(self, bridge: Process, times: int = 1) -> None:
        """Wait until a bridge has connected and subscribed so often."""
        wait_until(
            lambda: bridge.log.read_text().count('"event": "mqtt subscribed"') >= times,
            40,
            "connected",
            [bridge],
        )

    def saved(self) -> None:
        """Wait until the broker has saved what it has acknowledged: it says so a moment before."""
        file = self.broker.directory / "data" / "mosquitto.db"
        before = file.stat().st_mtime_ns if file.exists() else 0
        assert self.broker.process.pid is not None
        os.kill(self.broker.process.pid, signal.SIGUSR1)
        wait_until(lambda: file.exists() and file.stat().st_mtime_ns > before, 20, "saved")

    def messages(self) -> list[Message]:
        """Everything in the input topic."""
        names, partitions = self.ward.topics.names, range(self.ward.topics.partitions)
        return [message for partition in partitions for message in self.ward.read(names.records, partition)]

    def ids(self) -> list[str]:
        """Record ids in the input topic, sorted."""
        return sorted(json.loads(message.value() or b"")["id"] for message in self.messages())

    def ends(self) -> int:
        return sum(self.ward.end(partition) for partition in range(self.ward.topics.partitions))


class Device:
    """A publisher that keeps what the broker has not acknowledged, and sends it again."""

    def __init__(
        self, port: int, user: tuple[str, str] | None = None, tls: ssl.SSLContext | None = None
    ) -> None:
        self.client = Client(
            CallbackAPIVersion.VERSION2, client_id="device", protocol=MQTTProtocolVersion.MQTTv5
        )
        if user is not None:
            self.client.username_pw_set(*user)
        if tls is not None:
            self.client.tls_set_context(tls)
        self.client.reconnect_delay_set(1, 1)
        self._confirmed: set[int] = set()
        self.client.on_publish = lambda client, data, number, *_: self._confirmed.add(number)
        self.client.connect("127.0.0.1", port, clean_start=False)
        self.client.loop_start()

    def send(self, *payloads: bytes, topic: str = TOPIC, within_s: float = 60.0) -> None:
        """Publish with QoS 1, and wait until the broker has all."""
        numbers = {self.client.publish(topic, payload, qos=1).mid for payload in payloads}
        wait_until(lambda: numbers <= self._confirmed, within_s, "with the broker")
        self._confirmed -= numbers  # they count from 1 again some day

    def close(self) -> None:
        self.client.disconnect()
        self.client.loop_stop()


def where_is(port: int) -> Where:
    """A broker on loopback, without user or TLS."""
    return Where("127.0.0.1", port, "twin/#", "twin-bridge", None, None, None, 60, 10, 30, 1)


def numbered(count: int, first: int = 0) -> list[bytes]:
    return [
        json.dumps({"id": f"r-{n:05d}", "patient": f"p-{n % 17}"}).encode()
        for n in range(first, first + count)
    ]


def ids_of(payloads: list[bytes]) -> list[str]:
    return [json.loads(payload)["id"] for payload in payloads]


@pytest.fixture
def site(
    kafka: EmbeddedKafka, redis_server: EmbeddedRedis, topics: Topics, group: str, tmp_path: Path
) -> Iterator[Site]:
    with made(
        kafka, redis_server, topics, group, tmp_path, EmbeddedMosquitto(tmp_path / "mosquitto")
    ) as site:
        yield site


@contextlib.contextmanager
def made(
    kafka: EmbeddedKafka,
    redis_server: EmbeddedRedis,
    topics: Topics,
    group: str,
    tmp_path: Path,
    broker: EmbeddedMosquitto,
) -> Iterator[Site]:
    try:
        broker.start()
    except MissingMosquittoError as error:
        pytest.skip(str(error))
    site = Site(Ward(kafka.bootstrap, redis_server.url, topics, group, tmp_path), broker)
    try:
        yield site
    finally:
        for bridge in site.bridges:
            bridge.kill()
        site.ward.stop()
        broker.kill()


@pytest.fixture
def device(site: Site) -> Iterator[Device]:
    device = Device(site.broker.port)
    yield device
    device.close()


def test_each_message_becomes_a_record_of_its_patient_byte_for_byte(site: Site, device: Device) -> None:
    (port,) = free_ports(1)
    bridge = site.bridge(TWIN_MQTT__METRICS_PORT=str(port))
    site.connected(bridge)
    sent = [a.record for a in simulate(Plan(patients=3, length_h=1.0)).arrivals]
    device.send(*(record.value for record in sent))
    wait_until(lambda: site.ends() >= len(sent), 30, "in Kafka", [bridge])
    found = site.messages()
    assert sorted(m.value() or b"" for m in found) == sorted(record.value for record in sent)
    for message in found:
        key = json.loads(message.value() or b"")["patient"].encode()
        assert message.key() == key
        assert message.partition() == partition_of(key, site.ward.topics.partitions)
        assert message.headers() == [(MQTT_TOPIC_HEADER, TOPIC.encode())]
    page = urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5).read().decode()
    figures = dict(line.rsplit(" ", 1) for line in page.splitlines() if not line.startswith("#"))
    assert float(figures["twin_mqtt_acknowledged_total"]) == len(sent)
    assert float(figures["twin_mqtt_waiting_messages"]) == 0
    assert float(figures["twin_mqtt_connected"]) == 1


def test_bad_payloads_become_dead_letters_with_reason_mqtt_topic_and_their_own_bytes(
    site: Site, device: Device
) -> None:
    stream = simulate(Plan(patients=1, length_h=1.0))
    good = next(r.value for r in stream.in_order if b'"kind":"patient"' in r.value)
    unit = json.loads(good)
    unit["payload"]["covariates"]["weight"]["unit"] = "stone"
    erasing = {**unit, "kind": "forget", "id": "erase-him", "payload": {}}
    bad = {
        b"": "empty",
        b"on fire": "not_json",
        b"\xff\xfe\x00": "not_json",
        b'{"id":"x"}': "wrong_schema",
        json.dumps(unit).encode(): "unknown_unit",
        json.dumps(erasing).encode(): "wrong_schema",
        good + b" " * 100_000: "too_large",
    }
    bridge = site.bridge()
    site.connected(bridge)
    site.ward.worker(TWIN_WORKER__PIPELINE_FACTORY="streams.pipeline:create_pipeline")
    device.send(*bad, topic="twin/records/ward-3/broken")
    device.send(good)
    wait_until(lambda: site.ends() >= len(bad) + 1, 30, "in Kafka", [bridge])
    site.ward.settle(90)
    letters = [
        message
        for partition in range(site.ward.topics.partitions)
        for message in site.ward.read(site.ward.topics.names.dead_letters, partition)
    ]
    told = {}
    for letter in letters:
        headers: dict[str, Any] = dict(letter.headers() or [])
        assert headers[MQTT_TOPIC_HEADER] == b"twin/records/ward-3/broken"
        assert headers["twin-error-message"]
        told[letter.value() or b""] = headers["twin-error-class"].decode()
        if CUT_HEADER in headers:
            assert int(headers[CUT_HEADER]) == len(good) + 100_000
    cut = {body[: LARGEST_RECORD + 1]: reason for body, reason in bad.items()}
    assert told == cut


def test_what_comes_while_the_bridge_is_away_is_kept_for_it(site: Site, device: Device) -> None:
    first = site.bridge()
    site.connected(first)
    first.stop()
    assert first.exit_status == 0
    payloads = numbered(300)
    device.send(*payloads)
    site.saved()
    site.broker.kill()
    site.broker.start()
    second = site.bridge()
    wait_until(lambda: site.ends() >= 300, 30, "in Kafka", [second])
    assert site.ids() == ids_of(payloads)


@pytest.mark.faults
def test_a_bridge_killed_between_kafka_and_mqtt_sends_again_and_loses_nothing(
    site: Site, device: Device, tmp_path: Path
) -> None:
    fails = {
        "TWIN_FAIL_POINT": "after_kafka_before_mqtt:40",
        "TWIN_FAIL_COUNTER": str(tmp_path / "killed"),
    }
    first = site.bridge(**fails)
    site.connected(first)
    payloads = numbered(200)
    device.send(*payloads)
    assert first.wait(30) == -9
    before = site.ends()
    assert before >= 40
    second = site.bridge(**fails)
    # Thirty-nine were acknowledged at most; the others come again, whether Kafka holds them or not.
    wait_until(lambda: site.ends() >= before + 200 - 39, 40, "the others again", [second])
    assert set(site.ids()) == set(ids_of(payloads))
    assert len(site.ids()) > 200, "what Kafka held and MQTT did not know of came twice"
    second.stop()
    assert second.exit_status == 0
    third = site.bridge()
    site.connected(third)
    end = site.ends()
    device.send(*numbered(1, first=200))
    wait_until(lambda: site.ends() > end, 30, "the last one", [third])
    assert site.ends() == end + 1, "whatever was acknowledged does not come again"


@pytest.mark.faults
def test_a_killed_broker_is_reached_again_and_loses_nothing_it_had_saved_nor_what_devices_still_hold(
    site: Site, device: Device
) -> None:
    bridge = site.bridge()
    site.connected(bridge)
    payloads = numbered(300)
    device.send(*payloads[:100])
    wait_until(lambda: site.ends() >= 100, 30, "the first hundred", [bridge])
    bridge.pause()
    device.send(*payloads[100:200])
    site.saved()
    site.broker.kill()
    sending = threading.Thread(target=lambda: device.send(*payloads[200:]))
    sending.start()
    time.sleep(0.5)
    site.broker.start()
    bridge.resume()
    sending.join(60)
    assert not sending.is_alive()
    site.connected(bridge, times=2)
    wait_until(lambda: set(site.ids()) == set(ids_of(payloads)), 40, "all in Kafka", [bridge])


@pytest.mark.faults
def test_while_kafka_stands_still_messages_wait_unacknowledged_and_go_on_afterwards(
    private_kafka: EmbeddedKafka, redis_server: EmbeddedRedis, group: str, tmp_path: Path
) -> None:
    topics = read_topics(TOPICS_FILE).renamed(group)
    create_topics({"bootstrap.servers": private_kafka.bootstrap}, topics)
    broker = EmbeddedMosquitto(tmp_path / "mosquitto")
    with made(private_kafka, redis_server, topics, group, tmp_path, broker) as site:
        (port,) = free_ports(1)
        bridge = site.bridge(TWIN_MQTT__METRICS_PORT=str(port))
        site.connected(bridge)
        device = Device(broker.port)
        payloads = numbered(100)
        device.send(*payloads[:50])
        wait_until(lambda: site.ends() >= 50, 30, "in Kafka", [bridge])
        private_kafka.pause()
        device.send(*payloads[50:])

        def waiting() -> float:
            page = urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5).read().decode()
            (line,) = [row for row in page.splitlines() if row.startswith("twin_mqtt_waiting_messages ")]
            return float(line.split()[1])

        wait_until(lambda: waiting() == 50, 20, "fifty wait", [bridge])
        private_kafka.resume()
        wait_until(lambda: waiting() == 0, 60, "nothing waits", [bridge])
        assert site.ids() == ids_of(payloads)
        device.close()


def test_asked_to_stop_it_finishes_what_is_on_its_way_and_what_comes_later_is_kept(
    site: Site, device: Device
) -> None:
    bridge = site.bridge()
    site.connected(bridge)
    payloads = numbered(500)
    sending = threading.Thread(target=lambda: device.send(*payloads))
    sending.start()
    wait_until(lambda: site.ends() >= 20, 30, "some in Kafka", [bridge])
    bridge.stop(30.0)
    assert bridge.exit_status == 0
    sending.join(30)
    again = site.bridge()
    wait_until(lambda: set(site.ids()) == set(ids_of(payloads)), 40, "all in Kafka", [again])


def test_two_bridges_of_one_client_id_say_so_in_their_log_and_lose_nothing(
    site: Site, device: Device
) -> None:
    first = site.bridge()
    site.connected(first)
    time.sleep(5.5)  # a connection that lasted
    second = site.bridge()
    says = "another client may have the mqtt.client_id twin-bridge"
    wait_until(lambda: any(says in b.log.read_text() for b in site.bridges), 60, "said", site.bridges)
    second.stop()
    payloads = numbered(50)
    device.send(*payloads)
    wait_until(lambda: set(site.ids()) == set(ids_of(payloads)), 40, "all in Kafka", [first])


def test_the_broker_asks_for_a_password_and_a_wrong_one_ends_with_status_2_and_a_sentence(
    kafka: EmbeddedKafka, redis_server: EmbeddedRedis, topics: Topics, group: str, tmp_path: Path
) -> None:
    users = {"bridge": "right", "device": "own"}
    broker = EmbeddedMosquitto(tmp_path / "mosquitto", users=users)
    with made(kafka, redis_server, topics, group, tmp_path, broker) as site:
        wrong = site.bridge(TWIN_MQTT__USERNAME="bridge", TWIN_MQTT__PASSWORD="wr0ng-secret")
        assert wrong.wait(30) == 2
        said = wrong.log.read_text()
        assert "set TWIN_MQTT__USERNAME and TWIN_MQTT__PASSWORD" in said
        assert "wr0ng-secret" not in said
        # `twin doctor` asks the same broker.
        where = where_is(broker.port)
        assert "set TWIN_MQTT__USERNAME" in ask(
            where._replace(username="bridge", password="wr0ng-secret"), 10.0
        )
        assert ask(where._replace(username="bridge", password="right"), 10.0) == ""
        bridge = site.bridge(TWIN_MQTT__USERNAME="bridge", TWIN_MQTT__PASSWORD="right")
        site.connected(bridge)
        # Asking disturbs no bridge: it comes under another name.
        assert ask(where._replace(username="bridge", password="right"), 10.0) == ""
        assert bridge.log.read_text().count("mqtt connection lost") == 0
        device = Device(broker.port, ("device", "own"))
        device.send(*numbered(3))
        wait_until(lambda: site.ends() >= 3, 30, "in Kafka", [bridge])
        device.close()


def test_a_broker_that_is_not_there_is_said_to_be_silent_or_away() -> None:
    [port] = free_ports(1)
    assert ask(where_is(port), 2.0).startswith(NOBODY_THERE)
    with socket.create_server(("127.0.0.1", port)):  # listens, and says nothing
        begun = time.monotonic()
        assert ask(where_is(port), 1.0) == f"{NO_ANSWER}: it is silent"
        assert time.monotonic() - begun < 10.0


def test_it_speaks_tls_with_a_certificate_of_its_own_and_trusts_no_other_authority(
    kafka: EmbeddedKafka, redis_server: EmbeddedRedis, topics: Topics, group: str, tmp_path: Path
) -> None:
    authority, stranger = trustme.CA(), trustme.CA()
    server, client = authority.issue_cert("127.0.0.1"), authority.issue_cert("bridge@ward.example")
    files = {name: tmp_path / f"{name}.pem" for name in ("ca", "other", "server", "key", "mine", "my-key")}
    authority.cert_pem.write_to_path(files["ca"])
    stranger.cert_pem.write_to_path(files["other"])
    server.cert_chain_pems[0].write_to_path(files["server"])
    server.private_key_pem.write_to_path(files["key"])
    client.cert_chain_pems[0].write_to_path(files["mine"])
    client.private_key_pem.write_to_path(files["my-key"])
    tls = Tls(files["server"], files["key"], client_ca=files["ca"])
    broker = EmbeddedMosquitto(tmp_path / "mosquitto", tls=tls)
    mine = {
        "TWIN_MQTT__TLS": "true",
        "TWIN_MQTT__TLS_CERTIFICATE_FILE": str(files["mine"]),
        "TWIN_MQTT__TLS_KEY_FILE": str(files["my-key"]),
    }
    with made(kafka, redis_server, topics, group, tmp_path, broker) as site:
        fooled = site.bridge(**mine, TWIN_MQTT__TLS_CA_FILE=str(files["other"]))
        wait_until(lambda: "mqtt broker not reached" in fooled.log.read_text(), 20, "refused", [fooled])
        bridge = site.bridge(**mine, TWIN_MQTT__TLS_CA_FILE=str(files["ca"]), TWIN_MQTT__CLIENT_ID="good")
        site.connected(bridge)
        context = ssl.create_default_context(cafile=files["ca"])
        context.load_cert_chain(files["mine"], files["my-key"])
        device = Device(broker.port, tls=context)
        device.send(*numbered(3))
        wait_until(lambda: site.ends() >= 3, 30, "in Kafka", [bridge])
        assert '"event": "mqtt connected"' not in fooled.log.read_text()
        device.close()
