"""A Redis Cluster on loopback: several masters without replicas, each with a share of the slots."""

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
    """Masters that share the slots. A key whose node is away cannot be had until that node is back.

    Args:
        directory: A folder for each node; made when missing, kept afterwards.
        nodes: How many.
    """

    def __init__(self, directory: Path, nodes: int = 3) -> None:
        ports = free_ports(2 * nodes)
        self.nodes = tuple(
            EmbeddedRedis(directory / f"node-{number}", port, cluster_port=bus)
            for number, (port, bus) in enumerate(zip(ports[:nodes], ports[nodes:], strict=True), 1)
        )

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
        clients = [_client(node) for node in self.nodes]
        try:
            first = clients[0]
            if int(first.cluster("INFO")["cluster_slots_assigned"]) == 0:
                self._share(clients)
        finally:
            for client in clients:
                client.close()
        self.wait_whole()

    def _share(self, clients: list[redis.Redis]) -> None:
        for number, client in enumerate(clients):
            begin, end = (place * SLOTS // len(clients) for place in (number, number + 1))
            client.cluster("SET-CONFIG-EPOCH", number + 1)
            client.cluster("ADDSLOTSRANGE", begin, end - 1)
        for node in self.nodes[1:]:
            clients[0].cluster("MEET", LOOPBACK, node.port, node.cluster_port)

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
        """Give the node that has the slot of a key."""
        with _client(self.nodes[0]) as client:
            slot = int(client.cluster("KEYSLOT", key))
        return self.nodes[
            next(n for n in range(len(self.nodes)) if slot < (n + 1) * SLOTS // len(self.nodes))
        ]


def _client(node: EmbeddedRedis) -> redis.Redis:
    return redis.Redis(
        host=LOOPBACK,
        port=node.port,
        socket_timeout=1.0,
        retry=Retry(NoBackoff(), retries=0),
        decode_responses=True,
    )
