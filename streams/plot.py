"""One drug of one patient as a picture: what was measured, what is estimated, what is forecast, where the limit lies.

Colours are Okabe and Ito's, told apart by people with any colour vision and in grey by line style and shape: the level
is a line with its band, doses are ticks below, levels are dots, the limit is dashed, now is dotted.
"""

from __future__ import annotations

import datetime as dt
import io
from collections.abc import Sequence
from typing import Any

import matplotlib
from matplotlib import dates as mdates
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from streams.queries.answers import CurvePoint, DoseMark, ForecastAnswer, RiskOfDrug
from streams.rounding import chance, span

_dates: Any = mdates  # matplotlib leaves this module untyped

BLUE = "#0072B2"
VERMILION = "#D55E00"
INK = "#222222"
GREY = "#767676"
FAINT = "#EFEFEF"
WIDTH_IN, HEIGHT_IN = 10.0, 5.6
# More doses than this are drawn without their amounts.
LABELLED_DOSES = 14


def draw_forecast(answer: ForecastAnswer, *, svg: bool = True) -> bytes:
    """Draw a forecast.

    Args:
        answer: From the queries; `Span(back_h=None)` shows it from the first dose on.
        svg: SVG for people; False gives a PNG, for a look at it in tests.

    Returns:
        The file's bytes; the same answer gives the same bytes.
    """
    # Text stays text in the SVG, and its ids must not change from run to run.
    with matplotlib.rc_context(
        {"svg.fonttype": "none", "svg.hashsalt": "twin", "font.size": 10, "font.family": "sans-serif"}
    ):
        figure = Figure(figsize=(WIDTH_IN, HEIGHT_IN), layout="constrained", facecolor="white")
        levels, doses = figure.subplots(2, 1, sharex=True, height_ratios=(6, 1))
        draw_levels(levels, answer)
        draw_doses(doses, answer)
        _title(levels, answer)
        buffer = io.BytesIO()
        about = {"Title": heading(answer)} | ({"Date": None} if svg else {})
        figure.savefig(buffer, format="svg" if svg else "png", metadata=about)
        return buffer.getvalue()


def draw_levels(axes: Axes, answer: ForecastAnswer) -> None:
    """Draw levels, band and limits into a panel."""
    past = [p for p in answer.points if p.mode != "forecast"]
    # The forecast begins where the estimate ends.
    ahead = past[-1:] + [p for p in answer.points if p.mode == "forecast"]
    if answer.points[-1].time > answer.as_of:
        axes.axvspan(_x(answer.as_of), _x(answer.points[-1].time), color=FAINT, zorder=0, linewidth=0)
    _band(axes, past, "estimate: median and 90 % band", 0.28, "-")
    _band(axes, ahead, "forecast: median and 90 % band", 0.14, "--")
    measured = [level for level in answer.levels if not level.below_limit]
    if measured:
        axes.plot(
            [_x(level.time) for level in measured],
            [level.value for level in measured],
            "o",
            color=INK,
            markersize=6,
            markeredgecolor="white",
            label="measured level",
            zorder=5,
        )
    below = [level for level in answer.levels if level.below_limit]
    if below:
        axes.plot(
            [_x(level.time) for level in below],
            [level.value for level in below],
            "v",
            color="white",
            markeredgecolor=INK,
            markersize=7,
            label="below the limit of quantification",
            zorder=5,
        )
    axes.axvline(_x(answer.as_of), color=INK, linestyle=":", linewidth=1.4, zorder=3)
    top = _top(answer)
    for risk in answer.risks:
        if _on_the_curve(risk, answer):
            axes.axhline(risk.limit, color=VERMILION, linestyle=(0, (6, 3)), linewidth=1.6, zorder=3)
            axes.annotate(
                f"{risk.limit:g} {risk.unit}: toxicity alarm",
                (0.995, risk.limit),
                xycoords=("axes fraction", "data"),
                xytext=(0, 3),
                textcoords="offset points",
                ha="right",
                va="bottom",
                color=VERMILION,
                fontsize=9,
            )
    axes.annotate(
        f"now, {answer.mode}" if answer.mode == "live" else f"as of, {answer.mode}",
        (_x(answer.as_of), 1.0),
        xycoords=("data", "axes fraction"),
        xytext=(-4, -4),
        textcoords="offset points",
        ha="right",
        va="top",
        fontsize=9,
        color=INK,
        rotation=90,
        bbox={"facecolor": "white", "edgecolor": "none", "pad": 1.5},
        zorder=6,
    )
    axes.set_ylim(0.0, top)
    axes.set_xlim(_x(answer.points[0].time), _x(answer.points[-1].time))
    axes.set_ylabel(f"{answer.drug} ({answer.unit})")
    axes.yaxis.set_major_locator(MaxNLocator(nbins=7))
    axes.grid(axis="y", color="#DDDDDD", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelbottom=False)
    axes.legend(
        loc="upper center", bbox_to_anchor=(0.5, -0.02), ncols=4, frameon=False, fontsize=9, handlelength=2.4
    )


