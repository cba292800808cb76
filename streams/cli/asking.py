"""Commands that ask: one twin, the risks, refused records, the way of one record."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from streams.cli.application import (
    AsJson,
    UserError,
    app,
    checked_id,
    checked_patient,
    say,
    settings,
    show_json,
    show_table,
)
from streams.cli.printing import episode_row, event_line, minute, show_trace, show_twin
from streams.rounding import chance

if TYPE_CHECKING:
    from streams.queries import AsOf, Queries
    from streams.settings import Settings

T = TypeVar("T")
ASKING = "Ask"


@app.command(rich_help_panel=ASKING)
def state(
    patient: Annotated[str, typer.Argument(help="The patient's pseudonym.", callback=checked_patient)],
    as_of: Annotated[
        str,
        typer.Option(
            help="live, settled (72 h behind the watermark), or a moment like 2026-03-02T08:00:00Z."
        ),
    ] = "live",
    drug: Annotated[str | None, typer.Option(help="For the plot of a patient with several drugs.")] = None,
    horizon_h: Annotated[
        float | None, typer.Option(help="How far the plot looks ahead, h.", min=0.1, max=168)
    ] = None,
    plot: Annotated[
        Path | None,
        typer.Option(help="Draw levels, 90 % band, doses and limit into this file (.svg or .png)."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """One twin: what it estimates, what it expects, what it rests on.

    Examples: `twin state p-17`, `twin state p-17 --plot p-17.svg`, `twin state p-17 --as-of settled --json`
    """
    from streams.queries import Span

    moment = _as_of(as_of)
    if plot is not None and plot.suffix not in (".svg", ".png"):
        raise UserError(f"{plot}: a plot is drawn as .svg or .png; name the file so")
    chosen = settings()
    answer = _ask(chosen, lambda queries: queries.twin(patient, moment))
    if as_json:
        show_json(answer.model_dump_json(indent=2))
    else:
        show_twin(answer)
    if plot is not None:
        span = Span(horizon_h, None, 0.25)
        forecast = _ask(chosen, lambda queries: queries.forecast(patient, drug, span, moment))
        from streams.plot import draw_forecast

        plot.write_bytes(draw_forecast(forecast, svg=plot.suffix == ".svg"))
        say(f"drawn: {plot}")


@app.command(rich_help_panel=ASKING)
def export(
    patient: Annotated[str, typer.Argument(help="The patient's pseudonym.", callback=checked_patient)],
    drug: Annotated[str | None, typer.Option(help="Which drug, for a patient with several.")] = None,
    as_of: Annotated[
        str,
        typer.Option(
            help="live, settled (72 h behind the watermark), or a moment like 2026-03-02T08:00:00Z."
        ),
    ] = "live",
    out: Annotated[
        Path | None,
        typer.Option(
            help="File: .csv for the rows, .pdf or .svg for a sheet of A4. Rows to the screen without."
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """One drug of one twin, to take away: rows in the manner of NONMEM, or a sheet to print.

    Rows hold doses, levels, covariates, typical parameters, PRED, IPRED and etas in the model's units (docs/export.md);
    their time counts from the first row. The sheet has the picture with its forecast, estimates, and what was assumed.

    Examples: `twin export p-17 --drug vancomycin --out p-17.csv`, `twin export p-17 --out p-17.pdf`
    """
    from streams.queries import Span
    from streams.queries.export import as_csv

    moment = _as_of(as_of)
    if out is not None and out.suffix not in (".csv", ".pdf", ".svg"):
        raise UserError(f"{out}: rows are written as .csv, a sheet as .pdf or .svg; name the file so")
    chosen = settings()
    if out is not None and out.suffix != ".csv":
        span = Span(None, None, 0.25)
        forecast = _ask(chosen, lambda queries: queries.forecast(patient, drug, span, moment))
        twin = _ask(chosen, lambda queries: queries.twin(patient, moment))
        from streams.sheet import draw_sheet

        out.write_bytes(draw_sheet(twin, forecast, pdf=out.suffix == ".pdf"))
        say(f"drawn: {out}")
        return
    answer = _ask(chosen, lambda queries: queries.export(patient, drug, moment))
    if as_json:
        show_json(answer.model_dump_json(indent=2))
    if out is not None:
        out.write_text(as_csv(answer), encoding="utf-8")
        say(f"written: {out}, {len(answer.rows)} rows")
    elif not as_json:
        typer.echo(as_csv(answer), nl=False)


@app.command(rich_help_panel=ASKING)
def twins(
    in_state: Annotated[str | None, typer.Option("--state", help="Only twins in this state.")] = None,
    drug: Annotated[str | None, typer.Option(help="Only patients with this drug.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=500)] = 50,
    as_json: AsJson = False,
) -> None:
    """The twins, those at highest risk first.

    Example: `twin twins --drug vancomycin`
    """
    from streams.queries import Page
    from streams.queries.answers import STATES

    if in_state is not None and in_state not in STATES:
        raise UserError(f"there is no state {in_state!r}; there are {', '.join(STATES)}")
    page = Page(next((s for s in STATES if s == in_state), None), drug, limit=limit)
    answer = _ask(settings(), lambda queries: queries.twins(page))
    if as_json:
        show_json(answer.model_dump_json(indent=2))
        return
    show_table(
        f"{len(answer.twins)} of {answer.matching} twins, highest risk first",
        ("patient", "state", "drugs", "P(worst)>", "standing>", "levels>", "watermark"),
        (
            (
                t.patient,
                t.state,
                ", ".join(t.drugs),
                "unknown" if t.highest_probability is None else chance(t.highest_probability),
                t.standing,
                t.levels,
                minute(t.watermark),
            )
            for t in answer.twins
        ),
    )


@app.command(rich_help_panel=ASKING)
def risks(
    follow: Annotated[
        bool, typer.Option("--follow", help="Then every risk event as it comes, until Ctrl-C.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Episodes of risk that stand now; with --follow the events after them, none missed and none twice.

    Examples: `twin risks`, `twin risks --follow --json | jq .patient`
    """
    chosen = settings()
    answer = _ask(chosen, lambda queries: queries.risks())
    episodes = [(p.partition, e) for p in answer.partitions for e in p.episodes]
    episodes.sort(key=lambda pair: -pair[1]["probability"])
    if as_json and not follow:
        show_json(answer.model_dump_json(indent=2))
    elif as_json:
        for _, episode in episodes:
            show_json(json.dumps({"type": "standing", **episode}, ensure_ascii=False))
    else:
        show_table(
            "Standing episodes, most probable first" if answer.standing else "No episode stands",
            (
                "patient",
                "drug",
                "crossed when",
                "severity",
                "P>",
                "expected",
                "within (h)>",
                "since",
                "limit",
            ),
            (episode_row(episode) for _, episode in episodes),
        )
    if follow:
        revisions = {e["episode"]: int(e["revision"]) for _, e in episodes}
        _follow(chosen, {p.partition: p.risk_topic_offset for p in answer.partitions}, revisions, as_json)


