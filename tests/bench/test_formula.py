"""Formulas of files: what they mean, and what is refused."""

from __future__ import annotations

import math

import numpy as np
import pytest

from bench._formula import FormulaError, compile_formula, is_multiple_of, run
from bench._odes import join, solve_equations

NAMES = {"CL": 0, "ETA_CL": 1, "WT": 2, "OCC": 3}
VALUES = (4.0, 0.3, 55.0, 2.0)

FORMULAS = {
    "CL*exp(ETA_CL)*(WT/70)**0.75": 4.0 * math.exp(0.3) * (55 / 70) ** 0.75,
    "CL*exp(ETA_CL+0.1*(OCC==1)+0.2*(OCC!=1))": 4.0 * math.exp(0.5),
    "-CL**2": -16.0,
    "2**-1": 0.5,
    "2**3**2": 512.0,
    "1 - 2 - 3": -4.0,
    "(1 < 2 < 3) + (1 < 2 > 3)": 1.0,
    "(WT > 50 and OCC >= 2) * 7": 7.0,
    "(WT < 50 or not OCC) + 1": 1.0,
    "CL if WT <= 55 else 1/0": 4.0,
    "log(CL) + log10(100) + sqrt(CL) + abs(-2)": math.log(4.0) + 6.0,
    "min(CL, WT) + max(CL, WT) + pow(CL, 2)": 75.0,
    "1.5e-3": 0.0015,
}


@pytest.mark.parametrize("text", FORMULAS)
def test_formula_means_what_arithmetic_says(text: str) -> None:
    assert float(run(compile_formula(text, NAMES), VALUES)) == pytest.approx(FORMULAS[text], rel=1e-15)


@pytest.mark.parametrize("text", FORMULAS)
def test_compiled_right_hand_side_is_the_same_formula(text: str) -> None:
    # dA/dt = formula: after one hour the amount is its value.
    equations = join([compile_formula(text, NAMES)], len(NAMES))
    amounts = solve_equations(
        equations, np.zeros(1), np.array([[VALUES]]), np.array([0.0, 1.0]), np.zeros(1), np.zeros((1, 1)),
        np.zeros((1, 1)), np.zeros((1, 1)), np.zeros(1, np.int64), np.zeros(1), np.zeros(0),
    )  # fmt: skip
    assert amounts[0, 1, 0] == pytest.approx(FORMULAS[text], rel=1e-12)


def test_formula_runs_over_arrays_of_points_and_rows() -> None:
    found = run(
        compile_formula("CL*(OCC==1)+WT", NAMES),
        (np.array([[1.0], [2.0]]), 0.0, 10.0, np.array([[1.0, 2.0, 1.0]])),
    )
    assert found.tolist() == [[11.0, 10.0, 11.0], [12.0, 10.0, 12.0]]


@pytest.mark.parametrize(
    "text",
    [
        "__import__('os').system('true')",
        "CL.real",
        "[CL]",
        "CL[0]",
        "lambda: 1",
        "(CL := 2)",
        "exp(CL, 2)",
        "exp(x=CL)",
        "open('f')",
        "'text'",
        "1j",
        "CL // 2",
        "CL @ 2",
        "CL is 1",
        "~1",
        "[c for c in (1, 2)]",
        "UNKNOWN + 1",
        "CL +",
        "",
        "import os",
        "1" * 400,
        "-" * 3000 + "1",
        "CL\0",
        "1+" * 3000 + "1",
    ],
    ids=lambda text: text[:24],
)
def test_anything_but_arithmetic_is_refused_with_what_it_was(text: str) -> None:
    with pytest.raises(FormulaError):
        compile_formula(text, NAMES)


STATE = {**NAMES, "A1": 4, "A2": 5, "t": 6}


@pytest.mark.parametrize(
    ("text", "multiple"),
    [
        ("-CL*A1", True),
        ("-(CL/WT+0.1)*A1", True),
        ("-A1*CL/WT + 2*A1", True),
        ("A1*exp(ETA_CL) if OCC > 1 else -A1", True),
        ("CL*A2", False),
        ("-CL*A1 + A2", False),
        ("CL - A1", False),
        ("-CL*t*A1", False),
        ("-CL*A1*A1", False),
        ("-CL*A1/(WT+A1)", False),
        ("CL/A1", False),
        ("-CL*sqrt(A1)", False),
        ("max(A1, 0)", False),
        ("-A1 if A1 > 1 else -A1", False),
        ("CL", False),
    ],
)
def test_multiple_of_an_amount_is_told_by_its_form(text: str, multiple: bool) -> None:
    assert is_multiple_of(compile_formula(text, STATE), 4, 4) is multiple
