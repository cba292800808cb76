"""A model's typical patient at its usual dose as a picture: median and 90 % band, targets, alarms and doses.

The manner, colours and line styles are those of `plot.py`; targets are green bands.
"""

from __future__ import annotations

import io
import textwrap
from dataclasses import dataclass

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator
from numpy.typing import NDArray

from streams.model_card import readiness_of
from streams.model_words import STATUS_WORDS, patient_in_words
from streams.plot import BLUE, GREY, INK, VERMILION
from streams.reported import LEVEL_METRICS, Scale, scales_of
from streams.rounding import readable, span
from twinstate.drug import DrugModel, Target, Threshold
from twinstate.library import Library
from twinstate.population.usual import simulate_usual

GREEN = "#009E73"
DARK_GREEN = "#00664A"
WIDTH_IN = 10.0
LEVEL_IN, SECOND_IN, DOSES_IN = 4.2, 2.6, 0.7
STEPS = 600
DRAWS = 1000
SEED = 20
# Up to here the axis is in hours, then in days.
HOURS_SHOWN = 120.0
# A course of one dose that spans more than this is drawn on a logarithmic axis, down to this share of its top.
LOGARITHMIC_SPAN = 100.0
LOGARITHMIC_FLOOR = 1e-4
# Names in the right margin stand at least this far apart, as a share of the panel's height for each of their lines.
LABEL_INCHES = 0.17
# An axis label longer than this is broken.
LABEL_COLUMNS = 115
# Read a peak just after its instant: a level at the time of a dose is the one before it.
JUST_AFTER_H = 1e-6

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Band:
    """Median of the typical patient and the 5 % and 95 % quantiles between patients, each (times,)."""

    median: Floats
    low: Floats
    high: Floats


@dataclass(frozen=True)
class UsualCourse:
    """A usual course simulated.

    Attributes:
        times_h: Hours since the first dose, (times,).
        level: mg/L, (patients, times); the first is the typical patient.
        auc: mg*h/L since the first dose, the same.
        second: In the model's `second_unit`, the same.
    """

    times_h: Floats
    level: Floats
    auc: Floats
    second: Floats

    @property
    def spread(self) -> bool:
        """Whether patients differ; without it the three lines of a band are one."""
        return len(self.level) > 1


def simulate(model: DrugModel) -> UsualCourse:
    """Simulate the typical patient and a thousand who differ from him as the model says; the same bits every time."""
    patient = model.typical_patient
    starts = patient.every_h * np.arange(patient.doses)
    ends = starts + patient.duration_h
    grid = np.linspace(0.0, patient.show_h, STEPS + 1)
    times_h = np.unique(np.concatenate([grid, starts, starts + JUST_AFTER_H, ends, ends + JUST_AFTER_H]))
    times_h = times_h[times_h <= patient.show_h]
    dice = np.random.default_rng(SEED)
    etas = len(model.etas)
    points = np.zeros((DRAWS + 1 if etas else 1, etas))
    if etas:
        points[1:] = dice.standard_normal((DRAWS, etas)) @ np.linalg.cholesky(model.omega).T
    return UsualCourse(times_h, *simulate_usual(model, points, times_h))


def draw_model(model: DrugModel, library: Library, *, svg: bool = True) -> bytes:
    """Draw a model's usual course.

    Args:
        model: Of the library.
        library: Tells the unit levels are reported in.
        svg: SVG for people; False gives a PNG.

    Returns:
        The file's bytes; the same model gives the same bytes.
    """
    course = simulate(model)
    unit = scales_of(model, library).level
    with matplotlib.rc_context(
        {"svg.fonttype": "none", "svg.hashsalt": "twin", "font.size": 10, "font.family": "sans-serif"}
    ):
        heights = [LEVEL_IN, *([SECOND_IN] if model.second else []), DOSES_IN]
        figure = Figure(figsize=(WIDTH_IN, sum(heights) + 0.6), layout="constrained", facecolor="white")
        panels = figure.subplots(len(heights), 1, sharex=True, height_ratios=heights)
        days = model.typical_patient.show_h > HOURS_SHOWN
        scale = 1.0 / 24.0 if days else 1.0
        _draw_level(panels[0], model, course, unit, scale)
        if model.second:
            _draw_second(panels[1], model, course, scale)
        _draw_doses(panels[-1], model, scale, days)
        _title(panels[0], model, course)
        buffer = io.BytesIO()
        about = {"Title": f"{model.model}: {model.drug}"} | ({"Date": None} if svg else {})
        figure.savefig(buffer, format="svg" if svg else "png", metadata=about)
        return buffer.getvalue()


