"""From a drug file's form to a `DrugModel`: units converted, meaning checked, the paper's own cases recomputed."""

from __future__ import annotations

import math

from twinstate import units
from twinstate.catalogue import Bounds, Provenance
from twinstate.drug import CreatinineClearance, Domain, DrugModel, Range, TypicalPatient
from twinstate.reading.alarms import read_channel, read_target, read_threshold
from twinstate.reading.cases import check_cases
from twinstate.reading.context import Context
from twinstate.reading.drug_form import CheckForm, DefaultForm, RangeForm
from twinstate.reading.observed import check_analyte, read_also_observed, read_residual
from twinstate.reading.parameters import read_parameters, read_variability, read_variation


def read_drug(context: Context, model: str, digest: str) -> DrugModel:
    """Build the model and check that it means something.

    Args:
        context: The file.
        model: Its stem.
        digest: SHA-256 (hex) of its bytes.

    Raises:
        LibraryError: Naming file, key, value, rule and way out.
    """
    form = context.form
    check_analyte(context, "analyte", form.analyte, form.observes)
    parameters = read_parameters(context)
    etas, omega, eta_index = read_variability(context)
    domain = _domain(context)
    defaults = {name: _default(context, name, row) for name, row in form.defaults.items()}
    context.noted("keep_hours", form.keep_hours)
    context.noted("stale_after_hours", form.stale_after_hours)
    built = DrugModel(
        drug=form.drug,
        model=model,
        digest=digest,
        default=form.default,
        source=form.source,
        transcription=form.transcription,
        population=form.population,
        notes=tuple(form.notes),
        analyte=form.analyte,
        observes=form.observes,
        also_observed=tuple(read_also_observed(context, i, row) for i, row in enumerate(form.also_observed)),
        routes=tuple(form.routes),
        compartments=form.compartments,
        oral_kind=form.oral,
        elimination=form.elimination,
        transits=form.transits,
        second=form.second.kind if form.second else "",
        second_unit=context.second_unit,
        chains=(form.second.first_chain or 0, form.second.second_chain or 0) if form.second else (0, 0),
        parameters=parameters,
        etas=etas,
        omega=omega,
        eta_index=eta_index,
        residual=read_residual(context, "residual", form.residual, form.observes),
        variation=read_variation(context),
        unknown=_unknown(context, model),
        creatinine_clearance=_creatinine_clearance(context),
        defaults=defaults,
        covariates=context.needed_rows(),
        domain=domain,
        targets=tuple(read_target(context, i, row) for i, row in enumerate(form.targets)),
        thresholds=tuple(read_threshold(context, name, row) for name, row in form.thresholds.items()),
        channel=read_channel(context, form.channel) if form.channel else None,
        keep_h=form.keep_hours.value,
        stale_after_h=form.stale_after_hours.value,
        typical_patient=_typical_patient(context),
        checks=tuple(_in_words(case) for case in form.checks),
        provenance=context.provenance,
    )
    check_cases(context, built)
    return built


def _unknown(context: Context, model: str) -> tuple[str, ...]:
    form = context.form
    sentences = []
    if form.residual.unknown:
        context.provenance["residual"] = Provenance("U", form.residual.source or form.source)
        sentences.append(
            f"the residual error of {model} is unknown ({form.residual.reason}), so no {form.analyte} may correct it; "
            "give its file a residual with status and source"
        )
    if form.variability is not None:
        context.provenance["variability"] = Provenance("U", form.source)
        sentences.append(
            f"how patients differ is unknown for {model} ({form.variability.reason}), so nothing can be learnt from a "
            "level; give its parameters a between_subject_* with their source"
        )
    return tuple(sentences)


def _in_words(case: CheckForm) -> str:
    expected = ", ".join(f"{name} {value:g}" for name, value in case.expect.items())
    told = [f"{name} {value}" for name, value in (*case.given.items(), *case.genotype.items())]
    regimen = case.regimen
    if regimen is not None:
        told.append(f"{regimen.amount:g} {regimen.unit} every {regimen.every_hours:g} h")
    return f"{expected} with {', '.join(told) or 'nothing told'}"


def _typical_patient(context: Context) -> TypicalPatient:
    row = context.form.typical_patient
    key = "typical_patient"
    context.noted(key, row)
    if row.route not in context.form.routes:
        context.refuse(f"{key}.route", row.route, f"but routes are {', '.join(context.form.routes)}")
    return TypicalPatient(
        covariates=dict(row.given),
        genotype=dict(row.genotype),
        amount_mg=context.canonical(f"{key}.amount", row.amount, row.unit, units.AMOUNT),
        route=row.route,
        duration_h=row.duration_hours,
        every_h=row.every_hours,
        doses=row.count,
        show_h=row.show_hours,
        reason=row.reason,
    )


def _creatinine_clearance(context: Context) -> CreatinineClearance | None:
    row = context.form.derived.creatinine_clearance
    if row is None:
        return None
    key = "derived.creatinine_clearance"
    context.noted(key, row)
    cap, floor, above_age = math.inf, 0.0, 0.0
    if row.cap is not None:
        allowed = context.covariate(key, "creatinine_clearance").units
        cap = context.canonical(f"{key}.cap", row.cap.value, row.cap.unit, allowed)
    if row.creatinine_floor is not None:
        allowed = context.covariate(key, "creatinine").units
        limit = row.creatinine_floor
        floor = context.canonical(f"{key}.creatinine_floor", limit.value, limit.unit, allowed)
        above_age = limit.above_age
    return CreatinineClearance(row.method, cap, floor, above_age)


def _default(context: Context, name: str, row: DefaultForm) -> float | str | bool:
    key = f"defaults.{name}"
    covariate = context.covariate(key, name)
    context.noted(key, row)
    if covariate.kind != "number":
        context.check_word(f"{key}.value", covariate, row.value)
        return row.value
    if isinstance(row.value, bool | str):
        context.refuse(f"{key}.value", row.value, f"but {name} is a number")
    return context.canonical(key, row.value, row.unit, covariate.units)


def _domain(context: Context) -> Domain:
    form = context.form.domain
    ranges = tuple(_range(context, name, row) for name, row in form.covariates.items())
    if form.doses is None:
        return Domain(ranges, (), "")
    context.noted("domain.doses", form.doses)
    unit = form.doses.unit
    studied = tuple(context.canonical("domain.doses", dose, unit, units.AMOUNT) for dose in form.doses.one_of)
    return Domain(ranges, studied, form.doses.note)


def _range(context: Context, name: str, row: RangeForm) -> Range:
    key = f"domain.covariates.{name}"
    covariate = context.covariate(key, name)
    provenance = context.noted(key, row)
    if covariate.kind != "number":
        if not row.one_of:
            context.refuse(key, "without one_of", f"but a {covariate.kind} needs the words that were studied")
        for word in row.one_of:
            context.check_word(f"{key}.one_of", covariate, word)
        return Range(name, None, tuple(row.one_of), provenance)
    if row.one_of or (row.low is None and row.high is None):
        context.refuse(key, "without low and high", "but a number needs at least one of them, and no one_of")
    low = (
        -math.inf if row.low is None else context.canonical(f"{key}.low", row.low, row.unit, covariate.units)
    )
    high = (
        math.inf
        if row.high is None
        else context.canonical(f"{key}.high", row.high, row.unit, covariate.units)
    )
    if low >= high:
        context.refuse(key, f"{low:g} to {high:g} {covariate.unit}", "but low must be below high")
    return Range(name, Bounds(low, high), (), provenance)
