"""The process of `twin mqtt`: a bridge, its metrics, and how it ends."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator

import structlog
from prometheus_client import CollectorRegistry, Metric, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from streams.adapters.mqtt_bridge import LostRecordError, MqttBridge, MqttError, TakenOverError, Where
from streams.adapters.topics import read_topics
from streams.settings import MqttSettings, Settings

# As a worker ends: docs/architecture.md.
START_AGAIN = 70
ANOTHER_HAS_OUR_NAME = 75


class BridgeCollector(Collector):
    """Reads a bridge at each scrape. No label names a topic, a device or a patient."""

    def __init__(self, bridge: MqttBridge) -> None:
        self._bridge = bridge

    def collect(self) -> Iterator[Metric]:
        """Give the figures."""
        figures = self._bridge.figures
        yield GaugeMetricFamily("twin_mqtt_connected", "1 while the broker is there", value=figures.connected)
        yield GaugeMetricFamily(
            "twin_mqtt_waiting_messages", "Received, and not yet acknowledged", value=self._bridge.waiting
        )
        yield GaugeMetricFamily(
            "twin_mqtt_oldest_waiting_seconds",
            "For how long the oldest of them has waited",
            value=self._bridge.oldest_s,
        )
        for name, told, value in (
            ("connections", "Connections made", figures.connections),
            ("received", "Messages received, those sent again included", figures.received),
            ("acknowledged", "Messages that Kafka holds", figures.acknowledged),
            ("without_guarantee", "Messages sent with QoS 0", figures.without_guarantee),
            ("unnamed", "Messages whose patient could not be read: dead letters", figures.unnamed),
        ):
            yield CounterMetricFamily(f"twin_mqtt_{name}", f"{told}, since the start", value=value)


def run_bridge(settings: Settings) -> int:
    """Bridge until SIGTERM or SIGINT, then finish what is on its way.

    Args:
        settings: Of the service.

    Returns:
        Exit status: 0 when asked to stop, 70 when Kafka took a record not in time (start it again), 75 when another
        bridge has our client id.

    Raises:
        MqttError: A setting, or what the broker says to it, does not fit.
    """
    _configure_logging()
    log = structlog.get_logger()
    topic = read_topics(settings.paths.topics).names.records
    bridge = MqttBridge(broker(settings.mqtt), settings.kafka.connection(), topic)
    _serve_metrics(settings.mqtt, bridge)
    stopped = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopped.set())
    try:
        bridge.run(stopped)
    except (LostRecordError, TakenOverError) as error:
        log.error("mqtt bridge ends", why=str(error))
        return ANOTHER_HAS_OUR_NAME if isinstance(error, TakenOverError) else START_AGAIN
    log.info("mqtt bridge ends", why="asked to stop", acknowledged=bridge.figures.acknowledged)
    return 0


def broker(settings: MqttSettings) -> Where:
    """Where the settings say the broker is.

    Raises:
        MqttError: A certificate cannot be read.
    """
    try:
        tls = settings.tls_context() if settings.tls else None
    except OSError as error:
        raise MqttError(f"mqtt.tls_...: {error.filename or 'a file'}: {error.strerror or error}") from error
    return Where(
        host=settings.host,
        port=settings.port,
        topic=settings.topic,
        client_id=settings.client_id,
        username=settings.username,
        password=None if settings.password is None else settings.password.get_secret_value(),
        tls=tls,
        session_expiry_s=round(settings.session_expiry_hours * 3600.0),
        most_waiting=settings.waiting_max_messages,
        keepalive_s=settings.keepalive_seconds,
        longest_backoff_s=settings.reconnect_max_seconds,
    )


def _serve_metrics(settings: MqttSettings, bridge: MqttBridge) -> None:
    if settings.metrics_port == 0:
        return
    registry = CollectorRegistry()
    registry.register(BridgeCollector(bridge))
    try:
        start_http_server(settings.metrics_port, addr=settings.metrics_host, registry=registry)
    except OSError as error:
        raise MqttError(
            f"metrics cannot be served on {settings.metrics_host}:{settings.metrics_port}: {error.strerror or error}; "
            "set TWIN_MQTT__METRICS_PORT to a free port, 0 for none"
        ) from error


def _configure_logging() -> None:
    """One JSON line an event on standard error."""
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.JSONRenderer(),
        ],
        logger_factory=structlog.WriteLoggerFactory(file=sys.stderr),
    )
