"""A model's typical patient at its usual dose, as a course to simulate."""

from __future__ import annotations

import numpy as np

from twinstate.drug import DrugModel
from twinstate.pk.course import Course, no_occasions
from twinstate.pk.propagate import solve_points
from twinstate.population.covariates import typical_log_parameters
from twinstate.population.structure import route_of, structure_of
from twinstate.types import Points, Times, Trajectories


def usual_course(model: DrugModel) -> Course:
    """Doses from hour 0 on, `every_h` apart.

    Raises:
        CovariateError: The file's typical patient lacks what the model needs.
    """
    patient = model.typical_patient
    typical = typical_log_parameters(model, patient.covariates, patient.genotype)
    doses = patient.doses
    return Course(
        structure=structure_of(model),
        segment_start_h=np.zeros(1),
        log_typical=np.array([typical.log_typical]),
        eta_index=np.array(model.eta_index),
        occasion_index=no_occasions(1),
        dose_time_h=patient.every_h * np.arange(doses, dtype=np.float64),
        dose_mg=np.full(doses, patient.amount_mg),
        dose_duration_h=np.full(doses, patient.duration_h),
        dose_route=np.full(doses, route_of(model, patient.route), dtype=np.int64),
        dose_interval_h=np.zeros(doses),
    )


def simulate_usual(
    model: DrugModel, points: Points, times_h: Times
) -> tuple[Trajectories, Trajectories, Trajectories]:
    """Simulate patients who differ from the typical one by `points`, at the usual dose.

    Args:
        model: The model.
        points: Deviations of the log-parameters, (points, eta).
        times_h: Hours since the first dose, ascending.

    Returns:
        Concentration (mg/L), cumulative AUC (mg*h/L) and second output, each (points, times).
    """
    return solve_points(usual_course(model), points, times_h)
