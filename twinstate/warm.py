"""Compile every kernel once, so that later processes load it from numba's cache: `python -m twinstate.warm`.

A worker that meets its first lab would otherwise spend half a minute compiling.
"""

from __future__ import annotations

import numpy as np

from twinstate.assimilation.record import Labs, Residual, assimilate_record
from twinstate.assimilation.refine import predictive_quantiles, refine, weighted_quantile
from twinstate.pk.course import Course
from twinstate.pk.exposure import auc_over, highest_trailing_auc, time_above
from twinstate.pk.propagate import solve, solve_points


def warm() -> None:
    """Run every compiled path of the maths on a tiny patient: one dose, a measured and a censored level."""
    log_typical = np.log(np.array([[4.0, 50.0, 5.0, 40.0, 1.0, 0.5, 1.0, 1.0]]))
    eta_index = np.array([0, 1, -1, -1, -1, -1, -1, -1], dtype=np.int64)
    nought = np.zeros(1)
    prior = np.diag([0.09, 0.04])
    residual = Residual(0.1, 0.5)
    course = Course(
        2,
        nought,
        log_typical,
        eta_index,
        nought,
        np.array([500.0]),
        nought,
        np.ones(1, dtype=np.int64),
        nought,
    )
    labs = Labs(np.array([4.0, 30.0]), np.array([6.0, 1.0]), np.array([0, 1], dtype=np.int64))
    for count in (0, 1, 2):
        levels = Labs(labs.time_h[:count], labs.value_mg_L[:count], labs.censored[:count])
        gaussian = assimilate_record(course, levels, prior, residual)
        cloud = refine(course, levels, prior, residual, gaussian)
    concentration, area = solve_points(course, cloud.points, labs.time_h)
    solve(course, cloud.points[0], labs.time_h)
    auc_over(area, labs.time_h, 4.0, 30.0)
    highest_trailing_auc(area, labs.time_h, 24.0, 4.0)
    time_above(concentration, labs.time_h, 1.0)
    at_last = np.ascontiguousarray(concentration[:, 1])
    weighted_quantile(at_last, cloud.weights, 0.5)
    predictive_quantiles(at_last, cloud.weights, residual, np.array([0.5]))


if __name__ == "__main__":
    warm()
