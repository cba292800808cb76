"""Dosing scenarios: the checked-in references, what the keys mean, and what is refused."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from bench import dosing
from bench._scenarios import as_arrays, read_scenarios


def a_scenario(**changed: Any) -> dict[str, Any]:
    scenario = {
        "name": "small",
        "parameters": {"K": 0.1, "V": 10.0},
        "flows": [[1, 0, "K"]],
        "observed": {"1": "A1/V"},
        "doses": [{"time": 0, "amount": 100, "compartment": 1}],
        "times": [1.0, 5.0],
        "concentrations": {"1": [10 * math.exp(-0.1), 10 * math.exp(-0.5)]},
    }
    return {**scenario, **changed}


def run(folder: Path, *scenarios: dict[str, Any]) -> int:
    (folder / "small.json").write_text(json.dumps(list(scenarios)))
    return dosing.main([str(folder), "--json"])


def test_checked_in_scenarios_agree_with_their_references(capsys: pytest.CaptureFixture[str]) -> None:
    assert dosing.main(["--json"]) == 0
    checks = json.loads(capsys.readouterr().out)["checks"]
    assert len(checks) >= 20
    assert max(check["value"] for check in checks) < 1e-9


def test_concentration_outside_the_tolerance_fails(tmp_path: Path) -> None:
    assert run(tmp_path, a_scenario()) == 0
    off = [10 * math.exp(-0.1), 10 * math.exp(-0.5) * (1 + 1e-5)]
    assert run(tmp_path, a_scenario(concentrations={"1": off})) == 1
    assert run(tmp_path, a_scenario(concentrations={"1": off}, tolerance=1e-4)) == 0


def test_additional_doses_follow_at_the_interval_and_the_train_is_only_the_first(tmp_path: Path) -> None:
    doses = [{"time": 2, "amount": 10, "compartment": 1, "ss": 1, "ii": 6, "addl": 2}]
    (tmp_path / "small.json").write_text(json.dumps(a_scenario(doses=doses)))
    (scenario,) = read_scenarios(tmp_path, [])
    arrays = as_arrays(scenario)
    assert arrays.doses.time_h.tolist() == [2.0, 8.0, 14.0]
    assert arrays.doses.interval_h.tolist() == [6.0, 0.0, 0.0]


def test_bioavailability_shortens_an_infusion_by_rate_and_thins_one_by_duration(tmp_path: Path) -> None:
    doses = [
        {"time": 0, "amount": 100, "compartment": 1, "rate": 50},
        {"time": 9, "amount": 100, "compartment": 1, "duration": 2},
    ]
    (tmp_path / "small.json").write_text(json.dumps(a_scenario(doses=doses, bioavailability={"1": 0.5})))
    (scenario,) = read_scenarios(tmp_path, [])
    arrays = as_arrays(scenario)
    assert arrays.doses.amount.tolist() == [50.0, 50.0]
    assert arrays.doses.duration_h.tolist() == [1.0, 2.0]


BAD_DOSE: dict[str, tuple[dict[str, Any], str]] = {
    "rate and duration": ({"rate": 1, "duration": 1}, "give one of them"),
    "rate of nought": ({"rate": 0}, "above 0"),
    "ss without ii": ({"ss": 1}, "interval in hours"),
    "addl without ii": ({"addl": 3}, "interval in hours"),
    "ss of two": ({"ss": 2, "ii": 12}, "1 is at steady state"),
    "unknown key": ({"route": "oral"}, "route"),
    "negative addl": ({"addl": -1, "ii": 12}, "addl is -1"),
}


@pytest.mark.parametrize("rule", BAD_DOSE)
def test_dose_that_breaks_a_rule_is_refused_in_one_sentence(
    rule: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    keys, said = BAD_DOSE[rule]
    assert run(tmp_path, a_scenario(doses=[{"time": 0, "amount": 100, "compartment": 1, **keys}])) == 2
    error = capsys.readouterr().err.strip()
    assert said in error
    assert "small.json" in error
    assert "\n" not in error


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "times that descend": ({"times": [5.0, 1.0]}, "do not ascend"),
    "too few concentrations": ({"concentrations": {"1": [1.0]}}, "1 values for 2 times"),
    "no reference": ({"concentrations": {}}, "is empty"),
    "concentration of what is not observed": ({"concentrations": {"2": [1.0, 1.0]}}, "observed lacks"),
    "flow out of nowhere": ({"flows": [[0, 1, "K"]]}, "flows has [0, 1"),
    "unknown parameter": ({"flows": [[1, 0, "CL/V"]]}, "uses CL"),
    "code": ({"observed": {"1": "open('x')"}}, "open('x')"),
    "division by nought": ({"flows": [[1, 0, "K/0"]]}, "not a finite number"),
    "missing key": ({"parameters": "K"}, "parameters"),
}


@pytest.mark.parametrize("rule", BAD)
def test_scenario_that_breaks_a_rule_is_refused_in_one_sentence(
    rule: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    keys, said = BAD[rule]
    assert run(tmp_path, a_scenario(**keys)) == 2
    error = capsys.readouterr().err.strip()
    assert said in error
    assert "\n" not in error


def test_names_that_fit_nothing_are_told_with_those_there_are(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(tmp_path, a_scenario()) == 0
    assert dosing.main([str(tmp_path), "--only", "oral"]) == 2
    assert "there is small" in capsys.readouterr().err
    assert dosing.main([str(tmp_path / "nowhere")]) == 2