def draw_doses(axes: Axes, answer: ForecastAnswer) -> None:
    """Draw doses as ticks, and the axis of time."""
    named = len(answer.doses) <= LABELLED_DOSES
    for dose in answer.doses:
        planned = dose.status == "planned"
        begin, end = _x(dose.time), _x(dose.time + dt.timedelta(hours=dose.duration_h))
        if dose.duration_h:
            axes.plot(
                [begin, end], [0.34, 0.34], color=GREY if planned else INK, linewidth=4, solid_capstyle="butt"
            )
        axes.plot(
            [begin, begin],
            [0.0, 0.68],
            color=GREY if planned else INK,
            linestyle=(0, (2, 1.5)) if planned else "-",
            linewidth=1.8,
        )
        if named:
            axes.annotate(
                f"{dose.amount_mg:g}",
                (begin, 0.72),
                ha="center",
                va="bottom",
                fontsize=8,
                color=GREY if planned else INK,
                annotation_clip=False,
            )
    axes.set_ylim(0.0, 1.0)
    axes.set_yticks([])
    axes.set_ylabel("doses\n(mg)", rotation=0, ha="right", va="center")
    axes.spines[["top", "right", "left"]].set_visible(False)
    locator = _dates.AutoDateLocator(minticks=4, maxticks=10, tz=dt.UTC)
    axes.xaxis.set_major_locator(locator)
    axes.xaxis.set_major_formatter(
        _dates.ConciseDateFormatter(
            locator,
            tz=dt.UTC,
            # A new day is named beside the hours, in the order the title has.
            formats=["%Y", "%Y-%m", "%m-%d", "%H:%M", "%H:%M", "%H:%M:%S"],
            zero_formats=["", "%Y", "%m-%d", "%m-%d", "%H:%M", "%H:%M"],
            show_offset=False,
        )
    )
    axes.set_xlabel(f"time (UTC) from {answer.points[0].time:%Y-%m-%d %H:%M}; {_dose_legend(answer.doses)}")


def _title(axes: Axes, answer: ForecastAnswer) -> None:
    axes.set_title(heading(answer), loc="left", fontsize=12, fontweight="bold", pad=36)
    axes.annotate(
        under(answer),
        (0.0, 1.0),
        xycoords="axes fraction",
        xytext=(0, 8),
        textcoords="offset points",
        fontsize=9,
        color=GREY,
    )


def heading(answer: ForecastAnswer) -> str:
    """Whose twin, which drug, in which state."""
    return f"{answer.patient}: {answer.drug}, {answer.state.replace('_', ' ')}"


def under(answer: ForecastAnswer) -> str:
    """Moment, model, levels, and the chance of every threshold."""
    parts = [f"as of {answer.as_of:%Y-%m-%d %H:%M} UTC ({answer.mode})", f"model {answer.model}"]
    parts.append(f"{answer.levels_used} level{'' if answer.levels_used == 1 else 's'} used")
    return "; ".join(parts) + "\n" + ("; ".join(_chance(risk) for risk in answer.risks) or "no threshold")


def _chance(risk: RiskOfDrug) -> str:
    probability = chance(risk.probability)
    equals = "" if probability[0] in "<>" else "= "
    expected = span(risk.expected.median, risk.expected.low, risk.expected.high)
    what = risk.metric.replace("_", " ")
    side = "<" if risk.metric == "signal_low" else ">"
    limit = f"{what} {side} {risk.limit:g} {risk.unit} within {risk.horizon_h:g} h"
    return f"P({limit}) {equals}{probability}, expected {expected}"


def _dose_legend(doses: Sequence[DoseMark]) -> str:
    kinds = {dose.status for dose in doses}
    return "ticks: " + {
        frozenset({"given"}): "doses given",
        frozenset({"planned"}): "doses planned (broken)",
        frozenset({"given", "planned"}): "doses given (solid) and planned (broken)",
    }.get(frozenset(kinds), "no doses in this span")


def _band(axes: Axes, points: Sequence[CurvePoint], label: str, alpha: float, style: str) -> None:
    times = [_x(p.time) for p in points]
    axes.fill_between(
        times,
        [p.low for p in points],
        [p.high for p in points],
        color=BLUE,
        alpha=alpha,
        linewidth=0,
        zorder=1,
    )
    axes.plot(
        times, [p.median for p in points], color=BLUE, linestyle=style, linewidth=2.0, label=label, zorder=4
    )


def _on_the_curve(risk: RiskOfDrug, answer: ForecastAnswer) -> bool:
    """Whether a limit is one of what the curve shows: the concentration, or the response that levels measure."""
    return risk.metric == answer.measures and risk.unit == answer.unit


def _top(answer: ForecastAnswer) -> float:
    """Everything shown fits, and so does a limit unless it would flatten the curve."""
    highest = max([p.high for p in answer.points] + [level.value for level in answer.levels])
    limits = [r.limit for r in answer.risks if _on_the_curve(r, answer) and r.limit < 2.5 * highest]
    return max(1.08 * max([highest, *limits]), 1e-9)


def _x(time: dt.datetime) -> float:
    return float(_dates.date2num(time))
