"""What decides of twins, events and dead letters reads no wall clock: time comes with the records."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
CORE = [
    *sorted((ROOT / "twinstate").rglob("*.py")),
    *sorted((ROOT / "streams" / "oracle").rglob("*.py")),
    *(
        ROOT / "streams" / f"{name}.py"
        for name in (
            "activation",
            "codec",
            "fingerprint",
            "json_keys",
            "library_change",
            "messages",
            "partition",  # it may wait by time.monotonic
            "pipeline",
            "ports",
            "records",
            "releases",
        )
    ),
]
# Words of `time` and `datetime` that ask what time it is; `time.monotonic` measures a length and knows no date.
READS_A_CLOCK = {
    "time": {"time", "time_ns", "localtime", "gmtime", "ctime", "asctime", "strftime", "clock_gettime"},
    "datetime": {"now", "utcnow", "today"},
}


def readings_of(source: str) -> list[int]:
    """The lines that read a wall clock, by whatever name its module was imported."""
    tree = ast.parse(source)
    lines = []
    modules: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            modules.update({alias.asname or alias.name: alias.name for alias in node.names})
        elif isinstance(node, ast.ImportFrom) and node.module == "time":
            lines += [node.lineno for alias in node.names if alias.name in READS_A_CLOCK["time"]]
        elif isinstance(node, ast.ImportFrom) and node.module == "datetime":
            modules.update({alias.asname or alias.name: "datetime" for alias in node.names})
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            root = node.value
            while isinstance(root, ast.Attribute):
                root = root.value
            module = modules.get(root.id, "") if isinstance(root, ast.Name) else ""
            if node.attr in READS_A_CLOCK.get(module, ()):
                lines.append(node.lineno)
    return lines


@pytest.mark.parametrize("path", CORE, ids=lambda path: str(path.relative_to(ROOT)))
def test_the_core_reads_no_wall_clock(path: Path) -> None:
    assert readings_of(path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    "source",
    [
        "import time\ntime.time()",
        "import time as t\nt.time_ns()",
        "from time import time_ns",
        "import datetime as dt\ndt.datetime.now(dt.UTC)",
        "from datetime import date\ndate.today()",
        "import time\nclock = time.time",
    ],
)
def test_whoever_reads_a_wall_clock_is_found(source: str) -> None:
    assert readings_of(source)


def test_a_length_of_time_is_no_wall_clock() -> None:
    assert readings_of("import time\ntime.monotonic()\nstarted.time()") == []
