"""Every command the runbook names exists, with the options it is given there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import typer

from streams.cli import app

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "operations.md").read_text()
COMMANDS = sorted({" ".join(c.split()) for c in re.findall(r"`(twin [^`]+)`", PAGE)})


def test_the_runbook_names_the_commands_of_operations() -> None:
    for name in ("status", "verify", "redrive", "fence", "activate"):
        assert any(command.startswith(f"twin ops {name}") for command in COMMANDS)


def test_the_first_sentence_of_ops_help_tells_of_every_command() -> None:
    group = typer.main.get_command(app).commands["ops"]  # type: ignore[attr-defined]
    first = group.help.split(". ")[0]
    words = {
        "status": "how partitions stand",
        "verify": "verify twins",
        "redrive": "send refused records again",
        "fence": "fence an owner",
        "activate": "activate a release",
        "backup": "back up Redis",
    }
    assert set(group.commands) == set(words)
    assert [name for name, told in words.items() if told not in first] == []


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_of_the_runbook_is_understood(command: str) -> None:
    root = typer.main.get_command(app)
    words = command.split()[1:]
    # Reads the words as the command line would, and runs nothing.
    context = root.make_context("twin", list(words), resilient_parsing=False)
    found = root
    while hasattr(found, "resolve_command"):
        rest = [*context._protected_args, *context.args]
        _, child, rest = found.resolve_command(context, rest)
        assert child is not None, command
        context = child.make_context(child.name, rest, parent=context)
        found = child
    assert not context.args


def test_chapters_the_runbook_leads_to_exist() -> None:
    headings = re.findall(r"^## (.+)$", PAGE, re.MULTILINE)
    slugs = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
    assert set(re.findall(r"\]\(#([\w-]+)\)", PAGE)) <= slugs
