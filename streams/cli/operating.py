"""`twin ops`: what whoever runs the service does by hand (docs/operations.md)."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
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
from streams.cli.rebuilding import progress_bars

if TYPE_CHECKING:
    from streams.operations.redrive import Redriven
    from streams.operations.status import Status

ops = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="markdown",
    help="Run the service: how partitions stand, verify twins, send refused records again, fence an owner, activate a "
    "release of the library, back up Redis. "
    "docs/operations.md says when.",
)
app.add_typer(ops, name="ops", rich_help_panel="Run")

PLACE = re.compile(r"([0-9]{1,9})/([0-9]{1,18})")


@ops.command()
def status(as_json: AsJson = False) -> None:
    """Each partition: owner, epoch, offsets, lag, outboxes, fingerprint; and what needs a person, with the way out.

    Exit status 1 when something needs a person. It changes nothing.

    Examples: `twin ops status`, `twin ops status --json | jq .needs`
    """
    from streams.operations.status import status as look

    found = look(settings())
    if as_json:
        content = {
            "partitions": [one._asdict() for one in found.partitions],
            "needs": [{"partition": partition, "text": text} for partition, text in found.needs],
        }
        show_json(json.dumps(content, indent=2))
    else:
        _show_status(found)
    raise typer.Exit(1 if found.needs else 0)


@ops.command()
def verify(
    patient: Annotated[str | None, typer.Argument(help="Only his twin.", callback=checked_patient)] = None,
    partition: Annotated[
        int | None, typer.Option(help="Only this partition of the input topic.", min=0)
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Tell the log to the oracle, one record at a time in one process, and compare its twins with those stored.

    Bytes are compared. Workers may run meanwhile. Exit status 1 when a twin differs, with its pseudonym; 2 when it
    cannot be compared here. The oracle computes everything anew at each record, so a long log takes long.

    Examples: `twin ops verify p-17`, `twin ops verify --partition 2`, `twin ops verify`
    """
    from streams.operations.verify import verify as run

    if patient is not None and partition is not None:
        raise UserError(
            "give a patient or --partition, not both: a patient's partition follows from his pseudonym"
        )
    chosen = settings()
    with progress_bars() as watch:
        done = run(chosen, partition=partition, patient=patient, watch=watch)
    differing = {name: text for one in done for name, text in one.differing.items()}
    if as_json:
        show_json(json.dumps({"partitions": [one._asdict() for one in done]}, indent=2))
    else:
        show_table(
            "Stored twins against the oracle",
            ("partition>", "up to offset>", "records>", "twins>", "differ>"),
            ((one.partition, one.position, one.records, one.twins, len(one.differing)) for one in done),
        )
        if differing:
            show_table("Twins that differ", ("patient", "what is wrong"), differing.items())
    if not done:
        say("no worker has ever acquired a partition here: there is nothing to verify")
    elif differing:
        say("put them right from the log: stop the workers, twin rebuild, and start the workers")
    raise typer.Exit(1 if differing else 0)


@ops.command()
def redrive(
    reason: Annotated[
        list[str] | None, typer.Option(help="Only letters of this class (may be given again).")
    ] = None,
    at: Annotated[
        list[str] | None,
        typer.Option(
            help="Only the letter refused at this place of the input topic (may be given again).",
            metavar="PARTITION/OFFSET",
        ),
    ] = None,
    send: Annotated[bool, typer.Option("--send", help="Send them; without it nothing is sent.")] = False,
    as_json: AsJson = False,
) -> None:
    """Send refused records again, with body, id and revision as they were, after their cause was mended.

    Each is checked as a worker would; one that would be refused again is left and named. First revisions go as history
    (header twin-backfill), as time has passed, wearables excepted. Twice is harmless: a duplicate.

    Examples: `twin ops redrive`, `twin ops redrive --reason wrong_partition --send`,
    `twin ops redrive --at 2/4711 --send`
    """
    from streams.operations.redrive import redrive as run

    done = run(settings(), reasons=reason or (), places=[_place(text) for text in at or ()], send=send)
    if as_json:
        rows = [
            {
                "partition": one.partition,
                "offset": one.offset,
                "reason": one.reason,
                "send": one.send,
                "backfill": one.backfill,
                "why": one.why,
            }
            for one in done.letters
        ]
        show_json(json.dumps({"sent": done.delivered, "letters": rows}, indent=2))
    else:
        _show_redriven(done, send=send)


