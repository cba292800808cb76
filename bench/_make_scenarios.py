"""Write the scenarios of `bench/dosing/`: `python bench/_make_scenarios.py`.

References are sums over doses of what each leaves, `scipy.linalg.expm` of the rate matrix: neither events nor steady
states are followed, an endless train is simply long. Doses are expanded by hand here, not by the reader of the files.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import expm

Floats = NDArray[np.float64]
FOLDER = Path(__file__).parent / "dosing"
TRAIN_DOSES = 200
Entry = tuple[float, int, float, float]  # time of entry h, compartment from 1, amount, duration h


def superposed(rates: Floats, entries: Sequence[Entry], times: Sequence[float]) -> tuple[Floats, Floats]:
    """Amounts and their integrals (times, n): the sum of what every dose leaves."""
    size = len(rates)
    system = np.zeros((2 * size + 1, 2 * size + 1))
    system[:size, :size] = rates
    system[size : 2 * size, :size] = np.eye(size)
    found = np.zeros((len(times), 2 * size))
    for start, into, amount, duration in entries:
        for row, at in enumerate(times):
            if at <= start:
                continue
            state = np.zeros(2 * size + 1)
            fed = system.copy()
            if duration > 0.0:
                fed[into - 1, -1] = amount / duration
                state[-1] = 1.0
                state = expm(fed * min(duration, at - start)) @ state
                state[-1] = 0.0
            else:
                state[into - 1] = amount
            found[row] += (expm(system * max(0.0, at - start - duration)) @ state)[:-1]
    return found[:, :size], found[:, size:]


def matrix(size: int, flows: Sequence[tuple[int, int, float]]) -> Floats:
    """Rate matrix of flows (from, to, 1/h)."""
    rates = np.zeros((size, size))
    for source, target, rate in flows:
        rates[source - 1, source - 1] -= rate
        if target > 0:
            rates[target - 1, source - 1] += rate
    return rates


# One, two and three compartments with a depot; a chain of four with a metabolite.
ONE = {"KA": 0.9, "CL": 4.0, "V": 50.0}
TWO = {"CL": 5.0, "V": 30.0, "Q": 7.0, "VP": 60.0}
THREE = {"CL": 12.0, "V": 10.0, "Q2": 6.0, "V2": 25.0, "Q3": 1.5, "V3": 80.0}
CHAIN = {"KTR": 2.5, "CL": 6.0, "V": 40.0, "CLM": 9.0, "VM": 20.0, "FM": 0.3}
STRUCTURES: dict[str, tuple[dict[str, float], list[list[Any]], dict[str, str], Floats]] = {
    "one": (
        ONE,
        [[1, 2, "KA"], [2, 0, "CL/V"]],
        {"2": "A2/V"},
        matrix(2, [(1, 2, 0.9), (2, 0, 4 / 50)]),
    ),
    "two": (
        TWO,
        [[1, 0, "CL/V"], [1, 2, "Q/V"], [2, 1, "Q/VP"]],
        {"1": "A1/V"},
        matrix(2, [(1, 0, 5 / 30), (1, 2, 7 / 30), (2, 1, 7 / 60)]),
    ),
    "three": (
        THREE,
        [[1, 0, "CL/V"], [1, 2, "Q2/V"], [2, 1, "Q2/V2"], [1, 3, "Q3/V"], [3, 1, "Q3/V3"]],
        {"1": "A1/V"},
        matrix(3, [(1, 0, 1.2), (1, 2, 0.6), (2, 1, 6 / 25), (1, 3, 0.15), (3, 1, 1.5 / 80)]),
    ),
    "chain": (
        CHAIN,
        [
            [1, 2, "KTR"], [2, 3, "KTR"], [3, 4, "KTR"], [4, 5, "KTR"],
            [5, 6, "FM*CL/V"], [5, 0, "(1-FM)*CL/V"], [6, 0, "CLM/VM"],
        ],
        {"5": "A5/V", "6": "A6/VM"},
        matrix(6, [(1, 2, 2.5), (2, 3, 2.5), (3, 4, 2.5), (4, 5, 2.5), (5, 6, 0.045), (5, 0, 0.105), (6, 0, 0.45)]),
    ),
}  # fmt: skip

DAY = [0.5, 1.0, 2.0, 4.0, 7.9, 8.0, 8.5, 12.0, 16.0, 23.9, 24.0, 30.0, 48.0]


def train(
    given: float, interval: float, lag: float, into: int, amount: float, duration: float
) -> list[Entry]:
    """The newest dose of an endless train and many before it."""
    return [(given - k * interval + lag, into, amount, duration) for k in range(TRAIN_DOSES)]


def repeated(
    given: float, interval: float, more: int, into: int, amount: float, duration: float
) -> list[Entry]:
    """A dose and `more` like it."""
    return [(given + k * interval, into, amount, duration) for k in range(more + 1)]


# Name, description, structure, keys of the file, the entries they mean, times, whether areas are told.
SCENARIOS: list[tuple[str, str, str, dict[str, Any], list[Entry], list[float], bool]] = [
    (
        "bolus", "Two boluses into a two-compartment body.", "two",
        {"doses": [{"time": 0, "amount": 300, "compartment": 1}, {"time": 8, "amount": 150, "compartment": 1}]},
        [(0, 1, 300, 0), (8, 1, 150, 0)], DAY, True,
    ),
    (
        "infusions-overlapping", "Infusions by rate and by duration that run at the same time.", "two",
        {"doses": [
            {"time": 0, "amount": 400, "compartment": 1, "rate": 40},
            {"time": 2, "amount": 120, "compartment": 1, "duration": 3},
        ]},
        [(0, 1, 400, 10.0), (2, 1, 120, 3.0)], DAY, True,
    ),
    (
        "infusion-longer-than-interval", "A 20 h infusion every 8 h, five more times.", "three",
        {"doses": [{"time": 0, "amount": 200, "compartment": 1, "duration": 20, "ii": 8, "addl": 5}]},
        repeated(0, 8, 5, 1, 200, 20.0), DAY, True,
    ),
    (
        "infusion-rate-bioavailability",
        "Bioavailability shortens an infusion given by rate, not one by duration.", "one",
        {
            "doses": [
                {"time": 0, "amount": 100, "compartment": 2, "rate": 20},
                {"time": 8, "amount": 100, "compartment": 2, "duration": 5},
            ],
            "bioavailability": {"2": 0.6},
        },
        [(0, 2, 60, 3.0), (8, 2, 60, 5.0)], DAY, True,
    ),
    (
        "oral-lag-bioavailability", "Oral doses every 8 h with lag and bioavailability.", "one",
        {
            "doses": [{"time": 0, "amount": 250, "compartment": 1, "ii": 8, "addl": 3}],
            "lag": {"1": 0.75}, "bioavailability": {"1": "0.5+0.3"},
        },
        repeated(0.75, 8, 3, 1, 200, 0), DAY, True,
    ),
    (
        "lag-longer-than-interval", "Every 4 h with a lag of 9.5 h.", "one",
        {"doses": [{"time": 0, "amount": 100, "compartment": 1, "ii": 4, "addl": 4}], "lag": {"1": 9.5}},
        repeated(9.5, 4, 4, 1, 100, 0), DAY, True,
    ),
    (
        "zero-order-and-first-order", "Part of each dose enters through the depot, part at a constant rate.", "one",
        {
            "doses": [
                {"time": 0, "amount": 100, "compartment": 1, "ii": 12, "addl": 1},
                {"time": 0, "amount": 100, "compartment": 2, "duration": 4, "ii": 12, "addl": 1},
            ],
            "bioavailability": {"1": 0.7, "2": 0.3}, "lag": {"1": 0.5},
        },
        [*repeated(0.5, 12, 1, 1, 70, 0), *repeated(0, 12, 1, 2, 30, 4.0)], DAY, True,
    ),
    (
        "three-compartments", "A bolus and a short infusion into three compartments.", "three",
        {"doses": [
            {"time": 0, "amount": 50, "compartment": 1}, {"time": 4, "amount": 100, "compartment": 1, "duration": 0.5},
        ]},
        [(0, 1, 50, 0), (4, 1, 100, 0.5)], [*DAY, 240.0], True,
    ),
    (
        "transit-and-metabolite", "Through a chain of four compartments; the metabolite is measured, too.", "chain",
        {"doses": [{"time": 0, "amount": 500, "compartment": 1, "ii": 12, "addl": 2}], "lag": {"1": 0.25}},
        repeated(0.25, 12, 2, 1, 500, 0), DAY, True,
    ),
    (
        "steady-state-oral", "At steady state of 8-hourly oral doses with lag, then three more and one at once.", "one",
        {
            "doses": [
                {"time": 0, "amount": 100, "compartment": 1, "ss": 1, "ii": 8, "addl": 3},
                {"time": 12, "amount": 200, "compartment": 2},
            ],
            "lag": {"1": 0.5},
        },
        [*train(0, 8, 0.5, 1, 100, 0), *repeated(8.5, 8, 2, 1, 100, 0), (12, 2, 200, 0)], DAY, False,
    ),
    (
        "steady-state-infusion-longer-than-interval",
        "At steady state of 20 h infusions every 8 h, forgetting a bolus.", "two",
        {"doses": [
            {"time": -3, "amount": 999, "compartment": 1},
            {"time": 0, "amount": 100, "compartment": 1, "duration": 20, "ss": 1, "ii": 8},
        ]},
        train(0, 8, 0, 1, 100, 20.0), DAY, False,
    ),
    (
        "steady-state-lag-longer-than-interval", "At steady state of 6-hourly doses that take 15 h to arrive.", "chain",
        {"doses": [{"time": 0, "amount": 100, "compartment": 1, "ss": 1, "ii": 6, "addl": 1}], "lag": {"1": 15.0}},
        [*train(0, 6, 15, 1, 100, 0), (21.0, 1, 100, 0)], DAY, False,
    ),
    (
        "reset", "The body is emptied at 8 h: an infusion stops, a dose that lags never enters.", "one",
        {
            "doses": [
                {"time": 0, "amount": 100, "compartment": 2, "duration": 20},
                {"time": 7, "amount": 100, "compartment": 1},
                {"time": 8, "amount": 50, "compartment": 1},
            ],
            "lag": {"1": 2.0}, "resets": [8],
        },
        [(10.0, 1, 50, 0)], [8.5, 12.0, 16.0, 24.0, 48.0], False,
    ),
]  # fmt: skip


def main() -> None:
    """Write every scenario anew."""
    FOLDER.mkdir(exist_ok=True)
    for name, description, structure, keys, entries, times, told in SCENARIOS:
        parameters, flows, observed, rates = STRUCTURES[structure]
        amounts, areas = superposed(rates, entries, times)
        volume = {
            "one": {"2": 50.0},
            "two": {"1": 30.0},
            "three": {"1": 10.0},
            "chain": {"5": 40.0, "6": 20.0},
        }
        content: dict[str, Any] = {
            "name": name,
            "description": description,
            "source": "superposition of scipy.linalg.expm, bench/_make_scenarios.py",
            "parameters": parameters,
            "flows": flows,
            "observed": observed,
            **keys,
            "times": times,
            "concentrations": {
                key: [float(f"{value:.12g}") for value in amounts[:, int(key) - 1] / of]
                for key, of in volume[structure].items()
            },
            "tolerance": 1e-8,
        }
        if told:
            content["areas"] = {
                key: [float(f"{value:.12g}") for value in areas[:, int(key) - 1] / of]
                for key, of in volume[structure].items()
            }
        (FOLDER / f"{name}.json").write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
