"""From a drug file's form to a `DrugModel`: units converted, meaning checked, the paper's own cases recomputed."""

from __future__ import annotations

import math

from twinstate import units
from twinstate.catalogue import Bounds
from twinstate.drug import CreatinineClearance, Domain, DrugModel, Range, Residual, Variation
from twinstate.pk.course import STRUCTURAL_PARAMETERS
from twinstate.population.prior import log_sd_of_cv
from twinstate.reading.alarms import read_channel, read_threshold
from twinstate.reading.cases import check_cases
from twinstate.reading.context import Context
from twinstate.reading.forms import DefaultForm, RangeForm
from twinstate.reading.parameters import read_parameters, read_variability


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
    if form.analyte not in context.analytes:
        context.refuse(
            "analyte", form.analyte, "which config/signals.yaml does not list; add a row to its analytes"
        )
    if context.analytes[form.analyte].unit != "mg/L":
        unit = context.analytes[form.analyte].unit
        context.refuse(
            "analyte", f"{form.analyte} in {unit}", "but a model predicts mg/L; name the drug's level"
        )
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
        routes=tuple(form.routes),
        compartments=form.compartments,
        oral_kind=form.oral,
        parameters=parameters,
        etas=etas,
        omega=omega,
        eta_index=eta_index,
        residual=_residual(context),
        variation=_variation(context),
        creatinine_clearance=_creatinine_clearance(context),
        defaults=defaults,
        covariates=context.needed_rows(),
        domain=domain,
        thresholds=tuple(read_threshold(context, name, row) for name, row in form.thresholds.items()),
        channel=read_channel(context, form.channel) if form.channel else None,
        keep_h=form.keep_hours.value,
        stale_after_h=form.stale_after_hours.value,
        provenance=context.provenance,
    )
    check_cases(context, built)
    return built


def _residual(context: Context) -> Residual:
    row = context.form.residual
    if row.proportional == 0 and row.additive == 0:
        context.refuse("residual", "0", "but no assay and no model is without error; give the paper's")
    if (row.additive > 0) != (row.unit is not None):
        context.refuse(
            "residual.unit",
            row.unit or "missing",
            "but a unit belongs to an additive residual, and only there",
        )
    additive = context.canonical("residual.additive", row.additive, row.unit or "mg/L", units.CONCENTRATION)
    context.noted("residual", row)
    return Residual(row.proportional, additive)


def _variation(context: Context) -> Variation | None:
    """What the file says of change within a patient; at most one of the two kinds."""
    drift, occasion = context.form.drift, context.form.between_occasion
    row = drift or occasion
    if row is None:
        return None
    if drift and occasion:
        context.refuse(
            "drift", "beside between_occasion", "but a parameter either drifts or varies between them"
        )
    key = "drift" if drift else "between_occasion"
    if row.parameter != "clearance" or context.form.parameters.elimination_rate is not None:
        # A level is amount over volume: only clearance may change without moving the level at that instant.
        context.refuse(
            f"{key}.parameter", row.parameter, "but only clearance, beside central_volume, may change"
        )
    context.noted(key, row)
    position = STRUCTURAL_PARAMETERS.index(row.parameter)
    if drift:
        return Variation(position, 0.0, tuple(sorted(set(drift.sd_per_sqrt_day))))
    assert occasion is not None
    return Variation(position, log_sd_of_cv(occasion.cv), ())


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
