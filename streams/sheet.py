"""One drug of one twin on a sheet of A4 to print: picture, estimates and their uncertainty, risks, assumptions.

The picture is that of `plot.py`. The sheet says how old it is, whether it is live or settled, and which model card to
read beside it.
"""

from __future__ import annotations

import io
import textwrap
from collections.abc import Sequence
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from streams.plot import GREY, INK, draw_doses, draw_levels, heading, under
from streams.queries.answers import Estimate, ForecastAnswer, Interval, TwinAnswer
from streams.rounding import chance, readable, span

WIDTH_IN, HEIGHT_IN = 8.27, 11.69  # A4
LINE_COLUMNS = 118
MOST_LEVELS = 8  # the last ones; the picture has all
# Heights of the panels, and what a line and the space between panels take.
LEVELS_IN, DOSES_IN, ROW_IN, LINE_IN, BETWEEN_IN = 3.4, 0.7, 0.2, 0.145, 1.6


def draw_sheet(twin: TwinAnswer, forecast: ForecastAnswer, *, pdf: bool = True) -> bytes:
    """Draw the sheet.

    Args:
        twin: The whole twin, with the drug's estimate.
        forecast: The drug over time, as of the same moment.
        pdf: PDF; False gives an SVG.

    Returns:
        The file's bytes; the same answers give the same bytes.

    Raises:
        ValueError: The twin has no estimate of the forecast's drug.
    """
    chosen = [estimate for estimate in twin.estimates if estimate.drug == forecast.drug]
    if not chosen:
        raise ValueError(f"the twin of {twin.patient} has no estimate of {forecast.drug} to print")
    estimate = chosen[0]
    fonts: Any = {
        "svg.fonttype": "none",
        "svg.hashsalt": "twin",
        "pdf.fonttype": 42,
        "font.size": 8.5,
        "font.family": "sans-serif",
    }
    with matplotlib.rc_context(fonts):
        figure = Figure(figsize=(WIDTH_IN, HEIGHT_IN), facecolor="white")
        figure.set_layout_engine(ConstrainedLayoutEngine(rect=(0.03, 0.02, 0.94, 0.95)))
        rows = _rows(estimate)
        table_in = ROW_IN * (len(rows) + 1)
        notes_in = max(HEIGHT_IN - LEVELS_IN - DOSES_IN - table_in - BETWEEN_IN, 1.0)
        panels = figure.subplots(4, 1, height_ratios=(LEVELS_IN, DOSES_IN, table_in, notes_in))
        panels[0].sharex(panels[1])
        draw_levels(panels[0], forecast)
        draw_doses(panels[1], forecast)
        panels[0].set_title(
            f"{heading(forecast)}\n", loc="left", fontsize=12, fontweight="bold", color=INK, pad=26
        )
        panels[0].annotate(
            "\n".join(textwrap.wrap(under(forecast).replace("\n", "; "), LINE_COLUMNS)),
            (0.0, 1.0),
            xycoords="axes fraction",
            xytext=(0, 8),
            textcoords="offset points",
            fontsize=8,
            color=GREY,
        )
        _table(panels[2], ("", "median", "5 %", "95 %", "error", "unit", "typical", "shrinkage"), rows)
        _notes(panels[3], _told(twin, forecast, estimate), int(notes_in / LINE_IN))
        buffer = io.BytesIO()
        about = {"Title": heading(forecast)} | ({"CreationDate": None} if pdf else {"Date": None})
        figure.savefig(buffer, format="pdf" if pdf else "svg", metadata=about)
        return buffer.getvalue()


def _rows(estimate: Estimate) -> list[tuple[str, ...]]:
    shown = [
        ("level now", estimate.concentration),
        ("AUC, last 24 h", estimate.auc24),
        (f"highest level, next {estimate.ahead_h:g} h", estimate.peak_ahead),
        (f"highest AUC24, next {estimate.ahead_h:g} h", estimate.auc24_ahead),
    ]
    rows: list[tuple[str, ...]] = [
        (name, *_cells(value), "", "") for name, value in shown if value is not None
    ]
    rows += [
        (
            p.name.replace("_", " "),
            *_cells(p.estimate),
            readable(p.typical),
            "" if p.shrinkage is None else f"{p.shrinkage:.2f}",
        )
        for p in estimate.parameters
    ]
    rows += [
        (
            f"P({r.metric.replace('_', ' ')} > {readable(r.limit)} {r.unit}, {r.horizon_h:g} h)",
            chance(r.probability),
            "",
            "",
            f"{r.probability_error:.3f}",
            "",
            "",
            "",
        )
        for r in estimate.risks
    ]
    return rows


