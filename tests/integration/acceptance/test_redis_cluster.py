"""Twins in a Redis Cluster: each partition on one node, nodes that go and come back."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis

from streams.adapters.redis_store import PartitionKeys
from streams.embedded import EmbeddedKafka, EmbeddedRedis, EmbeddedRedisCluster
from tests.integration import given
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


@pytest.mark.row("6")
@pytest.mark.faults
@pytest.mark.timeout(400)
def test_replica_that_takes_over_without_the_last_writes_is_healed_by_reading_again(
    kafka: EmbeddedKafka, tmp_path: Path, dice: random.Random, record_property: Record
) -> None:
    given.skip_if_redis_is_given()
    cluster = EmbeddedRedisCluster(tmp_path / "redis-cluster", replicas=True)
    try:
        cluster.start()
        ward = open_ward(kafka.bootstrap, cluster.url, tmp_path, cluster=True)
        try:
            fail_over(ward, cluster, dice, record_property)
        finally:
            ward.stop()
    finally:
        cluster.kill()


def fail_over(
    ward: SmallWard, cluster: EmbeddedRedisCluster, dice: random.Random, record_property: Record
) -> None:
    """Let a replica miss the newest writes of its master, and the master die with them."""
    arrival = list(disturbed().arrival)
    third = len(arrival) // 3
    homes = holders(ward, cluster)
    worker = ward.start()
    ward.tell(arrival[:third])
    wait_until(ward.at_end, PATIENCE_S, "applied", [worker])
    victim = homes[dice.randrange(len(homes))]
    replica = cluster.replicas[cluster.masters.index(victim)]
    lost = [number for number, node in enumerate(homes) if node is victim]
    kept = sum(ward.position(number) for number in lost)
    replica.pause()
    with redis.Redis.from_url(victim.url) as client:
        client.execute_command(
            "CLIENT", "KILL", "TYPE", "replica"
        )  # else its socket holds what it has not read
    ward.tell(arrival[third : 2 * third])
    wait_until(ward.at_end, PATIENCE_S, "applied by the masters", [worker])
    assert sum(ward.position(number) for number in lost) > kept, "nothing was written that the replica missed"
    victim.kill()
    # What the test asks goes by a node that is there.
    ward.redis_url = next(node.url for node in cluster.masters if node is not victim)
    replica.resume()
    with redis.Redis.from_url(replica.url) as client:
        took_over = wait_until(
            lambda: client.info("replication")["role"] == "master", PATIENCE_S, "taken over", [worker]
        )
    # No record follows at first: the worker finds out by itself that the twins are older.
    healed = wait_until(ward.at_end, PATIENCE_S, "healed", [worker])
    record_property("seconds", {"taken over": round(took_over, 1), "healed": round(healed, 1)})
    log = worker.log.read_text()
    assert "store stands elsewhere" in log or '"fenced"' in log
    ward.tell(arrival[2 * third :])
    require_invariants(ward)


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
