"""Twins in a Redis Cluster: each partition on one node, nodes that go and come back."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from streams.adapters.redis_store import PartitionKeys
from streams.embedded import EmbeddedKafka, EmbeddedRedis, EmbeddedRedisCluster
from tests.integration.acceptance.invariants import require_invariants
from tests.integration.acceptance.records import disturbed
from tests.integration.acceptance.ward import PATIENCE_S, SmallWard, open_ward
from tests.integration.ward import wait_until

Record = Callable[[str, object], None]


@pytest.fixture
def sharded(kafka: EmbeddedKafka, redis_cluster: EmbeddedRedisCluster, tmp_path: Path) -> Iterator[SmallWard]:
    """Give a ward whose twins live in a cluster."""
    ward = open_ward(kafka.bootstrap, redis_cluster.url, tmp_path, cluster=True)
    yield ward
    ward.stop()


def holders(ward: SmallWard, cluster: EmbeddedRedisCluster) -> list[EmbeddedRedis]:
    """Give the node of each partition."""
    partitions = range(ward.topics.partitions)
    return [cluster.holder(PartitionKeys(ward.group, number).meta) for number in partitions]


@pytest.mark.row("5")
@pytest.mark.faults
def test_killed_node_of_a_redis_cluster_stops_its_partitions_alone_until_it_is_back(
    sharded: SmallWard, redis_cluster: EmbeddedRedisCluster, dice: random.Random, record_property: Record
) -> None:
    arrival = list(disturbed().arrival)
    homes = holders(sharded, redis_cluster)
    assert len(set(map(id, homes))) > 1, "all partitions on one node: nothing is shown"
    worker = sharded.start()
    sharded.tell(arrival[: len(arrival) // 2])
    wait_until(sharded.at_end, PATIENCE_S, "applied", [worker])
    victim = homes[dice.randrange(len(homes))]
    stands = [sharded.position(number) for number in range(sharded.topics.partitions)]
    victim.kill()
    # What the test asks goes by a node that is there; the worker has only been told of the first one.
    sharded.redis_url = next(node.url for node in redis_cluster.nodes if node is not victim)
    sharded.tell(arrival[len(arrival) // 2 :])
    elsewhere = [number for number, node in enumerate(homes) if node is not victim]
    wait_until(
        lambda: all(sharded.position(number) == sharded.end(number) for number in elsewhere),
        PATIENCE_S,
        "applied elsewhere",
        [worker],
    )
    victim.start()
    redis_cluster.wait_whole()
    record_property("back_s", round(sharded.reach(sum(stands) + len(arrival) // 2), 2))
    require_invariants(sharded)
    assert "worker ends" not in worker.log.read_text()


@pytest.mark.row("5")
@pytest.mark.long
def test_worker_started_while_the_node_it_knows_is_away_waits_for_it(
    sharded: SmallWard, redis_cluster: EmbeddedRedisCluster, dice: random.Random
) -> None:
    redis_cluster.nodes[0].kill()
    worker = sharded.start()
    wait_until(lambda: "waiting for Redis" in worker.tail(), PATIENCE_S, "waiting", [worker])
    sharded.tell(list(disturbed().arrival)[:20])
    redis_cluster.start()
    require_invariants(sharded)
