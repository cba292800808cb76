"""How every benchmark tells its figures: a table for people, one JSON object for machines, an exit status for both."""

from __future__ import annotations

import json
import math
import os
import platform
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numba
import numpy as np
from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).parent.parent


def rms(values: object) -> float:
    """Root mean square."""
    return float(np.sqrt(np.mean(np.square(np.asarray(values, dtype=float)))))


class Check(NamedTuple):
    """One figure and the range it must lie in; infinite ends make it a figure without a target."""

    name: str
    value: float
    unit: str
    low: float = -math.inf
    high: float = math.inf

    @property
    def holds(self) -> bool:
        """Whether the figure is a number within its range."""
        return not math.isnan(self.value) and self.low <= self.value <= self.high

    @property
    def target(self) -> str:
        """The range in words."""
        if math.isinf(self.low) and math.isinf(self.high):
            return "none"
        if math.isinf(self.low):
            return f"<= {self.high:g}"
        if math.isinf(self.high):
            return f">= {self.low:g}"
        return f"{self.low:g} to {self.high:g}"


def report(title: str, checks: Sequence[Check], seed: int | list[int] | None, *, as_json: bool) -> int:
    """Print the figures.

    Args:
        title: What was asked.
        checks: Figures.
        seed: Of what was simulated, or several; None where nothing was.
        as_json: One JSON object on standard output instead of the table.

    Returns:
        Exit status: 1 when a figure does not hold.
    """
    if as_json:
        rows = [
            {"name": c.name, "value": c.value, "unit": c.unit, "target": c.target, "holds": c.holds}
            for c in checks
        ]
        print(json.dumps({"machine": machine(), "commit": commit(), "seed": seed, "checks": rows}))
    else:
        table = Table(
            title=f"{title} ({commit()}{'' if seed is None else f', seed {seed}'})", caption=machine()
        )
        for column in ("figure", "value", "unit", "target", "holds"):
            table.add_column(column, justify="right" if column == "value" else "left")
        for c in checks:
            table.add_row(c.name, f"{c.value:.4g}", c.unit, c.target, "yes" if c.holds else "[bold red]NO[/]")
        Console(width=None if sys.stdout.isatty() else 140).print(table)
    return 0 if all(c.holds for c in checks) else 1


def machine() -> str:
    """Processor, cores and versions the figures belong to."""
    return (
        f"{_processor()}, {os.cpu_count()} cores, {platform.system()} {platform.machine()}, "
        f"Python {platform.python_version()}, NumPy {np.__version__}, numba {numba.__version__}"
    )


def commit() -> str:
    """The commit checked out, marked when files differ from it."""
    said = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    return said.stdout.strip() or "no commit"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or "unknown processor"
    return next(
        (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")),
        "unknown processor",
    )
