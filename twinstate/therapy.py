"""What a drug model may know at a time: doses given, doses planned, covariates, levels.

Everything here looks at the timeline *as of* a moment: a record counts when its event time lies within the model's
`keep` before that moment, and not after it.
"""

from __future__ import annotations

import bisect
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from twinstate.assimilation.observation import Labs, first_levels
from twinstate.drug import DrugModel
from twinstate.errors import CovariateError, ModelError
from twinstate.history import CovariateValue, Dose, Entry, Lab, PatientFacts, PlannedDose, Regimen
from twinstate.library import Library
from twinstate.pk.course import Course, no_occasions
from twinstate.population.covariates import doses_outside, newest, typical_log_parameters
from twinstate.population.structure import route_of, structure_of
from twinstate.timeline import LASTING_KINDS
from twinstate.types import NS_PER_HOUR, hours


@dataclass(frozen=True)
class Therapy:
    """One drug of one patient, as of one moment.

    Attributes:
        model: The drug's model.
        as_of: UTC ns.
        given: Doses given up to `as_of`, with covariates over time.
        planned: Unconfirmed planned doses that enter the forecast, in order of due time.
        has_plan: Whether any regimen is in force (without one the forecast assumes no further doses, and says so).
        labs: Levels that count, in order of draw.
        lab_entries: Their entries, same order.
        outside: Sentences on values outside the model's domain.
        flags: Data-quality flags.
    """

    model: DrugModel
    as_of: int
    given: Course
    planned: tuple[PlannedDose, ...]
    has_plan: bool
    labs: Labs
    lab_entries: tuple[Entry, ...]
    outside: tuple[str, ...]
    flags: tuple[str, ...]


def drugs_of(entries: Sequence[Entry], library: Library, as_of: int) -> set[str]:
    """Drugs of which doses, regimens or levels speak that count as of a moment.

    A further test names none: leucocytes are counted in many who take no fluorouracil.
    """
    named: set[str] = set()
    for entry in entries:
        content = entry.content
        if isinstance(content, Dose | Regimen):
            models = [library.drugs[content.drug]]
        elif isinstance(content, Lab):
            models = [m for m in library.drugs.values() if m.analyte == content.analyte]
        else:
            continue
        last = entry.event_time
        if isinstance(content, Regimen) and content.doses:
            last = max(last, content.doses[-1].due)
        named.update(m.drug for m in models if last >= as_of - int(m.keep_h * NS_PER_HOUR))
    return named


def until(entries: Sequence[Entry], as_of: int) -> Sequence[Entry]:
    """The part of an ordered history with event times up to `as_of`."""
    return entries[: bisect.bisect_right(entries, as_of, key=lambda e: e.event_time)]


def therapy_at(entries: Sequence[Entry], model: DrugModel, library: Library, as_of: int) -> Therapy:
    """Gather what `model` may know at `as_of`.

    Args:
        entries: The patient's history in order (`Timeline.in_order`).
        model: The drug's model.
        library: Tells which analytes feed which covariates.
        as_of: UTC ns.

    Raises:
        CovariateError: No accepted record gives a covariate the model needs.
        ModelError: How patients differ is unknown, so that there is nothing to estimate.
    """
    if not model.etas:
        raise ModelError("; ".join(model.unknown))
    oldest = as_of - int(model.keep_h * NS_PER_HOUR)
    counted = [e for e in until(entries, as_of) if e.event_time >= oldest or e.kind in LASTING_KINDS]
    doses = [(e, e.content) for e in counted if isinstance(e.content, Dose) and e.content.drug == model.drug]
    given = [(e.event_time, d) for e, d in doses if d.given]
    tests = model.tests
    levels = [(e, e.content) for e in counted if isinstance(e.content, Lab) and e.content.analyte in tests]
    flags: list[str] = []
    usable = [(e, lab) for e, lab in levels if _tells(e.event_time, given)]
    if len(usable) < len(levels):
        flags.append("level_without_dose")
    if usable and not model.estimates:
        usable = []
        flags.append("level_not_used")
    starts, log_typical, outside = _typical_over_time(counted, model, library)
    planned, has_plan, dropped = _plan(counted, model.drug, as_of)
    if dropped:
        flags.append("planned_dose_unconfirmed")
    return Therapy(
        model=model,
        as_of=as_of,
        given=_course(model, starts, log_typical, given),
        planned=planned,
        has_plan=has_plan,
        labs=_labs(model, usable),
        lab_entries=tuple(e for e, _ in usable),
        outside=outside
        + doses_outside(model, [d.amount_mg for _, d in given] + [p.amount_mg for p in planned]),
        flags=tuple(flags),
    )


