"""`twin rebuild`: twins derived again from the log."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from streams.cli.application import (
    AsJson,
    UserError,
    app,
    checked_patient,
    say,
    settings,
    show_json,
    show_table,
)

if TYPE_CHECKING:
    from streams.rebuild import Rebuilt, Watch


@app.command(rich_help_panel="Run")
def rebuild(
    patient: Annotated[
        str | None,
        typer.Argument(
            help="Only his twin; code and library must be those that made the others.",
            callback=checked_patient,
        ),
    ] = None,
    partition: Annotated[
        int | None, typer.Option(help="Only this partition of the input topic.", min=0)
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would change and be sent; change nothing.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Derive twins again from the log: after a change of code or library, or when stored twins were damaged.

    Stop the workers first (SIGTERM). Positions stay; episodes that stand differently afterwards are told to subscribers
    once a worker runs again. Exit status 2, and nothing changed, when the log does not reach back far enough.

    Examples: `twin rebuild --dry-run`, `twin rebuild`, `twin rebuild --partition 2`, `twin rebuild p-17`
    """
    from streams.rebuild import as_json as told_as_json
    from streams.rebuild import rebuild as run

    if patient is not None and partition is not None:
        raise UserError(
            "give a patient or --partition, not both: a patient's partition follows from his pseudonym"
        )
    chosen = settings()
    with progress_bars() as watch:
        done = run(chosen, partition=partition, patient=patient, dry_run=dry_run, watch=watch)
    if as_json:
        show_json(told_as_json(done, dry_run=dry_run).decode())
        return
    _show(done, dry_run=dry_run)


@contextmanager
def progress_bars() -> Iterator[Watch]:
    """A bar on standard error for each partition, in offsets of the log."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskID, TaskProgressColumn, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.completed:.0f} of {task.total:.0f} offsets"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        tasks: dict[int, TaskID] = {}

        def watch(partition: int, done: int, total: int) -> None:
            task = tasks.get(partition)
            if task is None:
                task = tasks[partition] = progress.add_task(f"partition {partition}", total=total)
            progress.update(task, completed=done)

        yield watch


def _show(done: list[Rebuilt], *, dry_run: bool) -> None:
    events = [told for one in done for told in one.events]
    show_table(
        "What would change" if dry_run else "Derived again from the log",
        (
            "partition>",
            "up to offset>",
            "records>",
            "twins>",
            "differ>",
            "of them gone>",
            "events>",
            "fingerprint",
        ),
        (
            (
                one.partition,
                one.position,
                one.records,
                one.twins,
                len(one.changed),
                len(one.gone),
                len(one.events),
                "the same"
                if one.fingerprint == one.fingerprint_before
                else f"{one.fingerprint_before} -> {one.fingerprint}",
            )
            for one in done
        ),
    )
    if events:
        show_table(
            "Events that would be sent" if dry_run else "Events, sent as soon as a worker runs",
            ("patient", "type", "drug", "threshold", "episode", "revision>"),
            events,
        )
    unreadable = [patient for one in done for patient in one.unreadable]
    if unreadable:
        say(
            f"{len(unreadable)} stored twins could not be read, so what subscribers were told of them was taken from "
            f"their standing episodes and the log: {', '.join(unreadable[:10])}{', ...' if unreadable[10:] else ''}"
        )
    if not done:
        say("no worker has ever acquired a partition here: there is nothing to rebuild")
    elif dry_run:
        say("nothing was changed: this was a dry run")
    elif not any(one.written for one in done):
        say("every twin is as the log makes it: nothing was changed")
    else:
        say("done; start the workers: twin worker")