@app.command("dead-letters", rich_help_panel=ASKING)
def dead_letters(
    last: Annotated[int, typer.Option(help="How many of each partition, newest last.", min=1)] = 20,
    as_json: AsJson = False,
) -> None:
    """Records that were refused: when, why, what to do, and where they stand in the input topic.

    Example: `twin dead-letters --last 5`
    """
    from streams.adapters.topic_reader import TopicReader
    from streams.adapters.topics import read_topics

    chosen = settings()
    topics = read_topics(chosen.paths.topics)
    with _broker(chosen), TopicReader(chosen.kafka, topics.names.dead_letters, topics.partitions) as reader:
        ends, begins = reader.ends(), reader.begins()
        # Every transaction leaves a marker of its own: read twice as many offsets as letters asked for.
        reader.seek({p: max(begins[p], end - 2 * last - 2) for p, end in ends.items()})
        letters = sorted(
            (m for m in reader.until(ends)), key=lambda m: (m.timestamp_ms, m.partition, m.offset)
        )
    rows = [
        {
            "time": minute(dt.datetime.fromtimestamp(m.timestamp_ms / 1000, dt.UTC)),
            "reason": m.headers.get("twin-error-class", ""),
            "text": m.headers.get("twin-error-message", ""),
            "partition": int(m.headers.get("twin-error-partition", m.partition)),
            "offset": int(m.headers.get("twin-error-offset", -1)),
            "id": _id_of(m.value),
        }
        for m in letters[-last * topics.partitions :]
    ]
    if as_json:
        show_json(json.dumps(rows, indent=2, ensure_ascii=False))
        return
    show_table(
        f"{len(rows)} refused records (their place is in the input topic)",
        ("time", "reason", "what is wrong, and what to do", "partition/offset>", "id"),
        ((r["time"], r["reason"], r["text"], f"{r['partition']}/{r['offset']}", r["id"]) for r in rows),
    )


