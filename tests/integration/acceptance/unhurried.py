"""The real pipeline, taking its time over every batch: a replay that lasts while the test does something."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from streams.pipeline import Batch, Pipeline
from streams.ports import BatchOutcome
from twinstate.library import load_library

# With batches of UNHURRIED_RECORDS the small ward takes more than half a minute, however fast the machine.
UNHURRIED_S = 0.5
UNHURRIED_RECORDS = 2


class UnhurriedPipeline(Pipeline):
    """Waits in the middle of every update."""

    def update(self, batch: Batch, progress: Callable[[], None] = lambda: None) -> BatchOutcome:
        outcome = super().update(batch, progress)
        time.sleep(UNHURRIED_S)
        return outcome


def create_unhurried_pipeline(
    library_dir: str, partition: int, partitions: int, group: str
) -> UnhurriedPipeline:
    """Make the pipeline for the worker under test, by import path."""
    return UnhurriedPipeline(load_library(Path(library_dir)), partition, partitions)
