"""One drug of one twin as a data set in the manner of NONMEM: a row an event, numbers in the model's own units.

The columns are described in `docs/export.md` and in every answer. Time counts from the first row: no date, no record's
name and nothing else of the patient but the pseudonym leaves with it.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from streams.queries import answers
from streams.queries.forecast import chosen_estimate
from streams.queries.views import QuestionError, View, describe_estimate, instant
from twinstate.assimilation.posterior import Posterior, carry_forward
from twinstate.drug import AlleleSum, DrugModel, Genotype
from twinstate.errors import CovariateError, MathsError
from twinstate.history import CovariateValue, Dose, Entry, Identity, Lab, PatientFacts
from twinstate.library import Library
from twinstate.outlook import Memo, fit_levels
from twinstate.pk.course import STRUCTURAL_PARAMETERS, STRUCTURAL_UNITS, Course
from twinstate.pk.propagate import solve_points
from twinstate.population.covariates import newest
from twinstate.therapy import therapy_at
from twinstate.twin import Rules
from twinstate.types import NS_PER_HOUR, hours

Cell = float | str | None

# Compartment numbers, as of NONMEM's ADVAN2 and ADVAN4; the second output has no number there.
DEPOT, CENTRAL, SECOND = 1, 2, 3
MODELLED_DURATION = -2.0  # RATE of an input whose duration is a parameter
MISSING = "."


class _Moment(NamedTuple):
    """An event that becomes one row or two, and what was known of the patient then."""

    entry: Entry
    covariates: Mapping[str, CovariateValue]
    genotype: Mapping[str, str]


def export_drug(
    view: View, drug: str | None, fingerprint: str, position: answers.Position, rules: Rules
) -> answers.ExportAnswer:
    """Gather one drug's rows as of a twin's moment.

    Args:
        view: The twin at its moment.
        drug: Which; None where the patient has one.
        fingerprint: Code and library that made the stored twin.
        position: Where in the log it is true.
        rules: Library and source.

    Raises:
        QuestionError: No such drug, or nothing to export.
    """
    estimate = chosen_estimate(view, drug)
    library = rules.library
    model = library.drugs[estimate.drug]
    try:
        therapy = therapy_at(view.entries, model, library, view.as_of)
        fit = fit_levels(therapy, len(therapy.labs.time_h), Memo())
        course, cloud = carry_forward(fit, therapy.given, model.variation, hours(view.as_of))
    except (CovariateError, MathsError) as missing:
        raise QuestionError("no-estimate", f"there is nothing to export: {missing}") from None
    moments = _moments(view.entries, model, library, view.as_of)
    times_h = np.array([hours(moment.entry.event_time) for moment in moments], dtype=np.float64)
    both = np.vstack([np.zeros(len(cloud.mean)), cloud.mean])
    concentration, _, second = solve_points(course, both, times_h)
    described = describe_estimate(estimate, library)
    used = {entry.identity for entry in therapy.lab_entries}
    names, genes = tuple(model.covariates), _genes(model)
    lasting = _lasting_cells(view, described, fingerprint)
    rows: list[tuple[Cell, ...]] = []
    for place, moment in enumerate(moments):
        at_h = float(times_h[place])
        typical = course.log_typical[_segment(course.segment_start_h, at_h, "right")]
        predicted = second if _output(moment.entry, model) == "second" else concentration
        number, occasion_eta = _occasion(fit, course, cloud.mean, model, at_h)
        facts = [_cell(moment.covariates.get(name)) for name in names]
        facts += [moment.genotype.get(gene) for gene in genes]
        for event in _events(moment.entry, model, used):
            rows.append(
                (
                    1.0,
                    (moment.entry.event_time - moments[0].entry.event_time) / NS_PER_HOUR,
                    *event,
                    *(math.exp(typical[STRUCTURAL_PARAMETERS.index(name)]) for name in _structural(course)),
                    *facts,
                    float(number),
                    occasion_eta,
                    float(predicted[0, place]),
                    float(predicted[1, place]),
                    *lasting,
                )
            )
    return answers.ExportAnswer(
        patient=view.document.patient,
        drug=model.drug,
        model=model.model,
        model_digest=model.digest,
        fingerprint=fingerprint,
        mode=view.mode,
        as_of=instant(view.as_of),
        columns=_columns(model, course, described, names, genes),
        rows=tuple(rows),
        position=position,
    )


def as_csv(answer: answers.ExportAnswer) -> str:
    """The rows with a header line; what is missing is a dot, and every number keeps all its digits."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([column.name for column in answer.columns])
    for row in answer.rows:
        writer.writerow([_written(cell) for cell in row])
    return text.getvalue()


