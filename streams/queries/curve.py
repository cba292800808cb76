"""The concentration of one drug over time, as plots and forecasts show it: one fit, drawn backward and forward."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from twinstate.assimilation.posterior import carry_forward
from twinstate.assimilation.refine import weighted_quantile
from twinstate.drug import DrugModel
from twinstate.errors import MathsError
from twinstate.history import Dose, Entry
from twinstate.library import Library
from twinstate.outlook import JUST_AFTER_H, Memo, fit_levels
from twinstate.pk.propagate import solve_points
from twinstate.therapy import Therapy, therapy_at, with_planned
from twinstate.types import NS_PER_HOUR, Times, hours

# Enough for a page and for a plot; a finer wish is thinned to it.
MOST_POINTS = 2000


class Curve(NamedTuple):
    """Times (UTC ns, ascending) and what a level measures there, in the model's `level_unit`, each shape (times,)."""

    therapy: Therapy
    times: tuple[int, ...]
    median: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]


def draw(
    entries: Sequence[Entry],
    model: DrugModel,
    library: Library,
    as_of: int,
    *,
    back_h: float,
    ahead_h: float,
    step_h: float = 0.5,
) -> Curve:
    """Simulate the level from `back_h` before `as_of` to `ahead_h` after it.

    Before `as_of` the curve is the estimate with everything known at `as_of` (later levels inform earlier times);
    after it, the forecast with the doses planned.

    Args:
        entries: The patient's history in order.
        model: The drug's model.
        library: Analytes and covariates.
        as_of: UTC ns.
        back_h: How far back, h.
        ahead_h: How far ahead, h.
        step_h: Grid, h; times just after each dose are added, where the curve has its corners.

    Raises:
        CovariateError: A covariate the model needs was never sent.
        MathsError: The fit or a trajectory is not finite.
    """
    therapy = therapy_at(entries, model, library, as_of)
    fit = fit_levels(therapy, len(therapy.labs.time_h), Memo())
    now = hours(as_of)
    planned = with_planned(therapy, as_of + int(ahead_h * NS_PER_HOUR))
    course, cloud = carry_forward(fit, planned, model.variation, now)
    step_h = max(step_h, (back_h + ahead_h) / MOST_POINTS)
    grid = now + step_h * np.arange(-round(back_h / step_h), round(ahead_h / step_h) + 1)
    corners = np.concatenate(
        [course.dose_time_h, course.dose_time_h + JUST_AFTER_H, course.dose_time_h + course.dose_duration_h]
    )
    corners = corners[(corners > grid[0]) & (corners < grid[-1])]
    times_h: Times = np.unique(np.concatenate([grid, corners]))
    concentration, _, second = solve_points(course, cloud.points, times_h)
    levels = second if model.observes == "second" else concentration
    if not np.isfinite(levels).all():
        raise MathsError(f"the simulated level of {model.model} is not finite")
    weights = cloud.weights
    quantiles = [
        tuple(weighted_quantile(levels[:, i], weights, q) for i in range(len(times_h)))
        for q in (0.5, 0.05, 0.95)
    ]
    # Hours as float64 resolve 0.2 microseconds: the moment of the answer itself stays exact.
    times = tuple(as_of + round((t - now) * NS_PER_HOUR) for t in times_h.tolist())
    return Curve(therapy, times, *quantiles)


def doses_given(entries: Sequence[Entry], drug: str, as_of: int) -> list[tuple[int, Dose]]:
    """Doses of a drug given up to a moment, with their times (UTC ns)."""
    return [
        (e.event_time, e.content)
        for e in entries
        if isinstance(e.content, Dose)
        and e.content.drug == drug
        and e.content.given
        and e.event_time <= as_of
    ]


def start_of(entries: Sequence[Entry], drug: str, as_of: int) -> int:
    """Event time of the first dose of a drug, UTC ns; `as_of` when there is none."""
    return min((t for t, _ in doses_given(entries, drug, as_of)), default=as_of)
