"""What one drug model may know of a patient at one moment: doses, plan, covariates over time, levels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from streams.oracle.acceptance import NEVER_FORGOTTEN, Chart, frames_of, hour_end
from twinstate.assimilation.observation import Labs
from twinstate.assimilation.readings import DeviceWindow
from twinstate.assimilation.windows import add_window
from twinstate.drug import DrugModel, Observed
from twinstate.errors import CovariateError, ModelError
from twinstate.history import (
    CovariateValue,
    Dose,
    Entry,
    Frame,
    Lab,
    PatientFacts,
    PlannedDose,
    Regimen,
    Window,
)
from twinstate.library import Library
from twinstate.pk.course import Course, no_occasions
from twinstate.population.covariates import doses_outside, typical_log_parameters
from twinstate.population.structure import route_of, structure_of
from twinstate.types import NS_PER_HOUR, hours


@dataclass
class Known:
    """One drug of one patient at one moment.

    Attributes:
        given: The doses given, under covariates over time.
        ahead: The same with the planned doses of the horizon.
        planned: All planned doses still to come, whether in the horizon or not.
        has_plan: A regimen counts.
        levels: The levels that count and follow a dose.
        outside: Sentences on what lies outside the model's domain.
        flags: Data-quality flags.
    """

    given: Course
    ahead: Course
    planned: list[PlannedDose]
    has_plan: bool
    levels: list[Entry]
    outside: tuple[str, ...]
    flags: tuple[str, ...]


def drugs_named(records: Sequence[Entry], library: Library, at: int) -> list[str]:
    """Drugs of which doses, regimens or levels speak that count at `at` (UTC ns), by name.

    A further test names none: leucocytes are counted in many who take no fluorouracil.
    """
    drugs = []
    for model in library.drugs.values():
        for record in records:
            content = record.content
            of_drug = isinstance(content, Dose | Regimen) and content.drug == model.drug
            of_level = isinstance(content, Lab) and content.analyte == model.analyte
            last = record.event_time
            if isinstance(content, Regimen):
                last = max([last, *(dose.due for dose in content.doses)])
            if (of_drug or of_level) and last >= at - int(model.keep_h * NS_PER_HOUR):
                drugs.append(model.drug)
                break
    return sorted(drugs)


def know(records: Sequence[Entry], model: DrugModel, library: Library, at: int, horizon_h: float) -> Known:
    """Gather what counts at `at`: event times from `at` minus the model's keep up to `at`, both included.

    Args:
        records: The patient's uncancelled records but frames, in order.
        model: The drug's model.
        library: Tells which laboratory tests feed a covariate.
        at: UTC ns.
        horizon_h: How far ahead planned doses are simulated.

    Raises:
        CovariateError: Nothing that counts tells a covariate the model needs.
        ModelError: The model does not say how patients differ.
    """
    if len(model.omega) == 0:
        raise ModelError("; ".join(model.unknown))
    keep = int(model.keep_h * NS_PER_HOUR)
    counting = [
        record
        for record in records
        if record.event_time <= at and (record.event_time >= at - keep or record.kind in NEVER_FORGOTTEN)
    ]
    given: list[tuple[int, Dose]] = []
    measured: list[Entry] = []
    for record in counting:
        content = record.content
        if isinstance(content, Dose) and content.drug == model.drug and content.given:
            given.append((record.event_time, content))
        if isinstance(content, Lab) and test_of(content, model) is not None:
            measured.append(record)
    # A dose at steady state was preceded by others: a level drawn as it is given is their trough.
    preceded = [time for time, dose in given if dose.steady_state_interval_h > 0.0]
    levels = [
        level
        for level in measured
        if given and (level.event_time > given[0][0] or level.event_time in preceded)
    ]
    starts, log_typical, outside = _covariates_over_time(counting, model, library)
    plan, has_plan = _plan_at(counting, model.drug)
    planned = [dose for dose, grace in plan if dose.due > at - grace]
    flags = []
    if len(levels) < len(measured):
        flags.append("level_without_dose")
    if model.unknown and len(levels) > 0:
        flags.append("level_not_used")
        levels = []
    if len(planned) < len(plan):
        flags.append("planned_dose_unconfirmed")
    horizon_end = at + int(horizon_h * NS_PER_HOUR)
    taken = [
        (hours(time), dose.amount_mg, dose.duration_h, dose.route, dose.steady_state_interval_h)
        for time, dose in given
    ]
    to_take = [
        (hours(max(dose.due, at)), dose.amount_mg, dose.duration_h, dose.route, 0.0)
        for dose in planned
        if dose.due <= horizon_end
    ]
    amounts = [dose.amount_mg for _, dose in given] + [dose.amount_mg for dose in planned]
    return Known(
        given=_course(model, starts, log_typical, taken),
        ahead=_course(model, starts, log_typical, taken + to_take),
        planned=planned,
        has_plan=has_plan,
        levels=levels,
        outside=(*outside, *doses_outside(model, amounts)),
        flags=tuple(flags),
    )


def heard(chart: Chart, model: DrugModel, at: int, *, until_hour: int) -> list[DeviceWindow]:
    """Windows of the signal the model explains, from frames of the UTC hours that end within its keep before `at`.

    Args:
        chart: The patient's records.
        model: The drug's model.
        at: UTC ns.
        until_hour: End of the last hour whose frames are heard, UTC ns: `at` for an evaluation point, so that a point
            in mid-hour says the same whenever it is asked again; the end of the running hour for the live estimate.
    """
    if model.channel is None:
        return []
    keep = int(model.channel.keep_h * NS_PER_HOUR)
    return heard_between(chart, model.channel.signal, at - keep, until_hour)


def heard_between(chart: Chart, signal: str, after: int, until: int) -> list[DeviceWindow]:
    """A signal's windows, one for each index and device, from frames of UTC hours ending in (after, until], UTC ns."""
    merged: dict[tuple[int, str], Window] = {}
    for frame in frames_of(chart):
        content = frame.content
        if not isinstance(content, Frame) or content.signal != signal:
            continue
        if after < hour_end(frame.event_time) <= until:
            device = frame.id[: frame.id.rindex(":")]
            for window in content.windows:
                key = (window.index, device)
                merged[key] = add_window(merged[key], window) if key in merged else window
    return [DeviceWindow(device, merged[index, device]) for index, device in sorted(merged)]


