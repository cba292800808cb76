"""Compile every kernel once, so that later processes load it from numba's cache: `python -m twinstate.warm`.

A worker that meets its first lab would otherwise spend half a minute compiling.
"""

from __future__ import annotations

import numpy as np

from twinstate.assimilation.channel import assimilate_windows
from twinstate.assimilation.channel_forecast import chance_of_rise, forecast_channel, rise_quantiles
from twinstate.assimilation.channel_model import channel_model
from twinstate.assimilation.readings import from_device
from twinstate.assimilation.record import Labs, Residual, assimilate_record
from twinstate.assimilation.refine import predictive_quantiles, refine, weighted_quantile
from twinstate.assimilation.windows import fold_frame
from twinstate.catalogue import Bounds, Signal
from twinstate.drug import Channel, Rhythm
from twinstate.pk.course import Course
from twinstate.pk.propagate import solve, solve_points


def warm() -> None:
    """Run every compiled path on a tiny patient: one dose, a measured and a censored level, two windows."""
    log_typical = np.log(np.array([[4.0, 50.0, 5.0, 40.0, 1.0, 0.5, 1.0, 1.0]]))
    eta_index = np.array([0, 1, -1, -1, -1, -1, -1, -1], dtype=np.int64)
    nought = np.zeros(1)
    prior = np.diag([0.09, 0.04])
    prior.setflags(write=False)  # as a model's is: Numba compiles for either
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
    concentration, _ = solve_points(course, cloud.points, labs.time_h)
    solve(course, cloud.points[0], labs.time_h)
    at_last = np.ascontiguousarray(concentration[:, 1])
    weighted_quantile(at_last, cloud.weights, 0.5)
    predictive_quantiles(at_last, cloud.weights, residual, np.array([0.5]))
    signal = Signal("signal", "", (), "ms", {}, 1.0, Bounds(200.0, 800.0), None, 72.0, None, {})
    windows = from_device("watch", fold_frame([400.0, None], [0, 300_000_000_000], signal))
    daily, shorter = Rhythm(24.0, 0.01, 8.0), Rhythm(6.0, 0.005, 4.0)
    channel = Channel(
        "signal", "ms", 400.0, 0.04, (daily, shorter), 30.0, 0.3, 4.0, 0.015, 2.0, 0.7, 72.0, {}
    )
    at = np.array([1.0])
    (state,) = assimilate_windows(windows, signal, channel, course, cloud.mean, cloud.covariance, at)
    chance_of_rise(state, channel.ec50_mg_L, at_last, cloud.weights, 30.0)
    rise_quantiles(state, channel.ec50_mg_L, at_last, cloud.weights, np.array([0.5]))
    forecast_channel(state, channel_model(channel), concentration, cloud.weights, labs.time_h)


if __name__ == "__main__":
    warm()
