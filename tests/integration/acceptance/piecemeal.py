"""The real pipeline beside a store that writes the twins of a whole partition one by one, however few there are."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from streams.adapters.redis_store import RedisStore
from streams.pipeline import Pipeline, create_pipeline
from streams.ports import Answer

_apply = RedisStore.apply


async def _in_pieces(store: RedisStore, *arguments: Any) -> Answer:
    store.limits = replace(store.limits, command_bytes=1)
    return await _apply(store, *arguments)


def create_piecemeal_pipeline(library_dir: str, partition: int, partitions: int, group: str) -> Pipeline:
    """Make the pipeline for the worker under test, by import path."""
    RedisStore.apply = _in_pieces  # type: ignore[method-assign]
    return create_pipeline(library_dir, partition, partitions, group)
