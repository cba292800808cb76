"""Effects of covariates and genes as the files write them."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.twinstate.library.configs import VANCOMYCIN, edited, effect
from twinstate.catalogue import Bounds
from twinstate.drug import Exponential, Genotype, LinearCentred, LinearSum, Piecewise, Power


@pytest.mark.parametrize(
    ("row", "wanted"),
    [
        (
            {"covariate": "creatinine", "unit": "umol/L", "reference": 88.4, "power": -0.14, "floor": 44.2},
            Power("creatinine", 1.0, -0.14, Bounds(0.5, math.inf)),
        ),
        (
            {"covariate": "creatinine", "unit": "umol/L", "reference": 88.4, "exponential": -0.01},
            Exponential("creatinine", 1.0, -0.884, Bounds(-math.inf, math.inf)),
        ),
        (
            {"covariate": "age", "unit": "d", "reference": 365.25, "linear_centred": 0.01, "cap": 730.5},
            LinearCentred("age", 1.0, 3.6525, Bounds(-math.inf, 2.0)),
        ),
        (
            {"covariate": "weight", "unit": "g", "linear_sum": 0.001},
            LinearSum("weight", 1.0, Bounds(-math.inf, math.inf)),
        ),
        (
            {"covariate": "height", "unit": "m", "piecewise": [[1.0, 0.5], [2.0, 1.0]]},
            Piecewise("height", ((100.0, 0.5), (200.0, 1.0))),
        ),
    ],
)
def test_an_effect_in_another_unit_is_the_same_effect_in_the_canonical_one(
    config: Path, row: dict[str, object], wanted: Power | Exponential | LinearCentred | LinearSum | Piecewise
) -> None:
    def edit(data: dict[str, Any]) -> None:
        effect(**row)(data)
        known = {"creatinine": 1.0, "age": 30, "height": 170, "sex": "male"}
        data["typical_patient"]["given"].update(known)
        data["targets"] = []
        data["checks"] = [
            {"given": {**known, **data["checks"][0]["given"]}, "expect": {"peripheral_volume": 43.337}}
        ]

    read = edited(config, VANCOMYCIN, edit).drugs["vancomycin"].parameters["clearance"].effects[-1]
    assert type(read) is type(wanted)
    for name, value in vars(wanted).items():
        found = vars(read)[name]
        if isinstance(value, Bounds):
            assert (found.low, found.high) == pytest.approx((value.low, value.high))
        elif isinstance(value, tuple):
            assert np.array(found) == pytest.approx(np.array(value))
        else:
            assert found == (pytest.approx(value) if isinstance(value, float) else value)


def test_a_gene_effect_is_a_table_of_diplotypes(config: Path) -> None:
    def edit(data: dict[str, Any]) -> None:
        effect(gene="CYP2C9", diplotypes={"*1/*1": 1.0, "*1/*3": 0.6})(data)
        for case in (*data["checks"], data["typical_patient"]):
            case["genotype"] = {"CYP2C9": "*1/*1"}

    read = edited(config, VANCOMYCIN, edit).drugs["vancomycin"].parameters["clearance"].effects[-1]
    assert read == Genotype("CYP2C9", {"*1/*1": 1.0, "*1/*3": 0.6})
