"""A static MAP of the same levels: what our forecasts are measured against.

The etas of least NONMEM objective (`twinstate/assimilation/mode.py`), a clearance that stays as it is, and an interval
of first order: residual variance at the mode plus the first-order posterior covariance of the etas at the level.
This is how MAP programs of the clinic forecast.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from twinstate.assimilation.deviance import Measured
from twinstate.assimilation.mode import Status, find_mode
from twinstate.drug import DrugModel, Variation
from twinstate.errors import CovariateError
from twinstate.estimate import LevelCheck, check_level
from twinstate.history import Entry, Lab
from twinstate.library import Library
from twinstate.outlook import Memo
from twinstate.pk.course import STRUCTURAL_PARAMETERS, Course
from twinstate.pk.propagate import solve_points
from twinstate.therapy import before_last_level, therapy_at
from twinstate.types import hours

Floats = NDArray[np.float64]

NORMAL_95 = 1.6448536269514722  # standard normal quantile at 0.95
SLOPE_STEP = 1e-4  # of an eta, for the forecast's derivative
# The speeds held possible where a drug's own file names none: quinidine's.
DRIFT_SDS = (0.0, 0.07, 0.15, 0.3)


class Forecast(NamedTuple):
    """A level's forecast; mg/L."""

    median: float
    low: float
    high: float

    def holds(self, observed: float) -> bool:
        """Whether the 90 % interval holds the level."""
        return self.low <= observed <= self.high


def static(model: DrugModel) -> DrugModel:
    """The same model with nothing that changes within a patient."""
    return replace(model, variation=None)


def drifting(model: DrugModel) -> DrugModel:
    """The same model with a clearance that walks at random, at its own speeds or `DRIFT_SDS`."""
    if model.variation is not None and model.variation.drift_sd:
        return model
    return replace(model, variation=Variation(STRUCTURAL_PARAMETERS.index("clearance"), 0.0, DRIFT_SDS))


def forecast_levels(entries: Sequence[Entry], model: DrugModel, library: Library) -> list[LevelCheck]:
    """Every level of one drug beside our forecast of it, under this model instead of the stored one."""
    memo = Memo()
    checks = [
        check_level(entries, entry, model, library, memo) for entry in entries if _measures(entry, model)
    ]
    return [check for check in checks if check is not None]


def map_forecast(
    entries: Sequence[Entry], check: LevelCheck, model: DrugModel, library: Library
) -> Forecast | None:
    """The static MAP's forecast of one level, from the levels before it.

    Args:
        entries: The patient's history in order.
        check: Which level.
        model: Its drug's, levels of the concentration.
        library: Analytes.

    Returns:
        None when the MAP has no mode or a covariate is missing.
    """
    try:
        therapy = therapy_at(entries, static(model), library, check.event_time)
    except CovariateError:
        return None
    course, labs = before_last_level(therapy, check.levels_before)
    nothing = np.zeros(len(labs.value))
    measured = Measured(
        labs.value,
        labs.censored,
        nothing if model.residual.logarithmic else labs.proportional**2,
        nothing if model.residual.logarithmic else labs.additive**2,
        labs.proportional**2 if model.residual.logarithmic else nothing,
    )
    mode = find_mode(lambda etas: solve_points(course, etas, labs.time_h)[0], measured, model.omega)
    if mode.status is Status.IMPOSSIBLE:
        return None
    return _first_order(therapy.given, mode.eta, mode.covariance, hours(check.event_time), model)


def _first_order(course: Course, eta: Floats, covariance: Floats, at_h: float, model: DrugModel) -> Forecast:
    moves = SLOPE_STEP * np.vstack([np.zeros(len(eta)), np.eye(len(eta)), -np.eye(len(eta))])
    predicted = solve_points(course, eta + moves, np.array([at_h]))[0][:, 0]
    level, size = float(predicted[0]), len(eta)
    slope = (predicted[1 : size + 1] - predicted[size + 1 :]) / (2.0 * SLOPE_STEP)
    residual = model.residual
    if residual.logarithmic:
        slope = slope / level
        reach = NORMAL_95 * math.sqrt(float(slope @ covariance @ slope) + residual.proportional**2)
        return Forecast(level, level * math.exp(-reach), level * math.exp(reach))
    own = (residual.proportional * level) ** 2 + residual.additive**2
    reach = NORMAL_95 * math.sqrt(float(slope @ covariance @ slope) + own)
    return Forecast(level, level - reach, level + reach)


def _measures(entry: Entry, model: DrugModel) -> bool:
    return isinstance(entry.content, Lab) and entry.content.analyte == model.analyte
