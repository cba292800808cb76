"""Workers that are ended at any moment of their lives, several at a time, while records come."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import pytest

from streams.demo.plan import DemoRecord
from streams.embedded.processes import Process
from tests.integration.acceptance.counted import BATCH_S, DIRECTORY, read_stints
from tests.integration.acceptance.invariants import audits, require_invariants
from tests.integration.acceptance.records import disturbed
from tests.integration.acceptance.ward import PATIENCE_S, OpenWard, SmallWard
from tests.integration.ward import wait_until

Record = Callable[[str, object], None]
LEAVES_WITHIN_S = 5.0
APPLIES_WITHIN_S = 15.0
TERMINATED = -15  # SIGTERM before Python runs a line of ours: nothing was held, nothing is left behind
# So small that a partition makes many; each takes `counted.BATCH_S` at least.
RECORDS_A_BATCH = 5
# Told again with each new share, as a load: duplicates for the twins, work for the workers.
AGAIN = 10


class Moment(NamedTuple):
    """When a worker is ended.

    Attributes:
        when: "starting", after a share of the time a start takes; "acquired", so long after it, s; or "applying", once
            it began with so many batches, and so has applied all but the last.
        after: That share, time or number.
    """

    when: str
    after: float


class End(NamedTuple):
    """How a worker ended.

    Attributes:
        at: What it was at: "loading" before it listened to signals, "joining" until it had a partition, "working".
        status: Exit status.
        seconds: From the signal to the end.
    """

    at: str
    status: int | None
    seconds: float


class Load:
    """Tells the records share by share, each in its turn, and many of the earlier ones again."""

    def __init__(self, ward: SmallWard, dice: random.Random, shares: int) -> None:
        arrival = disturbed().arrival
        self._cuts = [number * len(arrival) // shares for number in range(shares + 1)]
        self._ward = ward
        self._dice = dice
        self._turn = threading.Lock()

    def go_on(self) -> None:
        """Tell the next share; nothing after the last."""
        with self._turn:
            if len(self._cuts) > 1:
                begin, end = self._cuts.pop(0), self._cuts[0]
                self._ward.tell(disturbed().arrival[begin:end])
        self.more()

    def more(self) -> None:
        """Tell some of the earlier ones again."""
        with self._turn:
            told: Sequence[DemoRecord] = disturbed().arrival[: self._cuts[0]]
            self._ward.tell(self._dice.sample(told, min(AGAIN, len(told))))


@pytest.mark.row("28")
@pytest.mark.alone
@pytest.mark.timeout(600)
def test_workers_ended_by_sigterm_at_any_moment_leave_in_order_and_compute_one_batch_twice_at_most(
    wards: OpenWard, dice: random.Random, thorough: bool, tmp_path: Path, record_property: Record
) -> None:
    times, together = (200, 4) if thorough else (10, 2)
    ward, computed = wards(), tmp_path / "computed"
    computed.mkdir()
    ends = rolled(ward, computed, Load(ward, dice, times), moments(dice, times), together, asked)
    applied = ward.positions()
    assert applied > times // 5, "no worker came to apply anything"
    record_property("applied meanwhile", applied)
    record_property("ended", dict(Counter(end.at for end in ends)))
    record_property("longest_s", round(max(end.seconds for end in ends), 2))
    require_invariants(ward)
    for end in ends:
        assert end.status == 0 or (end.at, end.status) == ("loading", TERMINATED), end
        assert end.seconds < LEAVES_WITHIN_S, end
    record_property("batches", twice_computed(ward, computed))


@pytest.mark.row("1")
@pytest.mark.long
@pytest.mark.timeout(600)
def test_workers_killed_at_any_moment_compute_one_batch_twice_at_most(
    wards: OpenWard, dice: random.Random, tmp_path: Path, record_property: Record
) -> None:
    times, together = 24, 4
    ward, computed = wards(), tmp_path / "computed"
    computed.mkdir()
    ends = rolled(ward, computed, Load(ward, dice, times), moments(dice, times), together, Process.kill)
    record_property("killed", dict(Counter(end.at for end in ends)))
    require_invariants(ward)
    assert {end.status for end in ends} == {-9}
    record_property("batches", twice_computed(ward, computed))


def asked(worker: Process) -> None:
    """Send SIGTERM, and wait longer than the test will have it."""
    worker.stop(30)


def moments(dice: random.Random, times: int) -> list[Moment]:
    """Draw when workers are ended."""
    drawn = []
    for number in range(times):
        if number % 5 < 2:
            drawn.append(Moment("starting", dice.uniform(0.3, 1.1)))
        elif number % 5 < 4:
            drawn.append(Moment("acquired", dice.uniform(0.0, 0.8)))
        else:
            drawn.append(Moment("applying", dice.randint(2, 4)))
    dice.shuffle(drawn)
    return drawn


def rolled(
    ward: SmallWard,
    computed: Path,
    load: Load,
    when: Sequence[Moment],
    together: int,
    how: Callable[[Process], None],
) -> list[End]:
    """End workers at these moments, so many workers at a time, each started again at once; they run at the end."""
    workers = [
        ward.start(
            f"w{number}",
            TWIN_WORKER__PIPELINE_FACTORY="tests.integration.acceptance.counted:create_counted_pipeline",
            TWIN_KAFKA__BATCH_MAX_RECORDS=str(RECORDS_A_BATCH),
            **{DIRECTORY: str(computed)},
        )
        for number in range(together)
    ]
    start_s = wait_until(lambda: all(map(holds, workers)), PATIENCE_S, "acquired", workers)

    def roll(number: int) -> list[End]:
        return [
            ended(workers[number], moment, start_s, load, computed, how) for moment in when[number::together]
        ]

    with ThreadPoolExecutor(together) as rolling:
        return [end for ends in rolling.map(roll, range(together)) for end in ends]


def holds(worker: Process) -> bool:
    """Whether a worker has acquired a partition since its last start."""
    return '"acquired"' in worker.tail(30)


def begun(worker: Process, computed: Path) -> int:
    """How many batches a worker has begun with since its last start."""
    file = computed / str(worker.pid)
    return file.read_text().count(" batch ") if file.exists() else 0


def ended(
    worker: Process,
    moment: Moment,
    start_s: float,
    load: Load,
    computed: Path,
    how: Callable[[Process], None],
) -> End:
    """Tell a worker something, end it at this moment, and start it again."""
    load.go_on()
    if moment.when == "starting":
        time.sleep(moment.after * start_s)
    else:
        wait_until(lambda: holds(worker), PATIENCE_S, "acquired", [worker])
    if moment.when == "acquired":
        time.sleep(moment.after)
    if moment.when == "applying":
        deadline = (
            time.monotonic() + APPLIES_WITHIN_S
        )  # one that a rebalance left without a partition never does
        while holds(worker) and begun(worker, computed) < moment.after and time.monotonic() < deadline:
            load.more()
            time.sleep(BATCH_S)
    held = holds(worker)
    began = time.monotonic()
    how(worker)
    seconds = time.monotonic() - began
    silent = "(empty)" in worker.tail()
    at = "working" if held else "loading" if silent and worker.exit_status != 0 else "joining"
    end = End(at, worker.exit_status, seconds)
    worker.start()
    return end


def twice_computed(ward: SmallWard, directory: Path) -> dict[str, int]:
    """Check that who had a partition computed one batch in vain at most: the one in work when it was taken away."""
    told = Counter[str]()
    audit = audits(ward)
    for partition, stints in read_stints(directory).items():
        applied = Counter((row.begin, row.end) for row in audit[partition])
        finished = Counter(batch for stint in stints for batch in stint[:-1])
        assert finished <= applied, f"partition {partition}: {finished - applied} computed in vain"
        batches = sum(len(stint) for stint in stints)
        told.update(applied=len(audit[partition]), **{"in vain": batches - len(audit[partition])})
        assert batches - len(audit[partition]) < len(stints)
    for worker in ward.workers:
        assert "store stands elsewhere" not in worker.log.read_text(), worker.tail()
    return dict(told)
