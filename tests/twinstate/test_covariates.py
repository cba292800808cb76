"""Typical parameters against hand-computed figures, and what is said when a covariate is missing or unusual."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from twinstate.catalogue import Bounds
from twinstate.drug import (
    Condition,
    DrugModel,
    Effect,
    Exponential,
    Factor,
    Genotype,
    Instead,
    LinearCentred,
    LinearSum,
    Piecewise,
    Power,
)
from twinstate.errors import CovariateError, MathsError
from twinstate.history import CovariateValue
from twinstate.library import load_library
from twinstate.pk.course import STRUCTURAL_PARAMETERS
from twinstate.population.covariates import (
    body_surface,
    cockcroft_gault,
    dettli,
    doses_outside,
    fat_free_mass,
    typical_log_parameters,
)

LIBRARY = load_library(Path(__file__).parents[2] / "config")
VANCOMYCIN = LIBRARY.drugs["vancomycin"]
ADULT: dict[str, CovariateValue] = {
    "age": 57.0,
    "weight": 79.0,
    "sex": "male",
    "creatinine": 1.0,
    "dialysis": False,
}
ANY = Bounds(-math.inf, math.inf)


def typical(model: DrugModel, **covariates: CovariateValue) -> dict[str, float]:
    log_typical = typical_log_parameters(model, covariates, {}).log_typical
    return dict(zip(STRUCTURAL_PARAMETERS, np.exp(log_typical).tolist(), strict=True))


def with_effect(effect: Effect) -> DrugModel:
    """Theophylline with a clearance of 10 L/h under one effect; it may read the whole catalogue."""
    model = LIBRARY.drugs["theophylline"]
    clearance = replace(model.parameters["clearance"], typical=10.0, effects=(effect,))
    return replace(
        model, parameters={**model.parameters, "clearance": clearance}, covariates=LIBRARY.covariates
    )


def test_vancomycin_clearance_is_4_5_times_crcl_over_120_to_the_0_8() -> None:
    # Goti 2018, Table 2; 3.89 L/h is also the check of the facts this file was written from.
    found = typical(VANCOMYCIN, creatinine_clearance=100.0, weight=79.0, dialysis=False)
    assert found["clearance"] == pytest.approx(4.5 * (100 / 120) ** 0.8, rel=1e-14)
    assert found["clearance"] == pytest.approx(3.89, abs=0.005)
    assert found["central_volume"] == pytest.approx(58.4 * 79 / 70, rel=1e-14)
    assert found["peripheral_volume"] == pytest.approx(38.4 * 79 / 70, rel=1e-14)
    assert found["intercompartmental_clearance"] == pytest.approx(6.5, rel=1e-14)


def test_two_grams_of_vancomycin_a_day_give_an_auc24_of_514_at_the_papers_patient() -> None:
    found = typical(VANCOMYCIN, creatinine_clearance=100.0, weight=79.0, dialysis=False)
    assert 2000 / found["clearance"] == pytest.approx(514, abs=0.5)


def test_dialysis_takes_thirty_percent_of_clearance_and_half_of_the_central_volume() -> None:
    without = typical(VANCOMYCIN, creatinine_clearance=30.0, weight=70.0, dialysis=False)
    on = typical(VANCOMYCIN, creatinine_clearance=30.0, weight=70.0, dialysis=True)
    assert on["clearance"] == pytest.approx(0.7 * without["clearance"], rel=1e-14)
    assert on["central_volume"] == pytest.approx(29.2, rel=1e-14)
    assert on["peripheral_volume"] == pytest.approx(38.4, rel=1e-14)


def test_creatinine_clearance_is_computed_by_cockcroft_gault_when_it_is_not_sent() -> None:
    by_hand = (140 - 57) * 79 / 72  # 91.07 mL/min
    assert typical(VANCOMYCIN, **ADULT)["clearance"] == pytest.approx(4.5 * (by_hand / 120) ** 0.8, rel=1e-14)
    women = typical(VANCOMYCIN, **{**ADULT, "sex": "female"})["clearance"]
    assert women == pytest.approx(4.5 * (0.85 * by_hand / 120) ** 0.8, rel=1e-14)


def test_creatinine_clearance_that_is_sent_wins_over_creatinine() -> None:
    sent = typical(VANCOMYCIN, **{**ADULT, "creatinine_clearance": 40.0})
    assert sent["clearance"] == pytest.approx(4.5 * (40 / 120) ** 0.8, rel=1e-14)


def test_vancomycin_truncates_creatinine_clearance_at_150() -> None:
    capped = 4.5 * (150 / 120) ** 0.8
    assert typical(VANCOMYCIN, **{**ADULT, "age": 20.0, "creatinine": 0.4})["clearance"] == pytest.approx(
        capped
    )
    assert typical(VANCOMYCIN, **{**ADULT, "creatinine_clearance": 220.0})["clearance"] == pytest.approx(
        capped
    )


def test_vancomycin_takes_a_low_creatinine_as_1_above_sixty_years_only() -> None:
    at_60 = {**ADULT, "age": 60.0}
    over_60 = {**ADULT, "age": 61.0}
    assert typical(VANCOMYCIN, **at_60, **{}) != typical(VANCOMYCIN, **{**at_60, "creatinine": 0.8})
    assert typical(VANCOMYCIN, **over_60) == typical(VANCOMYCIN, **{**over_60, "creatinine": 0.8})


def test_moxifloxacin_needs_no_covariates_and_gives_the_papers_values() -> None:
    found = typical(LIBRARY.drugs["moxifloxacin"])
    wanted = {
        "clearance": 11.8,
        "central_volume": 173,
        "intercompartmental_clearance": 5.62,
        "peripheral_volume": 47.1,
        "absorption_rate": 16.7,
        "lag": 0.46,
        "bioavailability": 1.0,
    }
    assert {name: value for name, value in found.items() if value > 0} == pytest.approx(wanted, rel=1e-14)
    assert 400 / found["clearance"] == pytest.approx(33.9, abs=0.05)


def test_theophylline_volume_is_clearance_over_the_elimination_rate() -> None:
    found = typical(LIBRARY.drugs["theophylline"], weight=70.0)
    assert found["clearance"] == pytest.approx(0.0397 * 70, rel=1e-14)
    assert found["central_volume"] == pytest.approx(0.0397 * 70 / 0.086, rel=1e-14)
    assert found["peripheral_volume"] == 0.0


def test_phenobarbital_volume_is_a_tenth_larger_below_an_apgar_score_of_5() -> None:
    model = LIBRARY.drugs["phenobarbital"]
    well = typical(model, weight=1.5, apgar_5_min=5.0)
    asphyxiated = typical(model, weight=1.5, apgar_5_min=4.0)
    assert well["central_volume"] == pytest.approx(1.00916 * 1.5, rel=1e-14)
    assert asphyxiated["central_volume"] == pytest.approx(1.1 * 1.00916 * 1.5, rel=1e-14)
    assert math.log(2) * well["central_volume"] / well["clearance"] == pytest.approx(149, abs=0.1)


@pytest.mark.parametrize(("severe", "other"), [(False, 12.6), (True, 6.8)])
def test_quinidine_clearance_is_a_sum_of_a_renal_and_another_part(severe: bool, other: float) -> None:
    found = typical(
        LIBRARY.drugs["quinidine"], severe_heart_or_liver_failure=severe, creatinine_clearance=75.0
    )
    assert found["clearance"] == pytest.approx(other + 0.0566 * 75, rel=1e-14)
    assert found["input_duration"] == pytest.approx(1.37, rel=1e-14)
    assert found["absorption_rate"] == 0.0


def test_quinidine_computes_creatinine_clearance_as_its_paper_did() -> None:
    sent: dict[str, CovariateValue] = {"age": 65.0, "weight": 70.0, "sex": "male", "creatinine": 1.0}
    found = typical(LIBRARY.drugs["quinidine"], severe_heart_or_liver_failure=False, **sent)
    assert found["clearance"] == pytest.approx(12.6 + 0.0566 * 1.1 * 85 * 70 / 88.4, rel=1e-14)


def test_equations_of_body_size_and_kidney_function_give_published_figures() -> None:
    assert cockcroft_gault(40.0, 72.0, False, 1.0) == pytest.approx(
        100
    )  # by its design: (140 - 40) * 72 / 72
    assert cockcroft_gault(40.0, 72.0, True, 1.0) == pytest.approx(85)
    assert dettli(50.0, 70.0, True, 1.0) == pytest.approx(0.9 * 100 * 70 / 88.4)
    assert body_surface(70.0, 175.0) == pytest.approx(
        1.8447, abs=5e-5
    )  # Mosteller's own form: sqrt(h w / 3600)
    assert fat_free_mass(70.0, 175.0, False) == pytest.approx(
        9270 * 70 / (6680 + 216 * 70 / 1.75**2), rel=1e-14
    )
    assert fat_free_mass(70.0, 175.0, True) < fat_free_mass(70.0, 175.0, False)


@pytest.mark.parametrize(
    ("effect", "wanted"),
    [
        (Power("age", 40.0, 0.5, ANY), 10 * math.sqrt(50 / 40)),
        (Power("age", 40.0, 0.5, Bounds(0.0, 45.0)), 10 * math.sqrt(45 / 40)),
        (Exponential("age", 40.0, 0.02, ANY), 10 * math.exp(0.2)),
        (LinearCentred("age", 40.0, -0.01, ANY), 9.0),
        (LinearCentred("age", 40.0, -0.01, Bounds(60.0, 90.0)), 8.0),
        (LinearSum("age", 0.1, ANY), 15.0),
        (Factor(Condition("sex", is_value="female"), 0.5), 5.0),
        (Factor(Condition("sex", is_value="male"), 0.5), 10.0),
        (Factor(Condition("age", at_least=50.0), 0.5), 5.0),
        (Factor(Condition("age", below=50.0), 0.5), 10.0),
        (Instead(Condition("dialysis", is_value=True), 3.0), 3.0),
        (Piecewise("age", ((0.0, 2.0), (40.0, 1.0), (60.0, 0.5))), 7.5),
        (Piecewise("age", ((60.0, 2.0), (70.0, 1.0))), 20.0),
        (Piecewise("age", ((10.0, 2.0), (20.0, 0.3))), 3.0),
        (Genotype("CYP2C9", {"*1/*1": 1.0, "*1/*3": 0.6}), 6.0),
    ],
)
def test_each_effect_does_to_a_clearance_of_10_what_its_name_says(effect: Effect, wanted: float) -> None:
    sent: dict[str, CovariateValue] = {"age": 50.0, "sex": "female", "dialysis": True, "weight": 70.0}
    found = typical_log_parameters(with_effect(effect), sent, {"CYP2C9": "*1/*3"})
    assert math.exp(found.log_typical[0]) == pytest.approx(wanted, rel=1e-14)


@pytest.mark.parametrize(
    ("derived", "by_hand"),
    [("fat_free_mass", fat_free_mass(70.0, 175.0, True)), ("body_surface", body_surface(70.0, 175.0))],
)
def test_body_size_is_derived_when_it_is_not_sent_and_one_that_is_sent_wins(
    derived: str, by_hand: float
) -> None:
    model = with_effect(LinearSum(derived, 1.0, ANY))
    sent: dict[str, CovariateValue] = {"weight": 70.0, "height": 175.0, "sex": "female"}
    assert typical(model, **sent)["clearance"] == pytest.approx(10 + by_hand, rel=1e-14)
    assert typical(model, **sent, **{derived: 2.0})["clearance"] == pytest.approx(12.0, rel=1e-14)


def test_a_missing_covariate_is_named_with_the_record_that_would_bring_it() -> None:
    with pytest.raises(CovariateError) as missing:
        typical(LIBRARY.drugs["phenobarbital"], weight=1.5)
    assert str(missing.value) == (
        "phenobarbital-grasela-donn-1985 needs the covariate apgar_5_min, which no accepted record has given. Send a "
        'patient record whose payload has "apgar_5_min": {"value": ..., "unit": "{score}"} in its covariates'
    )


def test_a_missing_creatinine_clearance_also_says_what_it_could_be_computed_from() -> None:
    with pytest.raises(CovariateError) as missing:
        typical(VANCOMYCIN, weight=70.0, dialysis=False, age=50.0)
    text = str(missing.value)
    assert '"creatinine_clearance": {"value": ..., "unit": "mL/min"}' in text
    assert "what is missing of age, weight, sex, creatinine: sex, creatinine" in text
    assert "A lab record with the analyte creatinine" in text


def test_no_flag_is_taken_as_false_because_nobody_sent_it() -> None:
    with pytest.raises(CovariateError, match='"dialysis": false'):
        typical(VANCOMYCIN, creatinine_clearance=100.0, weight=70.0)


def test_a_default_that_the_file_declares_is_used_until_something_is_sent() -> None:
    model = replace(VANCOMYCIN, defaults={"dialysis": True})
    sent: dict[str, CovariateValue] = {"creatinine_clearance": 100.0, "weight": 70.0}
    assert typical(model, **sent)["central_volume"] == pytest.approx(29.2)
    assert typical(model, **sent, dialysis=False)["central_volume"] == pytest.approx(58.4)


@pytest.mark.parametrize(
    ("name", "wrong", "said"),
    [("dialysis", "no", "true or false"), ("sex", "F", "female or male"), ("weight", "70", "a number")],
)
def test_a_covariate_of_the_wrong_kind_is_refused_not_read_as_false(
    name: str, wrong: CovariateValue, said: str
) -> None:
    with pytest.raises(CovariateError, match=f"needs {name} as {said}"):
        typical(VANCOMYCIN, **{**ADULT, name: wrong})


def test_an_unknown_genotype_is_asked_for_and_an_unlisted_one_is_not_guessed() -> None:
    model = with_effect(Genotype("CYP2C9", {"*1/*1": 1.0, "*1/*3": 0.6}))
    with pytest.raises(
        CovariateError, match=r'"genotype": \{"CYP2C9": \.\.\.\} with one of \*1/\*1, \*1/\*3'
    ):
        typical_log_parameters(model, {"weight": 70.0}, {})
    with pytest.raises(CovariateError, match=r"no effect for CYP2C9 \*2/\*2"):
        typical_log_parameters(model, {"weight": 70.0}, {"CYP2C9": "*2/*2"})


def test_covariates_that_make_a_parameter_negative_stop_the_line() -> None:
    with pytest.raises(MathsError, match="make clearance -5 L/h"):
        typical(with_effect(LinearCentred("age", 40.0, -0.05, ANY)), age=70.0)


def test_a_value_outside_the_papers_population_is_said_in_a_sentence() -> None:
    found = typical_log_parameters(VANCOMYCIN, {**ADULT, "weight": 20.0}, {})
    assert found.outside == ("weight is 20 kg, outside the domain of vancomycin-goti-2018: 33 to 255 kg",)
    assert typical_log_parameters(VANCOMYCIN, ADULT, {}).outside == ()


def test_a_woman_is_outside_a_model_built_on_men() -> None:
    model = LIBRARY.drugs["moxifloxacin"]
    assert typical_log_parameters(model, {"sex": "female"}, {}).outside == (
        "sex is female, outside the domain of moxifloxacin-hong-2015: male",
    )


def test_what_nobody_told_is_not_judged() -> None:
    assert typical_log_parameters(LIBRARY.drugs["moxifloxacin"], {}, {}).outside == ()


def test_a_dose_the_absorption_was_not_estimated_for_is_outside_the_domain() -> None:
    model = LIBRARY.drugs["moxifloxacin"]
    assert doses_outside(model, [400.0, 400.0]) == ()
    (sentence,) = doses_outside(model, [400.0, 800.0, 800.0])
    assert sentence.startswith("a dose of 800 mg is outside the domain of moxifloxacin-hong-2015")
    assert "1.90 1/h" in sentence
    assert doses_outside(VANCOMYCIN, [12345.0]) == ()
