"""Are concentrations right for every way a drug is given: `python bench/dosing.py [DIR]`.

Question answered: how far are the concentrations of the product's exact graph solver from references, for boluses,
infusions by rate and by duration, overlapping or longer than their interval, oral doses with lag and bioavailability,
zero-order input, steady states, additional doses and resets, over one to three compartments, transit chains and
metabolites? DIR holds scenarios as JSON (docs/dosing-scenarios.md); without it those of `bench/dosing/` are taken,
whose references SciPy gave (`bench/_make_scenarios.py`).

Options: `--json` prints one JSON object instead of the table, `--only NAME` takes scenarios whose names begin so. Exit
1 when a scenario misses its tolerance, 2 when a file cannot be read.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from bench._report import Check, report  # noqa: E402
from bench._scenarios import Scenario, ScenarioError, as_arrays, read_scenarios  # noqa: E402
from twinstate.pk.graph import solve_graph  # noqa: E402

Floats = NDArray[np.float64]

# A reference below this share of its largest is compared with that share: its digits are the reference's noise.
FLOOR_SHARE = 1e-6


def differences(scenario: Scenario) -> dict[str, float]:
    """Largest relative difference of a scenario's concentrations, and of its areas where it tells them."""
    arrays = as_arrays(scenario)
    amounts, areas = solve_graph(np.zeros(1), arrays.rates, arrays.doses, arrays.time_h)
    found = {"concentration": _worst(arrays.concentrations, amounts, arrays.per_amount)}
    if arrays.areas:
        found["area"] = _worst(arrays.areas, areas, arrays.per_amount)
    return found


def _worst(references: dict[int, Floats], amounts: Floats, per_amount: dict[int, float]) -> float:
    largest = 0.0
    for compartment, reference in references.items():
        ours = amounts[:, compartment] * per_amount[compartment]
        floor = FLOOR_SHARE * np.abs(reference).max()
        scale = np.maximum(np.abs(reference), floor)
        relative = np.abs(ours - reference) / np.where(scale > 0.0, scale, 1.0)
        largest = max(largest, float(np.nan_to_num(relative, nan=np.inf).max()))
    return largest


def main(arguments: Sequence[str] | None = None) -> int:
    """Run, print, and say by the exit status whether every scenario is within its tolerance."""
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], epilog="The format: docs/dosing-scenarios.md."
    )
    parser.add_argument("folder", nargs="?", type=Path, metavar="DIR", default=ROOT / "bench" / "dosing")
    parser.add_argument(
        "--only", nargs="+", default=[], metavar="NAME", help="scenarios whose names begin so"
    )
    parser.add_argument("--json", action="store_true", help="one JSON object instead of the table")
    asked = parser.parse_args(arguments)
    try:
        scenarios = read_scenarios(asked.folder, asked.only)
    except ScenarioError as error:
        print(f"bench/dosing.py: {error}", file=sys.stderr)
        return 2
    checks = []
    console = Console(stderr=True)
    for scenario in track(scenarios, "solving", console=console, transient=True):
        checks += [
            Check(f"{scenario.name}: {quantity}", worst, "relative", high=scenario.tolerance)
            for quantity, worst in differences(scenario).items()
        ]
    return report("Concentrations beside their references", checks, None, as_json=asked.json)


if __name__ == "__main__":
    sys.exit(main())
