"""The real pipeline in a process whose clock is wrong."""

from __future__ import annotations

import time

import structlog

from streams.pipeline import Pipeline, create_pipeline

AHEAD_S = 3600.0
BACK_S = 7200.0
EVERY_S = 0.5
_true_time = time.time


def create_skewed_pipeline(library_dir: str, partition: int, partitions: int, group: str) -> Pipeline:
    """Make the pipeline, and set the process's wall clock an hour ahead and a tenth too fast."""
    began = _true_time()
    _set_clock(lambda now: now + AHEAD_S + 0.1 * (now - began))
    return create_pipeline(library_dir, partition, partitions, group)


def create_stepping_pipeline(library_dir: str, partition: int, partitions: int, group: str) -> Pipeline:
    """Make the pipeline, and set the wall clock ahead and back by hours twice a second, for as long as it runs."""
    began = _true_time()
    seen = [0.0]

    def stepped(now: float) -> float:
        ahead = int((now - began) / EVERY_S) % 2 == 0
        shown = now + AHEAD_S if ahead else now - BACK_S
        if shown < seen[0] - AHEAD_S:
            structlog.get_logger().info("clock set back", partition=partition)
        seen[0] = shown
        return shown

    _set_clock(stepped)
    return create_pipeline(library_dir, partition, partitions, group)


def _set_clock(shown: object) -> None:
    assert callable(shown)
    time.time = lambda: float(shown(_true_time()))
    time.time_ns = lambda: int(time.time() * 1e9)