def _written(cell: Cell) -> str:
    if cell is None:
        return MISSING
    if isinstance(cell, str):
        return cell
    return str(int(cell)) if cell.is_integer() and abs(cell) < 1e15 else repr(cell)


def _moments(entries: Sequence[Entry], model: DrugModel, library: Library, as_of: int) -> list[_Moment]:
    """Doses, levels and what told a covariate, with the covariates in force; before its first value each has that."""
    oldest = as_of - int(model.keep_h * NS_PER_HOUR)
    told: list[tuple[Entry, Mapping[str, CovariateValue], Mapping[str, str]]] = []
    for entry in entries:
        content = entry.content
        if isinstance(content, PatientFacts):
            told.append((entry, content.covariates, content.genotype))
        elif entry.event_time < oldest:
            continue
        elif isinstance(content, Dose) and content.drug == model.drug and content.given:
            told.append((entry, {}, {}))
        elif isinstance(content, Lab):
            feeds = library.analytes[content.analyte].covariate
            if content.analyte in model.tests or (feeds in model.covariates and not content.censored):
                told.append((entry, {} if feeds is None else {feeds: content.value}, {}))
    covariates: dict[str, CovariateValue] = {}
    genotype: dict[str, str] = {}
    for _, values, genes in reversed(told):
        covariates.update(values)
        genotype.update(genes)
    moments = []
    for entry, values, genes in told:
        covariates = newest(covariates, dict(values))
        genotype = {**genotype, **genes}
        moments.append(_Moment(entry, covariates, genotype))
    return moments


def _events(entry: Entry, model: DrugModel, used: Collection[Identity]) -> list[tuple[Cell, ...]]:
    """AMT, RATE, II, ADDL, SS, CMT, EVID, MDV, DV, LLOQ and CENS: one row, or two where a dose takes two ways."""
    content = entry.content
    nothing: tuple[Cell, ...] = (0.0, 0.0, 0.0, 0.0, 0.0)
    if isinstance(content, Lab) and content.analyte in model.tests:
        compartment = SECOND if _output(entry, model) == "second" else CENTRAL
        counts = 0.0 if entry.identity in used else 1.0
        value = model.tests[content.analyte].corrected(content.value)
        limit = value if content.censored else None
        return [
            (*nothing, float(compartment), 0.0, counts, value, limit, float(content.censored)),
        ]
    if isinstance(content, Dose):
        steady = content.steady_state_interval_h
        return [
            (
                content.amount_mg,
                rate,
                steady,
                0.0,
                float(steady > 0.0),
                float(into),
                1.0,
                1.0,
                None,
                None,
                0.0,
            )
            for into, rate in _ways(content, model)
        ]
    return [(*nothing, float(CENTRAL), 2.0, 1.0, None, None, 0.0)]


def _output(entry: Entry, model: DrugModel) -> str:
    """What a row's prediction is of: what its own test reads, or what the drug's first test does."""
    content = entry.content
    test = model.tests.get(content.analyte) if isinstance(content, Lab) else None
    return model.observes if test is None else test.output


def _ways(dose: Dose, model: DrugModel) -> list[tuple[int, float]]:
    """The compartment a dose enters and its RATE, mg/h (0 at once, -2 over the model's `input_duration`)."""
    if dose.route == "iv":
        return [(CENTRAL, dose.amount_mg / dose.duration_h if dose.duration_h > 0.0 else 0.0)]
    return {
        "zero_order": [(CENTRAL, MODELLED_DURATION)],
        "at_once": [(CENTRAL, 0.0)],
        "parallel": [(DEPOT, 0.0), (CENTRAL, MODELLED_DURATION)],
    }.get(model.oral_kind, [(DEPOT, 0.0)])


def _segment(starts: NDArray[np.float64], at_h: float, side: str) -> int:
    """The row of parameters in force at a time (`right`), or just before it (`left`)."""
    place = int(np.searchsorted(starts, at_h, side="right" if side == "right" else "left"))
    return max(place - 1, 0)


