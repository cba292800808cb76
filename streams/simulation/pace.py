"""Arrivals in their own time, or faster."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator

from streams.simulation.delivery import Arrival
from streams.simulation.stream import Plan, PlanError
from streams.simulation.wire import moment

AS_FAST_AS_POSSIBLE = math.inf
NS = 1_000_000_000


def paced(
    arrivals: Iterable[Arrival],
    start: int,
    speed: float,
    *,
    now: Callable[[], float] = time.monotonic,
    rest: Callable[[float], None] = time.sleep,
) -> Iterator[Arrival]:
    """Give each arrival when it is due.

    Args:
        arrivals: In the order they arrive.
        start: When the first second begins, UTC ns.
        speed: Simulated seconds in one of the clock's; infinite is as fast as possible.
        now: A clock that never goes back, s.
        rest: Waits, s.
    """
    begun = now()
    for arrival in arrivals:
        ahead_s = (arrival.at - start) / NS / speed - (now() - begun)
        if ahead_s > 0.0:
            rest(ahead_s)
        yield arrival


def check_pace(plan: Plan, speed: float, wall: int) -> None:
    """See that no record would come from the future: the worker refuses what is more than 5 min ahead of the broker.

    Args:
        plan: What is simulated.
        speed: Above 0.
        wall: Wall clock, UTC ns.

    Raises:
        PlanError: Some would.
    """
    last = wall + round((plan.end - plan.start) / speed)
    if plan.start > wall:
        raise PlanError(f"the start {moment(plan.start)} lies ahead; simulate from now on, or from earlier")
    if plan.end > last:
        raise PlanError(
            f"{plan.length_h:g} h from {moment(plan.start)} on would be over ahead of the clock, and records from the "
            f"future are refused; start {plan.length_h:g} h ago or earlier, or simulate at speed 1"
        )
