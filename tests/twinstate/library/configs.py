"""The library's own files, and copies of them that a test may break."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from twinstate.errors import LibraryError
from twinstate.library import Library, load_library

CONFIG = Path(__file__).parents[3] / "config"
VANCOMYCIN = "drugs/vancomycin-goti-2018.yaml"
MOXIFLOXACIN = "drugs/moxifloxacin-hong-2015.yaml"
WARFARIN = "drugs/warfarin-hamberg-2010.yaml"
PHENYTOIN = "drugs/phenytoin-yukawa-1990.yaml"
TACROLIMUS = "drugs/tacrolimus-andrews-2019.yaml"

Edit = Callable[[dict[str, Any]], object]


def copy_one_drug(target: Path) -> None:
    """The catalogue, the policy, and vancomycin alone."""
    (target / "drugs").mkdir()
    for name in ("signals.yaml", "risk.yaml", VANCOMYCIN):
        shutil.copy(CONFIG / name, target / name)


def edited(config: Path, name: str, edit: Edit) -> Library:
    """Load a library with one file edited; a drug file not there yet is copied first."""
    path = config / name
    if not path.exists():
        shutil.copy(CONFIG / name, path)
    data = yaml.load(path.read_text(encoding="utf-8"), Loader=yaml.CSafeLoader)
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
    """Change a row of the parameters."""
    return lambda data: data["parameters"][name].update(changes)


def effect(**row: object) -> Edit:
    """Give vancomycin's clearance one more effect."""
    return lambda data: data["parameters"]["clearance"]["scales_with"].append(row)
