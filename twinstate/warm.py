"""Compile every kernel once, so that later processes load it from numba's cache: `python -m twinstate.warm`.

A worker that meets its first lab would otherwise spend half a minute compiling.
"""

from __future__ import annotations

import numpy as np

from twinstate.assimilation.channel import assimilate_windows
from twinstate.assimilation.channel_extremes import extreme_ahead
from twinstate.assimilation.channel_forecast import chance_of_rise, forecast_channel, rise_quantiles
from twinstate.assimilation.channel_model import channel_model
from twinstate.assimilation.observation import first_levels, labs_under
from twinstate.assimilation.posterior import assimilate
from twinstate.assimilation.readings import from_device
from twinstate.assimilation.refine import predictive_quantiles, weighted_quantile
from twinstate.assimilation.windows import fold_frame
from twinstate.catalogue import Bounds, Signal
from twinstate.drug import Channel, Residual, Rhythm
from twinstate.pk.course import Course, Structure, eta_row, log_row, no_occasions
from twinstate.pk.propagate import solve, solve_points


def warm() -> None:
    """Run every compiled path on a tiny patient: one dose, a measured and a censored level, two windows."""
    typical = log_row(
        {
            "clearance": 4.0,
            "central_volume": 50.0,
            "intercompartmental_clearance": 5.0,
            "peripheral_volume": 40.0,
            "absorption_rate": 1.0,
            "lag": 0.5,
        }
    )
    nought = np.zeros(1)
    prior = np.diag([0.09, 0.04])
    prior.setflags(write=False)  # as a model's is: Numba compiles for either
    residual = Residual(0.1, 0.5)
    course = Course(
        Structure(2),
        nought,
        typical[np.newaxis],
        eta_row({"clearance": 0, "central_volume": 1}),
        no_occasions(1),
        nought,
        np.array([500.0]),
        nought,
        np.ones(1, dtype=np.int64),
        nought,
    )
    # The last level is a tenth of what is expected: the bank of hypotheses is compiled too.
    labs = labs_under(
        residual,
        np.array([4.0, 30.0, 50.0]),
        np.array([6.0, 1.0, 0.01]),
        np.array([0, 1, 0], dtype=np.int64),
    )
    for count in (0, 1, 3):
        cloud = assimilate(course, first_levels(labs, count), prior).cloud
    concentration, _, _ = solve_points(course, cloud.points, labs.time_h)
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
    model, asked = channel_model(channel), np.array([0.5])
    chance_of_rise(state, model, at_last, cloud.weights, 30.0)
    rise_quantiles(state, model, at_last, cloud.weights, asked)
    forecast_channel(state, model, concentration, cloud.weights, labs.time_h)
    extreme_ahead(state, model, concentration, cloud.weights, labs.time_h, 500.0, asked, lowest=False)


if __name__ == "__main__":
    warm()