@app.command(rich_help_panel=ASKING)
def trace(
    record_id: Annotated[str, typer.Argument(help="The record's id.", callback=checked_id)],
    patient: Annotated[
        str | None,
        typer.Option(
            help="Whose: looks into the twin too when the trace has forgotten.", callback=checked_patient
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """What became of a record: applied, duplicate, superseded, late or refused, and why; and what the twin holds of it.

    Exit status 1 when nothing is known of it. A refused record whose id could not be read is in `twin dead-letters`.

    Example: `twin trace adm-17 --patient p-17`
    """
    answer = _ask(settings(), lambda queries: queries.trace(record_id, patient))
    if as_json:
        show_json(answer.model_dump_json(indent=2))
    else:
        show_trace(answer)
    raise typer.Exit(0 if answer.arrivals or answer.held else 1)


def _ask(chosen: Settings, question: Callable[[Queries], Awaitable[T]]) -> T:
    """Put one question to the store."""
    from streams.wiring import create_queries

    async def run() -> T:
        queries, reader = create_queries(chosen)
        try:
            return await question(queries)
        finally:
            await reader.close()

    return asyncio.run(run())


def _as_of(text: str) -> AsOf:
    from streams.codec import to_ns

    if text == "live":
        return "live"
    if text == "settled":
        return "settled"
    with contextlib.suppress(ValueError):
        moment = dt.datetime.fromisoformat(text)
        if moment.tzinfo is not None:
            return to_ns(moment)
    raise UserError(
        f"--as-of is {text!r}; give live, settled, or a moment with its offset like 2026-03-02T08:00:00Z"
    )


def _follow(chosen: Settings, positions: dict[int, int], revisions: dict[str, int], as_json: bool) -> None:
    """Risk events after the standing ones; a revision already known is passed over."""
    from streams.adapters.topic_reader import TopicReader
    from streams.adapters.topics import read_topics

    topics = read_topics(chosen.paths.topics)
    with (
        contextlib.suppress(KeyboardInterrupt),
        _broker(chosen),
        TopicReader(chosen.kafka, topics.names.risk, topics.partitions) as reader,
    ):
        reader.seek(positions)
        for message in reader.forever():
            event = json.loads(message.value or b"{}")
            if event["revision"] <= revisions.get(event["episode"], 0):
                continue
            revisions[event["episode"]] = event["revision"]
            if as_json:
                show_json(
                    json.dumps({**event, "ce_id": message.headers.get("ce_id", "")}, ensure_ascii=False)
                )
            else:
                typer.echo(event_line(event))


@contextlib.contextmanager
def _broker(chosen: Settings) -> Any:
    from kafka.errors import KafkaError

    try:
        yield
    except KafkaError as error:
        raise UserError(
            f"Kafka at {chosen.kafka.bootstrap_servers} does not answer: {error}; is it running? See twin doctor"
        ) from error


def _id_of(body: bytes | None) -> str:
    with contextlib.suppress(ValueError, RecursionError):
        content = json.loads(body or b"")
        if isinstance(content, dict):
            return str(content.get("id", ""))[:128]
    return ""
