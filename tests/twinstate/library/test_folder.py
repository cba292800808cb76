"""The folder as a whole: which files there are, which is the default, what its fingerprint depends on."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.twinstate.library.configs import VANCOMYCIN, edited, refusal
from twinstate.errors import LibraryError
from twinstate.library import Library, load_library


def test_policy_is_that_of_the_issue(library: Library) -> None:
    policy = library.policy
    assert (policy.raise_probability, policy.clear_probability) == (0.5, 0.3)
    assert (policy.high_probability, policy.high_until_probability) == (0.8, 0.7)
    assert (policy.late_h, policy.late_wearable_h, policy.settled_h) == (72, 12, 72)
    assert (policy.revise_h, policy.revise_wearable_h, policy.future_h) == (2160, 12, 5 / 60)


def test_comments_and_layout_do_not_change_the_fingerprint_but_any_value_does(
    whole_config: Path, library: Library
) -> None:
    assert edited(whole_config, VANCOMYCIN, lambda data: None).fingerprint == library.fingerprint
    changed = edited(whole_config, "risk.yaml", lambda data: data["episodes"].update(raise_probability=0.51))
    assert changed.fingerprint != library.fingerprint


def test_a_new_drug_is_a_file_and_a_new_threshold_a_row(config: Path) -> None:
    thomson = config / "drugs/vancomycin-thomson-2009.yaml"
    shutil.copy(config / VANCOMYCIN, thomson)
    edited_library = edited(
        config, thomson.relative_to(config).as_posix(), lambda data: data.update(default=False)
    )
    assert sorted(edited_library.models) == ["vancomycin-goti-2018", "vancomycin-thomson-2009"]
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