def _band(found: Floats) -> Band:
    # The first row is the typical patient himself.
    low, high = np.quantile(found, [0.05, 0.95], axis=0)
    return Band(np.asarray(found[0]), np.asarray(low), np.asarray(high))


def _draw_level(axes: Axes, model: DrugModel, course: UsualCourse, unit: Scale, scale: float) -> None:
    times = course.times_h * scale
    level = _band(course.level / unit.factor)
    _draw_band(axes, times, level, course.spread)
    targets = [t for t in model.targets if t.metric in LEVEL_METRICS]
    thresholds = [t for t in model.thresholds if t.metric in LEVEL_METRICS]
    top = float(level.high.max())
    logarithmic = _spans_decades(model, level)
    once = model.typical_patient.doses == 1
    limits = []
    names: list[_Name] = []
    for row in thresholds:
        limit = row.limit / unit.factor
        if row.metric == "level_after" and once:
            axes.plot(row.after_h * scale, limit, "v", color=VERMILION, markersize=9, zorder=6, clip_on=False)
            words = f"{row.as_published} at {row.after_h:g} h"
            _say(axes, words, (row.after_h * scale, limit), VERMILION, ha="left", offset=(7, 2))
            limits.append(limit)
        elif limit < 3.0 * top or logarithmic:
            names.append(_draw_limit(axes, limit, _limit_words(row)))
            limits.append(limit)
        else:
            names.append(_Name(np.inf, f"{_limit_words(row)} (above the picture)", VERMILION))
    reach = max([top, *limits])
    names += [_draw_target(axes, target, unit.factor, reach * 1.1) for target in targets]
    if logarithmic:
        axes.set_yscale("log")
        lowest = float(level.low[int(level.median.argmax()) :].min())
        axes.set_ylim(max(lowest * 0.7, top * LOGARITHMIC_FLOOR), reach * 1.8)
        axes.yaxis.set_major_locator(LogLocator(base=10, numticks=8))
        axes.yaxis.set_minor_locator(NullLocator())
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    else:
        axes.set_ylim(0.0, max(reach * 1.1, 1e-12))
        axes.yaxis.set_major_locator(MaxNLocator(nbins=7))
    _name_in_margin(axes, names, LEVEL_IN)
    what = "S-warfarin" if model.drug == "warfarin" else model.drug
    axes.set_ylabel(f"{what} ({unit.unit})")
    _plain(axes)
    axes.tick_params(labelbottom=False)
    axes.set_xlim(0.0, model.typical_patient.show_h * scale)
    handles, labels = axes.get_legend_handles_labels()
    axes.legend(
        handles,
        labels,
        loc="upper center",
        bbox_to_anchor=(0.5, -0.02),
        ncols=4,
        frameon=False,
        fontsize=9,
        handlelength=2.4,
    )


