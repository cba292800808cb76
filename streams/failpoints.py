"""Places where a test makes a process kill itself, to prove that nothing is lost or doubled there.

`TWIN_FAIL_POINT=name[:nth]` kills the process (SIGKILL) the nth time it passes that place. `TWIN_FAIL_COUNTER` names a
file that gets a line for each kill; a place named in it does not kill again, so that the same environment serves the
worker that a supervisor starts next.
"""

from __future__ import annotations

import os
import signal
from collections import Counter
from pathlib import Path
from typing import Literal

FailPoint = Literal[
    "in_acquire",
    "before_apply",
    "between_pieces",
    "after_apply_before_reply",
    "after_publish_before_ack",
    "before_rewrite",
    "after_rewrite_before_reply",
    "after_kafka_before_mqtt",
]

_passed: Counter[str] = Counter()


def fail_point(name: FailPoint) -> None:
    """Kill this process here, if the environment says so."""
    wanted = os.environ.get("TWIN_FAIL_POINT")
    if not wanted:
        return
    place, _, nth = wanted.partition(":")
    if place != name:
        return
    _passed[name] += 1
    if _passed[name] != int(nth or "1"):
        return
    counter = os.environ.get("TWIN_FAIL_COUNTER")
    if counter is not None:
        path = Path(counter)
        if path.exists() and name in path.read_text("utf-8").splitlines():
            return
        with path.open("a", encoding="utf-8") as file:
            file.write(name + "\n")
            file.flush()
            os.fsync(file.fileno())
    os.kill(os.getpid(), signal.SIGKILL)
