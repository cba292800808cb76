"""`docker-compose.yml` says what `config/` and the embedded servers say."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from streams.adapters.topics import read_topics
from streams.embedded import kafka as embedded_kafka
from streams.embedded import mosquitto as embedded_mosquitto
from streams.embedded import redis as embedded_redis
from streams.embedded.jars import KAFKA_VERSION, read_lock
from streams.settings import ROOT, load_settings

SERVICES: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
OURS = ("worker", "ticks", "web", "mqtt")
# What concerns addresses and sizes of one place, or makes tests quick.
EMBEDDED_ONLY = {
    "process.roles", "node.id", "controller.quorum.voters", "controller.listener.names", "listeners",
    "advertised.listeners", "listener.security.protocol.map", "inter.broker.listener.name",
    "log.dirs", "offsets.topic.num.partitions",
    "transaction.state.log.num.partitions", "group.min.session.timeout.ms", "broker.session.timeout.ms",
    "broker.heartbeat.interval.ms", "log.cleaner.dedupe.buffer.size", "num.network.threads", "num.io.threads",
}  # fmt: skip


def lines_of(configuration: str, separator: str) -> dict[str, str]:
    lines = (line for line in configuration.splitlines() if line and not line.startswith("#"))
    return {key: value.strip('"') for key, _, value in (line.partition(separator) for line in lines)}


def kafka_settings() -> dict[str, str]:
    environment = SERVICES["kafka"]["environment"]
    return {key.removeprefix("KAFKA_").lower().replace("_", "."): value for key, value in environment.items()}


def test_kafka_has_the_version_of_the_embedded_one() -> None:
    assert SERVICES["kafka"]["image"] == f"apache/kafka:{KAFKA_VERSION}"
    assert {jar.version for jar in read_lock() if jar.artifact == "kafka_2.13"} == {KAFKA_VERSION}


def test_kafka_is_set_as_the_embedded_one() -> None:
    text = embedded_kafka.CONFIGURATION.replace("{copies}", "1").replace("{in_sync}", "1")
    embedded = lines_of(text, "=")
    compared = {key: value for key, value in embedded.items() if key not in EMBEDDED_ONLY}
    assert compared
    assert {key: kafka_settings().get(key) for key in compared} == compared


def test_redis_is_set_as_the_embedded_one() -> None:
    configuration = embedded_redis.CONFIGURATION.replace("{fsync}", embedded_redis.USUAL_FSYNC)
    embedded = lines_of(configuration, " ")
    command = SERVICES["redis"]["command"][1:]
    given = {key.removeprefix("--"): value for key, value in zip(command[::2], command[1::2], strict=True)}
    assert given == {key: embedded[key] for key in ("appendonly", "appendfsync", "save", "maxmemory-policy")}


def test_mosquitto_is_set_as_the_embedded_one() -> None:
    place = {"listener", "persistence_location", "allow_anonymous"}
    given = lines_of((ROOT / "docker" / "mosquitto.conf").read_text(), " ")
    embedded = lines_of(embedded_mosquitto.CONFIGURATION, " ")
    assert given.items() - embedded.items() == {(key, given[key]) for key in place}
    assert embedded.keys() - given.keys() == set()
    [data, configuration] = SERVICES["mosquitto"]["volumes"]
    assert data == f"mosquitto:{given['persistence_location'].rstrip('/')}"
    assert configuration.startswith("./docker/mosquitto.conf:")


def test_bridge_and_mosquitto_start_only_when_asked_for_and_find_each_other() -> None:
    asked_for = {name for name, service in SERVICES.items() if service.get("profiles") == ["mqtt"]}
    assert asked_for == {"mosquitto", "mqtt"}
    assert SERVICES["mqtt"]["environment"]["TWIN_MQTT__HOST"] == "mosquitto"
    assert SERVICES["mosquitto"]["ports"] == [f"127.0.0.1:{load_settings().mqtt.port}:1883"]


def test_the_largest_record_of_the_topics_passes_broker_and_consumer() -> None:
    largest = int(read_topics(ROOT / "config" / "topics.yaml").settings["max.message.bytes"])
    assert int(kafka_settings()["message.max.bytes"]) >= largest
    assert load_settings().kafka.partition_fetch_max_bytes >= largest


@pytest.mark.parametrize("name", [*OURS, "topics"])
def test_settings_of_each_service_are_accepted_and_reach_its_neighbours(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for key, value in SERVICES[name]["environment"].items():
        monkeypatch.setenv(key, value)
    settings = load_settings()
    listeners = kafka_settings()["advertised.listeners"]
    assert f"INSIDE://{settings.kafka.bootstrap_servers}" in listeners
    assert settings.redis.url == "redis://redis:6379/0"


def test_ports_of_the_health_checks_are_those_of_the_settings() -> None:
    settings = load_settings()
    assert f":{settings.worker.metrics_port}/metrics" in SERVICES["worker"]["healthcheck"]["test"][-1]
    assert f":{settings.mqtt.metrics_port}/metrics" in SERVICES["mqtt"]["healthcheck"]["test"][-1]
    assert f":{settings.web.port}/readyz" in SERVICES["web"]["healthcheck"]["test"][-1]
    assert SERVICES["web"]["ports"] == [f"127.0.0.1:{settings.web.port}:{settings.web.port}"]


def test_every_image_is_pinned_and_every_lasting_service_has_a_health_check() -> None:
    for name, service in SERVICES.items():
        assert re.search(r":\d+\.\d+\.\d+", service["image"]), name
        assert "healthcheck" in service or service["restart"] == "no", name


def test_nothing_is_published_beyond_loopback() -> None:
    ports = [port for service in SERVICES.values() for port in service.get("ports", [])]
    assert ports
    assert all(port.startswith("127.0.0.1:") for port in ports)


def test_failures_are_restarted_but_not_exit_status_75() -> None:
    assert {SERVICES[name]["restart"] for name in OURS} == {"on-failure"}

    def ends_with(command: str) -> int:
        entrypoint = ROOT / "docker" / "entrypoint"
        return subprocess.run([entrypoint, "sh", "-c", command], check=False, capture_output=True).returncode

    assert ends_with("exit 0") == 0
    assert ends_with("exit 70") == 70
    assert ends_with("exit 75") == 0


def test_the_entrypoint_passes_sigterm_on_and_waits() -> None:
    entrypoint = ROOT / "docker" / "entrypoint"
    command = "trap 'sleep 0.3; exit 7' TERM; echo ready; while :; do sleep 0.1; done"
    with subprocess.Popen([entrypoint, "sh", "-c", command], stdout=subprocess.PIPE) as running:
        assert running.stdout is not None
        assert running.stdout.readline() == b"ready\n"
        running.terminate()
        assert running.wait(10) == 7


def test_a_second_sigterm_does_not_end_the_entrypoint_before_its_command() -> None:
    entrypoint = ROOT / "docker" / "entrypoint"
    command = "trap 'echo told; sleep 0.5; exit 7' TERM; echo ready; while :; do sleep 0.1; done"
    with subprocess.Popen([entrypoint, "sh", "-c", command], stdout=subprocess.PIPE) as running:
        assert running.stdout is not None
        assert running.stdout.readline() == b"ready\n"
        running.terminate()
        assert running.stdout.readline() == b"told\n"
        running.terminate()
        assert running.wait(10) == 7


def test_the_image_holds_what_the_dockerfile_copies() -> None:
    sources = re.findall(r"^COPY (\S+)", (ROOT / "docker" / "Dockerfile").read_text(), re.MULTILINE)
    allowed = {line.removeprefix("!") for line in (ROOT / ".dockerignore").read_text().splitlines()}
    for source in sources:
        assert (ROOT / Path(source)).exists(), source
        assert source in allowed
