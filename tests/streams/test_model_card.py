"""What a person reads of a model: its card, its picture, and the course simulated beside the figures on paper."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from streams.cli import app
from streams.model_card import card_of, readiness_of
from streams.model_check import check_model
from streams.model_plot import draw_model, simulate
from streams.model_words import effect_in_words
from tests.twinstate.library.configs import CONFIG
from twinstate.library import load_library

LIBRARY = load_library(CONFIG)


def twin(*words: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, list(words), env={"TWIN_PATHS__LIBRARY": str(CONFIG)})
    return result.exit_code, result.output


@pytest.mark.parametrize("name", sorted(LIBRARY.models))
def test_a_usual_course_simulated_agrees_with_the_parameters_on_paper(name: str) -> None:
    found = check_model(LIBRARY.models[name])
    assert found.verdict == "agrees"
    assert 0.0 <= found.lowest_mg_L < found.highest_mg_L


def test_a_course_that_contradicts_its_parameters_is_told() -> None:
    model = LIBRARY.models["vancomycin-goti-2018"]
    # A structure the parameters do not fit: the drug would leave by a way that takes nothing.
    wrong = dataclasses.replace(model, elimination="saturable")
    assert check_model(dataclasses.replace(wrong, elimination="mixed")).verdict != "agrees"


def test_a_model_says_whether_a_twin_learns_with_it() -> None:
    ready = {name: readiness_of(model) for name, model in LIBRARY.models.items()}
    assert ready["vancomycin-goti-2018"] == "estimates"
    assert ready["methotrexate-taylor-2020"] == "simulates only (prior)"
    assert ready["remifentanil-minto-1997"] == "simulates only"


def test_every_card_is_plain_data_and_names_every_number_that_is_not_verified() -> None:
    for model in LIBRARY.models.values():
        card = card_of(model, LIBRARY)
        told = json.loads(json.dumps(card.as_json(), allow_nan=False))
        assert [row["name"] for row in told["parameters"]] == list(model.parameters)
        recalled = {key for key, provenance in model.provenance.items() if provenance.status == "R"}
        assert set(told["unverified"]) == recalled
        assert told["unknown"] == list(model.unknown)
        assert sum(told["statuses"].values()) == len(model.provenance)


def test_a_variability_of_another_status_than_its_value_is_told_apart() -> None:
    card = card_of(LIBRARY.drugs["warfarin"], LIBRARY)
    clearance = next(row for row in card.parameters if row.name == "clearance")
    assert (clearance.status, clearance.variability_status) == ("V", "R")
    assert clearance.cv == pytest.approx(0.298)
    tacrolimus = card_of(LIBRARY.drugs["tacrolimus"], LIBRARY).parameters[0]
    assert (tacrolimus.cv, tacrolimus.occasion_cv) == (pytest.approx(0.386), pytest.approx(0.136))


def test_effects_read_as_the_formulas_of_the_papers() -> None:
    def words(drug: str, parameter: str) -> list[str]:
        model = LIBRARY.drugs[drug]
        row = model.parameters[parameter]
        return [effect_in_words(effect, model, row.unit) for effect in row.effects]

    assert words("busulfan", "clearance") == [
        "x (weight / 9 kg)^1.25, weight at most 9 kg",
        "x (weight / 9 kg)^0.76, weight at least 9 kg",
    ]
    assert words("warfarin", "half_effect_concentration") == [
        "VKORC1: sum over both alleles of 2.05 (G), 0.96 (A)"
    ]
    assert words("phenytoin", "michaelis_constant")[:2] == [
        "x 0.752 if age below 15 a",
        "x 1.32 if further_antiepileptics",
    ]
    assert words("remifentanil", "effect_rate") == ["- 0.42 (age - 40) 1/h"]
    assert words("tobramycin", "clearance")[0] == "8.1 L/h if female"
    assert words("fluorouracil", "clearance")[0] == "x (1 + 0.77 (body_surface - 1.95))"


def test_a_picture_is_the_same_bytes_every_time_and_says_its_targets_and_alarms() -> None:
    model = LIBRARY.drugs["tacrolimus"]
    drawn = draw_model(model, LIBRARY)
    assert drawn == draw_model(model, LIBRARY)
    text = " ".join(re.findall(r">([^<>]+)</text>", drawn.decode()))
    for words in ("tacrolimus (ng/mL)", "warn: trough 15 ng/mL, unverified", "target: trough 5 to 10 ng/mL"):
        assert words in text


@pytest.mark.parametrize("name", ["warfarin", "methotrexate", "remifentanil", "busulfan"])
def test_models_of_every_kind_can_be_drawn(name: str) -> None:
    assert draw_model(LIBRARY.drugs[name], LIBRARY, svg=False).startswith(b"\x89PNG")


def test_the_band_is_that_of_patients_who_differ_as_the_model_says() -> None:
    model = LIBRARY.drugs["imatinib"]
    course = simulate(model)
    total = course.auc[1:, -1]
    # At steady state an AUC is dose / clearance; over the whole course nearly so, and clearance has an SD of 0.36.
    assert np.std(np.log(total)) == pytest.approx(0.36, rel=0.1)
    assert course.level[0].max() == pytest.approx(check_model(model).highest_mg_L, rel=1e-3)


def test_the_command_line_lists_shows_draws_and_checks(tmp_path: Path) -> None:
    status, listed = twin("drugs", "--json")
    assert status == 0
    rows = {row["model"]: row for row in json.loads(listed)}
    assert rows["methotrexate-taylor-2020"]["readiness"] == "simulates only (prior)"
    assert rows["warfarin-hamberg-2010"]["genes"] == ["CYP2C9", "VKORC1"]
    assert rows["lithium-jermain-1991"]["thresholds"][0] == "level_after above 1.5 mmol/L (R)"
    status, shown = twin("drugs", "show", "warfarin", "--plot", str(tmp_path / "w.svg"))
    assert status == 0
    assert "Unverified: parameters.clearance.between_subject" in shown
    assert (tmp_path / "w.svg").read_bytes().startswith(b"<?xml")
    status, checked = twin("drugs", "check", "warfarin", "--json")
    assert status == 0
    assert json.loads(checked)[0]["verdict"] == "agrees"


def test_a_drug_nobody_has_is_refused_with_those_there_are() -> None:
    status, said = twin("drugs", "show", "aspirin")
    assert status == 2
    assert "there is no drug or model 'aspirin'; there are busulfan-paci-2012" in said
