"""The table of docs/reliability.md from `build/faults.json`: `python -m tests.faults_page [--write]`.

Prints the table; with `--write` it takes the place of the one on the page.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tests.fault_rows import ROWS
from tests.faults_report import RESULTS, TOO_LONG

PAGE = Path(__file__).parents[1] / "docs" / "reliability.md"
BEGIN, END = "<!-- rows: python -m tests.faults_page --write -->", "<!-- end of the rows -->"
UNITS = {"s": " s", "mb": " MB"}


def table(told: Mapping[str, Any]) -> Iterator[str]:
    """Give the lines of the table."""
    yield "| row | fault | result | s | measured | compared with |"
    yield "|---|---|---|---|---|---|"
    for row in told["rows"]:
        # What a person has to know of a row stands with its result; the seconds say by themselves what took long.
        reason = row["reason"].removesuffix(TOO_LONG).removesuffix("; ")
        result = row["result"] + (f": {reason}" if reason else "")
        measured = "; ".join(_measured(row["measured"]))
        cells = (
            row["row"],
            row["title"],
            result,
            f"{row['seconds']:.0f}",
            measured,
            ROWS[row["row"]].compared,
        )
        yield f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |"


def page_with(text: str, told: Mapping[str, Any]) -> str:
    """Give the page with this table.

    Raises:
        ValueError: The page does not say where the table stands.
    """
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"{PAGE} has no place for the table: it stands between {BEGIN} and {END}")
    return "\n".join([f"{before}{BEGIN}", *table(told), f"{END}{after}"])


def _measured(tests: list[Mapping[str, Any]]) -> Iterator[str]:
    found: dict[str, list[Any]] = {}
    for test in tests:
        for name, value in test.items():
            if name != "test":
                found.setdefault(name, []).extend(value if isinstance(value, list) else [value])
    for name, values in found.items():
        words, _, unit = name.rpartition("_")
        known = UNITS.get(unit)
        what = words if words and known else name
        yield f"{what.replace('_', ' ')} {_told(values)}{known or ''}"


def _told(values: list[Any]) -> str:
    if not all(isinstance(value, int | float) for value in values):
        return ", ".join(re.sub(r"[{}'\[\]]", "", str(value)) for value in values)
    if len(values) == 1:
        return f"{values[0]:,}"
    return f"{statistics.median(values):,g} ({min(values):,} to {max(values):,})"


def main() -> int:
    """Print the table, or put it on the page."""
    asked = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    asked.add_argument("--write", action="store_true", help="put the table on docs/reliability.md")
    chosen = asked.parse_args()
    if not RESULTS.exists():
        print(f"{RESULTS} is not there: run make faults", file=sys.stderr)
        return 2
    told = json.loads(RESULTS.read_text())
    if not chosen.write:
        print("\n".join(table(told)))
        return 0
    if told["form"] != "whole":
        print(
            f"{RESULTS} holds a part of the rows or their short form, and the page tells the whole: run make faults",
            file=sys.stderr,
        )
        return 2
    PAGE.write_text(page_with(PAGE.read_text(), told))
    return 0


if __name__ == "__main__":
    sys.exit(main())
