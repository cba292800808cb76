"""Rows of the fault matrix about Kafka: nodes of a cluster that go, and a bad network between it and a worker."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from streams.demo.plan import DemoRecord
from streams.embedded import EmbeddedKafka, EmbeddedKafkaCluster, EmbeddedRedis
from streams.embedded.ports import LOOPBACK, free_ports
from streams.embedded.processes import Process
from tests.integration import given
from tests.integration.acceptance.invariants import require_acknowledged, require_invariants
from tests.integration.acceptance.records import disturbed
from tests.integration.acceptance.ward import PATIENCE_S, SmallWard, open_ward
from tests.integration.proxy import TROUBLES, Proxy, trouble_on
from tests.integration.ward import wait_until

Record = Callable[[str, object], None]
THIRD = len(disturbed().arrival) // 3
# A worker is given up after 6 s of silence (tests/integration/ward.py).
BEYOND_THE_SESSION_S = 9.0
TERMINATED = 143  # how a Java process ends that SIGTERM has ended in order


@pytest.fixture
def clustered(
    kafka_cluster: EmbeddedKafkaCluster, redis_server: EmbeddedRedis, tmp_path: Path
) -> Iterator[SmallWard]:
    """Give a ward with its topics on three nodes."""
    ward = open_ward(kafka_cluster.bootstrap, redis_server.url, tmp_path, copies=kafka_cluster.copies)
    kafka_cluster.wait_in_sync()
    yield ward
    ward.stop()


def thirds() -> list[list[DemoRecord]]:
    """Cut the disturbed delivery in three."""
    arrival = list(disturbed().arrival)
    return [arrival[:THIRD], arrival[THIRD : 2 * THIRD], arrival[2 * THIRD :]]


@pytest.mark.row("4")
@pytest.mark.faults
def test_cluster_whose_leaders_are_killed_loses_no_acknowledged_record(
    clustered: SmallWard, kafka_cluster: EmbeddedKafkaCluster, dice: random.Random, record_property: Record
) -> None:
    worker = clustered.start()
    first, *others = thirds()
    clustered.tell(first)
    clustered.reach(clustered.sent)
    failovers = []
    for records in others:
        telling = clustered.telling(records)
        time.sleep(dice.uniform(0.0, 0.3))
        leader = kafka_cluster.leader(clustered.topics.names.records, dice.randrange(4))
        leader.kill()
        began = time.monotonic()
        telling.done()
        clustered.reach(clustered.sent)  # by the two nodes that are left
        failovers.append(round(time.monotonic() - began, 2))
        leader.start()
        kafka_cluster.wait_in_sync()
    record_property("failover_s", failovers)
    require_invariants(clustered)
    require_acknowledged(clustered, disturbed().arrival)
    assert worker.log.read_text().count("worker ends") == 0


@pytest.mark.row("4")
@pytest.mark.long
def test_cluster_whose_nodes_are_restarted_in_order_one_by_one_goes_on_all_the_time(
    clustered: SmallWard, kafka_cluster: EmbeddedKafkaCluster, dice: random.Random, record_property: Record
) -> None:
    worker = clustered.start()
    failovers = []
    for node, records in zip(kafka_cluster.nodes, thirds(), strict=True):
        telling = clustered.telling(records)
        time.sleep(dice.uniform(0.0, 0.3))
        began = time.monotonic()
        node.stop()
        assert node.process.exit_status == TERMINATED, node.process.tail()
        telling.done()
        clustered.reach(clustered.sent)
        failovers.append(round(time.monotonic() - began, 2))
        node.start()
        kafka_cluster.wait_in_sync()
    record_property("failover_s", failovers)
    require_invariants(clustered)
    require_acknowledged(clustered, disturbed().arrival)
    assert worker.log.read_text().count("worker ends") == 0


class Distant(NamedTuple):
    """A ward, and the proxy by which a worker may reach its Kafka."""

    ward: SmallWard
    proxy: Proxy

    def start(self, instance: str = "far") -> Process:
        """Start a worker on the other side of the proxy."""
        return self.ward.start(instance, KAFKA_BOOTSTRAP_SERVERS=f"{LOOPBACK}:{self.proxy.port}")


@pytest.fixture(scope="module")
def proxied_kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[EmbeddedKafka, int]]:
    """Start a Kafka that tells those who come by a proxy that it lives at that proxy's port."""
    given.skip_if_kafka_is_given()
    port = free_ports(1)[0]
    server = EmbeddedKafka(tmp_path_factory.mktemp("proxied"), proxy_port=port)
    try:
        server.start()
        yield server, port
    finally:
        server.kill()


