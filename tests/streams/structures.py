"""One drug for every structure the library can express: its file (a real one, or one edited), a patient, a usual dose.

Parallel absorption, a metabolite, mixed elimination and a product of clotting factors stand in no file of ours; a real
file edited stands in for them.
"""

from __future__ import annotations

import functools
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from tests.twinstate.library.configs import CONFIG
from twinstate.library import Library, load_library

Told = dict[str, Any]
Edit = Callable[[dict[str, Any]], object]


class Ward(NamedTuple):
    """One structure: which file, and what happens to its patients.

    Attributes:
        model: Stem of the drug file.
        told: Payload of the first patient record.
        later: Payload of a further one: what changed.
        amount_mg: A usual dose.
        every_h: Between doses.
        route: `iv` or `oral`.
        duration_h: Of an infusion.
        around: A usual level, in `unit`.
        unit: On the wire.
        analyte: On the wire.
        span_h: How long a history lasts.
        edit: Of the file; None takes it as it is.
        frames: Whether a patch tells of QTc.
        examples: Histories tried in `make test`: as many as cost a few seconds.
        events: Most doses, and most levels, of one history.
    """

    model: str
    told: Told
    later: Told
    amount_mg: float
    every_h: float
    route: str
    duration_h: float
    around: float
    unit: str
    analyte: str
    span_h: float
    edit: Edit | None = None
    frames: bool = False
    examples: int = 15
    events: int = 4


SAID = {"status": "A", "source": "this test", "reason": "a structure that no file of ours has"}


def quantity(value: float, unit: str) -> dict[str, Any]:
    return {"value": value, "unit": unit}


def covariates(genotype: dict[str, str] | None = None, **values: object) -> Told:
    told: Told = {"covariates": values}
    return told if genotype is None else {**told, "genotype": genotype}


def assumed(typical: float, unit: str, **more: object) -> dict[str, Any]:
    return {"typical": typical, "unit": unit, "status": "A", "source": SAID["source"], **more}


def known_residual(data: dict[str, Any]) -> None:
    data["residual"] = {"proportional": 0.2, **SAID}


def _parallel(data: dict[str, Any]) -> None:
    data["oral"] = "parallel"
    data["parameters"]["absorption_rate"] = assumed(0.9, "1/h", between_subject_cv=0.5)
    data["parameters"]["first_order_fraction"] = assumed(0.6, "1")


def _metabolite(data: dict[str, Any], *, measured: bool) -> None:
    data["second"] = {"kind": "metabolite"}
    del data["parameters"]["elimination_rate"]
    data["parameters"]["central_volume"] = assumed(0.5, "L", between_subject_sd=0.1)
    data["parameters"]["central_volume"]["scales_with"] = [
        {"covariate": "weight", "unit": "kg", "reference": 1, "power": 1}
    ]
    data["parameters"]["metabolite_fraction"] = assumed(0.3, "1")
    data["parameters"]["metabolite_clearance"] = assumed(3.0, "L/h", between_subject_cv=0.3)
    data["parameters"]["metabolite_volume"] = assumed(20.0, "L")
    data["checks"] = [{"given": {"weight": 70}, "expect": {"clearance": 2.779}}]
    if measured:
        data["observes"] = "second"
        data["residual"] = {"additive": 0.3, "unit": "mg/L", **SAID}


def _mixed(data: dict[str, Any]) -> None:
    data["elimination"] = "mixed"
    data["parameters"]["clearance"] = assumed(0.3, "L/h", between_subject_cv=0.3)
    data["drift"] = {
        "parameter": "clearance",
        "sd_per_sqrt_day": [0, 0.1, 0.2],
        **SAID,
    }
    data["checks"] = [
        {
            "given": {"age": 35, "weight": 60, "further_antiepileptics": False},
            "expect": {"michaelis_constant": 2.41},
        }
    ]


def _coagulation_product(data: dict[str, Any]) -> None:
    data["second"]["kind"] = "coagulation_product"
    data["checks"] = [
        {
            "given": {"age": 71},
            "genotype": {"CYP2C9": "*1/*1", "VKORC1": "GG"},
            "expect": {"clearance": 0.348},
        }
    ]


