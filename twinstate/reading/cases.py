"""The paper's own figures, recomputed on every load: a slip of a digit or a unit cannot pass unseen."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from twinstate import units
from twinstate.drug import DrugModel, TypicalPatient
from twinstate.errors import LibraryError, TwinError
from twinstate.pk.course import STRUCTURAL_PARAMETERS
from twinstate.population.covariates import typical_log_parameters
from twinstate.reading.context import Context
from twinstate.reading.drug_form import CheckForm
from twinstate.reading.figures import Regimen, figures, mean_concentration, slowest_half_life
from twinstate.reading.parameters import PARAMETER_UNITS

SHORTEST_KEEP_H = 720.0
HALF_LIVES_KEPT = 10.0
# A usual dose leads to a usual level: further off than this, a unit or a digit slipped.
USUAL_WITHIN = 10.0


def check_cases(context: Context, model: DrugModel) -> None:
    """Recompute the cases under `checks`; see that `keep_hours` outlasts their slowest, and that a usual dose fits.

    Raises:
        LibraryError: A figure differs, doses would leave while they still matter, or a usual dose gives no usual level.
    """
    longest = max(
        _check_case(context, f"checks[{i}]", case, model) for i, case in enumerate(context.form.checks)
    )
    shortest = max(SHORTEST_KEEP_H, HALF_LIVES_KEPT * longest)
    if model.keep_h < shortest:
        context.refuse(
            "keep_hours.value",
            f"{model.keep_h:g} h",
            f"but must be at least {math.ceil(shortest)} h: {HALF_LIVES_KEPT:g} of the longest half-life "
            "among the checks and never under 30 days, so that what leaves matters no more",
        )
    _check_usual(context, model)


def typical_values(model: DrugModel, patient: TypicalPatient) -> dict[str, float]:
    """Structural parameters of the file's typical patient by name, canonical units.

    Raises:
        CovariateError: A covariate or genotype the model needs is missing.
    """
    return _values(model, patient.covariates, patient.genotype)


def _values(
    model: DrugModel, covariates: Mapping[str, float | str | bool], genotype: Mapping[str, str]
) -> dict[str, float]:
    typical = typical_log_parameters(model, covariates, genotype)
    return dict(zip(STRUCTURAL_PARAMETERS, np.exp(typical.log_typical).tolist(), strict=True))


def _check_case(context: Context, key: str, case: CheckForm, model: DrugModel) -> float:
    """Compare one case; its slowest half-life, h."""
    try:
        values = _values(model, case.given, case.genotype)
    except TwinError as wrong:
        raise LibraryError(f"{context.place}: {key}.given cannot be computed: {wrong}") from None
    regimen = None
    if case.regimen is not None:
        row = case.regimen
        amount = context.canonical(f"{key}.regimen.amount", row.amount, row.unit, units.AMOUNT)
        regimen = Regimen(amount, row.every_hours, row.infusion_rate)
    known = figures(model, values, regimen)
    for name, expected in case.expect.items():
        found = known.get(name)
        if found is None:
            extra = (
                "" if case.regimen else "; with a regimen also auc, auc24, mean_concentration, trough, second"
            )
            rule = f"but only these can be expected: {', '.join(n for n, v in known.items() if v > 0)}{extra}"
            context.refuse(f"{key}.expect", name, rule)
        if abs(found - expected) > case.tolerance * expected:
            context.refuse(
                f"{key}.expect.{name}",
                f"{expected:g}",
                f"but the file's parameters give {found:.6g}; one of the two is mistyped, or a unit is wrong "
                f"({_slip(name, expected, found)})",
            )
    return slowest_half_life(model, values)


def _slip(name: str, expected: float, found: float) -> str:
    """The unit that would explain a difference, and what the value would be in the canonical one."""
    allowed = PARAMETER_UNITS.get(name, {})
    for unit, factor in allowed.items():
        if factor != 1 and math.isclose(found * factor, expected, rel_tol=0.05):
            return f"if the paper gives {unit}, {found:g} {unit} is {found * factor:g} {next(iter(allowed))}"
    for factor, words in ((1000.0, "thousand"), (60.0, "sixty"), (24.0, "twenty-four")):
        for ratio, way in ((factor, "large"), (1.0 / factor, "small")):
            if math.isclose(found / expected, ratio, rel_tol=0.05):
                return f"it is {words} times too {way}, as when a unit slipped"
    return "compare both with the paper"


def _check_usual(context: Context, model: DrugModel) -> None:
    """Whether the typical patient at the usual dose comes near the targets, where the file has any for a level."""
    patient = model.typical_patient
    key = "typical_patient"
    try:
        values = typical_values(model, patient)
    except TwinError as wrong:
        raise LibraryError(f"{context.place}: {key}.given cannot be computed: {wrong}") from None
    aims = [t for t in model.targets if t.metric in ("concentration", "trough", "level_after", "auc24")]
    if not aims:
        return
    available = values["bioavailability"] if patient.route == "oral" else 1.0
    mean = mean_concentration(model, values, available * patient.amount_mg / patient.every_h)
    levels = [
        end / (24.0 if aim.metric == "auc24" else 1.0) for aim in aims for end in (aim.low, aim.high) if end
    ]
    low, high = min(levels) / USUAL_WITHIN, max(levels) * USUAL_WITHIN
    if low <= mean <= high:
        return
    rule = (
        f"but then the mean level is {mean:.3g} mg/L, more than {USUAL_WITHIN:g} times outside the targets of the file "
        f"({min(levels):.3g} to {max(levels):.3g} mg/L)"
    )
    context.refuse(
        key,
        f"given {patient.amount_mg:g} mg every {patient.every_h:g} h",
        rule + _mend(context, mean, low, high),
    )


def _mend(context: Context, mean: float, low: float, high: float) -> str:
    row = context.form.parameters.clearance
    if row is not None:
        allowed = units.CLEARANCE
        for unit, factor in allowed.items():
            smaller = factor / allowed[row.unit]
            if smaller != 1 and low <= mean / smaller <= high:
                return (
                    f"; if the paper gives clearance in {unit}, {row.typical:g} {unit} is {row.typical * factor:g} "
                    "L/h, and the level would be usual"
                )
    return "; check the dose, the units of clearance and of the targets"
