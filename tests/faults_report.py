"""What became of each row of the fault matrix: a test says which rows it shows, a run writes `build/faults.json`.

A row passes when every test of it that was to run did run, and passed. One that was skipped, crashed, never came to
its turn or was left out is told as such with its reason: nothing passes unseen.

Under pytest-xdist each process knows what it collected and one, the controller, hears of every outcome; so what was
collected travels to it when a process ends.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.fault_rows import ROWS

RESULTS = Path(__file__).parents[1] / "build" / "faults.json"
MOST_S = 180.0

NOT_CHOSEN = "none of its tests was among those chosen"
LEFT_OUT = "its tests are long, and left out by the short form or by a choice of tests"
SHORTENED = "without its long tests"
NOT_RUN = "was to run and did not"
TOO_LONG = "over 3 min"


class FaultReport:
    """What became of each test of a row.

    Attributes:
        form: "whole", or "short" without the long tests.
        tests: By name of the test, its entry in the file: `test`, `rows`, `outcome` (passed, failed, skipped, left
            out), `reason`, `seconds`, `seed`, `measured`.
    """

    def __init__(self, form: str) -> None:
        self.form = form
        self.tests: dict[str, dict[str, Any]] = {}

    def expect(self, test: str, rows: list[str], *, left_out: bool) -> None:
        """Note a test that was collected; it counts as failed until it has run, unless it was left out."""
        known = self.tests.get(test)
        if known is None or (known["outcome"] == "left out" and not left_out):
            self.tests[test] = {
                "test": test,
                "rows": rows,
                "outcome": "left out" if left_out else "failed",
                "reason": "" if left_out else NOT_RUN,
                "seconds": 0.0,
                "seed": None,
                "measured": {},
            }

    def hear(self, test: str, phases: Iterable[pytest.TestReport]) -> None:
        """Note what became of an expected test."""
        entry, heard = self.tests[test], list(phases)
        bad = [p for p in heard if p.failed] or [p for p in heard if p.skipped]
        if heard:
            entry["outcome"] = bad[0].outcome if bad else "passed"
            entry["reason"] = "; ".join(map(_reason, bad))
        for phase in heard:
            entry["seconds"] += phase.duration
            noted = dict(phase.user_properties)
            entry["seed"] = noted.pop("seed", entry["seed"])
            entry["measured"] = noted

    def rows(self) -> Iterator[dict[str, Any]]:
        """Give every row, also those nothing was run for."""
        for row, told in ROWS.items():
            tests = [test for test in self.tests.values() if row in test["rows"]]
            ran = [test for test in tests if test["outcome"] != "left out"]
            failed = [test for test in ran if test["outcome"] == "failed"]
            skipped = [test for test in ran if test["outcome"] == "skipped"]
            if failed or skipped:
                reasons = [f"{_short(test['test'])}: {test['reason']}" for test in failed or skipped]
            elif ran:
                reasons = [SHORTENED] if len(ran) < len(tests) else []
            else:
                reasons = [LEFT_OUT if tests else NOT_CHOSEN]
            seconds = sum(test["seconds"] for test in ran)
            yield {
                "row": row,
                "title": told.fault,
                "result": "failed" if failed else "passed" if ran and not skipped else "skipped",
                "reason": "; ".join([*reasons, *([TOO_LONG] if seconds > MOST_S else [])]),
                "seed": next((test["seed"] for test in ran if test["seed"] is not None), None),
                "seconds": round(seconds, 1),
                "measured": [
                    {"test": _short(test["test"]), **test["measured"]} for test in ran if test["measured"]
                ],
            }

    def table(self) -> Iterator[str]:
        """Give the rows as lines for people."""
        for row in self.rows():
            seed = "" if row["seed"] is None else f", seed {row['seed']}"
            reason = f" ({row['reason']})" if row["reason"] else ""
            yield f"{row['row']:>12}  {row['result']:7} {row['seconds']:6.1f} s  {row['title']}{seed}{reason}"

    def write(self) -> None:
        """Write rows and tests."""
        RESULTS.parent.mkdir(exist_ok=True)
        told = {"form": self.form, "rows": list(self.rows()), "tests": list(self.tests.values())}
        RESULTS.write_text(json.dumps(told, indent=1) + "\n")

    def add_former(self) -> None:
        """Go on from the file of the run before, if it wrote one: what it ran and this one leaves out stays."""
        if RESULTS.exists():
            self.tests = {test["test"]: test for test in json.loads(RESULTS.read_text())["tests"]}


class FaultRows:
    """The plugin: picks the tests of rows for `make faults`, collects outcomes, writes the file and the table."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._picking = bool(config.getoption("--rows"))
        self._collected: dict[str, list[str]] = {}
        self._left_out: dict[str, list[str]] = {}
        self._phases: dict[str, list[pytest.TestReport]] = {}
        whole = self._picking and not config.getoption("--short")
        chosen = config.getoption("keyword") or config.args_source is pytest.Config.ArgsSource.ARGS
        self._report = FaultReport("part" if whole and chosen else "whole" if whole else "short")

    @pytest.hookimpl(tryfirst=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """See which tests show rows; for `make faults` keep these alone."""
        self._collected = {item.nodeid: rows for item in items if (rows := rows_of(item))}
        unknown = {row for rows in self._collected.values() for row in rows} - ROWS.keys()
        if unknown:
            raise pytest.UsageError(f"rows {sorted(unknown)} are not in the matrix (tests/fault_rows.py)")
        if self._picking:
            self._config.hook.pytest_deselected(items=[item for item in items if not rows_of(item)])
            items[:] = [item for item in items if rows_of(item)]

    def pytest_deselected(self, items: Iterable[pytest.Item]) -> None:
        """Note tests of rows that somebody leaves out: the short form, `-k`, `-m`."""
        self._left_out.update({item.nodeid: rows for item in items if (rows := rows_of(item))})

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Note each phase: a fixture that fails fails the row."""
        self._phases.setdefault(report.nodeid, []).append(report)

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        """Take over what a process of pytest-xdist collected; nothing when it crashed."""
        self._collected.update(getattr(node, "workeroutput", {}).get("fault rows", {}))
        self._left_out.update(getattr(node, "workeroutput", {}).get("fault rows left out", {}))

    def pytest_sessionfinish(self) -> None:
        """Write the file, or tell the controller what was collected here."""
        output = getattr(self._config, "workeroutput", None)
        if output is not None:
            output.update({"fault rows": self._collected, "fault rows left out": self._left_out})
        elif self._counts():
            if self._config.getoption("--add"):
                self._report.add_former()
            for test, rows in self._collected.items():
                self._report.expect(test, rows, left_out=test in self._left_out)
                if test not in self._left_out:
                    self._report.hear(test, self._phases.get(test, ()))
            self._report.write()

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Print the table."""
        if self._counts():
            terminalreporter.section(f"rows of the fault matrix, {self._report.form} form")
            for line in self._report.table():
                terminalreporter.write_line(line)
            terminalreporter.write_line(f"written to {RESULTS}")

    def _counts(self) -> bool:
        """Whether this run is one of the matrix: `make faults`, or the whole suite, not a few tests of it."""
        chosen = self._config.option
        whole = self._config.args_source is not pytest.Config.ArgsSource.ARGS and not (
            chosen.keyword or chosen.markexpr or self._config.getoption("lf", False)
        )
        return not chosen.collectonly and (self._picking or whole)


def rows_of(item: pytest.Item) -> list[str]:
    """Name the rows a test shows."""
    return [str(row) for marker in item.iter_markers("row") for row in marker.args]


def _reason(phase: pytest.TestReport) -> str:
    if phase.skipped and isinstance(phase.longrepr, tuple | list):
        return str(phase.longrepr[2]).removeprefix("Skipped: ")
    crash = getattr(phase.longrepr, "reprcrash", None)
    told = phase.longreprtext if crash is None else crash.message
    return next((line for line in told.splitlines() if line), "no reason given")[:200]


def _short(test: str) -> str:
    return test.rpartition("::")[2]
