"""Rows of the fault matrix about the way between a worker and Redis: what is held back there, and comes late."""

from __future__ import annotations

import random
import time
from collections.abc import Callable

import pytest
import redis

from streams.adapters.redis_store import ACQUIRE, PartitionKeys
from streams.embedded import EmbeddedRedis
from tests.integration.acceptance.invariants import require_invariants
from tests.integration.acceptance.records import disturbed
from tests.integration.acceptance.ward import PATIENCE_S, SmallWard, Telling
from tests.integration.proxy import Proxy
from tests.integration.ward import wait_until

Record = Callable[[str, object], None]
THIRD = len(disturbed().arrival) // 3
SESSION_S = 6.0  # tests/integration/ward.py


@pytest.mark.row("3")
@pytest.mark.long
@pytest.mark.timeout(300)
def test_acquire_of_a_worker_that_was_replaced_meanwhile_reaches_redis_late_and_takes_nothing(
    fragile: tuple[SmallWard, EmbeddedRedis], dice: random.Random, record_property: Record
) -> None:
    ward, store = fragile
    arrival, partitions = list(disturbed().arrival), range(ward.topics.partitions)
    acquire = ACQUIRE.digest.encode()
    with Proxy(store.port) as proxy, redis.Redis.from_url(store.url) as client:
        zombie = ward.start("zombie", REDIS_URL=f"redis://127.0.0.1:{proxy.port}/0")
        ward.tell(arrival[:THIRD])
        ward.reach(ward.sent)
        # A second worker comes: the first is to acquire anew what it keeps, and these words do not arrive.
        proxy.hold(acquire)
        other = ward.start("other")
        wait_until(lambda: proxy.held > 0, PATIENCE_S, "acquiring", ward.workers)
        zombie.pause()
        ward.tell(arrival[THIRD : 2 * THIRD])
        ward.reach(ward.sent)  # by the other one alone, after the session of the first
        epochs = [client.hget(PartitionKeys(ward.group, number).meta, "epoch") for number in partitions]
        client.config_set("slowlog-max-len", 100_000)
        client.config_set("slowlog-log-slower-than", 0)
        proxy.heal()

        def arrived() -> bool:
            heard = [entry["command"] for entry in client.slowlog_get(100_000)]
            return any(acquire in command and b"zombie" in command for command in heard)

        wait_until(arrived, PATIENCE_S, "arrived late", ward.workers)
        client.config_set("slowlog-log-slower-than", -1)
        assert epochs == [
            client.hget(PartitionKeys(ward.group, number).meta, "epoch") for number in partitions
        ]
        began = time.monotonic()
        zombie.resume()
        ward.tell(arrival[2 * THIRD :])
        ward.reach(2 * THIRD + 1)
        back_s = round(time.monotonic() - began, 2)
        record_property("back_s", back_s)
        require_invariants(ward)
    assert back_s < 2 * SESSION_S
    assert "worker ends" not in zombie.log.read_text() + other.log.read_text()


@pytest.mark.row("8")
@pytest.mark.long
@pytest.mark.timeout(300)
def test_worker_cut_off_from_redis_in_either_direction_goes_on_when_the_network_is_back(
    fragile: tuple[SmallWard, EmbeddedRedis], dice: random.Random, record_property: Record
) -> None:
    ward, store = fragile
    arrival = list(disturbed().arrival)
    found = []
    with Proxy(store.port) as proxy:
        worker = ward.start(
            REDIS_URL=f"redis://127.0.0.1:{proxy.port}/0", TWIN_REDIS__ANSWER_TIMEOUT_SECONDS="1"
        )
        for number, directions in enumerate((("requests", "replies"), ("requests",), ("replies",))):
            telling = ward.telling(arrival[number * THIRD : (number + 1) * THIRD])
            ward.reach(number * THIRD + dice.randrange(1, THIRD - Telling.AHEAD))
            proxy.cut(*directions)
            time.sleep(SESSION_S + 1.0)
            stands = ward.positions()
            proxy.heal()
            found.append(round(ward.reach(stands + 1), 2))
            telling.done()
        ward.tell(arrival[3 * THIRD :])
        record_property("back_s", found)
        require_invariants(ward)
    assert worker.log.read_text().count('"assigned"') == 1, "a rebalance"
    assert "worker ends" not in worker.log.read_text()
