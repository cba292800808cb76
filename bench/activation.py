"""How long does it take to put the twins of a whole partition in place at once: `python bench/activation.py`.

Question answered: when another library takes effect, all twins of a partition are written as one. With a real Redis
beside it and the time limit that a worker has for a command: how long does that take, how long does Redis answer
nobody else, how long does the worker's own loop stand still (its heartbeats to Kafka), and how much memory do both
need? Twins are random bytes, so nothing is computed; deriving them again costs what `bench/ward.py` says.

Options: `--json`, `--twins N`, `--kilobytes K` of each.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import resource
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from bench._report import Check, report  # noqa: E402
from streams.adapters.redis_store import RedisStore, connect  # noqa: E402
from streams.embedded import EmbeddedRedis  # noqa: E402
from streams.ports import BatchOutcome, Claim, StoredTwin, Verdict  # noqa: E402
from streams.settings import load_settings  # noqa: E402

AT_ONCE = 200


def outcome(patients: list[str], size: int, under: str = "", fingerprint: str = "") -> BatchOutcome:
    """Twins of so many bytes, and a list row of each."""
    return BatchOutcome(
        twins={patient: StoredTwin(os.urandom(64) * (size // 64), b"") for patient in patients},
        index=dict.fromkeys(patients, b'{"a":1}' * 30),
        counts={"records": 1},
        under=under,
        fingerprint=fingerprint,
    )


async def stalls(longest: list[float]) -> None:
    """Note how long the loop let nobody else in."""
    last = time.monotonic()
    while True:
        await asyncio.sleep(0.01)
        longest[0], last = max(longest[0], time.monotonic() - last), time.monotonic()


async def measure(url: str, twins: int, size: int) -> list[Check]:
    """Fill a partition, and write all of it under another library."""
    client: Any = connect(url, socket_timeout=load_settings().redis.answer_timeout_seconds)
    store = RedisStore(client, "bench")
    lease = await store.acquire(0, Claim(1, "owner", "w1", "f1", ("f2",)), 0)
    names = [f"bench-{number}" for number in range(twins)]
    position = 0
    for begin in range(0, twins, AT_ONCE):
        answer = await store.apply(
            lease, position, position + 1, outcome(names[begin : begin + AT_ONCE], size), {}
        )
        assert answer.verdict is Verdict.OK, answer
        position += 1
    whole = outcome(names, size, under="f1", fingerprint="f2")
    await client.slowlog_reset()
    longest = [0.0]
    ticking = asyncio.create_task(stalls(longest))
    began = time.monotonic()
    answer = await store.apply(lease, position, position + 1, whole, dict.fromkeys(names, 1))
    took = time.monotonic() - began
    ticking.cancel()
    assert answer.verdict is Verdict.OK, answer
    slowest = max((one["duration"] for one in await client.slowlog_get(100)), default=0) / 1e6
    peak = (await client.info("memory"))["used_memory_peak"] / 1e6
    await store.close()
    return [
        Check("twins", twins, ""),
        Check("their bytes", twins * size / 1e6, "MB"),
        Check("written in", took, "s"),
        Check("Redis answers nobody else for", slowest, "s"),
        Check("the worker's loop stands still for", longest[0], "s"),
        Check("Redis at its peak", peak, "MB"),
        Check("this process at its peak", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, "MB"),
    ]


def main() -> int:
    """Measure and report."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", action="store_true", help="one JSON object instead of a table")
    parser.add_argument("--twins", type=int, default=20_000)
    parser.add_argument("--kilobytes", type=int, default=20)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        server = EmbeddedRedis(Path(folder))
        server.start()
        try:
            checks = asyncio.run(measure(server.url, options.twins, options.kilobytes * 1000))
        finally:
            server.kill()
    return report("Twins of a whole partition put in place at once", checks, None, as_json=options.json)


if __name__ == "__main__":
    raise SystemExit(main())
