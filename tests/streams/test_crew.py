"""What a crew does with the processors it retires."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any, cast

from streams.crew import Crew
from streams.partition import PartitionProcessor


class Deaf:
    """A processor in whose library the first cancellation is lost."""

    owed = 0

    def __init__(self) -> None:
        self.ended = False

    async def run(self) -> None:
        with suppress(asyncio.CancelledError):
            await asyncio.sleep(3600)
        try:
            await asyncio.sleep(3600)
        finally:
            self.ended = True


class Register:
    """Nobody else has the id."""

    async def claim_instance(self, instance: str, owner: str) -> None:
        pass

    async def instance_owner(self, instance: str) -> str | None:
        return None


def test_processor_that_misses_its_cancellation_is_retired_all_the_same() -> None:
    deaf = Deaf()

    def fail(error: BaseException) -> Any:
        raise error

    async def scenario() -> None:
        crew = Crew("w1", "me", Register(), lambda number, crew: cast(PartitionProcessor, deaf), fail)
        await crew.assigned(frozenset({0}), 1)
        await asyncio.sleep(0)
        await asyncio.wait_for(crew.stop(), 5)
        assert crew.processors == {}

    asyncio.run(scenario())
    assert deaf.ended
