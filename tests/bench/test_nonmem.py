"""The bench beside NONMEM: virtual cases of every feature, and what it says of files it cannot read."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from bench import nonmem
from bench._make_cases import write_cases
from bench._synthetic import CASES

# Read before the tests' environment is cleared: NONMEM's own cases are private and lie elsewhere.
NONMEM_CASES = os.environ.get("TWIN_NONMEM_CASES")


@pytest.mark.parametrize("case", [case.name for case in CASES])
def test_patients_of_every_feature_agree_with_the_longhand_model_and_scipys_search(
    case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_cases(tmp_path, patients=2, only=(case,))
    assert nonmem.main([str(tmp_path), "--json"]) == 0
    told = {check["name"]: check["value"] for check in json.loads(capsys.readouterr().out)["checks"]}
    assert told[f"{case}: within 0.1 %"] == 100.0
    for suffix in ("at the reference's etas", "of a population prediction"):
        (difference,) = [value for name, value in told.items() if name.endswith(suffix)]
        assert difference < 1e-7
    if case != "censored":
        assert told[f"{case}: posterior sd, median ratio"] == pytest.approx(1.0, abs=1e-3)
        assert told[f"{case}: posterior sd, 95th percentile of the ratio"] == pytest.approx(1.0, abs=1e-2)


@pytest.mark.skipif(NONMEM_CASES is None, reason="TWIN_NONMEM_CASES names no folder of NONMEM's cases")
@pytest.mark.timeout(1800)
def test_nonmems_own_cases_hold_their_targets(capsys: pytest.CaptureFixture[str]) -> None:
    assert nonmem.main([str(NONMEM_CASES), "--json"]) == 0, capsys.readouterr().out


def a_case() -> dict[str, Any]:
    """The smallest case: one patient, one eta."""
    return {
        "case": "small",
        "model": {
            "etas": ["E"],
            "omega": [[0.1]],
            "parameters": [{"name": "K", "expr": "0.1*exp(E)"}],
            "flows": [[1, 0, "K"]],
            "observed": {"1": "A1/10"},
            "residual": {"1": {"kind": "additive", "var_add": 0.5}},
            "compare": ["K"],
        },
        "patients": [{"id": 1, "doses": [[0, 100, 1, 0]], "obs": [[5, 1, 6.0]], "reference": {"eta": [0.0]}}],
    }


def put(case: dict[str, Any], path: str, value: object) -> dict[str, Any]:
    """Set what stands at a path such as "patients.0.obs"."""
    *way, last = path.split(".")
    place: Any = case
    for key in way:
        place = place[int(key)] if isinstance(place, list) else place[key]
    if value is None:
        del place[last]
    else:
        place[int(last) if isinstance(place, list) else last] = value
    return case


def run(folder: Path, case: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    (folder / "small.json").write_text(json.dumps(case))
    status = nonmem.main([str(folder), "--json"])
    return status, capsys.readouterr().err.strip()


SPOILT: dict[str, tuple[str, object, tuple[str, ...]]] = {
    "missing omega": ("model.omega", None, ("omega",)),
    "omega of the wrong size": ("model.omega", [[0.1, 0.0]], ("model.omega", "1 x 1")),
    "negative variance": ("model.omega", [[-0.1]], ("model.omega[0][0]", "-0.1")),
    "unknown name": ("model.parameters.0.expr", "0.1*exp(ETA)", ("model.parameters.K", "ETA", "E")),
    "code": ("model.parameters.0.expr", "__import__('os')", ("model.parameters.K", "__import__")),
    "no structure": ("model.flows", None, ("flows", "odes")),
    "flow to itself": ("model.flows", [[1, 1, "K"]], ("model.flows", "[1, 1")),
    "unknown residual": ("model.residual.1.kind", "poisson", ("poisson", "proportional")),
    "no variance": ("model.residual.1.var_add", 0.0, ("model.residual.1", "var_add")),
    "dose into nowhere": ("patients.0.doses", [[0, 100, 4, 0]], ("patients[0] (id 1)", "compartment 4")),
    "negative duration": ("patients.0.doses", [[0, 100, 1, -1]], ("duration -1", "-2")),
    "model's duration missing": ("patients.0.doses", [[0, 100, 1, -2]], ("model.duration", "key 1")),
    "level of nothing": ("patients.0.obs", [[5, 2, 6.0]], ("obs has", "observed")),
    "short level": ("patients.0.obs", [[5, 1]], ("obs has [5", "[time, compartment, value]")),
    "text for a number": ("patients.0.obs", [[5, 1, "six"]], ("float", "obs")),
    "too many etas": ("patients.0.reference.eta", [0.0, 0.0], ("reference.eta", "2 values")),
    "nothing to compare": ("model.compare", ["V"], ("model.compare", "V")),
    "no patients": ("patients", [], ("patients", "empty")),
}


@pytest.mark.parametrize("rule", SPOILT)
def test_file_that_breaks_a_rule_is_named_with_key_and_value_and_nothing_is_fitted(
    rule: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, value, said = SPOILT[rule]
    status, error = run(tmp_path, put(a_case(), path, value), capsys)
    assert status == 2
    assert "small.json" in error
    assert "\n" not in error
    for word in said:
        assert word in error


def test_file_with_only_what_is_needed_is_fitted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    case = put(a_case(), "patients.0.obs", [])
    assert run(tmp_path, case, capsys) == (0, "")
    # Numbers where formulas may stand, whole numbers written as decimals, and keys of which nothing is known.
    case = put(a_case(), "model.flows", [[1, 0, 0.1]])
    case = put(case, "model.lag", {"1": 0.5})
    case = put(case, "model.lloq", {"1": 0.2})
    case = put(case, "patients.0.doses", [[0, 100, 1.0, 0]])
    case = put(case, "patients.0.obs", [])
    assert run(tmp_path, case, capsys) == (0, "")
    case = put(a_case(), "patients.0.obs", [[0.0, 1, 0.1]])  # before the dose: nothing is in the body
    assert run(tmp_path, case, capsys) == (0, "")


def test_wrong_reference_fails_the_bench(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, _ = run(tmp_path, put(a_case(), "patients.0.reference.eta", [0.001]), capsys)
    assert status == 1  # 6.0 of 6.07 expected: the mode is not there


def test_folder_without_cases_and_names_that_fit_none_are_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert nonmem.main([str(tmp_path / "nowhere")]) == 2
    assert nonmem.main([str(tmp_path)]) == 2
    (tmp_path / "small.json").write_text(json.dumps(a_case()))
    assert nonmem.main([str(tmp_path), "--only", "c99"]) == 2
    error = capsys.readouterr().err
    assert "nowhere is not a folder" in error
    assert "c99" in error
    assert "small" in error
    (tmp_path / "broken.json").write_text("{")
    assert nonmem.main([str(tmp_path)]) == 2
    assert "broken.json: is no JSON" in capsys.readouterr().err
