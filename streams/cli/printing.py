"""Answers as tables and lines for people."""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING, Any

import typer

from streams.cli.application import console, show_table
from streams.rounding import chance, readable, span

if TYPE_CHECKING:
    from streams.queries.answers import Estimate, Interval, TraceAnswer, TwinAnswer


def show_twin(twin: TwinAnswer) -> None:
    """Print a twin."""
    out = console()
    out.print(f"{twin.patient}: {twin.state}", style="bold", markup=False)
    for reason in twin.reasons:
        out.print(f"  {reason}", markup=False)
    recomputed = ", computed again from the stored records" if twin.recomputed else ""
    watermark = f"watermark {minute(twin.watermark)}, {_age(twin.age_h)} ago"
    out.print(f"as of {minute(twin.as_of)} ({twin.mode}{recomputed}); {watermark}")
    rests = ", ".join(f"{n} {kind}" for kind, n in twin.records.items())
    out.print(
        f"rests on {rests}; true up to offset {twin.position.next_offset} of partition {twin.position.partition}"
    )
    if twin.position.rolled_back:
        out.print(
            "  older than an answer given before: Redis lost its newest writes",
            markup=False,
        )
    if twin.quality:
        out.print(f"data quality: {', '.join(twin.quality)}", markup=False)
    for clock in twin.clocks:
        late = "" if clock.doubt == "ahead" else ", or all it sends comes so late"
        out.print(
            f"set the clock of {clock.device}: {clock.seconds:g} s {clock.doubt}{late} ({clock.frames} frames)",
            markup=False,
        )
    for e in twin.estimates:
        rows: list[tuple[object, ...]] = [
            (name, *_cells(value), "", "")
            for name, value in (
                ("level now", e.concentration),
                ("AUC, last 24 h", e.auc24),
                (f"highest level, next {e.ahead_h:g} h", e.peak_ahead),
                (f"highest AUC24, next {e.ahead_h:g} h", e.auc24_ahead),
                *_channel_rows(e),
            )
            if value is not None
        ]
        rows += [
            (
                p.name.replace("_", " "),
                *_cells(p.estimate),
                readable(p.typical),
                "" if p.shrinkage is None else f"{p.shrinkage:.2f}",
            )
            for p in e.parameters
        ]
        levels = f"{e.levels} level{'' if e.levels == 1 else 's'}"
        show_table(
            f"{e.drug} ({e.model}): {e.state}, {levels}; {e.assumes or '; '.join(e.reasons)}",
            ("", "median>", "5 %>", "95 %>", "error>", "unit", "typical patient>", "shrinkage>"),
            rows,
        )
        if e.etas:
            out.print(
                f"{e.effective_points:.0f} effective points; error: of the median, by their number; shrinkage: "
                "posterior variance over that between patients, 1 where no level told anything",
                markup=False,
            )
        if e.risks:
            show_table(
                "Risk",
                ("crossed when", "within (h)>", "P>", "error>", "expected", "limit"),
                (
                    (f"{r.metric} {_sign(r.metric)} {r.limit:g} {r.unit}", f"{r.horizon_h:g}",
                     chance(r.probability), f"{r.probability_error:.3f}",
                     f"{span(r.expected.median, r.expected.low, r.expected.high)} {r.unit}",
                     "; ".join((_status(r.threshold_status), *_not_trusted(r.model_dump()))))
                    for r in e.risks
                ),
            )  # fmt: skip
        if e.level_forecasts:
            show_table(
                "Levels, each beside what was forecast the instant before its draw",
                ("time", "test", "measured>", "forecast>", "90 % interval", "population>"),
                (
                    (minute(c.time), c.analyte, f"{'< ' if c.below_limit else ''}{c.observed:g} {c.forecast.unit}",
                     readable(c.forecast.median),
                     f"{readable(c.forecast.low)} to {readable(c.forecast.high)}", readable(c.population.median))
                    for c in e.level_forecasts
                ),
            )  # fmt: skip
        for c in e.level_forecasts:
            if c.doubt is not None:
                out.print(
                    f"repeat this level: {c.observed:g} {c.forecast.unit} of {minute(c.time)} ({c.id}) is wrong with "
                    f"P = {chance(c.doubt)}; neither the model nor the other levels explain it",
                    markup=False,
                )
    for s in twin.standing:
        out.print(f"standing: {s.drug} {s.threshold}, {s.severity}, since {minute(s.crossing)}", markup=False)


def show_trace(answer: TraceAnswer) -> None:
    """Print the way of a record."""
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
                (h.patient, h.kind, h.source, h.revision, "yes" if h.cancelled else "no", minute(h.event_time),
                 h.twin_version)
                for h in answer.held
            ),
        )  # fmt: skip
    typer.echo(answer.note)


def _channel_rows(e: Estimate) -> tuple[tuple[str, Interval], ...]:
    c = e.channel
    if c is None:
        return ()
    return (
        (f"{c.signal}: baseline", c.baseline),
        (f"{c.signal}: largest effect", c.largest_effect),
        (f"{c.signal}: largest change, next {e.ahead_h:g} h", c.rise_ahead),
    )


def _cells(value: Interval) -> tuple[str, str, str, str, str]:
    error = "" if value.monte_carlo_error is None else readable(value.monte_carlo_error)
    return readable(value.median), readable(value.low), readable(value.high), error, value.unit


def episode_row(e: dict[str, Any]) -> tuple[object, ...]:
    """A standing episode as a row of a table."""
    f = e["forecast"]
    return (
        e["patient"],
        e["drug"],
        f"{e['metric']} {_sign(e['metric'])} {e['limit']:g} {e['unit']}",
        e["severity"],
        chance(e["probability"]),
        f"{span(f['median'], f['low'], f['high'])} {f['unit']}",
        f"{e['horizon_h']:g}",
        str(e["crossing"])[:16].replace("T", " "),
        "; ".join((_status(e["threshold_status"]), *_not_trusted(e))),
    )


def event_line(e: dict[str, Any]) -> str:
    """A risk event as one line."""
    f = e["forecast"]
    when = str(e["evaluated"])[:16].replace("T", " ")
    known = "; ".join((_status(e["threshold_status"]), *_not_trusted(e)))
    limit = f"{_sign(e['metric'])} {e['limit']:g} {e['unit']} ({known})"
    expected = f"{span(f['median'], f['low'], f['high'])} within {e['horizon_h']:g} h"
    return (
        f"{e['type']:>9}  {when}  {e['patient']}: {e['drug']} {e['metric']} {limit}, {e['severity']}, "
        f"P {chance(e['probability'])}, expected {expected}"
    )


def _sign(metric: str) -> str:
    return "<" if metric == "signal_low" else ">"


def _not_trusted(e: dict[str, Any]) -> list[str]:
    """What to say of the devices an episode or a risk rests on: nothing while all are trusted."""
    devices = ", ".join(e.get("distrusted", ()))
    return [f"rests on a device without trust ({devices})"] if devices else []


def _status(status: str) -> str:
    return {"V": "verified", "R": "unverified", "C": "computed", "A": "assumed"}.get(status, status)


def minute(moment: dt.datetime) -> str:
    """A UTC moment to the minute."""
    return f"{moment:%Y-%m-%d %H:%M}"


def _age(hours: float) -> str:
    return f"{hours:.1f} h" if hours < 72 else f"{hours / 24:.0f} days"
