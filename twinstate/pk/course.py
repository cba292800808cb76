"""A course of therapy, as flat arrays the compiled solver reads."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

# Order of the structural parameters on the second axis of `log_typical`.
STRUCTURAL_PARAMETERS = (
    "clearance",  # L/h
    "central_volume",  # L
    "intercompartmental_clearance",  # L/h
    "peripheral_volume",  # L
    "absorption_rate",  # 1/h, first-order input from the depot
    "lag",  # h, between giving an oral dose and its entry
    "bioavailability",  # fraction of an oral dose
    "input_duration",  # h, zero-order oral input
)
# Route codes in `dose_route`.
INTO_CENTRAL = 0  # bolus or infusion
INTO_DEPOT = 1  # first-order oral
ZERO_ORDER_ORAL = 2  # oral, absorbed at a constant rate over `input_duration`


class Course(NamedTuple):
    """One patient on one drug: structure, typical parameters over time, and doses.

    Attributes:
        compartments: 1 or 2 (central, peripheral).
        segment_start_h: Hours since 1970 from which a row of `log_typical` rules, ascending, shape
            (segments,). The first row also rules before its start.
        log_typical: Natural log of the typical structural parameters, shape (segments, 8), in the order of
            `STRUCTURAL_PARAMETERS` and their units; -inf where the structure has no such parameter (a lag of
            0).
        eta_index: Which eta moves each structural parameter, shape (8,); -1 where none does.
        dose_time_h: When each dose was given (start of infusion), ascending, shape (doses,).
        dose_mg: Amount, mg.
        dose_duration_h: Infusion time, h; 0 is a bolus. Read for `INTO_CENTRAL` only.
        dose_route: One of the codes above.
        dose_interval_h: h; above 0 the dose is given at steady state of an endless train at this interval,
            and what came before it is forgotten (NONMEM SS=1).
    """

    compartments: int
    segment_start_h: NDArray[np.float64]
    log_typical: NDArray[np.float64]
    eta_index: NDArray[np.int64]
    dose_time_h: NDArray[np.float64]
    dose_mg: NDArray[np.float64]
    dose_duration_h: NDArray[np.float64]
    dose_route: NDArray[np.int64]
    dose_interval_h: NDArray[np.float64]
