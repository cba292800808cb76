"""The library's own files, and how a wrong file is refused: with file, key, value, rule and way out."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from twinstate.catalogue import Bounds
from twinstate.drug import Exponential, Genotype, LinearCentred, LinearSum, Piecewise, Power
from twinstate.errors import LibraryError
from twinstate.library import Library, load_library
from twinstate.pk.course import STRUCTURAL_PARAMETERS

CONFIG = Path(__file__).parents[2] / "config"
VANCOMYCIN = "drugs/vancomycin-goti-2018.yaml"
MOXIFLOXACIN = "drugs/moxifloxacin-hong-2015.yaml"

Edit = Callable[[dict[str, Any]], object]


@pytest.fixture(scope="module")
def library() -> Library:
    return load_library(CONFIG)


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A copy of the library that a test may break."""
    for name in ("signals.yaml", "risk.yaml"):
        shutil.copy(CONFIG / name, tmp_path / name)
    shutil.copytree(CONFIG / "drugs", tmp_path / "drugs")
    return tmp_path


def edited(config: Path, name: str, edit: Edit) -> Library:
    """Load the library with one file edited."""
    path = config / name
    data = yaml.safe_load(path.read_text(encoding="utf-8"))
    edit(data)
    path.write_text(yaml.safe_dump(data, sort_keys=False, allow_unicode=True), encoding="utf-8")
    return load_library(config)


def refusal(config: Path, name: str, edit: Edit) -> str:
    """What is said of one file edited wrongly; the file is always named."""
    with pytest.raises(LibraryError) as refused:
        edited(config, name, edit)
    text = str(refused.value)
    assert text.startswith(f"{config / name}: "), text
    return text.removeprefix(f"{config / name}: ")


def parameter(name: str, **changes: object) -> Edit:
    return lambda data: data["parameters"][name].update(changes)


def effect(**row: object) -> Edit:
    """Give vancomycin's clearance one more effect."""
    return lambda data: data["parameters"]["clearance"]["scales_with"].append(row)


# What is there


def test_five_drugs_have_one_default_model_each(library: Library) -> None:
    assert sorted(library.models) == [
        "moxifloxacin-hong-2015",
        "phenobarbital-grasela-donn-1985",
        "quinidine-fattinger-1991",
        "theophylline-pinheiro-bates-2000",
        "vancomycin-goti-2018",
    ]
    assert {drug: model.drug for drug, model in library.drugs.items()} == {d: d for d in library.drugs}
    assert all(model.default for model in library.drugs.values())


def test_variability_is_the_papers(library: Library) -> None:
    # Variances as the transcriptions print them (nlmixr2lib; Pharmpy for phenobarbital), rounded there.
    wanted = {
        "vancomycin": {"clearance": 0.14705, "central_volume": 0.51019, "peripheral_volume": 0.28232},
        "moxifloxacin": {"clearance": 0.07037, "central_volume": 0.02983, "absorption_rate": 0.6521},
        "phenobarbital": {"clearance": 0.0309626, "central_volume": 0.031128},
        "theophylline": {"clearance": 0.167**2, "absorption_rate": 0.64**2},
        "quinidine": {
            "clearance": math.log(1 + 0.402**2),
            "central_volume": math.log(1 + 0.756**2),
            "input_duration": math.log(1 + 0.494**2),
        },
    }
    for drug, variances in wanted.items():
        model = library.drugs[drug]
        assert dict(zip(model.etas, np.diag(model.omega).tolist(), strict=True)) == pytest.approx(
            variances, abs=2e-4
        )


def test_only_moxifloxacins_clearance_and_volume_are_correlated(library: Library) -> None:
    omega = library.drugs["moxifloxacin"].omega
    assert omega[0, 1] == omega[1, 0] == pytest.approx(0.04215, abs=1e-5)
    for drug, model in library.drugs.items():
        off_diagonal = np.count_nonzero(model.omega - np.diag(np.diag(model.omega)))
        assert off_diagonal == (2 if drug == "moxifloxacin" else 0)


def test_each_eta_moves_the_parameter_it_is_named_for(library: Library) -> None:
    for model in library.models.values():
        for position, name in enumerate(model.etas):
            assert model.eta_index[STRUCTURAL_PARAMETERS.index(name)] == position
        assert model.omega.shape == (len(model.etas),) * 2
        assert model.eta_index.shape == (len(STRUCTURAL_PARAMETERS),)


def test_theophyllines_volume_moves_with_its_clearance(library: Library) -> None:
    model = library.drugs["theophylline"]
    assert model.etas == ("clearance", "absorption_rate")
    moved = {
        name: int(eta) for name, eta in zip(STRUCTURAL_PARAMETERS, model.eta_index, strict=True) if eta >= 0
    }
    assert moved == {"clearance": 0, "central_volume": 0, "absorption_rate": 1}