def with_planned(therapy: Therapy, until_ns: int) -> Course:
    """The course with the planned doses that fall due up to `until_ns`; an overdue one is taken as given now."""
    ahead = [p for p in therapy.planned if p.due <= until_ns]
    if not ahead:
        return therapy.given
    course = therapy.given
    return course._replace(
        dose_time_h=np.append(course.dose_time_h, [hours(max(p.due, therapy.as_of)) for p in ahead]),
        dose_mg=np.append(course.dose_mg, [p.amount_mg for p in ahead]),
        dose_duration_h=np.append(course.dose_duration_h, [p.duration_h for p in ahead]),
        dose_route=np.append(course.dose_route, [route_of(therapy.model, p.route) for p in ahead]),
        dose_interval_h=np.append(course.dose_interval_h, np.zeros(len(ahead))),
    )


def before_last_level(therapy: Therapy, levels: int) -> tuple[Course, Labs]:
    """Only what the first `levels` levels can depend on: equal inputs give equal arrays, whatever came after.

    A dose at the very time of the last level comes after it; one at steady state has a past of its own, and counts.
    """
    labs = first_levels(therapy.labs, levels)
    last = labs.time_h[-1] if levels else -np.inf
    course = therapy.given
    doses = int(np.searchsorted(course.dose_time_h, last, side="left"))
    through = int(np.searchsorted(course.dose_time_h, last, side="right"))
    if (course.dose_interval_h[doses:through] > 0.0).any():
        doses = through
    segments = max(1, int(np.searchsorted(course.segment_start_h, last, side="right")))
    return (
        course._replace(
            segment_start_h=course.segment_start_h[:segments],
            log_typical=course.log_typical[:segments],
            occasion_index=course.occasion_index[:segments],
            dose_time_h=course.dose_time_h[:doses],
            dose_mg=course.dose_mg[:doses],
            dose_duration_h=course.dose_duration_h[:doses],
            dose_route=course.dose_route[:doses],
            dose_interval_h=course.dose_interval_h[:doses],
        ),
        labs,
    )


def content_key(model: DrugModel, course: Course, *arrays: np.ndarray) -> bytes:
    """A hash of everything a computation reads, to remember its result by."""
    digest = hashlib.blake2b(model.digest.encode(), digest_size=16)
    for part in (*course[1:], *arrays):
        digest.update(len(part).to_bytes(4, "big"))
        digest.update(np.ascontiguousarray(part).tobytes())
    return digest.digest()


def _labs(model: DrugModel, levels: Sequence[tuple[Entry, Lab]]) -> Labs:
    """Levels as the kernels take them, each with the error of its own test and without what that reads too high."""
    tests = [model.tests[lab.analyte] for _, lab in levels]
    return Labs(
        np.array([hours(e.event_time) for e, _ in levels], dtype=np.float64),
        np.array(
            [t.corrected(lab.value) for t, (_, lab) in zip(tests, levels, strict=True)], dtype=np.float64
        ),
        np.array([int(lab.censored) for _, lab in levels], dtype=np.int64),
        np.array([int(t.output == "second") for t in tests], dtype=np.int64),
        np.array([t.residual.proportional for t in tests], dtype=np.float64),
        np.array([t.residual.additive for t in tests], dtype=np.float64),
        np.array([int(t.residual.logarithmic) for t in tests], dtype=np.int64),
    )


def _tells(drawn: int, given: list[tuple[int, Dose]]) -> bool:
    """Whether a level drawn then tells of a dose: one given before it, or at steady state at that very moment."""
    return bool(given) and (
        drawn > given[0][0]
        or any(time == drawn and dose.steady_state_interval_h > 0.0 for time, dose in given)
    )


