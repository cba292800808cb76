"""Compiled code on disk is only ever run for the arguments it was compiled for."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import sys

from twinstate import kernels

kernels._KERNEL_CACHE = sys.argv[1]


@kernels.kernel
def treble(x):
    return 3 * x


print([treble(x) for x in (7, 7.5)], sum(treble.stats.cache_hits.values()))
"""


@pytest.fixture
def run(tmp_path: Path):
    script = tmp_path / "treble.py"
    script.write_text(SCRIPT)

    def told() -> str:
        command = [sys.executable, str(script), str(tmp_path / "kept")]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    return told


def test_compiled_code_is_kept_for_the_next_process(run) -> None:
    assert run() == "[21, 22.5] 0"
    assert run() == "[21, 22.5] 2"


def test_code_that_two_processes_kept_under_one_number_is_not_run_for_arguments_of_another_type(
    run, tmp_path: Path
) -> None:
    # What is left when one process writes the index and another the file of the same number.
    run()
    whole, fraction = sorted((tmp_path / "kept").rglob("treble*.nbc"))
    shutil.copy(fraction, whole)
    assert run() == "[21, 22.5] 1"
    assert run() == "[21, 22.5] 2"  # and the kept code is mended