def _draw_second(axes: Axes, model: DrugModel, course: UsualCourse, scale: float) -> None:
    thresholds = [t for t in model.thresholds if t.metric == "second"]
    factor, unit = 1.0, model.second_unit.strip("{}")
    if model.second_unit == "mg/L":  # an effect site: as small as the level
        factor, unit = 0.001, "ng/mL"
    second = _band(course.second / factor)
    _draw_band(axes, course.times_h * scale, second, course.spread)
    limits = [row.limit / factor for row in thresholds]
    reach = max([float(second.high.max()), *limits]) * 1.12
    names = [_draw_limit(axes, row.limit / factor, _limit_words(row)) for row in thresholds]
    names += [_draw_target(axes, t, factor, reach) for t in model.targets if t.metric == "second"]
    axes.set_ylim(0.0, reach)
    axes.yaxis.set_major_locator(MaxNLocator(nbins=6, steps=[1, 2, 2.5, 5, 10]))
    _name_in_margin(axes, names, SECOND_IN)
    outputs = {"effect_site": "effect site", "myelosuppression": "leucocytes", "metabolite": "metabolite"}
    axes.set_ylabel(f"{outputs.get(model.second, 'INR')}" + ("" if unit == "INR" else f" ({unit})"))
    _plain(axes)
    axes.tick_params(labelbottom=False)


def _draw_band(axes: Axes, times: Floats, band: Band, spread: bool) -> None:
    if spread:
        axes.fill_between(
            times,
            band.low,
            band.high,
            color=BLUE,
            alpha=0.2,
            linewidth=0,
            zorder=1,
            label="90 % of patients with his covariates",
        )
    axes.plot(times, band.median, color=BLUE, linewidth=2.0, zorder=4, label="typical patient")


@dataclass(frozen=True)
class _Name:
    """What a line or a band is, to be said in the right margin beside it."""

    at: float
    words: str
    color: str


def _draw_limit(axes: Axes, limit: float, words: str) -> _Name:
    axes.axhline(limit, color=VERMILION, linestyle=(0, (6, 3)), linewidth=1.6, zorder=3)
    return _Name(limit, words, VERMILION)


def _draw_target(axes: Axes, target: Target, factor: float, reach: float) -> _Name:
    low = (target.low or 0.0) / factor
    high = reach if target.high is None else min(target.high / factor, reach)
    axes.axhspan(low, high, color=GREEN, alpha=0.12, linewidth=0, zorder=0)
    what = {"trough": "trough ", "level_after": ""}.get(target.metric, "")
    checked = "" if target.status == "V" else f" ({STATUS_WORDS[target.status]})"
    when = f"\n{target.when.split(';')[0].split(' (')[0]}" if target.when else ""
    words = f"target: {what}{_without_unit_of_inr(target.as_published)}{checked}{when}"
    return _Name(0.5 * (low + high), words, DARK_GREEN)


def _name_in_margin(axes: Axes, names: list[_Name], height_in: float) -> None:
    """Say what each line and band is, the highest first, moved apart where they would touch."""
    low, high = axes.get_ylim()
    logarithmic = axes.get_yscale() == "log"

    def share(value: float) -> float:
        if logarithmic:
            value, bottom, top = (float(np.log(max(v, low))) for v in (value, low, high))
        else:
            bottom, top = low, high
        return min(max((value - bottom) / (top - bottom), 0.0), 1.0)

    ceiling = 1.05
    for name in sorted(names, key=lambda n: -n.at):
        at = share(name.at) if np.isfinite(name.at) else 1.0
        tall = LABEL_INCHES * (name.words.count("\n") + 1) / height_in
        middle = min(at, ceiling - tall / 2)
        ceiling = middle - tall / 2 - 0.15 * LABEL_INCHES / height_in
        axes.annotate(
            name.words,
            (1.0, at),
            xycoords="axes fraction",
            xytext=(1.025, middle),
            textcoords="axes fraction",
            ha="left",
            va="center",
            fontsize=8.5,
            color=name.color,
            arrowprops={"arrowstyle": "-", "color": name.color, "linewidth": 0.7, "shrinkA": 1, "shrinkB": 0},
            annotation_clip=False,
        )


def _without_unit_of_inr(words: str) -> str:
    return words.replace(" {INR}", "")


def _say(
    axes: Axes, words: str, at: tuple[float, float], color: str, ha: str, offset: tuple[int, int]
) -> None:
    axes.annotate(
        words, at, xytext=offset, textcoords="offset points", ha=ha, color=color, fontsize=9, zorder=7
    )