def as_labs(levels: Sequence[Entry], model: DrugModel) -> Labs:
    """Levels as the kernels take them."""
    count = len(levels)
    labs = Labs(
        np.zeros(count),
        np.zeros(count),
        np.zeros(count, dtype=np.int64),
        np.zeros(count, dtype=np.int64),
        np.zeros(count),
        np.zeros(count),
        np.zeros(count, dtype=np.int64),
    )
    for place, level in enumerate(levels):
        assert isinstance(level.content, Lab)
        test = test_of(level.content, model)
        assert test is not None
        labs.time_h[place] = hours(level.event_time)
        labs.value[place] = true_reading(level.content.value, test)
        labs.censored[place] = 1 if level.content.censored else 0
        labs.second[place] = 1 if test.output == "second" else 0
        labs.proportional[place] = test.residual.proportional
        labs.additive[place] = test.residual.additive
        labs.logarithmic[place] = 1 if test.residual.logarithmic else 0
    return labs


def test_of(lab: Lab, model: DrugModel) -> Observed | None:
    """How the model is measured by this laboratory test or meter; None when it is not."""
    if lab.analyte == model.analyte:
        return Observed(model.analyte, model.observes, model.residual)
    for test in model.also_observed:
        if test.analyte == lab.analyte:
            return test
    return None


def true_reading(reading: float, test: Observed) -> float:
    """A reading less its test's known bias: straight lines between the points given, level beyond them."""
    if len(test.reads_high) == 0:
        return reading
    (lowest, excess), (highest, last) = test.reads_high[0], test.reads_high[-1]
    if reading >= highest:
        excess = last
    elif reading > lowest:
        for (left, low), (right, high) in pairwise(test.reads_high):
            if left <= reading < right:
                excess = (high - low) / (right - left) * (reading - left) + low
                break
    return reading - excess


