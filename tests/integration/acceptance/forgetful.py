"""The real pipeline with a memory that is emptied before every batch, for a worker under test."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from streams.pipeline import Batch, Pipeline
from streams.ports import RawRecord
from twinstate.library import load_library


class ForgetfulPipeline(Pipeline):
    """Drops every twin before it decodes, so that each batch starts from what Redis holds."""

    def decode(self, records: Sequence[RawRecord]) -> Batch:
        self.forget()
        return super().decode(records)


def create_forgetful_pipeline(
    library_dir: str, partition: int, partitions: int, group: str
) -> ForgetfulPipeline:
    """Make the pipeline for the worker under test, by import path."""
    return ForgetfulPipeline(load_library(Path(library_dir)), partition, partitions)
