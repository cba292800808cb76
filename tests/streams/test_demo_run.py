"""The demo's servers: what must stay up, and what may end when its work is done."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from streams.adapters.topics import Topics
from streams.demo.run import DemoError, Stage, ask_oracle
from streams.embedded import Process, ProcessError, ProcessGroup


class Scripted(Stage):
    """A stage whose children are a few lines of Python instead of a module of the product."""

    script = ""

    def child(self, name: str, module: str, *arguments: str) -> Process:
        command = [sys.executable, "-c", self.script, *arguments]
        process = Process(name, command, self.directory / f"{name}.log")
        process.start()
        return self.group.add(process)


def stage_of(directory: Path, group: ProcessGroup, script: str) -> Scripted:
    stage = Scripted(directory, "", "", Topics.__new__(Topics), group, {}, "")
    stage.script = script
    return stage


def test_a_demo_that_stays_up_does_not_end_because_the_oracle_has_answered(tmp_path: Path) -> None:
    with ProcessGroup() as group:
        stage = stage_of(tmp_path, group, "import sys; open(sys.argv[1], 'w').write('{\"digest\": 1}')")
        assert ask_oracle(stage) == {"digest": 1}
        group.require_running()


def test_a_demo_that_stays_up_ends_when_a_server_has_ended(tmp_path: Path) -> None:
    with ProcessGroup() as group:
        stage_of(tmp_path, group, "raise SystemExit(3)").child("worker", "").wait(20.0)
        with pytest.raises(ProcessError, match="worker ended by itself with exit status 3"):
            group.require_running()


def test_an_oracle_that_fails_is_told_with_the_end_of_its_log(tmp_path: Path) -> None:
    with ProcessGroup() as group, pytest.raises(DemoError, match="no such topic"):
        ask_oracle(stage_of(tmp_path, group, "raise SystemExit('no such topic')"))
