"""Releases of the library for tests: what may take effect in mid-stream, and what may not."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from streams.releases import FOLDER

CONFIG = Path(__file__).parents[2] / "config"
GOTI = "drugs/vancomycin-goti-2018.yaml"
THOMSON = "drugs/vancomycin-thomson-2009.yaml"

Edit = Callable[[Path], None]


def config_with(target: Path, **releases: Edit) -> Path:
    """A copy of the library, and beside it releases that differ by an edit each."""
    shutil.copytree(CONFIG, target, ignore=shutil.ignore_patterns("schemas", FOLDER))
    for name, edit in releases.items():
        add_release(target, name, edit)
    return target


def add_release(config: Path, name: str, edit: Edit) -> Path:
    """Put a release there: the first library but for an edit."""
    folder = config / FOLDER / name
    shutil.copytree(config, folder, ignore=shutil.ignore_patterns(FOLDER, "service.yaml", "topics.yaml"))
    edit(folder)
    return folder


def rewritten(folder: Path, name: str, change: Callable[[dict[str, Any]], object]) -> None:
    """Change one file of a release."""
    path = folder / name
    data = yaml.load(path.read_text(encoding="utf-8"), Loader=yaml.CSafeLoader)
    change(data)
    path.write_text(yaml.safe_dump(data, sort_keys=False, allow_unicode=True), encoding="utf-8")


def theophylline_later(target: Path) -> Path:
    """A copy of the library without theophylline, and the release `later` that brings it."""
    config = config_with(target, later=lambda _: None)
    for path in (config / "drugs").glob("theophylline*"):
        path.unlink()
    return config


def stricter(folder: Path) -> None:
    """Vancomycin's alarm at three quarters of the exposure, as another version of the threshold."""
    rewritten(
        folder, GOTI, lambda data: data["thresholds"]["high_auc24"].update(toxicity_alarm=450, version="2")
    )


def other_model(folder: Path) -> None:
    """Vancomycin by its other model, with the same alarm."""
    rewritten(folder, GOTI, lambda data: data.update(default=False))
    rewritten(folder, THOMSON, lambda data: data.update(default=True))


def other_policy(folder: Path) -> None:
    """Episodes begin at another probability: not in mid-stream."""
    rewritten(folder, "risk.yaml", lambda data: data["episodes"].update(raise_probability=0.6))