@ops.command()
def fence(
    partition: Annotated[int, typer.Argument(help="Of the input topic.", min=0)],
    stop: Annotated[
        bool,
        typer.Option("--stop", help="Take the owner's instance id too: its process ends with status 75."),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Raise a partition's epoch: whatever its present owner still has in hand is refused. The position stays.

    A worker in good order acquires the partition again by itself; with --stop it ends and stays down.

    Examples: `twin ops fence 2`, `twin ops fence 2 --stop`
    """
    from streams.operations.fence import fence as run

    done = run(settings(), partition, stop=stop)
    if as_json:
        show_json(json.dumps(done._asdict(), indent=2))
        return
    typer.echo(
        f"partition {done.partition} at offset {done.position}: epoch {done.epoch_before} of "
        f"{done.instance or 'nobody'} is over, it is {done.epoch} now"
    )
    say(done.next)


@app.command(rich_help_panel="Run")
def forget(
    patient: Annotated[str, typer.Argument(help="His pseudonym.", callback=checked_patient)],
    send: Annotated[bool, typer.Option("--send", help="Erase him; without it nothing is changed.")] = False,
    as_json: AsJson = False,
) -> None:
    """Erase one patient from the live store: twin, list row, standing episodes (told as cleared), trace.

    It cannot be taken back. A record goes through the log, so a rebuild or a replay erases him again; what tells of the
    time before is dropped from then on, a later record makes a newcomer. The log itself, both output topics and backups
    keep what they have (docs/operations.md). Exit status 1 when no worker has applied it yet.

    Examples: `twin forget p-17`, `twin forget p-17 --send`
    """
    from streams.operations.forget import forget as run

    done = run(settings(), patient, send=send)
    if as_json:
        show_json(json.dumps(done._asdict(), indent=2))
    else:
        kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(done.records.items())) or "no records"
        typer.echo(f"{patient} is {done.state}: {kinds}, {done.standing} standing episodes")
        if not send:
            say("nothing was changed: this was a dry run; the same with --send")
        elif done.erased:
            say(f"erased, and {done.trace_batches} batches of the trace with him")
        else:
            say(
                "sent, and not applied yet: start a worker (twin worker), then run this again for the trace. If one "
                f"runs, twin trace {done.id} tells what became of it: `future` when the clock here is ahead of the "
                "broker's"
            )
    raise typer.Exit(0 if done.erased or not send else 1)


@ops.command()
def activate(
    release: Annotated[
        str, typer.Argument(help="Folder below config/releases; `first` is the library in config/ itself.")
    ],
    send: Annotated[
        bool, typer.Option("--send", help="Put it into effect; without it nothing is sent.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Let another release of the library take effect at one place of every partition.

    The release must lie below config/releases on every machine that runs workers or the API; a worker that lacks it
    ends with status 78. At its place every twin of the partition is derived again, which takes a while, and what then
    stands differently is told. What came before stays as it was read.

    Examples: `twin ops activate 2026-12`, `twin ops activate 2026-12 --send`, `twin ops activate first --send`
    """
    from streams.operations.activate import activate as run

    done = run(settings(), release, send=send)
    if as_json:
        show_json(json.dumps(done._asdict(), indent=2))
        return
    for change in done.changes or ("no model changes",):
        typer.echo(change)
    if not send:
        say(f"nothing was sent: {done.twins} twins would be derived again; the same with --send")
        return
    show_table("In effect from", ("partition>", "offset>"), sorted(done.places.items()))
    say(f"{done.twins} twins are derived again as workers come there; twin ops status, twin trace {done.id}")


@ops.command()
def backup(
    directory: Annotated[
        Path, typer.Argument(help="Takes the snapshot, or holds it; one folder a backup.", metavar="FOLDER")
    ],
    check: Annotated[
        bool,
        typer.Option("--check", help="Only look into the snapshot that is there, without touching Redis."),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Let Redis write a snapshot of all partitions in one moment, copy it, and look whether it could be restored.

    A Redis of its own loads the copy: positions are compared with the log, state format and fingerprint with the code
    and libraries here. Exit status 1 when something stands against restoring it. How to restore: docs/operations.md.

    Examples: `twin ops backup backups/2026-12-01`, `twin ops backup backups/2026-12-01 --check`
    """
    from streams.operations.backup import look, save

    chosen = settings()
    if not check:
        saved = save(chosen, directory)
        if saved.copy is None:
            raise UserError(
                f"Redis wrote {saved.server_file} on its machine, which cannot be seen from here (a file of that name "
                f"here is not the one just written): copy it to {directory}/dump.rdb, readable by you alone, then twin "
                f"ops backup {shlex.quote(str(directory))} --check"
            )
    found = look(chosen, directory)
    if as_json:
        content = {**found._asdict(), "partitions": [one._asdict() for one in found.partitions]}
        show_json(json.dumps(content, indent=2))
    else:
        show_table(
            f"{found.file}, {found.bytes} bytes",
            ("partition>", "next>", "log>", "to read again>", "format", "fingerprint"),
            (
                (
                    one.partition,
                    "-" if one.instance is None else one.next_offset,
                    f"{one.first_offset} to {one.end_offset}",
                    one.lag,
                    ", ".join(map(str, one.formats)),
                    one.fingerprint,
                )
                for one in found.partitions
            ),
        )
        say(f"SHA-256 {found.sha256}")
        for partition, text in found.wrong:
            say(text if partition is None else f"partition {partition}: {text}")
        if not found.wrong:
            say("nothing stands against restoring it")
    raise typer.Exit(1 if found.wrong else 0)


def _place(text: str) -> tuple[int, int]:
    found = PLACE.fullmatch(text)
    if found is None:
        raise UserError(f"--at is {text!r}; give partition/offset of the input topic, such as 2/4711")
    return int(found[1]), int(found[2])


def _show_status(found: Status) -> None:
    show_table(
        "Partitions",
        (
            "partition>",
            "owner",
            "epoch>",
            "next>",
            "end>",
            "lag>",
            "last write (s)>",
            "risk waiting>",
            "dead letters waiting>",
            "oldest unacknowledged",
            "format",
            "fingerprint",
        ),
        (
            (
                one.partition,
                "never acquired" if one.instance is None else one.instance,
                one.epoch,
                one.next_offset,
                one.end_offset,
                one.lag,
                "" if one.seen_s is None else f"{one.seen_s:.0f}",
                one.waiting["risk"],
                one.waiting["dead_letters"],
                ", ".join(f"{outbox} {head}" for outbox, head in one.oldest.items() if head is not None),
                ", ".join(map(str, one.formats)),
                one.fingerprint,
            )
            for one in found.partitions
        ),
    )
    for partition, text in found.needs:
        say(f"partition {partition}: {text}")
    if not found.needs:
        say("nothing needs a person")


def _show_redriven(done: Redriven, *, send: bool) -> None:
    going = [one for one in done.letters if one.send]
    show_table(
        f"{len(going)} of {len(done.letters)} refused records " + ("sent again" if send else "would be sent"),
        ("partition/offset>", "reason", "what becomes of it"),
        (
            (
                f"{one.partition}/{one.offset}",
                one.reason,
                one.why or ("sent as history" if one.backfill else "sent as it came"),
            )
            for one in done.letters
        ),
    )
    if not send and going:
        say("nothing was sent: this was a dry run; the same with --send")
    elif send:
        say(f"{done.delivered} delivered; twin trace ID tells what becomes of each")
