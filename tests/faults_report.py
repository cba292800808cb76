"""Rows of the fault matrix: a test says which row it shows, and a run writes `build/faults.json`.

A row passes when every test of it ran and passed. One that was skipped, or whose tests were not all there to be run,
is told as such with its reason: nothing passes unseen.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

RESULTS = Path(__file__).parents[1] / "build" / "faults.json"

# The 28 rows of the matrix (docs/reliability.md), and those that were met on the way.
TITLES: dict[str, str] = {
    "1": "worker killed at each fail point and at random",
    "2": "zombie: a stopped owner wakes up; two workers with one instance id",
    "3": "delayed acquire",
    "4": "broker restart, clean and kill -9, on one node and on three",
    "5": "Redis kill -9 and restart",
    "6": "Redis loses its last second",
    "7": "Redis unavailable",
    "8": "network cut between worker and broker, both ways",
    "9": "slow, half-open, reset and refused connections to Redis and to Kafka",
    "10": "duplicate delivery",
    "11": "out of order within the limits",
    "12": "later than the limits",
    "13": "clock skew",
    "14": "poison records, a corpus of them",
    "15": "oversized records, and sizes at the limits",
    "16": "hot patient",
    "17": "rebalances during replay",
    "18": "lag beyond retention; a surge of lag",
    "19": "disk full under Redis",
    "20": "Redis out of memory; an evicting policy",
    "21": "model or schema changed mid stream",
    "22": "Redis emptied, and restored from an old backup",
    "23": "consumer group deleted",
    "24": "partition count changed",
    "25": "risk topic unavailable",
    "26": "slow subscriber",
    "27": "two releases side by side",
    "28": "SIGTERM under load, again and again",
    "I8": "recovery within 5 s of a killed worker, and of Redis that is back",
    "transactions": "transaction markers and aborted records in the input",
    "NOSCRIPT": "Redis restarted without its scripts",
    "late Kafka": "worker started while Kafka is down",
    "header": "record header whose name is not UTF-8",
    "forgetting": "a patient forgotten, workers killed round it, Redis emptied after it",
}
NOT_SHOWN = "no test of this row exists yet"
LEFT_OUT = "its tests are long, and left out by --short or by a choice of tests"
SHORTENED = "its long tests are left out by --short"


class FaultReport:
    """Collects what became of each row."""

    def __init__(self) -> None:
        self._rows: dict[str, list[dict[str, Any]]] = {}
        self.known: set[str] = set()
        self.shortened: set[str] = set()

    def add(self, row: str, outcome: str, reason: str, seconds: float, noted: dict[str, Any]) -> None:
        """Note one phase of one test of a row, and what the test wrote down: its seed, and what it measured."""
        self._rows.setdefault(row, []).append(
            {"outcome": outcome, "reason": reason, "seconds": seconds, "noted": noted}
        )

    def rows(self) -> Iterable[dict[str, Any]]:
        """Give every row, also those nothing was run for."""
        for row, title in TITLES.items():
            parts = self._rows.get(row, [])
            failed = [part for part in parts if part["outcome"] == "failed"]
            skipped = [part for part in parts if part["outcome"] == "skipped"]
            result = "failed" if failed else "skipped" if skipped or not parts else "passed"
            reasons = [part["reason"] for part in (failed or skipped) if part["reason"]]
            if result == "passed" and row in self.shortened:
                reasons = [SHORTENED]
            yield {
                "row": row,
                "title": title,
                "result": result,
                "reason": "; ".join(reasons) if parts else LEFT_OUT if row in self.known else NOT_SHOWN,
                "seed": next((part["noted"]["seed"] for part in parts if "seed" in part["noted"]), None),
                "seconds": round(sum(part["seconds"] for part in parts), 1),
                "measured": [measured for part in parts if (measured := _measured(part["noted"]))],
            }

    def write(self) -> None:
        """Write the results."""
        RESULTS.parent.mkdir(exist_ok=True)
        RESULTS.write_text(json.dumps({"rows": list(self.rows())}, indent=1) + "\n")


class FaultRows:
    """The plugin of `make faults`: only tests of a row, their results in a file."""

    def __init__(self) -> None:
        self.report = FaultReport()

    @pytest.hookimpl(tryfirst=True)
    def pytest_collection_modifyitems(self, config: pytest.Config, items: list[pytest.Item]) -> None:
        """Keep the tests of a row."""
        self.report.known = {row for item in items for row in rows_of(item)}
        if config.getoption("--short"):
            long = [item for item in items if item.get_closest_marker("long")]
            self.report.shortened = {row for item in long for row in rows_of(item)}
        unknown = self.report.known - TITLES.keys()
        if unknown:
            raise pytest.UsageError(f"rows {sorted(unknown)} are not in the matrix (tests/faults_report.py)")
        config.hook.pytest_deselected(items=[item for item in items if not rows_of(item)])
        items[:] = [item for item in items if rows_of(item)]

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self, item: pytest.Item, call: pytest.CallInfo[None]) -> Any:
        """Note each phase: a fixture that fails fails the row."""
        report = yield
        reason = ""
        if report.failed:
            reason = f"{item.name}: {str(report.longreprtext).splitlines()[-1][:200]}"
        elif report.skipped:
            reason = f"{item.name}: {report.longrepr[2]}"
        # The last phase tells what the test wrote down, once.
        noted = {"test": item.name, **dict(item.user_properties)} if report.when == "teardown" else {}
        for row in rows_of(item):
            self.report.add(row, report.outcome, reason, call.duration, noted)
        return report

    def pytest_sessionfinish(self) -> None:
        """Write the file."""
        self.report.write()

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Print the table."""
        for row in self.report.rows():
            terminalreporter.write_line(
                f"{row['row']:>12}  {row['result']:7} {row['seconds']:6.1f} s  {row['title']}"
                + ("" if row["seed"] is None else f", seed {row['seed']}")
                + (f" ({row['reason']})" if row["reason"] else "")
            )
        terminalreporter.write_line(f"written to {RESULTS}")


def _measured(noted: dict[str, Any]) -> dict[str, Any]:
    """What a test measured, with its name; nothing when it measured nothing."""
    return (
        {key: value for key, value in noted.items() if key != "seed"}
        if noted.keys() - {"test", "seed"}
        else {}
    )


def rows_of(item: pytest.Item) -> list[str]:
    """Name the rows a test shows."""
    return [str(row) for marker in item.iter_markers("row") for row in marker.args]
