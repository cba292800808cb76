"""The command that plays a ward of devices."""

from __future__ import annotations

import datetime as dt
import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from streams.cli.application import AsJson, UserError, app, say, settings
from streams.cli.sending import SENDING

if TYPE_CHECKING:
    from rich.progress import Progress

    from streams.simulation.stream import Plan, Stream

FASTEST = "max"
# Of --start: what is simulated must end before the last moment that a record may have.
FIRST_YEAR, LAST_YEAR = 1970, 2198
INTERRUPTED = 130


@app.command(rich_help_panel=SENDING)
def simulate(
    patients: Annotated[int, typer.Option(help="How many; one more changes nothing of the others.")] = 10,
    hours: Annotated[float, typer.Option(help="How long, from 1 to 336.")] = 24.0,
    seed: Annotated[int, typer.Option(help="The same seed gives the same bytes.")] = 1,
    speed: Annotated[
        str,
        typer.Option(
            help="Simulated seconds a second: 1 is real time, 60 an hour a minute; max is as fast as possible.",
            metavar="FACTOR|max",
        ),
    ] = FASTEST,
    start: Annotated[
        str | None,
        typer.Option(
            help="Everybody's admission: an RFC 3339 moment, or now; a day in March 2026 when left out.",
            metavar="MOMENT|now",
        ),
    ] = None,
    device: Annotated[
        list[str] | None,
        typer.Option(help="Only these (may be repeated): patch, watch, thermometer, cuff.", metavar="KIND"),
    ] = None,
    faulty: Annotated[float, typer.Option(help="Share of devices that break on the way.")] = 0.1,
    out: Annotated[
        Path | None,
        typer.Option(help="Write the records as NDJSON instead of publishing them.", metavar="FILE|-"),
    ] = None,
    truth: Annotated[
        Path | None,
        typer.Option(
            help="Where the truth goes, a JSON object a patient; beside FILE, or below build/, when left out.",
            metavar="FILE",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """People on moxifloxacin who wear devices, to the input topic (or a file), with what is true of them beside it.

    An ECG patch (QTc, a reading a minute), a watch (heart rate each 5 s; breathing; oxygen now and then), a
    thermometer and a cuff, as they are: noise that remembers, gaps, nonsense in motion, off the body, links that are
    down for hours and then send all at once, clocks that drift or are wrong, frames sent twice or lost, a device in
    ten broken. Doses, orders and levels come too, so that there are twins. What each of it was stands in the truth
    file and nowhere else. docs/devices.md tells the numbers.

    A record from more than 5 min ahead of the broker is refused, so `--start now` needs `--speed 1`.

    Examples: `twin simulate`, `twin simulate --patients 3 --start now --speed 1`,
    `twin simulate --seed 7 --out ward.ndjson && twin validate ward.ndjson`
    """
    from streams.simulation.stream import OPENS, Plan
    from streams.simulation.stream import simulate as play

    factor = _speed(speed)
    plan = Plan(seed, patients, hours, _start(start) or OPENS, faulty, *([tuple(device)] if device else []))
    plan.check()
    beside = truth or _beside(out, plan)
    if out is not None and beside.absolute() == out.absolute():
        raise UserError(f"--truth and --out are both {out}; the records would overwrite the truth")
    if out is None:
        from streams.simulation.pace import check_pace

        check_pace(plan, factor, time.time_ns())
    with _progress() as progress:
        drawn = progress.add_task("simulated", total=patients)
        stream = play(plan, lambda: progress.advance(drawn))
        beside.parent.mkdir(parents=True, exist_ok=True)
        beside.write_bytes(b"".join(line + b"\n" for line in stream.truth))
        told = _summary(plan, stream, beside)
        if out is not None:
            _write(out, stream)
            told["written"] = len(stream.arrivals)
        else:
            told |= _publish(plan, stream, factor, progress)
    if as_json:
        # Records on standard output leave no room there for anything else.
        typer.echo(json.dumps(told, indent=2), err=str(out) == "-")
    else:
        _tell(told, out)
    if told.get("stopped"):
        raise typer.Exit(INTERRUPTED)


def _publish(plan: Plan, stream: Stream, speed: float, progress: Progress) -> dict[str, Any]:
    from streams.adapters.record_sender import RecordSender
    from streams.adapters.topics import read_topics
    from streams.simulation.pace import paced

    chosen = settings()
    sender = RecordSender(chosen.kafka.connection(), read_topics(chosen.paths.topics).names.records)
    task = progress.add_task("published", total=len(stream.arrivals))
    begun = time.monotonic()
    stopped = False
    try:
        for arrival in paced(stream.arrivals, plan.start, speed, rest=sender.rest):
            sender.send(arrival.record.patient, arrival.record.value)
            progress.advance(task)
            if sender.failure is not None:
                break
    except KeyboardInterrupt:
        stopped = True
    done = sender.finish()
    if done.failures:
        raise UserError(
            f"{len(done.failures)} records were not delivered to {chosen.kafka.bootstrap_servers}: {done.failures[0]}; "
            "see twin doctor, and simulate again: what is there already is a duplicate without effect"
        )
    return {
        "published": done.delivered,
        "by_partition": dict(sorted(done.by_partition.items())),
        "seconds": round(time.monotonic() - begun, 3),
        "stopped": stopped,
    }


def _write(out: Path, stream: Stream) -> None:
    lines = (arrival.record.value + b"\n" for arrival in stream.arrivals)
    if str(out) == "-":
        sys.stdout.buffer.writelines(lines)
        sys.stdout.buffer.flush()
        return
    with out.open("wb") as file:
        file.writelines(lines)


def _summary(plan: Plan, stream: Stream, beside: Path) -> dict[str, Any]:
    from streams.simulation.wire import moment

    devices = [device for line in stream.truth for device in json.loads(line)["devices"]]
    return {
        "seed": plan.seed,
        "patients": plan.patients,
        "pseudonyms": f"sim-{plan.name}-0001 to sim-{plan.name}-{plan.patients:04d}",
        "from": moment(plan.start),
        "to": moment(plan.end),
        "records": len(stream.in_order),
        "sent_twice": sum(device["sent_twice"] for device in devices),
        "lost": sum(device["lost"] for device in devices),
        "more_than_an_hour_late": sum(device["more_than_an_hour_late"] for device in devices),
        "readings": sum(device["readings"] for device in devices),
        "missing": sum(device["missing"] for device in devices),
        "artefacts": sum(device["artefacts"] for device in devices),
        "devices": len(devices),
        "broken_devices": sum(device["fault"] is not None for device in devices),
        "truth": str(beside),
    }


def _tell(told: dict[str, Any], out: Path | None) -> None:
    where = f"written to {out}" if out is not None else f"published in {told['seconds']:g} s"
    sent = told["written"] if out is not None else told["published"]
    say_to = say if str(out) == "-" else typer.echo
    say_to(
        f"{told['pseudonyms']}, {told['from']} to {told['to']}: {sent} records {where}"
        f"{', stopped before the end' if told.get('stopped') else ''}; of {told['records']} different ones "
        f"{told['sent_twice']} twice, {told['more_than_an_hour_late']} more than an hour late, {told['lost']} more "
        f"lost; {told['broken_devices']} of {told['devices']} devices break; truth in {told['truth']}"
    )


def _progress() -> Progress:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    return Progress(*columns, console=console, transient=True, disable=not console.is_terminal)


def _beside(out: Path | None, plan: Plan) -> Path:
    if out is None or str(out) == "-":
        return Path("build") / f"simulate-{plan.name}.truth.ndjson"
    return out.with_name(f"{out.stem}.truth.ndjson")


def _speed(text: str) -> float:
    from streams.simulation.pace import AS_FAST_AS_POSSIBLE

    if text == FASTEST:
        return AS_FAST_AS_POSSIBLE
    try:
        speed = float(text)
    except ValueError:
        speed = 0.0
    if not 0.0 < speed < float("inf"):
        raise UserError(f"--speed is {text!r}; give a factor above 0 (1 is real time), or {FASTEST}")
    return speed


def _start(text: str | None) -> int | None:
    if text is None:
        return None
    if text == "now":
        return time.time_ns() // 1_000_000_000 * 1_000_000_000
    try:
        moment = dt.datetime.fromisoformat(text)
    except ValueError:
        moment = None
    if moment is None or moment.tzinfo is None or not FIRST_YEAR <= _utc_year(moment) <= LAST_YEAR:
        raise UserError(
            f"--start is {text!r}; give a moment from {FIRST_YEAR} to {LAST_YEAR} with its offset from UTC, such as "
            "2026-03-16T00:00:00Z, or now"
        )
    return int(moment.timestamp()) * 1_000_000_000


def _utc_year(moment: dt.datetime) -> int:
    try:
        return moment.astimezone(dt.UTC).year
    except OverflowError:  # the first or last hours that Python knows
        return moment.year