def _course(
    model: DrugModel, starts: list[float], log_typical: list[np.ndarray], given: list[tuple[int, Dose]]
) -> Course:
    return Course(
        structure=structure_of(model),
        segment_start_h=np.array(starts, dtype=np.float64),
        log_typical=np.array(log_typical, dtype=np.float64),
        # A copy: Numba would compile every kernel once more for an array that may not be written to.
        eta_index=np.array(model.eta_index),
        occasion_index=no_occasions(len(starts)),
        dose_time_h=np.array([hours(t) for t, _ in given], dtype=np.float64),
        dose_mg=np.array([d.amount_mg for _, d in given], dtype=np.float64),
        dose_duration_h=np.array([d.duration_h for _, d in given], dtype=np.float64),
        dose_route=np.array([route_of(model, d.route) for _, d in given], dtype=np.int64),
        dose_interval_h=np.array([d.steady_state_interval_h for _, d in given], dtype=np.float64),
    )


def _typical_over_time(
    counted: Sequence[Entry], model: DrugModel, library: Library
) -> tuple[list[float], list[np.ndarray], tuple[str, ...]]:
    """Typical parameters from each change of a covariate on.

    Before its first value a covariate takes that first value; afterwards the last one is carried forward.
    """
    changes: list[tuple[int, dict[str, CovariateValue], dict[str, str]]] = []
    for entry in counted:
        content = entry.content
        if isinstance(content, PatientFacts):
            changes.append((entry.event_time, content.covariates, content.genotype))
        elif isinstance(content, Lab) and not content.censored:
            feeds = library.analytes[content.analyte].covariate
            if feeds is not None:
                changes.append((entry.event_time, {feeds: content.value}, {}))
    covariates: dict[str, CovariateValue] = {}
    genotype: dict[str, str] = {}
    for _, values, genes in changes:
        covariates = {**values, **covariates}
        genotype = {**genes, **genotype}
    if not any(isinstance(entry.content, PatientFacts) for entry in counted):
        raise CovariateError(f"{model.model} waits for a patient record with the covariates it needs")
    starts: list[float] = []
    rows: list[np.ndarray] = []
    outside: tuple[str, ...] = ()
    for event_time, values, genes in changes:
        covariates = newest(covariates, values)
        genotype = {**genotype, **genes}
        typical = typical_log_parameters(model, covariates, genotype)
        outside = typical.outside
        if rows and np.array_equal(rows[-1], typical.log_typical):
            continue
        starts.append(hours(event_time))
        rows.append(typical.log_typical)
    return starts, rows, outside


def _plan(counted: Sequence[Entry], drug: str, as_of: int) -> tuple[tuple[PlannedDose, ...], bool, bool]:
    """Planned doses still to come, whether a regimen is in force, and whether an overdue one was dropped.

    A dose, given or missed, confirms the nearest unconfirmed dose of the plan as it stands at that moment, within the
    grace time, early ones too. An order replaces what was due after it; what it plans for the time before it, and was
    given by then, is confirmed already. A discharge ends every plan.
    """
    plan: list[tuple[PlannedDose, int]] = []
    taken: list[int] = []
    has_plan = False
    for entry in counted:
        content = entry.content
        if entry.kind == "discharge":
            plan, has_plan = [], False
        elif isinstance(content, Regimen) and content.drug == drug:
            has_plan = True
            grace = int(content.grace_h * NS_PER_HOUR)
            plan = [(p, g) for p, g in plan if p.due <= entry.event_time]
            plan += [
                (p, grace)
                for p in content.doses
                if p.due > entry.event_time or not any(abs(p.due - at) <= grace for at in taken)
            ]
            plan.sort(key=lambda item: (item[0].due, item[0].amount_mg))
        elif isinstance(content, Dose) and content.drug == drug:
            taken.append(entry.event_time)
            near = [
                (abs(p.due - entry.event_time), i)
                for i, (p, g) in enumerate(plan)
                if abs(p.due - entry.event_time) <= g
            ]
            if near:
                del plan[min(near)[1]]
    ahead = tuple(p for p, grace in plan if p.due > as_of - grace)
    return ahead, has_plan, len(ahead) < len(plan)
