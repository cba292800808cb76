"""A Redis Cluster on loopback: several masters, each with a share of the slots, and a replica of each if wanted."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from streams.embedded.ports import LOOPBACK, free_ports
from streams.embedded.redis import EmbeddedRedis
from streams.embedded.server import Cluster

SLOTS = 16_384


class EmbeddedRedisCluster(Cluster[EmbeddedRedis]):
    """Masters that share the slots.

    A key whose node is away cannot be had until that node is back, or its replica has taken over: some seconds later,
    and without the last writes, for Redis waits for no replica to have them.

    Args:
        directory: A folder for each node; made when missing, kept afterwards.
        masters: How many.
        replicas: Whether each has one.

    Attributes:
        masters: The nodes that get slots at first.
        replicas: By place, the replica of each; none when there are none.
    """

    def __init__(self, directory: Path, masters: int = 3, *, replicas: bool = False) -> None:
        count = 2 * masters if replicas else masters
        ports = free_ports(2 * count)
        self.nodes = tuple(
            EmbeddedRedis(directory / f"node-{number}", port, cluster_port=bus)
            for number, (port, bus) in enumerate(zip(ports[:count], ports[count:], strict=True), 1)
        )
        self.masters, self.replicas = self.nodes[:masters], self.nodes[masters:]

    @property
    def url(self) -> str:
        """Address of the first node, from which a client learns of the others."""
        return self.nodes[0].url

    def start(self) -> None:
        """Start every node that does not run; the first time, share the slots. Return when each node says `ok`.

        Raises:
            ProcessError: A node cannot be started, ends, or does not answer in time.
        """
        for node in self.nodes:
            node.start()
        clients = [_client(node) for node in self.masters]
        try:
            first = clients[0]
            new = int(first.cluster("INFO")["cluster_slots_assigned"]) == 0
            if new:
                self._share(clients)
            self.wait_whole()
            if new:
                self._replicate(clients)
        finally:
            for client in clients:
                client.close()

    def _share(self, clients: list[redis.Redis]) -> None:
        for number, client in enumerate(clients):
            begin, end = (place * SLOTS // len(clients) for place in (number, number + 1))
            client.cluster("SET-CONFIG-EPOCH", number + 1)
            client.cluster("ADDSLOTSRANGE", begin, end - 1)
        for node in self.nodes[1:]:
            clients[0].cluster("MEET", LOOPBACK, node.port, node.cluster_port)

    def _replicate(self, masters: list[redis.Redis]) -> None:
        for master, replica in zip(masters, self.replicas, strict=False):
            with _client(replica) as client:
                client.cluster("REPLICATE", master.cluster("MYID"))
            replica.process.wait_until(partial(_follows, replica), replica.READY_WITHIN_S, replica.POLL_S)

    def wait_whole(self) -> None:
        """Return when every node knows all the others and that each slot is served."""
        for node in self.nodes:
            node.process.wait_until(partial(self._whole, node), node.READY_WITHIN_S, node.POLL_S)

    def _whole(self, node: EmbeddedRedis) -> bool:
        with _client(node) as client:
            try:
                said = client.cluster("INFO")
            except redis.exceptions.RedisError:
                return False
        return said["cluster_state"] == "ok" and int(said["cluster_known_nodes"]) == len(self.nodes)

    def holder(self, key: str) -> EmbeddedRedis:
        """Give the master that got the slot of a key at first."""
        with _client(self.nodes[0]) as client:
            slot = int(client.cluster("KEYSLOT", key))
        return self.masters[
            next(n for n in range(len(self.masters)) if slot < (n + 1) * SLOTS // len(self.masters))
        ]


def _follows(replica: EmbeddedRedis) -> bool:
    """Whether a replica has what its master had, and hears what is written."""
    with _client(replica) as client:
        try:
            said = client.info("replication")
        except redis.exceptions.RedisError:
            return False
    return bool(said["role"] == "slave" and said["master_link_status"] == "up")


def _client(node: EmbeddedRedis) -> redis.Redis:
    return redis.Redis(
        host=LOOPBACK,
        port=node.port,
        socket_timeout=1.0,
        retry=Retry(NoBackoff(), retries=0),
        decode_responses=True,
    )
