"""The real pipeline, writing down what it computes before anything of it is applied, and taking its time."""

from __future__ import annotations

import os
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

from streams.pipeline import Batch, Pipeline
from streams.ports import BatchOutcome
from twinstate.library import load_library

# Who ends the worker at a random moment then often finds it in the middle of a batch.
BATCH_S = 0.15
DIRECTORY = "TWIN_TEST_COMPUTED"

Stint = list[tuple[int, int]]


class CountedPipeline(Pipeline):
    """Notes each batch when it begins with it, and each time it is told to forget what it has in memory."""

    def forget(self) -> None:
        super().forget()
        self._note("forget")

    def update(self, batch: Batch, progress: Callable[[], None] = lambda: None) -> BatchOutcome:
        offsets = [record.offset for record, _ in batch.records]
        self._note(f"batch {offsets[0]} {offsets[-1] + 1}")
        outcome = super().update(batch, progress)
        time.sleep(BATCH_S)
        return outcome

    def _note(self, line: str) -> None:
        # A file of its own for each process, so that two owners never share a line.
        with (Path(os.environ[DIRECTORY]) / str(os.getpid())).open("a") as file:
            file.write(f"{self.partition} {line}\n")


def read_stints(directory: Path) -> dict[int, list[Stint]]:
    """Read what was computed of each partition: the batches of each stint, begin and end, in order.

    A stint is what one process computes without having to read the twins again: it held the partition all the while.
    """
    found: defaultdict[int, list[Stint]] = defaultdict(list)
    for file in directory.iterdir():
        current: defaultdict[int, Stint] = defaultdict(list)
        for line in file.read_text().splitlines():
            partition, what, *offsets = line.split()
            if what == "forget":
                found[int(partition)].append(current.pop(int(partition), []))
            else:
                begin, end = map(int, offsets)
                current[int(partition)].append((begin, end))
        for number, stint in current.items():
            found[number].append(stint)
    return {number: [stint for stint in stints if stint] for number, stints in found.items()}


def create_counted_pipeline(library_dir: str, partition: int, partitions: int, group: str) -> CountedPipeline:
    """Make the pipeline for the worker under test, by import path."""
    return CountedPipeline(load_library(Path(library_dir)), partition, partitions)