def _occasion(
    fit: Posterior, course: Course, mean: NDArray[np.float64], model: DrugModel, at_h: float
) -> tuple[int, float]:
    """Number of the occasion a time belongs to, from 1, and the posterior mean of its eta, 0 without one.

    The level that ends an occasion belongs to it.
    """
    if model.variation is None or fit.occasions is None:
        return 1, 0.0
    number = int(np.searchsorted(fit.occasions.end_h, at_h, side="left")) + 1
    index = int(
        course.occasion_index[_segment(course.segment_start_h, at_h, "left"), model.variation.parameter]
    )
    return number, float(mean[index]) if index >= 0 else 0.0


def _structural(course: Course) -> tuple[str, ...]:
    """Parameters that this course has."""
    return tuple(
        name
        for place, name in enumerate(STRUCTURAL_PARAMETERS)
        if np.isfinite(course.log_typical[:, place]).any()
    )


def _genes(model: DrugModel) -> tuple[str, ...]:
    found = {
        effect.gene: None
        for parameter in model.parameters.values()
        for effect in parameter.effects
        if isinstance(effect, Genotype | AlleleSum)
    }
    return tuple(found)


def _lasting_cells(view: View, described: answers.Estimate, fingerprint: str) -> tuple[Cell, ...]:
    """What is the same in every row."""
    etas = [
        cell
        for eta in described.etas
        for cell in (eta.mean, eta.sd, eta.omega, eta.shrinkage, eta.monte_carlo_error)
    ]
    return (
        *etas,
        described.effective_points,
        view.document.patient,
        described.model,
        described.model_digest,
        fingerprint,
    )


def _cell(value: CovariateValue | None) -> Cell:
    return float(value) if isinstance(value, bool | int | float) else value


def _columns(
    model: DrugModel,
    course: Course,
    described: answers.Estimate,
    names: Sequence[str],
    genes: Sequence[str],
) -> tuple[answers.ExportColumn, ...]:
    unit = model.level_unit
    told = [
        ("ID", "1", "1: one patient a file"),
        ("TIME", "h", "since the first row"),
        ("AMT", "mg", "amount of a dose"),
        ("RATE", "mg/h", "of an infusion; 0 at once, -2 over the model's input duration (D2)"),
        ("II", "h", "interval of the endless train of which a dose at steady state is the newest"),
        ("ADDL", "1", "0: every dose has a row of its own"),
        ("SS", "1", "1 for a dose at steady state"),
        ("CMT", "1", "1 depot, 2 central (also of covariates), 3 the second output"),
        ("EVID", "1", "0 level, 1 dose, 2 something told of the patient"),
        ("MDV", "1", "0 where DV counted in the estimate"),
        ("DV", unit, "level; the limit where CENS is 1"),
        ("LLOQ", unit, "limit of quantification of a level below it"),
        ("CENS", "1", "1: the level lies below DV"),
    ]
    told += [
        (f"TV_{name.upper()}", STRUCTURAL_UNITS[name], "typical for the covariates in force")
        for name in _structural(course)
    ]
    for name in names:
        row = model.covariates[name]
        told.append((name.upper(), row.unit or "1", "covariate in force; a flag is 1 or 0"))
    told += [(f"GENE_{gene.upper()}", "", "diplotype") for gene in genes]
    varies = "1" if model.variation is None else STRUCTURAL_PARAMETERS[model.variation.parameter]
    told += [
        ("OCC", "1", "occasion, from 1"),
        ("ETA_OCC", "1", f"posterior mean of that occasion's eta on {varies}; 0 without one"),
        ("PRED", unit, "with every eta nought"),
        ("IPRED", unit, "with every eta at its posterior mean"),
    ]
    for eta in described.etas:
        name = eta.name.upper()
        told += [
            (f"ETA_{name}", "1", "posterior mean; the parameter is TV times exp of it"),
            (f"SD_{name}", "1", "posterior standard deviation of it"),
            (f"OMEGA_{name}", "1", "its standard deviation between patients"),
            (f"SHRINK_{name}", "1", "posterior variance over that between patients"),
            (f"MCE_{name}", "1", "Monte-Carlo standard error of its mean"),
        ]
    told += [
        ("ESS", "1", "effective number of the posterior's points"),
        ("PATIENT", "", "pseudonym"),
        ("MODEL", "", "drug model"),
        ("MODEL_DIGEST", "", "SHA-256 of the model's file"),
        ("FINGERPRINT", "", "code and library that made the twin"),
    ]
    return tuple(answers.ExportColumn(name=n, unit=u, meaning=m) for n, u, m in told)
