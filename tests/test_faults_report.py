"""The report of the fault matrix: no row passes that was not seen to pass, in one process or in several."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
CONFTEST = """
import pathlib, tests.faults_report
tests.faults_report.RESULTS = pathlib.Path(__file__).parent / "build" / "faults.json"
from tests.conftest import pytest_addoption, pytest_collection_modifyitems, pytest_configure
"""
MATRIX = """
import os, pytest
row, long, alone = pytest.mark.row, pytest.mark.long, pytest.mark.alone

@row("1")
def test_passes(record_property):
    record_property("seed", 7)
    record_property("takes_s", [1, 2])

@row("1", "2")
@long
def test_is_long(): pass

@row("3")
@long
def test_is_long_and_the_only_one(): pass

@row("4")
def test_is_skipped(): pytest.skip("no disk here")

@row("4")
def test_passes_beside_it(): pass

@row("5")
def test_fails(): assert 1 == 2

@pytest.fixture
def broken(): raise RuntimeError("no server")

@row("6")
def test_whose_fixture_fails(broken): pass

@row("7")
@alone
def test_runs_alone(): pass

@row("8")
def test_ends_its_process():
    if "PYTEST_XDIST_WORKER" in os.environ:
        os._exit(1)
    pytest.fail("ended")

@row("9")
def test_passes_too(): pass

def test_of_no_row(): pass
"""
INI = """[pytest]
markers =
    row(numbers): x
    long: x
    alone: x
"""


@pytest.fixture
def matrix(tmp_path: Path) -> Path:
    for name, text in {"conftest.py": CONFTEST, "test_matrix.py": MATRIX, "pytest.ini": INI}.items():
        (tmp_path / name).write_text(text)
    return tmp_path


def run(directory: Path, *arguments: str) -> tuple[dict[str, Any], list[str]]:
    """Run pytest there; the rows of its file, and what it printed."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments]
    environment = {"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"}
    done = subprocess.run(
        command, cwd=directory, env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    file = directory / "build" / "faults.json"
    rows = json.loads(file.read_text())["rows"] if file.exists() else []
    return {row["row"]: row for row in rows}, done.stdout.splitlines()


@pytest.mark.parametrize("processes", ["0", "2"])
def test_row_passes_only_when_every_test_of_it_was_seen_to_pass(matrix: Path, processes: str) -> None:
    rows, printed = run(matrix, "--rows", "--short", "-n", processes)
    results = {number: row["result"] for number, row in rows.items()}
    assert results["1"] == results["7"] == results["9"] == "passed"
    assert rows["1"]["reason"] == "without its long tests"
    assert (rows["1"]["seed"], rows["1"]["measured"]) == (7, [{"test": "test_passes", "takes_s": [1, 2]}])
    assert results["2"] == results["3"] == results["10"] == "skipped"
    assert "long" in rows["3"]["reason"]
    assert "none of its tests" in rows["10"]["reason"]
    assert (results["4"], rows["4"]["reason"]) == ("skipped", "test_is_skipped: no disk here")
    assert results["5"] == results["6"] == results["8"] == "failed"
    assert "assert 1 == 2" in rows["5"]["reason"]
    assert "RuntimeError: no server" in rows["6"]["reason"]
    assert " passed" in printed[-1], "pytest's own result comes last"


def test_second_run_adds_what_the_first_left_out(matrix: Path) -> None:
    rows, _ = run(matrix, "--rows", "-m", "not alone", "-k", "not process")
    assert (rows["2"]["result"], rows["7"]["result"]) == ("passed", "skipped")
    rows, _ = run(matrix, "--rows", "--add", "-m", "alone")
    assert (rows["2"]["result"], rows["7"]["result"], rows["5"]["result"]) == ("passed", "passed", "failed")
    assert rows["8"]["result"] == "skipped"


def test_test_that_never_came_to_its_turn_fails_its_row(matrix: Path) -> None:
    rows, _ = run(matrix, "--rows", "--short", "-x", "-k", "fails or passes_too", "-n", "0")
    assert rows["9"]["result"] == "failed"
    assert "was to run and did not" in rows["9"]["reason"]


def test_whole_suite_tells_its_rows_and_a_few_chosen_tests_overwrite_nothing(matrix: Path) -> None:
    rows, printed = run(matrix)
    assert rows["9"]["result"] == "passed"
    assert any("rows of the fault matrix, short form" in line for line in printed)
    (matrix / "build" / "faults.json").unlink()
    assert run(matrix, "-k", "passes")[0] == {}
    assert run(matrix, "test_matrix.py")[0] == {}
