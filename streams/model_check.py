"""A model's usual course simulated, and compared with what follows from its parameters on paper."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from twinstate.drug import DrugModel
from twinstate.population.usual import simulate_usual
from twinstate.reading.cases import typical_values
from twinstate.reading.figures import mean_concentration, slowest_half_life

# Of the slowest half-life; what is left after it is 2e-9.
HALF_LIVES = 29.0
# A pause between doses makes a saturated body eliminate a little less than a steady input would.
TOLERANCE = 1e-6
SATURABLE_TOLERANCE = 0.05


class ModelCheck(NamedTuple):
    """One model's usual course.

    Attributes:
        model: Its name.
        figures: Cases recomputed when the file was loaded.
        highest_mg_L: Highest level of the typical patient.
        lowest_mg_L: Lowest one after that.
        what: What is compared.
        simulated: By the kernels.
        expected: From the parameters.
        verdict: `agrees`, or what is wrong.
    """

    model: str
    figures: int
    highest_mg_L: float
    lowest_mg_L: float
    what: str
    simulated: float
    expected: float
    verdict: str


def check_model(model: DrugModel) -> ModelCheck:
    """Simulate the typical patient at the usual dose.

    Compared is the area under the whole course with dose / clearance, or, where elimination saturates, the mean level
    of the last interval with the level at which as much leaves as enters.
    """
    patient = model.typical_patient
    values = typical_values(model, patient)
    typical = np.zeros((1, len(model.etas)))
    grid = np.linspace(0.0, patient.show_h, 2001)
    level, _, second = (found[0] for found in simulate_usual(model, typical, grid))
    peak = int(level.argmax())
    available = values["bioavailability"] if patient.route == "oral" else 1.0
    entering = available * patient.amount_mg
    if model.elimination == "linear":
        what, tolerance = "AUC of the course (mg*h/L)", TOLERANCE
        end = (
            patient.every_h * patient.doses
            + patient.duration_h
            + HALF_LIVES * slowest_half_life(model, values)
        )
        simulated = float(simulate_usual(model, typical, np.array([end]))[1][0, 0])
        expected = patient.doses * entering / values["clearance"]
    else:
        what, tolerance = "mean level of the last interval (mg/L)", SATURABLE_TOLERANCE
        ends = patient.every_h * np.array([patient.doses - 1.0, float(patient.doses)])
        area = simulate_usual(model, typical, ends)[1][0]
        simulated = float(area[1] - area[0]) / patient.every_h
        expected = mean_concentration(model, values, entering / patient.every_h)
    verdict = "agrees"
    if abs(simulated - expected) > tolerance * expected:
        verdict = f"differs by {100 * (simulated / expected - 1):.2g} %"
    if not (np.isfinite(level).all() and np.isfinite(second).all() and (level >= 0).all()):
        verdict = "the course is not finite and positive"
    return ModelCheck(
        model=model.model,
        figures=len(model.checks),
        highest_mg_L=float(level[peak]),
        lowest_mg_L=float(level[peak:].min()),
        what=what,
        simulated=simulated,
        expected=expected,
        verdict=verdict,
    )