def _cells(value: Interval) -> tuple[str, str, str, str, str]:
    error = "" if value.monte_carlo_error is None else readable(value.monte_carlo_error)
    return readable(value.median), readable(value.low), readable(value.high), error, value.unit


def _told(twin: TwinAnswer, forecast: ForecastAnswer, estimate: Estimate) -> list[str]:
    """What a reader must know beside the figures, a sentence a line."""
    said = [
        f"As of {twin.as_of:%Y-%m-%d %H:%M} UTC, {twin.mode}"
        f"{' (computed again from the stored records)' if twin.recomputed else ''}; records up to "
        f"{twin.watermark:%Y-%m-%d %H:%M}, {twin.age_h:.1f} h before this was printed; settled until "
        f"{twin.settled_until:%Y-%m-%d %H:%M}. What lies after the dotted line is forecast.",
        f"Assumed: {forecast.assumes}.",
        f"Model {estimate.model} (file {estimate.model_digest[:12]}); its card: twin drugs show {estimate.drug}. "
        f"Code and library {twin.fingerprint[:12]}; true up to offset {twin.position.next_offset} of partition "
        f"{twin.position.partition}.",
        f"{estimate.levels} level{'' if estimate.levels == 1 else 's'} used; {estimate.effective_points:.0f} effective "
        "points. Error: Monte-Carlo standard error by their number. Shrinkage: posterior variance over that between "
        "patients, 1 where no level told anything. Bands are 90 %.",
    ]
    said += [f"State: {forecast.state.replace('_', ' ')}: {reason}." for reason in forecast.reasons]
    said += [
        f"Limit {r.threshold.replace('_', ' ')}: {STATUS[r.threshold_status]} ({r.threshold_source})."
        + (f" Rests on a device without trust: {', '.join(r.distrusted)}." if r.distrusted else "")
        for r in estimate.risks
    ]
    if twin.quality:
        said.append(f"Data quality: {', '.join(twin.quality)}.")
    checks = estimate.level_forecasts
    for c in checks[-MOST_LEVELS:]:
        doubt = "" if c.doubt is None else f"; wrong with P = {chance(c.doubt)}: repeat it"
        forecasted = span(c.forecast.median, c.forecast.low, c.forecast.high)
        said.append(
            f"{c.time:%Y-%m-%d %H:%M}: {'below ' if c.below_limit else ''}{c.observed:g} {c.forecast.unit}, forecast "
            f"{forecasted}{doubt}."
        )
    return said


LAST = "Decision support: the clinician decides. No order, and not a medical device."
STATUS = {"V": "verified", "R": "unverified", "C": "computed", "A": "assumed"}


def _table(axes: Axes, heads: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    axes.axis("off")
    if not rows:
        axes.text(0.0, 0.9, "no estimate", transform=axes.transAxes, color=GREY)
        return
    table = axes.table(
        cellText=[list(row) for row in rows],
        colLabels=list(heads),
        colWidths=[0.34, 0.1, 0.1, 0.1, 0.09, 0.09, 0.1, 0.1],
        loc="upper center",
        cellLoc="right",
        edges="horizontal",
    )
    table.auto_set_font_size(False)
    table.set_fontsize(8)
    for (row, column), cell in table.get_celld().items():
        cell.set_edgecolor("#DDDDDD")
        if column == 0:
            cell.set_text_props(ha="left")
        if row == 0:
            cell.set_text_props(fontweight="bold")


def _notes(axes: Axes, sentences: Sequence[str], most: int) -> None:
    """Write what was told, as many lines as fit; what is left out is in `twin state`."""
    axes.axis("off")
    lines = [
        line
        for sentence in sentences
        for line in textwrap.wrap(sentence, LINE_COLUMNS, subsequent_indent="    ")
    ]
    if len(lines) > most - 1:
        lines = [*lines[: most - 2], "... (the rest: twin state)"]
    axes.text(
        0.0,
        1.0,
        "\n".join([*lines, LAST]),
        transform=axes.transAxes,
        va="top",
        fontsize=7.5,
        color=INK,
        linespacing=1.35,
    )
