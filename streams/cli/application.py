"""The application all commands belong to: settings once, errors in one sentence, tables or JSON."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

if TYPE_CHECKING:
    from rich.console import Console

    from streams.settings import Settings

USER_ERROR = 2
# A table that goes into a file or a pipe is not cut to 80 columns.
PIPE_COLUMNS = 200

AsJson = Annotated[bool, typer.Option("--json", help="JSON on standard output instead of a table.")]


class _Call:
    """What was said before the command's name."""

    settings_file: Path | None = None


class UserError(Exception):
    """Something the user can mend; the text is one sentence that says how."""


def checked_patient(given: str | None) -> str | None:
    """Give a pseudonym back when it may be one; None stays None."""
    return None if given is None else _checked("pseudonym", given)


def checked_id(given: str) -> str:
    """Give a record's id back when it may be one."""
    return _checked("id", given)


def _checked(what: str, given: str) -> str:
    """Ask of a name what the decoder asks: nothing is known by any other, and not every argument has UTF-8."""
    from streams.records import LONGEST_NAME, NAME_PATTERN

    rule = f"it must have 1 to {LONGEST_NAME} visible ASCII characters and no space"
    if not given:
        raise UserError(f"the {what} is empty; {rule}")
    if len(given) > LONGEST_NAME:
        raise UserError(f"the {what} has {len(given)} characters; {rule}")
    wrong = next((character for character in given if not re.search(NAME_PATTERN, character)), None)
    if wrong is not None:
        raise UserError(f"the {what} {given!a} has the character {wrong!a}; {rule}")
    return given


class _Commands(TyperGroup):
    """Turns what people can mend into one sentence on standard error and exit status 2."""

    def invoke(self, ctx: Any) -> Any:  # the class of ctx is private to typer
        try:
            return super().invoke(ctx)
        except Exception as error:
            sentence = _sentence(error)
            if sentence is None:
                raise
            typer.echo(f"twin: {sentence}", err=True)
            raise typer.Exit(USER_ERROR) from error


def _sentence(error: Exception) -> str | None:
    """What to tell of an error raised on purpose; None for a fault in the program."""
    if isinstance(error, UserError):
        return str(error)
    # Whoever raised one of these has imported its module already, so that this costs nothing when all is well.
    known = {
        ("twinstate.errors", "TwinError"),
        ("streams.settings", "SettingsError"),
        ("streams.ports", "StoreError"),
        ("streams.queries.views", "QuestionError"),
        ("streams.adapters.topics", "TopicError"),
        ("streams.web.token", "TokenError"),
        ("streams.serve", "ServeError"),
        ("streams.adapters.mqtt_bridge", "MqttError"),
        ("streams.rebuild", "RebuildError"),
        ("streams.operations", "OperationError"),
        ("streams.adapters.log_reader", "LogError"),
        ("streams.demo.run", "DemoError"),
        ("streams.simulation.stream", "PlanError"),
        ("streams.embedded.processes", "ProcessError"),
    }
    for module, name in known:
        kind = getattr(sys.modules.get(module), name, None)
        if kind is not None and isinstance(error, kind):
            return str(error)
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    return None


app = typer.Typer(
    name="twin",
    cls=_Commands,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
    help=(
        "Live pharmacokinetic twins of patients: records in on Kafka, twins in Redis, risk events out.\n\n"
        "Try it: `twin demo`. Look around: `twin risks`, `twin state PATIENT --plot twin.svg`. "
        "Something wrong: `twin doctor`.\n\n"
        "Exit status 1: something wrong was found. 2: it could not be done as asked; standard error says why."
    ),
)


@app.callback()
def begin(
    settings: Annotated[
        Path | None,
        typer.Option(
            "--settings",
            help="Another file than config/service.yaml; the environment (TWIN_...) wins.",
            metavar="FILE",
        ),
    ] = None,
) -> None:
    """Keep where the settings are."""
    _Call.settings_file = settings


def settings() -> Settings:
    """Read the settings of this call.

    Raises:
        SettingsError: The file or the environment breaks a rule.
    """
    from streams.settings import SERVICE_FILE, load_settings

    return load_settings(_Call.settings_file or SERVICE_FILE)


def console() -> Console:
    """Standard output for people."""
    from rich.console import Console

    terminal = sys.stdout.isatty()
    return Console(width=None if terminal else PIPE_COLUMNS, highlight=False)


def show_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print a table; a column whose name ends in `>` is set to the right."""
    from rich.table import Table
    from rich.text import Text

    table = Table(title=title, title_justify="left", title_style="bold")
    for column in columns:
        right = column.endswith(">")
        table.add_column(column.removesuffix(">"), justify="right" if right else "left", overflow="fold")
    for row in rows:
        # Text: what a record says must not be read as markup.
        table.add_row(*(cell if isinstance(cell, Text) else Text(str(cell)) for cell in row))
    console().print(table)


def show_json(content: str) -> None:
    """Print JSON text."""
    typer.echo(content)


def say(text: str) -> None:
    """Print a line for people, on standard error, so that standard output stays data."""
    typer.echo(text, err=True)