def test_residuals_are_the_papers(library: Library) -> None:
    assert {drug: tuple(model.residual) for drug, model in library.drugs.items()} == {
        "vancomycin": (0.227, 3.4, False),
        "moxifloxacin": (0.140, 0.0, False),
        "theophylline": (0.0, 0.71, False),
        "phenobarbital": (0.115, 0.0, False),
        "quinidine": (0.22, 0.0, False),
    }
    assert math.sqrt(0.013241) == pytest.approx(0.115, abs=1e-4)


def test_alarms_carry_limit_horizon_status_source_and_version(library: Library) -> None:
    alarms = {
        drug: [(t.metric, t.limit, t.unit, t.horizon_h, t.status, t.version) for t in model.thresholds]
        for drug, model in library.drugs.items()
    }
    assert alarms == {
        "vancomycin": [("auc24", 600.0, "mg*h/L", 24.0, "V", "1")],
        "phenobarbital": [("concentration", 40.0, "mg/L", 24.0, "V", "1")],
        "theophylline": [("concentration", 20.0, "mg/L", 24.0, "V", "1")],
        "quinidine": [("concentration", 5.0, "mg/L", 24.0, "R", "1")],
        "moxifloxacin": [("effect_rise", 30.0, "ms", 24.0, "R", "1")],
    }
    assert all(t.source and t.harm for model in library.models.values() for t in model.thresholds)


def test_moxifloxacins_channel_is_the_papers_and_says_what_it_assumes(library: Library) -> None:
    channel = library.drugs["moxifloxacin"].channel
    assert channel is not None
    assert (channel.signal, channel.baseline_typical, channel.emax, channel.ec50_mg_L) == (
        "qtc",
        406.0,
        34.7,
        3.92,
    )
    assert channel.emax * 3 / (channel.ec50_mg_L + 3) == pytest.approx(15.0, abs=0.05)
    assert [(r.period_h, r.amplitude) for r in channel.rhythms] == [(24.0, 0.009), (6.0, 0.0045)]
    # 08:00 + 1.11 h; 08:00 + 4.65 h is 12.65 h, which a period of 6 h brings to 0.65 h.
    assert [r.acrophase_h for r in channel.rhythms] == pytest.approx([9.11, 0.65])
    assumed = {name for name, provenance in channel.provenance.items() if provenance.status == "A"}
    assert assumed == {"clock_zero", "noise_time_constant", "baseline_drift_per_sqrt_hour"}
    assert channel.keep_h == 72.0


def test_every_number_has_a_status_and_a_source(library: Library) -> None:
    for model in library.models.values():
        assert {p.status for p in model.provenance.values()} <= {"V", "R", "C", "A"}
        assert all(p.source for p in model.provenance.values())
        assert set(model.parameters) <= {key.removeprefix("parameters.") for key in model.provenance}


def test_doses_are_kept_ten_half_lives_and_never_under_thirty_days(library: Library) -> None:
    keeps = {drug: model.keep_h for drug, model in library.drugs.items()}
    assert keeps["phenobarbital"] == keeps["vancomycin"] == 2160
    assert min(keeps.values()) == 720


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


def test_policy_is_that_of_the_issue(library: Library) -> None:
    policy = library.policy
    assert (policy.raise_probability, policy.clear_probability) == (0.5, 0.3)
    assert (policy.high_probability, policy.high_until_probability) == (0.8, 0.7)
    assert (policy.late_h, policy.late_wearable_h, policy.settled_h) == (72, 12, 72)
    assert (policy.revise_h, policy.revise_wearable_h, policy.future_h) == (2160, 12, 5 / 60)


def test_lists_for_people_have_a_row_for_every_model_signal_and_analyte(library: Library) -> None:
    assert [row.model for row in library.describe_drugs()] == sorted(library.models)
    rows = library.describe_signals()
    assert len(rows) == len(library.signals) + len(library.analytes)
    qtc = next(row for row in rows if row.slug == "qtc")
    assert qtc.models == ("moxifloxacin-hong-2015",)
    creatinine = next(row for row in rows if row.slug == "creatinine")
    assert creatinine.models == ("quinidine-fattinger-1991", "vancomycin-goti-2018")


def test_the_models_arrays_cannot_be_changed(library: Library) -> None:
    with pytest.raises(ValueError, match="read-only"):
        library.drugs["vancomycin"].omega[0, 0] = 0.0


# Fingerprint


def test_comments_and_layout_do_not_change_the_fingerprint_but_any_value_does(
    config: Path, library: Library
) -> None:
    assert edited(config, VANCOMYCIN, lambda data: None).fingerprint == library.fingerprint
    changed = edited(config, "risk.yaml", lambda data: data["episodes"].update(raise_probability=0.51))
    assert changed.fingerprint != library.fingerprint


