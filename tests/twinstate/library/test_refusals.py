"""How a wrong drug file is refused: with file, key, value, rule and way out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.twinstate.library.configs import (
    CONFIG,
    MOXIFLOXACIN,
    VANCOMYCIN,
    WARFARIN,
    Edit,
    effect,
    parameter,
    refusal,
)
from twinstate.library import load_library


def test_an_unknown_key_is_refused_with_the_keys_that_are_known(config: Path) -> None:
    said = refusal(config, VANCOMYCIN, parameter("clearance", typcial=4.5))
    assert said.startswith(
        "parameters.clearance.typcial is not a key this file may have; remove it or use one of: "
    )
    assert "typical" in said
    assert "between_subject_cv" in said


@pytest.mark.parametrize(
    ("name", "edit", "place", "known"),
    [
        (VANCOMYCIN, lambda d: d.update(color="red"), "color", "compartments"),
        (
            VANCOMYCIN,
            lambda d: d["parameters"].update(volume=d["parameters"]["clearance"]),
            "parameters.volume",
            "lag",
        ),
        (
            VANCOMYCIN,
            effect(covariate="age", hill=2.0),
            "parameters.clearance.scales_with[2].hill",
            "piecewise",
        ),
        (
            VANCOMYCIN,
            lambda d: d["thresholds"]["high_auc24"].update(limit=1),
            "thresholds.high_auc24.limit",
            "horizon",
        ),
        (MOXIFLOXACIN, lambda d: d["channel"]["emax"].update(cv=1), "channel.emax.cv", "reason"),
        ("risk.yaml", lambda d: d["time"].update(late=1), "time.late", "late_after_hours"),
        (
            "signals.yaml",
            lambda d: d["signals"]["qtc"].update(bounds_low=1),
            "signals.qtc.bounds_low",
            "resolution",
        ),
    ],
)
def test_an_unknown_key_is_refused_wherever_it_stands(
    config: Path, name: str, edit: Edit, place: str, known: str
) -> None:
    said = refusal(config, name, edit)
    assert said.startswith(f"{place} is not a key this file may have")
    assert known in said.split("use one of: ")[1]


@pytest.mark.parametrize(
    ("name", "edit", "wanted"),
    [
        (
            VANCOMYCIN,
            parameter("clearance", typical="4.5"),
            "parameters.clearance.typical is '4.5'; it must be a",
        ),
        (
            VANCOMYCIN,
            parameter("clearance", typical=True),
            "parameters.clearance.typical is True; it must be a",
        ),
        (
            VANCOMYCIN,
            parameter("clearance", status="X"),
            "parameters.clearance.status is 'X'; it must be 'V', 'R', 'C'",
        ),
        (VANCOMYCIN, parameter("clearance", status="U"), "parameters.clearance.status is 'U'"),
        (VANCOMYCIN, lambda d: d.pop("source"), "source is missing; config/drugs/README.md"),
        (
            VANCOMYCIN,
            lambda d: d["thresholds"]["high_auc24"].pop("source"),
            "thresholds.high_auc24.source is missing",
        ),
        (
            VANCOMYCIN,
            lambda d: d["parameters"]["clearance"].pop("status"),
            "parameters.clearance.status is missing",
        ),
        (VANCOMYCIN, lambda d: d.update(checks=[]), "checks is a list; "),
        (VANCOMYCIN, lambda d: d.update(compartments=4), "compartments is 4; it must be 1, 2 or 3"),
    ],
)
def test_a_value_of_the_wrong_form_is_refused_with_its_place_and_the_rule(
    config: Path, name: str, edit: Edit, wanted: str
) -> None:
    assert refusal(config, name, edit).startswith(wanted)


def test_several_breaches_of_form_are_counted(config: Path) -> None:
    said = refusal(config, VANCOMYCIN, lambda data: data.update(color="red", shape="round"))
    assert said.endswith("(1 more in this file)")


@pytest.mark.parametrize(
    ("edit", "wanted"),
    [
        (
            parameter("clearance", unit="ml/min"),
            "parameters.clearance.typical: 4.5 has the unit 'ml/min', which is not read; send one of 'L/h', 'L/min', "
            "'mL/min', 'mL/h' (units are UCUM and case matters: 'ml/min' may mean 'mL/min')",
        ),
        (
            parameter("clearance", between_subject_sd=0.3),
            "parameters.clearance is given more than one between_subject_*",
        ),
        (parameter("clearance", typical=0), "parameters.clearance.typical is 0 L/h, but only a lag may be 0"),
        (
            lambda d: d["parameters"].pop("peripheral_volume"),
            "parameters.peripheral_volume is missing, which does not fit compartments: 2",
        ),
        (
            lambda d: d["parameters"].pop("central_volume"),
            "parameters is with neither, but exactly one of central_volume",
        ),
        (
            lambda d: d["parameters"].update(absorption_rate={"typical": 1, "unit": "1/h", "status": "V"}),
            "parameters.absorption_rate is there, which does not fit compartments: 2, oral: none, "
            "elimination: linear, transits: 0 and second: none; remove it",
        ),
        (
            lambda d: d["parameters"].update(lag={"typical": 1, "unit": "h", "status": "V"}),
            "parameters.lag is there, but only an oral route has one",
        ),
        (lambda d: d.update(routes=["iv", "oral"]), "oral is none, which does not fit routes: iv, oral"),
        (
            lambda d: d.update(analyte="vancomycine"),
            "analyte is vancomycine, which config/signals.yaml does not list",
        ),
        (
            lambda d: d.update(analyte="potassium"),
            "analyte is potassium in mmol/L, but a model predicts mg/L",
        ),
        (
            effect(covariate="shoe_size", factor=2.0),
            "parameters.clearance.scales_with[2].covariate is shoe_size, which",
        ),
        (
            effect(covariate="sex", power=2.0),
            "parameters.clearance.scales_with[2].covariate is sex, which is a category",
        ),
        (
            effect(covariate="sex", factor=2.0),
            "parameters.clearance.scales_with[2].when is None, but sex can be female",
        ),
        (
            effect(covariate="sex", when="F", factor=2.0),
            "parameters.clearance.scales_with[2].when is F, but sex can be",
        ),
        (
            effect(covariate="age", unit="a"),
            "parameters.clearance.scales_with[2] is without an effect, but needs exactly",
        ),
        (
            effect(covariate="age", unit="a", reference=40, power=1, exponential=1),
            "parameters.clearance.scales_with[2] is power and exponential, but needs exactly one of",
        ),
        (
            effect(covariate="age", unit="a", power=1),
            "parameters.clearance.scales_with[2] is power without a reference",
        ),
        (
            effect(covariate="age", unit="a", factor=2.0, reference=40),
            "parameters.clearance.scales_with[2] is factor with reference, but factor reads only: at_least",
        ),
        (
            effect(covariate="age", power=1, reference=4),
            "parameters.clearance.scales_with[2] is 1 without a unit, but",
        ),
        (
            effect(covariate="age", unit="a", power=1, reference=0),
            "parameters.clearance.scales_with[2].reference is 0, but a power needs a reference above 0",
        ),
        (
            effect(covariate="age", unit="a", piecewise=[[20, 1], [10, 2]]),
            "parameters.clearance.scales_with[2].piecewise is [[20.0, 1.0], [10.0, 2.0]], but the first numbers must",
        ),
        (
            effect(diplotypes={"*1/*1": 1.0}),
            "parameters.clearance.scales_with[2] is a table of a gene, but that needs a gene",
        ),
        (
            lambda d: d.pop("derived"),
            "parameters.clearance.scales_with[0].covariate is creatinine_clearance, but derived.creatinine_clearance "
            "does not say how the paper computed it; add its method",
        ),
        (
            lambda d: d.update(
                correlations=[
                    {"between": ["clearance", "intercompartmental_clearance"], "value": 0.5, "status": "V"}
                ]
            ),
            "correlations[0].between is clearance and intercompartmental_clearance, but must name two different",
        ),
        (
            lambda d: d.update(
                correlations=[
                    {"between": ["clearance", "central_volume"], "value": 0.9, "status": "V"},
                    {"between": ["clearance", "peripheral_volume"], "value": 0.9, "status": "V"},
                    {"between": ["central_volume", "peripheral_volume"], "value": -0.9, "status": "V"},
                ]
            ),
            "correlations: standard deviations",
        ),
        (
            lambda d: d.update(residual={"status": "V"}),
            "residual is 0, but no assay and no model is without error",
        ),
        (
            lambda d: d["residual"].pop("unit"),
            "residual.unit is missing, but a unit belongs to an additive residual",
        ),
        (
            lambda d: d["thresholds"]["high_auc24"].update(unit="mg/L"),
            "thresholds.high_auc24.toxicity_alarm: 600 has the unit 'mg/L', which is not read; send 'mg*h/L'",
        ),
        (
            lambda d: d["thresholds"]["high_auc24"].update(metric="effect_rise"),
            "thresholds.high_auc24.metric is effect_rise, but the file has no channel",
        ),
        (
            lambda d: d["domain"]["covariates"]["age"].update(low=120),
            "domain.covariates.age is 120 to 101 a, but low must be below high",
        ),
        (
            lambda d: d["domain"]["covariates"].update(sex={"low": 1, "unit": "a", "status": "V"}),
            "domain.covariates.sex is without one_of, but a category needs the words",
        ),
        (
            lambda d: d.update(defaults={"dialysis": {"value": 0, "status": "A", "reason": "most are not"}}),
            "defaults.dialysis.value is 0",
        ),
        (
            lambda d: d["keep_hours"].update(value=720),
            "keep_hours.value is 720 h, but must be at least 1",
        ),
        (
            lambda d: d["checks"][0]["given"].pop("dialysis"),
            "checks[0].given cannot be computed: vancomycin-goti-2018 needs the covariate dialysis",
        ),
        (
            lambda d: d["checks"][0].update(expect={"colour": 1.0}),
            "checks[0].expect is colour, but only these can be",
        ),
    ],
)
def test_a_file_without_meaning_is_refused_with_key_value_rule_and_way_out(
    config: Path, edit: Edit, wanted: str
) -> None:
    assert refusal(config, VANCOMYCIN, edit).startswith(wanted)


def test_a_clearance_in_the_wrong_unit_is_caught_by_the_papers_own_case(config: Path) -> None:
    said = refusal(config, VANCOMYCIN, parameter("clearance", typical=75))
    assert said.startswith("checks[0].expect.clearance is 3.89, but the file's parameters give 64.8")
    assert "if the paper gives mL/min, 64.8" in said
    assert "mL/min is 3.8" in said


def part(low: float, high: float) -> dict[str, Any]:
    return {"low": low, "high": high, "status": "A", "reason": "nobody published it"}


@pytest.mark.parametrize("points", [[[2.5, 0.2], [1.9, 0.1]], [[1.9, 0.5]]])
def test_a_meters_bias_must_ascend_and_be_smaller_than_any_reading(
    config: Path, points: list[list[float]]
) -> None:
    warfarin = "drugs/warfarin-hamberg-2010.yaml"
    said = refusal(config, warfarin, lambda d: d["also_observed"][0]["reads_high"].update(points=points))
    assert said.startswith("also_observed[0].reads_high.points is [[")
    assert "readings must ascend, and no excess reach the lowest reading there is" in said


@pytest.mark.parametrize(
    ("edit", "wanted"),
    [
        (
            lambda d: d["channel"]["noise_time_constant"].pop("reason"),
            "channel.noise_time_constant is 2 with status A",
        ),
        (
            lambda d: d["channel"]["rhythms"][0].update(period_hours=7),
            "channel.rhythms[0].period_hours is 7, but must",
        ),
        (
            lambda d: d["channel"].update(signal="qt"),
            "channel.signal is qt, which config/signals.yaml does not list",
        ),
        (
            lambda d: d["channel"]["emax"].update(unit="mV"),
            "channel.emax: 34.7 has the unit 'mV', which is not read",
        ),
        (
            lambda d: d["channel"]["residual_cv"].update(unit="ms"),
            "channel.residual_cv.unit is ms, but this is a fraction",
        ),
        (
            lambda d: d["channel"]["emax"].pop("unit"),
            "channel.emax is 34.7, but without a unit it is a fraction of the baseline, at most 1; else",
        ),
        (
            lambda d: d["channel"].pop("emax_between_subject_cv"),
            "channel.emax_between_subject_cv is missing, but nothing says how patients differ",
        ),
        (
            lambda d: d["channel"].update(follows="second"),
            "channel.follows is second, but the model has no effect site",
        ),
        (
            lambda d: d["channel"].pop("clock_zero"),
            "channel.clock_zero is missing, but rhythms need the hour of UTC",
        ),
        (
            lambda d: d["channel"].update(
                open_rhythm={"amplitude": 0.1, "status": "A", "source": "this project", "reason": "a test"}
            ),
            "channel.open_rhythm is 0.1, but the file lists a rhythm of 24 h",
        ),
        (
            lambda d: d["channel"].update(part_of_effect=part(1.0, 0.5)),
            "channel.part_of_effect is 1 to 0.5, but low must be below high",
        ),
        (
            lambda d: (
                d["channel"].update(part_of_effect=part(0.0, 1.0)),
                d["thresholds"]["qtc_absolute"].update(status="V"),
            ),
            "thresholds.qtc_absolute.status is V, but channel.part_of_effect has status A, so the alarm is unverified; "
            "give it status R",
        ),
    ],
)
def test_a_channel_that_cannot_be_understood_is_refused(config: Path, edit: Edit, wanted: str) -> None:
    assert refusal(config, MOXIFLOXACIN, edit).startswith(wanted)


def recalled(number: dict[str, Any]) -> None:
    number["status"] = "R"


@pytest.mark.parametrize(
    ("file", "alarm", "edit", "weak"),
    [
        (
            VANCOMYCIN,
            "high_auc24",
            lambda d: recalled(d["parameters"]["central_volume"]),
            "parameters.central_volume",
        ),
        (VANCOMYCIN, "high_auc24", lambda d: recalled(d["residual"]), "residual"),
        (
            WARFARIN,
            "high_inr",
            lambda d: d["thresholds"]["high_inr"].update(status="V"),
            "parameters.clearance.between_subject",
        ),
    ],
)
def test_an_alarm_on_a_level_is_not_better_known_than_what_the_level_is_computed_from(
    config: Path, file: str, alarm: str, edit: Edit, weak: str
) -> None:
    said = refusal(config, file, edit)
    assert said.startswith(f"thresholds.{alarm}.status is V, but {weak} has status R")
    assert "so the alarm is unverified; give it status R" in said


def test_every_alarm_of_the_library_that_claims_to_be_known_rests_on_nothing_recalled() -> None:
    checked = 0
    for model in load_library(CONFIG).models.values():
        statuses = {
            place: known.status
            for place, known in model.provenance.items()
            if place.startswith("parameters.")
        }
        for alarm in model.thresholds:
            if alarm.status in ("V", "C"):
                assert not [place for place, status in statuses.items() if status == "R"], model.model
                checked += 1
    assert checked > 10


def test_a_rate_whose_variability_cannot_be_told_from_clearance_is_refused(config: Path) -> None:
    name = "drugs/theophylline-pinheiro-bates-2000.yaml"
    said = refusal(config, name, parameter("elimination_rate", between_subject_cv=0.1))
    assert said.startswith(
        "parameters.elimination_rate is given a between_subject_*, but its variability cannot be told"
    )
