"""Commands that send records, or say why they would be refused."""

from __future__ import annotations

import contextlib
import json
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, BinaryIO

import typer

from streams.cli.application import AsJson, UserError, app, say, settings, show_json

if TYPE_CHECKING:
    from streams.ndjson import Line

SENDING = "Send records"

Source = Annotated[
    Path,
    typer.Argument(
        help="One JSON record a line (docs/contract.md); - reads standard input.", metavar="FILE|-"
    ),
]


@app.command(rich_help_panel=SENDING)
def validate(file: Source, as_json: AsJson = False) -> None:
    """Check records as the worker would, and send nothing: line number, reason, and what to do about each bad one.

    A record is good when the library in config/ or a release reads it. Exit status 1 when a line is bad. What only the
    broker and the twin know (its partition, too late, from the future, a duplicate) is not checked.

    Example: `twin validate records.ndjson`
    """
    from streams.ndjson import read_lines
    from streams.releases import load_releases

    good = 0
    bad: list[Line] = []
    releases = load_releases(settings().paths.library)
    with _opened(file) as lines:
        for line in read_lines(lines, releases):
            if line.refusal is None:
                good += 1
            else:
                bad.append(line)
    if as_json:
        show_json(
            json.dumps({"good": good, "bad": [_entry(line) for line in bad]}, indent=2, ensure_ascii=False)
        )
    else:
        for line in bad:
            typer.echo(_sentence(line))
        say(f"{good} good, {len(bad)} bad")
    raise typer.Exit(1 if bad else 0)


@app.command(rich_help_panel=SENDING)
def publish(
    file: Source,
    backfill: Annotated[
        bool, typer.Option("--backfill", help="History: allowed to come up to 90 days behind the watermark.")
    ] = False,
    unchecked: Annotated[
        bool,
        typer.Option(
            "--unchecked",
            help="Send bad records too, if their patient can be read; the worker dead-letters them. One that would "
            "erase a patient is never sent.",
        ),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Check records and send the good ones to the input topic: key = patient, murmur2, acks from all replicas.

    Exit status 1 when a line was bad, 2 when a record could not be delivered.

    Examples: `twin publish records.ndjson`, `zcat old.ndjson.gz | twin publish - --backfill`
    """
    from streams.adapters.record_sender import RecordSender
    from streams.adapters.topics import read_topics
    from streams.ndjson import read_lines
    from streams.releases import load_releases

    chosen = settings()
    releases = load_releases(chosen.paths.library)
    sender = RecordSender(chosen.kafka.connection(), read_topics(chosen.paths.topics).names.records)
    reasons: Counter[str] = Counter()
    with _opened(file) as lines:
        for line in read_lines(lines, releases):
            if line.refusal is not None:
                reasons[line.refusal.reason] += 1
                say(_sentence(line))
            if line.patient is not None and (line.refusal is None or (unchecked and not line.erases)):
                sender.send(line.patient, line.body, backfill=backfill)
    done = sender.finish()
    if as_json:
        show_json(
            json.dumps(
                {
                    "published": done.delivered,
                    "by_partition": dict(sorted(done.by_partition.items())),
                    "bad": dict(reasons),
                    "not_delivered": len(done.failures),
                },
                indent=2,
            )
        )
    else:
        spread = ", ".join(f"partition {p}: {n}" for p, n in sorted(done.by_partition.items()))
        typer.echo(f"published {done.delivered}{f' ({spread})' if spread else ''}, bad {reasons.total()}")
    if done.failures:
        raise UserError(
            f"{len(done.failures)} records were not delivered to {chosen.kafka.bootstrap_servers}: {done.failures[0]}; "
            "see twin doctor"
        )
    raise typer.Exit(1 if reasons else 0)


@contextlib.contextmanager
def _opened(file: Path) -> Iterator[BinaryIO]:
    if str(file) == "-":
        yield sys.stdin.buffer
        return
    with file.open("rb") as lines:
        yield lines


def _sentence(line: Line) -> str:
    assert line.refusal is not None
    return f"line {line.number}: {line.refusal.reason}: {line.refusal.text}"


def _entry(line: Line) -> dict[str, object]:
    assert line.refusal is not None
    return {"line": line.number, "reason": line.refusal.reason, "text": line.refusal.text}
