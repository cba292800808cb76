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

from streams.cli.application import AsJson, UserError, app, console, say, settings, show_json, show_table

if TYPE_CHECKING:
    from streams.queries import AsOf, Queries
    from streams.queries.answers import Interval, TraceAnswer, TwinAnswer
    from streams.settings import Settings

T = TypeVar("T")
ASKING = "Ask"


@app.command(rich_help_panel=ASKING)
def state(
    patient: Annotated[str, typer.Argument(help="The patient's pseudonym.")],
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
        _show_twin(answer)
    if plot is not None:
        span = Span(horizon_h, None, 0.25)
        forecast = _ask(chosen, lambda queries: queries.forecast(patient, drug, span, moment))
        from streams.plot import draw_forecast

        plot.write_bytes(draw_forecast(forecast, svg=plot.suffix == ".svg"))
        say(f"drawn: {plot}")


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
                f"{t.highest_probability:.2f}",
                t.standing,
                t.levels,
                _time(t.watermark),
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
            f"{answer.standing} standing episodes",
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
            (_episode_row(episode) for _, episode in episodes),
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
            "time": _time(dt.datetime.fromtimestamp(m.timestamp_ms / 1000, dt.UTC)),
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
    record_id: Annotated[str, typer.Argument(help="The record's id.")],
    patient: Annotated[
        str | None, typer.Option(help="Whose: looks into the twin too when the trace has forgotten.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """What became of a record: applied, duplicate, superseded, late or refused, and why; and what the twin holds of it.

    Example: `twin trace adm-17 --patient p-17`
    """
    answer = _ask(settings(), lambda queries: queries.trace(record_id, patient))
    if as_json:
        show_json(answer.model_dump_json(indent=2))
    else:
        _show_trace(answer)
    raise typer.Exit(0 if answer.arrivals or answer.held else 1)


def _show_trace(answer: TraceAnswer) -> None:
    if answer.arrivals:
        show_table(
            "Arrivals",
            ("partition/offset>", "patient", "kind", "source", "revision>", "outcome", "why"),
            (
                (f"{t.partition}/{t.offset}", t.patient or "", t.kind or "", t.source or "",
                 "" if t.revision is None else t.revision, t.outcome, t.reason)
                for t in answer.arrivals
            ),
        )  # fmt: skip
    if answer.held:
        show_table(
            "What the twin holds",
            ("patient", "kind", "source", "revision>", "cancelled", "event time", "twin written (times)>"),
            (
                (h.patient, h.kind, h.source, h.revision, "yes" if h.cancelled else "no", _time(h.event_time),
                 h.twin_version)
                for h in answer.held
            ),
        )  # fmt: skip
    typer.echo(answer.note)


def _ask(chosen: Settings, question: Callable[[Queries], Awaitable[T]]) -> T:
    """Put one question to the store."""
    from streams.serve import create_queries

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


def _show_twin(twin: TwinAnswer) -> None:
    out = console()
    out.print(f"{twin.patient}: {twin.state}", style="bold", markup=False)
    for reason in twin.reasons:
        out.print(f"  {reason}", markup=False)
    recomputed = ", computed again from the stored records" if twin.recomputed else ""
    watermark = f"watermark {_time(twin.watermark)}, {_age(twin.age_h)} ago"
    out.print(f"as of {_time(twin.as_of)} ({twin.mode}{recomputed}); {watermark}")
    rests = ", ".join(f"{n} {kind}" for kind, n in twin.records.items())
    out.print(
        f"rests on {rests}; true up to offset {twin.position.next_offset} of partition {twin.position.partition}"
    )
    if twin.quality:
        out.print(f"data quality: {', '.join(twin.quality)}", markup=False)
    for e in twin.estimates:
        rows: list[tuple[object, ...]] = [
            (name, *_cells(value), "")
            for name, value in (
                ("level now", e.concentration),
                ("AUC, last 24 h", e.auc24),
                (f"highest level, next {e.ahead_h:g} h", e.peak_ahead),
                (f"highest AUC24, next {e.ahead_h:g} h", e.auc24_ahead),
            )
            if value is not None
        ]
        rows += [(p.name.replace("_", " "), *_cells(p.estimate), f"{p.typical:.4g}") for p in e.parameters]
        levels = f"{e.levels} level{'' if e.levels == 1 else 's'}"
        show_table(
            f"{e.drug} ({e.model}): {e.state}, {levels}; {e.assumes or '; '.join(e.reasons)}",
            ("", "median>", "5 %>", "95 %>", "unit", "typical patient>"),
            rows,
        )
        if e.risks:
            show_table(
                "Risk",
                ("crossed when", "within (h)>", "P>", "expected", "limit"),
                (
                    (f"{r.metric} > {r.limit:g} {r.unit}", f"{r.horizon_h:g}", f"{r.probability:.2f}",
                     f"{r.expected.median:.3g} ({r.expected.low:.3g} to {r.expected.high:.3g}) {r.unit}",
                     _status(r.threshold_status))
                    for r in e.risks
                ),
            )  # fmt: skip
        if e.level_forecasts:
            show_table(
                "Levels, each beside what was forecast the instant before its draw",
                ("time", "measured (mg/L)>", "forecast>", "90 % interval", "population>"),
                (
                    (_time(c.time), f"{'< ' if c.below_limit else ''}{c.observed:g}", f"{c.forecast.median:.3g}",
                     f"{c.forecast.low:.3g} to {c.forecast.high:.3g}", f"{c.population.median:.3g}")
                    for c in e.level_forecasts
                ),
            )  # fmt: skip
    for s in twin.standing:
        out.print(f"standing: {s.drug} {s.threshold}, {s.severity}, since {_time(s.crossing)}", markup=False)


def _cells(value: Interval) -> tuple[str, str, str, str]:
    return f"{value.median:.4g}", f"{value.low:.4g}", f"{value.high:.4g}", value.unit


def _episode_row(e: dict[str, Any]) -> tuple[object, ...]:
    f = e["forecast"]
    return (
        e["patient"],
        e["drug"],
        f"{e['metric']} > {e['limit']:g} {e['unit']}",
        e["severity"],
        f"{e['probability']:.2f}",
        f"{f['median']:.3g} ({f['low']:.3g} to {f['high']:.3g}) {f['unit']}",
        f"{e['horizon_h']:g}",
        str(e["crossing"])[:16].replace("T", " "),
        _status(e["threshold_status"]),
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
                typer.echo(_event_line(event))


def _event_line(e: dict[str, Any]) -> str:
    f = e["forecast"]
    return (
        f"{e['type']:>9}  {str(e['evaluated'])[:16].replace('T', ' ')}  {e['patient']}: {e['drug']} {e['metric']} > "
        f"{e['limit']:g} {e['unit']} ({_status(e['threshold_status'])}), {e['severity']}, P = {e['probability']:.2f}, "
        f"expected {f['median']:.3g} ({f['low']:.3g} to {f['high']:.3g}) within {e['horizon_h']:g} h"
    )


@contextlib.contextmanager
def _broker(chosen: Settings) -> Any:
    from kafka.errors import KafkaError

    try:
        yield
    except KafkaError as error:
        raise UserError(
            f"Kafka at {chosen.kafka.bootstrap_servers} does not answer: {error}; is it running? See twin doctor"
        ) from error


def _status(status: str) -> str:
    return {"V": "verified", "R": "unverified", "C": "computed", "A": "assumed"}.get(status, status)


def _time(moment: dt.datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M}"


def _age(hours: float) -> str:
    return f"{hours:.1f} h" if hours < 72 else f"{hours / 24:.0f} days"


def _id_of(body: bytes | None) -> str:
    with contextlib.suppress(ValueError, RecursionError):
        content = json.loads(body or b"")
        if isinstance(content, dict):
            return str(content.get("id", ""))[:128]
    return ""
