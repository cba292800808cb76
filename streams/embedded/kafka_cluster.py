"""Several Apache Kafka nodes on loopback that hold copies of each other's partitions."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from streams.embedded.kafka import EmbeddedKafka, Quorum
from streams.embedded.ports import free_ports
from streams.embedded.server import Cluster


class EmbeddedKafkaCluster(Cluster[EmbeddedKafka]):
    """Nodes that are broker and controller at once; three of them keep working while one is away.

    Args:
        directory: A folder for each node; made when missing, kept afterwards.
        nodes: How many; an odd number, as a majority must be there.
        heap_mb: Java heap of each node in MB.
    """

    def __init__(self, directory: Path, nodes: int = 3, heap_mb: int = 256) -> None:
        ports = free_ports(2 * nodes)
        self._quorum = Quorum(tuple(ports[nodes:]))
        self.nodes = tuple(
            EmbeddedKafka(
                directory / f"node-{number}", ports[number - 1], heap_mb, quorum=self._quorum, node=number
            )
            for number in range(1, nodes + 1)
        )

    @property
    def bootstrap(self) -> str:
        """Address for clients, `host:port` of each node."""
        return ",".join(node.bootstrap for node in self.nodes)

    @property
    def copies(self) -> int:
        """Copies of each partition: the replication factor its topics should have."""
        return self._quorum.copies

    def start(self) -> None:
        """Start every node that does not run, and return when each has its copies up to date.

        Raises:
            JarError: A jar cannot be fetched or is not the one of the lock.
            ProcessError: A node ends, or is not ready in time; the text shows the end of its log.
        """
        for node in self.nodes:
            node.launch()
        self.wait_in_sync()

    def wait_in_sync(self) -> None:
        """Return when every copy of every partition is up to date: from then on any one node may go."""
        for node in self.nodes:
            node.wait_ready()
            node.process.wait_until(partial(self._in_sync, node), node.READY_WITHIN_S, node.POLL_S)

    def _in_sync(self, node: EmbeddedKafka) -> bool:
        admin = AdminClient({"bootstrap.servers": node.bootstrap, "log_level": 0})
        try:
            cluster = admin.list_topics(timeout=1.0)
        except KafkaException:
            return False
        parts = [part for topic in cluster.topics.values() for part in topic.partitions.values()]
        return len(cluster.brokers) == len(self.nodes) and all(
            set(part.isrs) == set(part.replicas) for part in parts
        )

    def leader(self, topic: str, partition: int) -> EmbeddedKafka:
        """Give the node that leads a partition, as the first node that answers says.

        Raises:
            LookupError: The partition has no leader now, or nobody answers.
        """
        for node in self.nodes:
            admin = AdminClient({"bootstrap.servers": node.bootstrap, "log_level": 0})
            try:
                found = admin.list_topics(topic, timeout=2.0).topics[topic].partitions[partition].leader
            except (KafkaException, KeyError):
                continue
            if found > 0:
                return self.nodes[found - 1]
        raise LookupError(f"{topic}, partition {partition}: no node of the cluster says who leads it")
