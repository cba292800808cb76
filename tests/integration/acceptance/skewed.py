"""The real pipeline in a process whose clock is wrong."""

from __future__ import annotations

import time

from streams.pipeline import Pipeline, create_pipeline

AHEAD_S = 3600.0
_true_time, _true_time_ns = time.time, time.time_ns


def create_skewed_pipeline(library_dir: str, partition: int, partitions: int, group: str) -> Pipeline:
    """Make the pipeline, and set the process's wall clock an hour ahead and a tenth too fast."""
    began = _true_time()
    time.time = lambda: _true_time() + AHEAD_S + 0.1 * (_true_time() - began)
    time.time_ns = lambda: int(time.time() * 1e9)
    return create_pipeline(library_dir, partition, partitions, group)
