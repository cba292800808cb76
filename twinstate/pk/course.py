"""A course of therapy, as flat arrays the compiled solver reads."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

# Structural parameters and their units, in the order of the second axis of `log_typical`.
STRUCTURAL_UNITS: Mapping[str, str] = {
    "clearance": "L/h",
    "central_volume": "L",
    "intercompartmental_clearance": "L/h",
    "peripheral_volume": "L",
    "absorption_rate": "1/h",  # first-order input from the depot
    "lag": "h",  # between giving an oral dose and its entry
    "bioavailability": "1",  # fraction of an oral dose
    "input_duration": "h",  # zero-order oral input
    "second_intercompartmental_clearance": "L/h",
    "second_peripheral_volume": "L",
    "maximum_elimination_rate": "mg/h",  # Michaelis-Menten elimination
    "michaelis_constant": "mg/L",
    "first_order_fraction": "1",  # of an oral dose through the depot, the rest at a constant rate
    "transit_rate": "1/h",  # through each transit compartment between dose and depot or centre
    "metabolite_fraction": "1",  # of the linear elimination that becomes metabolite
    "metabolite_clearance": "L/h",
    "metabolite_volume": "L",
    "effect_rate": "1/h",  # ke0, between plasma and effect site
    "response_baseline": "1",  # the response without drug, in its own unit
    "half_effect_concentration": "mg/L",  # EC50 of the effect on the response
    "hill": "1",
    "response_time": "h",  # mean time through the first chain of the response
    "second_response_time": "h",  # the same through the second
    "response_scale": "1",  # of the response over its baseline when production has ceased
    "response_exponent": "1",
    "response_slope": "L/mg",  # effect per concentration on dividing cells
    "response_feedback": "1",  # exponent of the feedback of circulating on dividing cells
}
STRUCTURAL_PARAMETERS = tuple(STRUCTURAL_UNITS)
# Route codes in `dose_route`.
INTO_CENTRAL = 0  # bolus or infusion
INTO_DEPOT = 1  # first-order oral
ZERO_ORDER_ORAL = 2  # oral, absorbed at a constant rate over `input_duration`
PARALLEL_ORAL = 3  # oral, part through the depot and the rest at a constant rate
# How the drug leaves, in `Structure.elimination`.
LINEAR = 0  # clearance
SATURABLE = 1  # Michaelis-Menten
MIXED = 2  # both side by side
# What the second output is, in `Structure.second`.
NOTHING = 0
METABOLITE = 1  # concentration of the metabolite, mg/L
EFFECT_SITE = 2  # concentration at the effect site, mg/L
COAGULATION_PRODUCT = 3  # INR from two chains of clotting factors, their product
COAGULATION_MEAN = 4  # the same from their mean
MYELOSUPPRESSION = 5  # circulating cells, in the unit of their baseline


class Structure(NamedTuple):
    """Which compartments there are and what joins them.

    Attributes:
        compartments: 1, 2 or 3 (central and peripheral ones).
        elimination: `LINEAR`, `SATURABLE` or `MIXED`.
        transits: Transit compartments between an oral dose and the depot (or the centre without a depot).
        second: What the second output is: one of the codes above.
        first_chain: Compartments of the response's first chain.
        second_chain: Compartments of its second chain; 0 without one.
    """

    compartments: int
    elimination: int = LINEAR
    transits: int = 0
    second: int = NOTHING
    first_chain: int = 0
    second_chain: int = 0


class Course(NamedTuple):
    """One patient on one drug: structure, typical parameters over time, and doses.

    Attributes:
        structure: Compartments and what joins them.
        segment_start_h: Hours since 1970 from which a row of `log_typical` rules, ascending, shape
            (segments,). The first row also rules before its start.
        log_typical: Natural log of the typical structural parameters, shape (segments, parameters), in the
            order of `STRUCTURAL_UNITS` and its units; -inf where the structure has no such parameter (a lag
            of 0).
        eta_index: Which eta moves each structural parameter, shape (parameters,); -1 where none does.
        occasion_index: Which further eta moves it during each segment (between occasions, or drifting),
            shape (segments, parameters); -1 where none does.
        dose_time_h: When each dose was given (start of infusion), ascending, shape (doses,).
        dose_mg: Amount, mg.
        dose_duration_h: Infusion time, h; 0 is a bolus. Read for `INTO_CENTRAL` only.
        dose_route: One of the codes above.
        dose_interval_h: h; above 0 the dose is given at steady state of an endless train at this interval,
            and what came before it is forgotten (NONMEM SS=1).
    """

    structure: Structure
    segment_start_h: NDArray[np.float64]
    log_typical: NDArray[np.float64]
    eta_index: NDArray[np.int64]
    occasion_index: NDArray[np.int64]
    dose_time_h: NDArray[np.float64]
    dose_mg: NDArray[np.float64]
    dose_duration_h: NDArray[np.float64]
    dose_route: NDArray[np.int64]
    dose_interval_h: NDArray[np.float64]


def log_row(values: Mapping[str, float]) -> NDArray[np.float64]:
    """One row of `log_typical`.

    Args:
        values: Typical values by name, in the units of `STRUCTURAL_UNITS`; bioavailability is 1 unless given.

    Returns:
        Natural logarithms, shape (parameters,); -inf where nothing, or nought, was given.
    """
    complete = {"bioavailability": 1.0, **values}
    return np.array(
        [
            math.log(complete[name]) if complete.get(name, 0.0) > 0.0 else -math.inf
            for name in STRUCTURAL_UNITS
        ]
    )


def eta_row(etas: Mapping[str, int]) -> NDArray[np.int64]:
    """`eta_index`, shape (parameters,), from the parameters that an eta moves; -1 for all others."""
    return np.array([etas.get(name, -1) for name in STRUCTURAL_UNITS], dtype=np.int64)


def no_occasions(segments: int) -> NDArray[np.int64]:
    """`occasion_index` of a course whose parameters do not vary between occasions."""
    return np.full((segments, len(STRUCTURAL_UNITS)), -1, dtype=np.int64)