def _limit_words(row: Threshold) -> str:
    checked = "" if row.status == "V" else f", {STATUS_WORDS[row.status]}"
    what = {"trough": "trough ", "level_after": f"{row.after_h:g} h after a dose "}.get(row.metric, "")
    return f"{row.severity_label}: {what}{_without_unit_of_inr(row.as_published)}{checked}"


def _spans_decades(model: DrugModel, level: Band) -> bool:
    after_peak = level.median[int(level.median.argmax()) :]
    return model.typical_patient.doses == 1 and bool(level.median.max() > LOGARITHMIC_SPAN * after_peak.min())


def _draw_doses(axes: Axes, model: DrugModel, scale: float, days: bool) -> None:
    patient = model.typical_patient
    starts = [
        n * patient.every_h * scale for n in range(patient.doses) if n * patient.every_h <= patient.show_h
    ]
    if patient.duration_h:
        for start in starts:
            axes.plot(
                [start, start + patient.duration_h * scale],
                [0.34, 0.34],
                color=INK,
                linewidth=4,
                solid_capstyle="butt",
            )
    axes.vlines(starts, 0.0, 0.68, color=INK, linewidth=1.8)
    axes.set_ylim(0.0, 1.0)
    axes.set_yticks([])
    axes.set_ylabel("doses", rotation=0, ha="right", va="center")
    axes.spines[["top", "right", "left"]].set_visible(False)
    steps = [1, 2, 5, 7, 10] if days else [1, 1.2, 2, 2.4, 4, 6, 8, 10]
    axes.xaxis.set_major_locator(MaxNLocator(nbins=12, steps=steps))
    words = f"{'days' if days else 'hours'} since the first dose; {patient_in_words(model)}"
    axes.set_xlabel(textwrap.fill(words, LABEL_COLUMNS), fontsize=9)


def _plain(axes: Axes) -> None:
    axes.grid(axis="y", color="#DDDDDD", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def _title(axes: Axes, model: DrugModel, course: UsualCourse) -> None:
    under = f"{readiness_of(model)}; typical patient at a usual dose\n{_exposure(model, course)}".rstrip()
    pad = 36 if "\n" in under else 24
    axes.set_title(f"{model.drug}: {model.model}", loc="left", fontsize=12, fontweight="bold", pad=pad)
    axes.annotate(
        under,
        (0.0, 1.0),
        xycoords="axes fraction",
        xytext=(0, 8),
        textcoords="offset points",
        fontsize=9,
        color=GREY,
    )


def _exposure(model: DrugModel, course: UsualCourse) -> str:
    """Areas, which a curve does not show, beside their targets and alarms; empty where the file has none."""
    patient = model.typical_patient
    told = [*(t.metric for t in model.targets), *(t.metric for t in model.thresholds)]
    metric = next((name for name in told if name in ("auc24", "auc_total")), None)
    if metric is None:
        return ""
    begin, end = 0.0, float(course.times_h[-1])
    text = "AUC of the course"
    if metric == "auc24" and patient.doses > 1:
        end = min(end, patient.every_h * patient.doses)
        begin = max(0.0, end - 24.0)
        text = f"AUC over the last {end - begin:g} h of dosing"
    elif metric == "auc24":
        end = min(end, 24.0)
        text = f"AUC over the first {end:g} h"
    first, last = np.searchsorted(course.times_h, [begin, end])
    areas = course.auc[:, last] - course.auc[:, first]
    figure = readable(float(areas[0]))
    if course.spread:
        figure = span(float(areas[0]), *(float(q) for q in np.quantile(areas, [0.05, 0.95])))
    rows = [f"target {t.as_published}" for t in model.targets if t.metric == metric]
    rows += [
        f"{t.severity_label} {t.crossed} {t.as_published}" for t in model.thresholds if t.metric == metric
    ]
    limits = f" ({'; '.join(rows)})" if rows else ""
    return f"{text}: {figure} mg*h/L{limits}".replace("mg*h/L", "mg·h/L")
