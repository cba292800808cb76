"""The four simulated populations of `bench/posterior.py`: their therapy, their patients, and what is asked of them."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from twinstate.assimilation.observation import Labs, labs_under
from twinstate.drug import Residual
from twinstate.pk.course import (
    COAGULATION_PRODUCT,
    INTO_CENTRAL,
    INTO_DEPOT,
    SATURABLE,
    Course,
    Structure,
    eta_row,
    log_row,
    no_occasions,
)
from twinstate.pk.propagate import solve_points

Floats = NDArray[np.float64]
START_H = 494_000.0
A = {"clearance": 4.0, "central_volume": 50.0}


class Model(NamedTuple):
    """A population, its therapy, and what is asked of it.

    Attributes:
        course: Typical patient.
        omega: Covariance of eta.
        residual: Of a level.
        second: Whether the level is the response.
        drawn_h: Levels fall between these hours.
        day_h: AUC24 is that between these hours (of the response where `second`).
        threshold: P(AUC24 above this) is asked.
    """

    course: Course
    omega: Floats
    residual: Residual
    second: bool
    drawn_h: tuple[float, float]
    day_h: tuple[float, float]
    threshold: float


def _course(
    structure: Structure, typical: dict[str, float], etas: list[str], dosing: tuple[float, ...]
) -> Course:
    """Doses of `mg` at an interval; dosing = (count, interval h, mg, duration h, route)."""
    count, interval, mg, duration, route = dosing
    doses = int(count)
    return Course(
        structure,
        np.array([START_H]),
        log_row(typical)[np.newaxis],
        eta_row({name: position for position, name in enumerate(etas)}),
        no_occasions(1),
        START_H + interval * np.arange(doses, dtype=np.float64),
        np.full(doses, float(mg)),
        np.full(doses, float(duration)),
        np.full(doses, int(route), dtype=np.int64),
        np.zeros(doses),
    )


def _omega(sd: list[float], correlation: float) -> Floats:
    """Covariance with the first two etas correlated."""
    matrix = np.eye(len(sd))
    matrix[0, 1] = matrix[1, 0] = correlation
    return np.outer(sd, sd) * matrix


def models() -> dict[str, Model]:
    """The four models; structure and variability as in the reference, therapy and typical values ours."""
    b = {
        "clearance": 20.0,
        "central_volume": 100.0,
        "intercompartmental_clearance": 30.0,
        "peripheral_volume": 300.0,
        "absorption_rate": 1.2,
        "lag": 0.4,
    }
    c = {
        "maximum_elimination_rate": 17.0,
        "michaelis_constant": 4.0,
        "central_volume": 45.0,
        "absorption_rate": 0.4,
    }
    d = {
        "clearance": 0.25,
        "central_volume": 10.0,
        "absorption_rate": 1.0,
        "half_effect_concentration": 0.8,
        "hill": 1.0,
        "response_time": 1.0 / 0.03,
        "response_baseline": 1.0,
        "response_scale": 20.0,
        "response_exponent": 3.6,
    }
    b_etas = ["clearance", "central_volume", "absorption_rate", "intercompartmental_clearance", "lag"]
    d_etas = ["clearance", "central_volume", "half_effect_concentration", "response_time"]
    turnover = Structure(1, second=COAGULATION_PRODUCT, first_chain=1)
    return {
        "A": Model(
            twice_a_day_infusions(5),
            _omega([0.30, 0.20], 0.3),
            Residual(0.12, 0.6),
            False,
            (1, 110),
            (96, 120),
            600,
        ),
        "B": Model(
            _course(Structure(2), b, b_etas, (10, 12, 4000, 0, INTO_DEPOT)),
            _omega([0.5, 0.5, 0.7, 0.4, 0.3], 0.4),
            Residual(0.12, 0.3),
            False,
            (1, 110),
            (96, 120),
            500,
        ),
        "C": Model(
            _course(
                Structure(1, SATURABLE),
                c,
                ["maximum_elimination_rate", "michaelis_constant", "central_volume"],
                (30, 8, 100, 0, INTO_DEPOT),
            ),
            _omega([0.25, 0.50, 0.15], 0.0),
            Residual(0.10, 0.5),
            False,
            (24, 216),
            (216, 240),
            480,
        ),
        "D": Model(
            _course(turnover, d, d_etas, (10, 24, 5, 0, INTO_DEPOT)),
            _omega([0.30, 0.20, 0.35, 0.25], 0.0),
            Residual(0.08, 0.1),
            True,
            (48, 216),
            (216, 240),
            120,
        ),
    }


def outputs(model: Model, points: Floats, time_h: Floats) -> Floats:
    """What a level measures at each point, (points, times)."""
    concentration, _, second = solve_points(model.course, points, time_h)
    return second if model.second else concentration


def auc24(model: Model, points: Floats) -> Floats:
    """AUC24 of each point, (points,): exact for concentrations, by Simpson's rule for the response."""
    begin, end = model.day_h
    if not model.second:
        return np.diff(solve_points(model.course, points, START_H + np.array([begin, end]))[1])[:, 0]
    grid = np.linspace(begin, end, 25)
    response = outputs(model, points, START_H + grid)
    weights = np.full(25, 2.0)
    weights[1::2] = 4.0
    weights[[0, -1]] = 1.0
    return np.asarray(response @ weights * ((end - begin) / 24 / 3))


def twice_a_day_infusions(days: int) -> Course:
    """The typical patient of model A for so many days."""
    return _course(Structure(1), A, ["clearance", "central_volume"], (2 * days, 12, 1000, 1, INTO_CENTRAL))


def draw(
    model: Model, random: np.random.Generator, levels: int | Floats, limit: float = 0.0
) -> tuple[Floats, Labs]:
    """A patient: true eta, and levels at any time or at these hours; those below `limit` are censored."""
    eta = random.multivariate_normal(np.zeros(len(model.omega)), model.omega)
    drawn_h = random.uniform(*model.drawn_h, levels) if isinstance(levels, int) else levels
    time_h = START_H + np.sort(drawn_h)
    f = outputs(model, eta[np.newaxis], time_h)[0]
    value = f + np.hypot(model.residual.proportional * f, model.residual.additive) * random.normal(
        size=len(time_h)
    )
    # A level of nought or less cannot be reported; the simulation keeps a trace.
    value = np.maximum(value, 0.05)
    below = (value < limit).astype(np.int64)
    return eta, labs_under(model.residual, time_h, np.maximum(value, limit), below, int(model.second))
