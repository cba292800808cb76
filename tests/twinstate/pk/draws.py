"""Wide random courses: kinetics from sluggish to fast, elimination from saturated to emptied, any route."""

from __future__ import annotations

import numpy as np

from tests.twinstate.courses import START_H, Given, course
from twinstate.pk.course import (
    INTO_CENTRAL,
    INTO_DEPOT,
    MYELOSUPPRESSION,
    PARALLEL_ORAL,
    STRUCTURAL_UNITS,
    ZERO_ORDER_ORAL,
    Course,
    Structure,
    log_row,
)

NO_ETA = np.zeros(0)


def _between(random: np.random.Generator, low: float, high: float) -> float:
    return float(np.exp(random.uniform(np.log(low), np.log(high))))


def draw_parameters(structure: Structure, random: np.random.Generator, dose_mg: float) -> dict[str, float]:
    """Parameters of all a structure may have, the concentrations in proportion to the dose."""
    volume = _between(random, 3, 300)
    level = dose_mg / volume
    half = level * _between(random, 0.02, 20)
    parameters = {
        "clearance": volume * _between(random, 0.005, 2),
        "central_volume": volume,
        "intercompartmental_clearance": volume * _between(random, 0.01, 3),
        "peripheral_volume": volume * _between(random, 0.2, 8),
        "absorption_rate": _between(random, 0.1, 4),
        "lag": random.choice([0.0, _between(random, 0.1, 3)]),
        "bioavailability": random.uniform(0.3, 1),
        "input_duration": _between(random, 0.2, 10),
        "second_intercompartmental_clearance": volume * _between(random, 0.01, 3),
        "second_peripheral_volume": volume * _between(random, 0.2, 8),
        "maximum_elimination_rate": volume * half * _between(random, 0.02, 3),
        "michaelis_constant": half,
        "first_order_fraction": random.uniform(0.1, 0.9),
        "transit_rate": _between(random, 0.5, 8),
        "metabolite_fraction": random.uniform(0.1, 0.9),
        "metabolite_clearance": _between(random, 0.5, 20),
        "metabolite_volume": _between(random, 5, 100),
        "effect_rate": _between(random, 0.02, 4),
        "response_baseline": random.uniform(0.9, 1.3),
        "half_effect_concentration": level * _between(random, 0.02, 5),
        "hill": random.choice([1.0, random.uniform(0.3, 1), random.uniform(1, 4)]),
        "response_time": _between(random, 8, 200),
        "second_response_time": _between(random, 20, 200),
        "response_scale": 20.0,
        "response_exponent": random.uniform(1, 4),
        "response_slope": 0.0,
        "response_feedback": 0.0,
    }
    if structure.second == MYELOSUPPRESSION:
        parameters |= {
            "response_baseline": random.uniform(3, 8),
            "response_time": _between(random, 60, 300),
            "response_slope": _between(random, 0.02, 1) / level,
            "response_feedback": random.uniform(0.1, 0.3),
        }
    return {name: float(value) for name, value in parameters.items()}


def draw_course(structure: Structure, random: np.random.Generator) -> tuple[Course, np.ndarray]:
    """Six doses by two routes, and fourteen times up to well behind them."""
    mg = _between(random, 20, 2000)
    row = log_row(draw_parameters(structure, random, mg))
    interval = random.choice([24, 168] if structure.second == MYELOSUPPRESSION else [8, 12, 24])
    routes = random.choice([INTO_CENTRAL, INTO_DEPOT, ZERO_ORDER_ORAL, PARALLEL_ORAL], size=2)
    doses = []
    for number in range(6):
        route = int(routes[number % 2])
        duration = random.choice([0.0, _between(random, 0.1, 6)]) if route == INTO_CENTRAL else 0.0
        given = interval * number + random.uniform(0, 0.5)
        doses.append(Given(float(given), mg * random.uniform(0.5, 1.5), route, float(duration)))
    times = START_H + np.sort(random.uniform(0.05, interval * 9.6, 14))
    return course(structure, doses, [(0.0, row)], [-1] * len(STRUCTURAL_UNITS)), times