def _covariates_over_time(
    counting: Sequence[Entry], model: DrugModel, library: Library
) -> tuple[list[float], list[NDArray[np.float64]], tuple[str, ...]]:
    """Typical parameters from each thing told on; a covariate has its first value before it was first told."""
    told: list[tuple[int, dict[str, CovariateValue], dict[str, str]]] = []
    for record in counting:
        content = record.content
        if isinstance(content, PatientFacts):
            told.append((record.event_time, content.covariates, content.genotype))
        if isinstance(content, Lab) and not content.censored:
            covariate = library.analytes[content.analyte].covariate
            if covariate is not None:
                told.append((record.event_time, {covariate: content.value}, {}))
    if not any(record.kind == "patient" for record in counting):
        raise CovariateError(f"{model.model} waits for a patient record with the covariates it needs")
    starts: list[float] = []
    rows: list[NDArray[np.float64]] = []
    outside: tuple[str, ...] = ()
    for now in range(len(told)):
        covariates: dict[str, CovariateValue] = {}
        genotype: dict[str, str] = {}
        # Before it was first told, a thing has its first value; what was told last up to now overwrites it.
        for _, values, genes in reversed(told):
            covariates.update(values)
            genotype.update(genes)
        for _, values, genes in told[: now + 1]:
            covariates.update(values)
            genotype.update(genes)
            # A clearance that was sent is no longer true once creatinine was measured anew.
            whole = {"age", "weight", "sex", "creatinine"} <= covariates.keys()
            if "creatinine" in values and "creatinine_clearance" not in values and whole:
                covariates.pop("creatinine_clearance", None)
        typical = typical_log_parameters(model, covariates, genotype)
        outside = typical.outside
        if not rows or typical.log_typical.tobytes() != rows[-1].tobytes():
            starts.append(hours(told[now][0]))
            rows.append(typical.log_typical)
    return starts, rows, outside


def _plan_at(counting: Sequence[Entry], drug: str) -> tuple[list[tuple[PlannedDose, int]], bool]:
    """Planned doses that no dose has confirmed, each with its grace time (ns), and whether there is a regimen."""
    plan: list[tuple[PlannedDose, int]] = []
    given_at: list[int] = []
    has_plan = False
    for record in counting:
        content = record.content
        now = record.event_time
        if record.kind == "discharge":
            plan = []
            has_plan = False
        if isinstance(content, Regimen) and content.drug == drug:
            has_plan = True
            grace = int(content.grace_h * NS_PER_HOUR)
            plan = [(dose, its_grace) for dose, its_grace in plan if dose.due <= now]
            for dose in content.doses:
                given = dose.due <= now and any(abs(dose.due - time) <= grace for time in given_at)
                if not given:
                    plan.append((dose, grace))
            plan.sort(key=lambda item: (item[0].due, item[0].amount_mg))
        if isinstance(content, Dose) and content.drug == drug:
            given_at.append(now)
            nearest = None
            for place, (dose, grace) in enumerate(plan):
                distance = abs(dose.due - now)
                if distance <= grace and (nearest is None or distance < nearest[0]):
                    nearest = (distance, place)
            if nearest is not None:
                plan.pop(nearest[1])
    return plan, has_plan


def _course(
    model: DrugModel,
    starts: list[float],
    log_typical: list[NDArray[np.float64]],
    doses: list[tuple[float, float, float, str, float]],
) -> Course:
    routes = [route_of(model, route) for _, _, _, route, _ in doses]
    return Course(
        structure=structure_of(model),
        segment_start_h=np.array(starts, dtype=np.float64),
        log_typical=np.array(log_typical, dtype=np.float64),
        # A copy: Numba would compile every kernel once more for an array that may not be written to.
        eta_index=np.array(model.eta_index),
        occasion_index=no_occasions(len(starts)),
        dose_time_h=np.array([dose[0] for dose in doses], dtype=np.float64),
        dose_mg=np.array([dose[1] for dose in doses], dtype=np.float64),
        dose_duration_h=np.array([dose[2] for dose in doses], dtype=np.float64),
        dose_route=np.array(routes, dtype=np.int64),
        dose_interval_h=np.array([dose[4] for dose in doses], dtype=np.float64),
    )