@pytest.fixture
def distant(
    proxied_kafka: tuple[EmbeddedKafka, int], redis_server: EmbeddedRedis, tmp_path: Path
) -> Iterator[Distant]:
    """Give a ward whose workers may be parted from Kafka."""
    server, port = proxied_kafka
    ward = open_ward(server.bootstrap, redis_server.url, tmp_path)
    try:
        with Proxy(server.behind_proxy_port, port) as proxy:
            yield Distant(ward, proxy)
    finally:
        ward.stop()


@pytest.mark.row("8")
@pytest.mark.faults
def test_worker_cut_off_from_kafka_beyond_its_session_is_replaced_and_does_no_harm_when_it_is_back(
    distant: Distant, dice: random.Random, record_property: Record
) -> None:
    ward, (first, second, third) = distant.ward, thirds()
    far = distant.start()
    near = ward.start("near")
    wait_until(lambda: all('"acquired"' in w.log.read_text() for w in (far, near)), PATIENCE_S, "shared")
    telling = ward.telling(first)
    time.sleep(dice.uniform(0.0, 0.5))
    distant.proxy.cut("requests", "replies")
    began = time.monotonic()
    telling.done()
    ward.tell(second)
    ward.reach(ward.sent)
    record_property("taken_over_s", round(time.monotonic() - began, 2))
    distant.proxy.heal()
    ward.tell(third)
    require_invariants(ward)
    assert near.log.read_text().count('"acquired"') >= ward.topics.partitions
    assert "worker ends" not in far.log.read_text() + near.log.read_text()


@pytest.mark.row("8")
@pytest.mark.long
@pytest.mark.parametrize("directions", [("requests", "replies"), ("requests",), ("replies",)], ids="+".join)
def test_only_worker_cut_off_from_kafka_goes_on_when_the_network_is_back(
    distant: Distant, directions: tuple[str, ...], dice: random.Random, record_property: Record
) -> None:
    ward, (first, second, third) = distant.ward, thirds()
    worker = distant.start()
    telling = ward.telling(first)
    ward.reach(dice.randrange(1, THIRD - telling.AHEAD))
    distant.proxy.cut(*directions)
    time.sleep(BEYOND_THE_SESSION_S)
    stands = ward.positions()
    ward.tell(second)
    time.sleep(1.0)
    assert ward.positions() == stands, "it reads through a network that is cut"
    distant.proxy.heal()
    record_property("back_s", round(ward.reach(stands + 1), 2))
    telling.done()
    ward.tell(third)
    require_invariants(ward)
    assert "worker ends" not in worker.log.read_text()


@pytest.mark.row("9")
@pytest.mark.long
def test_bad_connections_to_kafka_lose_and_double_nothing(distant: Distant, dice: random.Random) -> None:
    worker = distant.start()
    arrival = disturbed().arrival
    share = -(-len(arrival) // len(TROUBLES))
    for number, trouble in enumerate(TROUBLES):
        telling = distant.ward.telling(arrival[number * share : (number + 1) * share])
        trouble_on(distant.proxy, trouble, dice)
        telling.done()
    require_invariants(distant.ward)
    assert "worker ends" not in worker.log.read_text()