def _cells_counted(data: dict[str, Any]) -> None:
    concentration = data["residual"]
    [cells] = data["also_observed"]
    data["analyte"], data["observes"], data["residual"] = "leukocytes", "second", cells["residual"]
    data["also_observed"] = [
        {"analyte": "fluorouracil", "observes": "concentration", "residual": concentration}
    ]


def _only_default(data: dict[str, Any]) -> None:
    data["default"] = True


ADULT = {
    "weight": quantity(70, "kg"),
    "age": quantity(61, "a"),
    "sex": "male",
    "creatinine": quantity(1.1, "mg/dL"),
    "dialysis": False,
}
KIDNEY = {
    "age": quantity(52, "a"),
    "weight": quantity(74, "kg"),
    "height": quantity(176, "cm"),
    "sex": "male",
    "albumin": quantity(40, "g/L"),
    "creatinine": quantity(140, "umol/L"),
    "haematocrit": quantity(33, "%"),
}
HEART = {
    "age": quantity(66, "a"),
    "weight": quantity(70, "kg"),
    "creatinine_clearance": quantity(75, "mL/min"),
    "severe_heart_or_liver_failure": False,
}
EPILEPSY = {"age": quantity(40, "a"), "weight": quantity(70, "kg"), "further_antiepileptics": False}
CLOTTING = covariates({"CYP2C9": "*1/*2", "VKORC1": "AG"}, age=quantity(67, "a"))
TUMOUR = covariates({"DPYD": "1"}, age=quantity(58, "a"), body_surface=quantity(1.9, "m2"), cisplatin=False)
HEAVIER = covariates(weight=quantity(82, "kg"))
LIGHTER = covariates(weight=quantity(64, "kg"))
FAILING = covariates(severe_heart_or_liver_failure=True)
ADDED = covariates(further_antiepileptics=True)
PLATINUM = covariates(cisplatin=True)

