"""Courses in few words, and SciPy's answer to the same differential equations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.integrate import solve_ivp

from twinstate.pk.course import (
    COAGULATION_MEAN,
    COAGULATION_PRODUCT,
    EFFECT_SITE,
    INTO_CENTRAL,
    INTO_DEPOT,
    LINEAR,
    METABOLITE,
    MYELOSUPPRESSION,
    PARALLEL_ORAL,
    SATURABLE,
    STRUCTURAL_UNITS,
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
    "second_intercompartmental_clearance": 3.5,
    "second_peripheral_volume": 70.0,
    "maximum_elimination_rate": 40.0,
    "michaelis_constant": 6.0,
    "first_order_fraction": 0.6,
    "transit_rate": 2.1,
    "metabolite_fraction": 0.3,
    "metabolite_clearance": 3.0,
    "metabolite_volume": 20.0,
    "effect_rate": 0.35,
    "response_baseline": 1.1,
    "half_effect_concentration": 3.0,
    "hill": 1.4,
    "response_time": 28.0,
    "second_response_time": 110.0,
    "response_scale": 20.0,
    "response_exponent": 3.6,
    "response_slope": 0.05,
    "response_feedback": 0.17,
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
    structure: int | Structure,
    doses: Sequence[Given],
    segments: Sequence[tuple[float, NDArray[np.float64]]] | None = None,
    eta_index: Sequence[int] = (0, 1, 2, 3, 4, 5, -1, -1),
) -> Course:
    """A course whose times count from `START_H`; a number stands for so many compartments and nothing else."""
    rows = segments or [(0.0, log_parameters())]
    return Course(
        Structure(structure) if isinstance(structure, int) else structure,
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
    """Concentration and cumulative AUC of `integrate_all`."""
    concentration, area, _ = integrate_all(therapy, eta, time_h)
    return concentration, area


def integrate_all(
    therapy: Course, eta: NDArray[np.float64], time_h: NDArray[np.float64], tolerance: float = 1e-12
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """The three outputs by SciPy's DOP853, restarted at every jump of the right-hand side.

    Knows nothing of modes or meshes: every compartment is a plain equation, the metabolite's amount, the effect
    site's concentration, the chains and the marrow's cells among them. No steady state.
    """
    structure = therapy.structure
    moved = np.where(therapy.eta_index >= 0, eta[therapy.eta_index], 0.0) if len(eta) else 0.0
    occasion = np.where(therapy.occasion_index >= 0, eta[therapy.occasion_index], 0.0) if len(eta) else 0.0
    values = np.exp(therapy.log_typical + moved + occasion)
    rows = [dict(zip(STRUCTURAL_UNITS, row, strict=True)) for row in values]
    starts = therapy.segment_start_h - START_H
    transits, first, second = structure.transits, structure.first_chain, structure.second_chain
    central = transits + 1  # behind the transit compartments and the depot
    response = central + 4  # behind two peripheral compartments and the AUC
    size = response + max(5, first + second)

    def row_at(time: float) -> dict[str, float]:
        return rows[max(0, int(np.searchsorted(starts, time, side="right")) - 1)]

    boluses: list[tuple[float, int, float]] = []  # time, state, amount
    infusions: list[tuple[float, float, float]] = []  # start, end, rate
    for dose in range(len(therapy.dose_time_h)):
        time, mg = therapy.dose_time_h[dose] - START_H, therapy.dose_mg[dose]
        route, duration, enters, fraction = therapy.dose_route[dose], 0.0, time, 0.0
        if route == INTO_CENTRAL:
            duration = therapy.dose_duration_h[dose]
        else:
            row = row_at(time)
            enters, mg = time + row["lag"], mg * row["bioavailability"]
            duration = row["input_duration"] if route != INTO_DEPOT else 0.0
            fraction = {INTO_DEPOT: 1.0, PARALLEL_ORAL: row["first_order_fraction"]}.get(int(route), 0.0)
        if fraction > 0:
            boluses.append((enters, 0, mg * fraction))
        if fraction < 1:
            if duration > 0:
                infusions.append((enters, enters + duration, mg * (1 - fraction) / duration))
            else:
                boluses.append((enters, central, mg * (1 - fraction)))

    def drug_free(row: dict[str, float]) -> NDArray[np.float64]:
        state = np.zeros(size)
        if structure.second in (COAGULATION_PRODUCT, COAGULATION_MEAN):
            state[response:] = 1.0
        if structure.second == MYELOSUPPRESSION:
            state[response : response + 5] = row["response_baseline"]
        return state

    def slope(y: NDArray[np.float64], row: dict[str, float], rate: float) -> NDArray[np.float64]:
        change = np.zeros(size)
        ktr, ka, volume = row["transit_rate"], row["absorption_rate"], row["central_volume"]
        for place in range(transits):
            change[place] += (ktr * y[place - 1] if place else 0.0) - ktr * y[place]
        if transits:
            change[transits] += ktr * y[transits - 1]
        absorbed = ka * y[transits]
        change[transits] -= absorbed
        if transits and ka == 0:
            absorbed, change[transits] = ktr * y[transits - 1], 0.0
        level = y[central] / volume
        linear = 0.0 if structure.elimination == SATURABLE else row["clearance"] * level
        saturable = 0.0
        if structure.elimination != LINEAR:
            saturable = row["maximum_elimination_rate"] * level / (row["michaelis_constant"] + level)
        change[central] = rate + absorbed - linear - saturable
        for place, (flow, other) in enumerate(
            [
                ("intercompartmental_clearance", "peripheral_volume"),
                ("second_intercompartmental_clearance", "second_peripheral_volume"),
            ][: structure.compartments - 1],
            start=central + 1,
        ):
            out = row[flow] * (level - y[place] / row[other])
            change[central] -= out
            change[place] = out
        change[central + 3] = level
        what = structure.second
        if what == METABOLITE:
            leaves = row["metabolite_clearance"] / row["metabolite_volume"] * y[response]
            change[response] = row["metabolite_fraction"] * linear - leaves
        elif what == EFFECT_SITE:
            change[response] = row["effect_rate"] * (level - y[response])
        elif what in (COAGULATION_PRODUCT, COAGULATION_MEAN):
            strength = max(level, 0.0) ** row["hill"]
            effect = strength / (row["half_effect_concentration"] ** row["hill"] + strength)
            for length, begin, mean_time in (
                (first, response, row["response_time"]),
                (second, response + first, row["second_response_time"]),
            ):
                for place in range(length):
                    before = y[begin + place - 1] if place else 1 - effect
                    change[begin + place] = length / mean_time * (before - y[begin + place])
        elif what == MYELOSUPPRESSION:
            k = 4 / row["response_time"]
            cells = y[response : response + 5]
            feedback = (row["response_baseline"] / cells[4]) ** row["response_feedback"]
            change[response] = k * cells[0] * ((1 - row["response_slope"] * level) * feedback - 1)
            change[response + 1 : response + 5] = k * (cells[:4] - cells[1:])
        return change

    def read(y: NDArray[np.float64], row: dict[str, float]) -> float:
        what = structure.second
        if what == METABOLITE:
            return float(y[response] / row["metabolite_volume"])
        if what == MYELOSUPPRESSION:
            return float(y[response + 4])
        if what in (COAGULATION_PRODUCT, COAGULATION_MEAN):
            factor = y[response + first - 1]
            if second:
                other = y[response + first + second - 1]
                factor = factor * other if what == COAGULATION_PRODUCT else (factor + other) / 2
            lacking = max(1 - factor, 0.0) ** row["response_exponent"]
            return float(row["response_baseline"] + row["response_scale"] * lacking)
        return float(y[response]) if what == EFFECT_SITE else 0.0

    outputs = time_h - START_H
    jumps = {t for t, *_ in boluses} | {t for i in infusions for t in i[:2]} | set(outputs) | set(starts)
    stops = sorted(t for t in jumps if t <= outputs[-1])
    now = stops[0]
    state = drug_free(row_at(now))
    dosed = False
    found: dict[float, tuple[float, float, float]] = {}
    for stop in stops:
        if stop > now:
            row = row_at(now)
            rate = sum(r for start, end, r in infusions if start <= now and end >= stop)
            dosed = dosed or rate > 0
            if dosed:
                state = solve_ivp(
                    lambda _, y, row=row, rate=rate: slope(y, row, rate),
                    (now, stop),
                    state,
                    method="DOP853",
                    rtol=tolerance,
                    atol=tolerance / 10,
                ).y[:, -1]
            now = stop
        if not dosed:
            state = drug_free(row_at(now))
        row = row_at(stop)
        found[stop] = (state[central] / row["central_volume"], state[central + 3], read(state, row))
        for time, part, amount in boluses:
            if time == stop:
                state[part] += amount
                dosed = True
    concentration, area, answer = zip(*(found[t] for t in outputs), strict=True)
    return np.array(concentration), np.array(area), np.array(answer)
