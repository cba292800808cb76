"""Signals, laboratory tests, covariates and genes: how they are found, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.twinstate.library.configs import Edit, refusal
from twinstate.library import Library


def test_an_analyte_is_found_by_slug_and_by_loinc_code(library: Library) -> None:
    assert library.analyte("20578-1") is library.analyte("vancomycin")
    assert library.analyte("14682-9") is library.analyte("creatinine")
    assert library.analyte("no-such") is None
    assert library.signal("8636-3") is library.signal("qtc")


def test_a_creatinine_result_feeds_the_covariate_in_the_same_unit(library: Library) -> None:
    creatinine = library.analytes["creatinine"]
    assert creatinine.covariate == "creatinine"
    assert library.covariates["creatinine"].units == creatinine.units
    assert library.covariates["creatinine"].fed_by == ("creatinine",)


def test_wearable_windows_count_a_day_and_qtc_three(library: Library) -> None:
    assert {slug: signal.keep_h for slug, signal in library.signals.items() if signal.keep_h != 24.0} == {
        "qtc": 72.0
    }


def test_lists_for_people_have_a_row_for_every_model_signal_and_analyte(library: Library) -> None:
    assert [row.model for row in library.describe_drugs()] == sorted(library.models)
    rows = library.describe_signals()
    assert len(rows) == len(library.signals) + len(library.analytes)
    qtc = next(row for row in rows if row.slug == "qtc")
    assert qtc.models == ("moxifloxacin-hong-2015",)
    bilirubin = next(row for row in rows if row.slug == "bilirubin")
    assert bilirubin.models == ()
    albumin = next(row for row in rows if row.slug == "albumin")
    assert albumin.models == ("tacrolimus-andrews-2019",)


@pytest.mark.parametrize(
    ("edit", "wanted"),
    [
        (
            lambda d: d["signals"]["qtc"].update(unit="s"),
            "signals.qtc.units has 1000.0 for the canonical unit 's'",
        ),
        (
            lambda d: d["signals"]["qtc"].update(reject=[800, 200]),
            "signals.qtc.reject is [800, 200], but the first",
        ),
        (
            lambda d: d["signals"]["qtc"].pop("noise"),
            "signals.qtc has one of device_sd and noise, but a figure and its",
        ),
        (
            lambda d: d["analytes"]["creatinine"].update(covariate="creatine"),
            "analytes.creatinine.covariate is creatine, which is not listed under covariates; it must be a",
        ),
        (
            lambda d: d["analytes"]["creatinine"].update(covariate="weight"),
            "analytes.creatinine.covariate is weight, which is in kg; it must be a number in mg/dL",
        ),
        (
            lambda d: d["analytes"]["sodium"].update(loinc=["2823-3"]),
            "the LOINC code 2823-3 stands in 2 rows, but an alias names one row only",
        ),
        (
            lambda d: d["covariates"]["sex"].update(categories=["female"]),
            "covariates.sex is a category with 1 categories",
        ),
        (
            lambda d: d["covariates"]["weight"].pop("bounds"),
            "covariates.weight is a number with unit, units, but a number",
        ),
        (
            lambda d: d["analytes"]["sodium"].update(loinc=["Na"]),
            "analytes.sodium.loinc[0] is 'Na'; string must match",
        ),
    ],
)
def test_a_catalogue_that_does_not_fit_together_is_refused(config: Path, edit: Edit, wanted: str) -> None:
    said = refusal(config, "signals.yaml", edit)
    assert said.startswith(wanted)