def test_a_new_drug_is_a_file_and_a_new_threshold_a_row(config: Path) -> None:
    thomson = config / "drugs/vancomycin-thomson-2009.yaml"
    shutil.copy(config / VANCOMYCIN, thomson)
    edited_library = edited(
        config, thomson.relative_to(config).as_posix(), lambda data: data.update(default=False)
    )
    assert len(edited_library.models) == 6
    assert edited_library.drugs["vancomycin"].model == "vancomycin-goti-2018"
    row = {
        "metric": "concentration",
        "toxicity_alarm": 0.08,
        "unit": "mg/L",
        "harm": "kidney",
        "severity_label": "alarm",
        "status": "R",
        "source": "test",
        "version": "1",
    }
    more = edited(config, VANCOMYCIN, lambda data: data["thresholds"].update(high_peak=row))
    assert [t.name for t in more.drugs["vancomycin"].thresholds] == ["high_auc24", "high_peak"]


# Effects in other units


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
        for case in data["checks"]:
            case["genotype"] = {"CYP2C9": "*1/*1"}

    read = edited(config, VANCOMYCIN, edit).drugs["vancomycin"].parameters["clearance"].effects[-1]
    assert read == Genotype("CYP2C9", {"*1/*1": 1.0, "*1/*3": 0.6})


# Refusals


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
        (VANCOMYCIN, lambda d: d.update(compartments=3), "compartments is 3; it must be 1 or 2"),
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
            "parameters.absorption_rate is there, which does not fit compartments: 2 and oral: none; remove it",
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
            "parameters.clearance.scales_with[2] is a table of diplotypes, but that",
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
    ],
)
def test_a_channel_that_cannot_be_understood_is_refused(config: Path, edit: Edit, wanted: str) -> None:
    assert refusal(config, MOXIFLOXACIN, edit).startswith(wanted)


def test_a_rate_whose_variability_cannot_be_told_from_clearance_is_refused(config: Path) -> None:
    name = "drugs/theophylline-pinheiro-bates-2000.yaml"
    said = refusal(config, name, parameter("elimination_rate", between_subject_cv=0.1))
    assert said.startswith(
        "parameters.elimination_rate is given a between_subject_*, but its variability cannot be told"
    )


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


@pytest.mark.parametrize(
    ("change", "wanted"),
    [
        (
            {"clear_probability": 0.6},
            "episodes.clear_probability is 0.6, but must be below raise_probability (0.5)",
        ),
        (
            {"high_probability": 0.4},
            "episodes.raise_probability is 0.5, but must be below high_probability (0.4)",
        ),
        (
            {"high_until_probability": 0.9},
            "episodes.high_until_probability is 0.9, but must be below high_probability",
        ),
        ({"raise_probability": 1.5}, "episodes.raise_probability is 1.5; "),
    ],
)
def test_a_policy_under_which_episodes_would_flicker_is_refused(
    config: Path, change: dict[str, float], wanted: str
) -> None:
    assert refusal(config, "risk.yaml", lambda data: data["episodes"].update(change)).startswith(wanted)


def test_two_defaults_or_none_for_a_drug_are_refused(config: Path) -> None:
    shutil.copy(config / VANCOMYCIN, config / "drugs/vancomycin-second-2020.yaml")
    with pytest.raises(LibraryError, match="vancomycin has 2 models with default: true"):
        load_library(config)


def test_a_file_not_called_by_its_drug_is_refused(config: Path) -> None:
    (config / VANCOMYCIN).rename(config / "drugs/goti.yaml")
    with pytest.raises(LibraryError, match="must be called vancomycin-<author>-<year>"):
        load_library(config)


def test_a_key_written_twice_is_refused_instead_of_the_last_one_winning(config: Path) -> None:
    path = config / VANCOMYCIN
    path.write_text(path.read_text(encoding="utf-8") + "\ndefault: false\n", encoding="utf-8")
    with pytest.raises(LibraryError, match="the key 'default' is written twice"):
        load_library(config)


def test_what_is_not_yaml_or_not_there_is_refused_by_name(config: Path) -> None:
    (config / "risk.yaml").write_text("episodes: [", encoding="utf-8")
    with pytest.raises(LibraryError, match=r"risk\.yaml: is not YAML"):
        load_library(config)
    (config / "risk.yaml").unlink()
    with pytest.raises(LibraryError, match=r"risk\.yaml: cannot be read \(No such file"):
        load_library(config)


def test_a_library_without_drugs_is_refused(config: Path) -> None:
    shutil.rmtree(config / "drugs")
    with pytest.raises(LibraryError, match=r"holds no \*\.yaml; add a drug file"):
        load_library(config)
