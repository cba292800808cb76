"""Rows of the fault matrix about load: one patient of whom very many records come, and a lag that surges."""

from __future__ import annotations

import os
import random
import re
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import redis

from streams.adapters.redis_store import PartitionKeys
from streams.codec import partition_of
from streams.embedded import EmbeddedKafka, EmbeddedRedis
from streams.embedded.processes import Process
from streams.simulation.wire import DemoRecord
from tests.integration.acceptance.crowd import HOT, hot_patient, surge
from tests.integration.acceptance.invariants import require_invariants
from tests.integration.acceptance.records import disturbed
from tests.integration.acceptance.test_recovery import BUSY
from tests.integration.acceptance.ward import PATIENCE_S, OpenWard, SmallWard, open_ward
from tests.integration.ward import wait_until

Record = Callable[[str, object], None]
HOT_FRAMES = 1_200
# Records of the other partitions, one after the other, beside a flood that lasts longer than they do.
PACED, WARMS_UP, PACE_S, FLOOD_FRAMES = 90, 30, 0.02, 5_000
# One process folds all partitions: a batch of the hot one may be under way when another has something to do.
TURN_S = 0.5
PATIENTS, HOURS = 20, 200  # 97 MB of frames
AWAY_S = 10.0
# So much more memory a worker may need at its peak when its lag is ten times as long: a third of that lag.
SURGE_COSTS_MB = 32.0


@pytest.mark.row("16")
@pytest.mark.faults
def test_patient_of_whom_very_many_records_come_holds_up_no_other_partition(
    wards: OpenWard, dice: random.Random, record_property: Record
) -> None:
    ward = wards()
    flood, others = hot_patient(HOT_FRAMES), list(disturbed().arrival)
    ward.tell(flood)
    ward.tell(others[: len(others) // 2])
    worker = ward.start()
    ward.tell(others[len(others) // 2 :])
    hot = partition_of(HOT.encode(), ward.topics.partitions)
    quiet = [number for number in range(ward.topics.partitions) if number != hot]
    wait_until(
        lambda: all(ward.position(number) == ward.end(number) for number in quiet),
        PATIENCE_S,
        "quiet",
        [worker],
    )
    behind = ward.end(hot) - ward.position(hot)
    record_property("hot_lag_when_others_are_done", behind)
    assert behind > 0, "the patient was not hot enough to show anything"
    outcome = require_invariants(ward)
    assert outcome.counts["records"] == len(flood) + len(others)


@pytest.mark.row("16")
@pytest.mark.long
@pytest.mark.alone
@pytest.mark.timeout(400)
def test_patient_of_whom_very_many_records_come_delays_those_of_other_partitions_by_little(
    wards: OpenWard, dice: random.Random, record_property: Record
) -> None:
    hot = partition_of(HOT.encode(), 4)
    others = [one for one in disturbed().arrival if partition_of(one.patient.encode(), 4) != hot][:PACED]
    alone = p99_beside(wards(), [], hot, others)
    beside = p99_beside(wards(), hot_patient(FLOOD_FRAMES), hot, others)
    record_property("p99_s", {"alone": alone, "beside a hot patient": beside})
    waiting = os.getloadavg()[0] / (os.cpu_count() or 1)
    if beside > most_s(alone) and waiting > BUSY:
        pytest.skip(
            f"{waiting:.0f} processes want each core: {alone} s alone, {beside} s beside a hot patient"
        )
    assert beside <= most_s(alone)


def most_s(alone: float) -> float:
    """What a record may wait beside a hot patient: twice as long, and the turns that one worker takes of its own."""
    return 2.0 * alone + TURN_S


def p99_beside(ward: SmallWard, flood: list[DemoRecord], hot: int, others: list[DemoRecord]) -> float:
    """Send records of the quiet partitions one by one while a flood waits; how long 99 of 100 waited at most, s."""
    worker = ward.start()
    ward.tell(others[:WARMS_UP])  # the first fits of a process load what was compiled
    wait_until(ward.at_end, PATIENCE_S, "warm", [worker])
    quiet = [number for number in range(ward.topics.partitions) if number != hot]
    begins = {number: ward.end(number) for number in quiet}
    ward.tell(flood)
    for record in others[WARMS_UP:]:
        ward.tell([record])
        time.sleep(PACE_S)
    wait_until(
        lambda: all(ward.position(number) == ward.end(number) for number in quiet),
        PATIENCE_S,
        "quiet",
        [worker],
    )
    behind = ward.end(hot) - ward.position(hot)
    assert not flood or behind > 0, "the patient was not hot enough to show anything"
    waited = sorted(one for number in quiet for one in waits_s(ward, number, begins[number]))
    assert len(waited) == len(others) - WARMS_UP
    worker.stop(30)
    return waited[int(0.99 * len(waited))]


def waits_s(ward: SmallWard, partition: int, begin: int) -> list[float]:
    """From Kafka's stamp on each record from an offset on to Redis's on its batch, by one machine's clock."""
    stamps = {one.offset(): one.timestamp()[1] for one in ward.read(ward.topics.names.records, partition)}
    with redis.Redis.from_url(ward.redis_url) as client:
        batches = client.xrange(PartitionKeys(ward.group, partition).audit)
    return [
        (int(identifier.split(b"-")[0]) - stamps[offset]) / 1000.0
        for identifier, fields in batches
        for offset in range(max(begin, int(fields[b"begin"])), int(fields[b"end"]))
    ]


@pytest.mark.row("18")
@pytest.mark.long
@pytest.mark.alone
def test_lag_ten_times_as_long_is_worked_off_in_the_same_memory_though_redis_is_away_meanwhile(
    wards: OpenWard,
    kafka: EmbeddedKafka,
    private_redis: EmbeddedRedis,
    tmp_path: Path,
    dice: random.Random,
    record_property: Record,
) -> None:
    records = list(surge(PATIENTS, HOURS, dice))
    paced = wards()
    worker = paced.start()
    tenth = -(-len(records) // 10)
    for begin in range(0, len(records), tenth):
        paced.tell(records[begin : begin + tenth])
        paced.reach(paced.sent)
    wait_until(paced.at_end, PATIENCE_S, "worked off", [worker])
    usual, expected = peak_memory_mb(worker), paced.finish()
    # The same log once more, by a worker that finds all of it waiting and can write nothing for a while.
    surged = open_ward(kafka.bootstrap, private_redis.url, tmp_path, listens_to=paced)
    try:
        worker = surged.start()
        surged.reach(1)
        began = time.monotonic()
        private_redis.pause()
        time.sleep(AWAY_S)
        private_redis.resume()
        wait_until(surged.at_end, PATIENCE_S, "worked off", [worker])
        took = time.monotonic() - began - AWAY_S
        record_property("drain", {"records": len(records), "seconds": round(took, 1)})
        peak, outcome = peak_memory_mb(worker), require_invariants(surged)
    finally:
        surged.stop()
    record_property("peak_memory_mb", {"lag of a tenth": usual, "lag of all": peak})
    assert outcome.twins == expected.twins
    assert peak - usual < SURGE_COSTS_MB, (usual, peak)


def peak_memory_mb(worker: Process) -> float:
    """Largest resident set of a running process so far (VmHWM), MB."""
    found = re.search(r"^VmHWM:\s+(\d+) kB$", Path(f"/proc/{worker.pid}/status").read_text(), re.MULTILINE)
    assert found is not None
    return round(int(found.group(1)) / 1024, 1)
