"""Courses in few words, and SciPy's answer to the same differential equations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.integrate import solve_ivp

from twinstate.pk.course import (
    INTO_CENTRAL,
    INTO_DEPOT,
    ZERO_ORDER_ORAL,
    Course,
    Structure,
    log_row,
    no_occasions,
)

START_H = 494_000.25  # hours since 1970, in 2026: times as large as in service

# A one-compartment drug lacks the exchange, an iv drug the absorption.
PARAMETERS = {
    "clearance": 4.5,
    "central_volume": 58.0,
    "intercompartmental_clearance": 6.5,
    "peripheral_volume": 38.0,
    "absorption_rate": 0.9,
    "lag": 0.4,
    "bioavailability": 0.8,
    "input_duration": 2.5,
}


class Given(NamedTuple):
    """One dose; time in h after `START_H`."""

    time: float
    mg: float
    route: int = INTO_CENTRAL
    duration: float = 0.0
    interval: float = 0.0


def log_parameters(**changed: float) -> NDArray[np.float64]:
    """One row of `log_typical`: `PARAMETERS` with some changed; 0 becomes -inf."""
    return log_row({**PARAMETERS, **changed})


def course(
    compartments: int,
    doses: Sequence[Given],
    segments: Sequence[tuple[float, NDArray[np.float64]]] | None = None,
    eta_index: Sequence[int] = (0, 1, 2, 3, 4, 5, -1, -1),
) -> Course:
    """A course whose times count from `START_H`."""
    rows = segments or [(0.0, log_parameters())]
    return Course(
        Structure(compartments),
        np.array([START_H + start for start, _ in rows]),
        np.array([row for _, row in rows]),
        np.array([*eta_index, *[-1] * (len(rows[0][1]) - len(eta_index))], dtype=np.int64),
        no_occasions(len(rows)),
        np.array([START_H + dose.time for dose in doses], dtype=np.float64),
        np.array([dose.mg for dose in doses], dtype=np.float64),
        np.array([dose.duration for dose in doses], dtype=np.float64),
        np.array([dose.route for dose in doses], dtype=np.int64),
        np.array([dose.interval for dose in doses], dtype=np.float64),
    )


def integrate(
    therapy: Course, eta: NDArray[np.float64], time_h: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Concentration and cumulative AUC by SciPy's DOP853, restarted at every jump of the right-hand side.

    Knows nothing of modes: depot, central and peripheral amounts and the AUC are four plain equations. No steady
    state.
    """
    moved = np.where(therapy.eta_index >= 0, eta[therapy.eta_index], 0.0)
    parameters = np.exp(therapy.log_typical + moved)
    starts = therapy.segment_start_h - START_H

    def segment_at(time: float) -> int:
        return max(0, int(np.searchsorted(starts, time, side="right")) - 1)

    boluses: list[tuple[float, int, float]] = []  # time, state, amount
    infusions: list[tuple[float, float, float]] = []  # start, end, rate
    for dose in range(len(therapy.dose_time_h)):
        time, mg = therapy.dose_time_h[dose] - START_H, therapy.dose_mg[dose]
        row = parameters[segment_at(time)]
        route = therapy.dose_route[dose]
        if route == INTO_DEPOT:
            boluses.append((time + row[5], 0, mg * row[6]))
        elif route == ZERO_ORDER_ORAL:
            infusions.append((time + row[5], time + row[5] + row[7], mg * row[6] / row[7]))
        elif therapy.dose_duration_h[dose] > 0:
            duration = therapy.dose_duration_h[dose]
            infusions.append((time, time + duration, mg / duration))
        else:
            boluses.append((time, 1, mg))
    outputs = time_h - START_H
    jumps = {t for t, *_ in boluses} | {t for i in infusions for t in i[:2]} | set(outputs) | set(starts)
    stops = sorted(t for t in jumps if t <= outputs[-1])
    state = np.zeros(4)
    now = stops[0]
    found: dict[float, tuple[float, float]] = {}
    for stop in stops:
        if stop > now:
            row = parameters[segment_at(now)]
            rate = sum(r for start, end, r in infusions if start <= now and end >= stop)

            def slope(
                _: float, y: NDArray[np.float64], row: NDArray[np.float64] = row, rate: float = rate
            ) -> list[float]:
                cl, v1, q, v2, ka = row[:5]
                out = q / v1 * y[1] if therapy.structure.compartments == 2 else 0.0
                back = q / v2 * y[2] if therapy.structure.compartments == 2 else 0.0
                return [-ka * y[0], rate + ka * y[0] - cl / v1 * y[1] - out + back, out - back, y[1] / v1]

            state = solve_ivp(slope, (now, stop), state, method="DOP853", rtol=1e-12, atol=1e-13).y[:, -1]
            now = stop
        found[stop] = (state[1] / parameters[segment_at(stop)][1], state[3])
        for time, part, amount in boluses:
            if time == stop:
                state[part] += amount
    concentration, area = zip(*(found[t] for t in outputs), strict=True)
    return np.array(concentration), np.array(area)
