"""The library itself, and folders that a test may fill or break."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.twinstate.library.configs import CONFIG, copy_one_drug
from twinstate.library import Library, load_library


@pytest.fixture(scope="session")
def library() -> Library:
    return load_library(CONFIG)


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A library of one drug, with room for the files a test needs."""
    copy_one_drug(tmp_path)
    return tmp_path


@pytest.fixture
def whole_config(tmp_path: Path) -> Path:
    """A copy of the whole library."""
    copy_one_drug(tmp_path)
    shutil.copytree(CONFIG / "drugs", tmp_path / "drugs", dirs_exist_ok=True)
    return tmp_path