WARDS: dict[str, Ward] = {
    "one compartment, infusions": Ward(
        "busulfan-paci-2012", covariates(weight=quantity(12, "kg"), age=quantity(2, "a")),
        covariates(weight=quantity(13, "kg")), 16.0, 6.0, "iv", 2.0, 0.8, "mg/L", "busulfan", 30.0,
    ),
    "one compartment, by mouth": Ward(
        "theophylline-pinheiro-bates-2000", covariates(weight=quantity(70, "kg")), HEAVIER,
        320.0, 12.0, "oral", 0.0, 9.0, "mg/L", "theophylline", 50.0,
    ),
    "one compartment, level set aside": Ward(
        "lithium-jermain-1991", covariates(age=quantity(35, "a")), covariates(age=quantity(36, "a")),
        900.0, 12.0, "oral", 0.0, 0.9, "mmol/L", "lithium", 60.0,
    ),
    "two compartments": Ward(
        "vancomycin-goti-2018", covariates(**ADULT), covariates(dialysis=True),
        1000.0, 12.0, "iv", 1.0, 18.0, "mg/L", "vancomycin", 60.0,
    ),
    "two compartments, by mouth after a lag, occasions": Ward(
        "tacrolimus-andrews-2019", covariates({"CYP3A5": "*3/*1"}, **KIDNEY),
        covariates(haematocrit=quantity(27, "%")),
        6.0, 12.0, "oral", 0.0, 10.0, "ng/mL", "tacrolimus", 160.0,
    ),
    "two compartments, at a constant rate, drift": Ward(
        "quinidine-fattinger-1991", covariates(**HEART), FAILING,
        249.0, 6.0, "oral", 0.0, 2.5, "mg/L", "quinidine", 190.0,
    ),
    "two compartments, at a constant rate after a lag": Ward(
        "carvedilol-hwang-2023", covariates({"CYP2D6": "*1/*1"}, sex="male"),
        covariates({"CYP2D6": "*10/*10"}),
        25.0, 24.0, "oral", 0.0, 20.0, "ng/mL", "carvedilol", 60.0,
    ),
    "two compartments, parallel absorption, drift": Ward(
        "quinidine-fattinger-1991", covariates(**HEART), FAILING,
        249.0, 6.0, "oral", 0.0, 2.5, "mg/L", "quinidine", 120.0, _parallel,
    ),
    "two compartments, transit": Ward(
        "lithium-yuan-2021", covariates(age=quantity(7, "a"), weight=quantity(20, "kg")),
        covariates(weight=quantity(22, "kg")),
        240.0, 24.0, "oral", 0.0, 0.3, "mmol/L", "lithium", 50.0, _only_default, examples=4, events=2,
    ),
    "three compartments, effect site": Ward(
        "fentanyl-algera-2021", covariates(weight=quantity(70, "kg")), HEAVIER,
        0.1, 1.0, "iv", 0.0, 0.8, "ng/mL", "fentanyl", 12.0, known_residual,
    ),
    "metabolite": Ward(
        "theophylline-pinheiro-bates-2000", covariates(weight=quantity(70, "kg")), LIGHTER,
        320.0, 12.0, "oral", 0.0, 9.0, "mg/L", "theophylline", 50.0,
        functools.partial(_metabolite, measured=False),
    ),
    "metabolite, measured": Ward(
        "theophylline-pinheiro-bates-2000", covariates(weight=quantity(70, "kg")), LIGHTER,
        320.0, 12.0, "oral", 0.0, 2.0, "mg/L", "theophylline", 50.0,
        functools.partial(_metabolite, measured=True),
    ),
    "saturable elimination": Ward(
        "phenytoin-yukawa-1990", covariates({"CYP2C9": "*1/*3"}, **EPILEPSY), ADDED,
        150.0, 12.0, "oral", 0.0, 12.0, "mg/L", "phenytoin", 100.0, examples=6, events=3,
    ),
    "mixed elimination, drift": Ward(
        "phenytoin-yukawa-1990", covariates(**EPILEPSY), ADDED,
        150.0, 12.0, "oral", 0.0, 12.0, "mg/L", "phenytoin", 100.0, _mixed, examples=4, events=2,
    ),
    "coagulation, mean of two chains": Ward(
        "warfarin-hamberg-2010", CLOTTING, covariates(age=quantity(68, "a")),
        5.0, 24.0, "oral", 0.0, 2.2, "{INR}", "inr", 120.0, examples=4, events=2,
    ),
    "coagulation, product of two chains": Ward(
        "warfarin-hamberg-2010", CLOTTING, covariates(age=quantity(68, "a")),
        5.0, 24.0, "oral", 0.0, 2.2, "{INR}", "inr", 120.0, _coagulation_product, examples=4, events=2,
    ),
    "bone marrow": Ward(
        "fluorouracil-arshad-2020", TUMOUR, PLATINUM,
        1900.0, 24.0, "iv", 22.0, 0.4, "mg/L", "fluorouracil", 60.0, examples=4, events=2,
    ),
    "bone marrow, cells counted": Ward(
        "fluorouracil-arshad-2020", TUMOUR, PLATINUM,
        1900.0, 24.0, "iv", 22.0, 5.0, "10*9/L", "leukocytes", 60.0, _cells_counted, examples=4, events=2,
    ),
    "wearable frames": Ward(
        "moxifloxacin-hong-2015",
        covariates(weight=quantity(68, "kg"), age=quantity(31, "a"), sex="male"), HEAVIER,
        400.0, 4.0, "oral", 0.0, 2.5, "mg/L", "moxifloxacin", 11.0, frames=True, events=2,
    ),
}  # fmt: skip


@functools.cache
def library_of(structure: str) -> Library:
    """A library of this structure's drug alone."""
    ward = WARDS[structure]
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder)
        (config / "drugs").mkdir()
        for name in ("signals.yaml", "risk.yaml"):
            shutil.copy(CONFIG / name, config / name)
        name = f"drugs/{ward.model}.yaml"
        data = yaml.load((CONFIG / name).read_text(encoding="utf-8"), Loader=yaml.CSafeLoader)
        if ward.edit is not None:
            ward.edit(data)
            # What is assumed leaves every alarm unverified.
            for threshold in data.get("thresholds", {}).values():
                threshold["status"] = "R"
        (config / name).write_text(
            yaml.safe_dump(data, sort_keys=False, allow_unicode=True), encoding="utf-8"
        )
        return load_library(config)
