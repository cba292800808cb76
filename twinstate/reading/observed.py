"""What of a model a laboratory can measure, and how far a measurement lies from it."""

from __future__ import annotations

from twinstate import units
from twinstate.drug import Observed, Residual
from twinstate.reading.context import Context
from twinstate.reading.drug_form import AlsoObservedForm, ResidualForm


def check_analyte(context: Context, key: str, analyte: str, observes: str) -> None:
    """Make sure a laboratory test is in the unit of the output it reads.

    Raises:
        LibraryError: An unknown test, an output the model has not, or another unit.
    """
    if analyte not in context.analytes:
        context.refuse(key, analyte, "which config/signals.yaml does not list; add a row to its analytes")
    if observes == "second" and not context.second_unit:
        context.refuse(
            key, f"{analyte}, observing second", "but the model has no second output; add the key second"
        )
    wanted = "mg/L" if observes == "concentration" else context.second_unit
    unit = context.analytes[analyte].unit
    if unit != wanted:
        what = "a model predicts" if observes == "concentration" else f"its {context.form.second.kind} is in"  # type: ignore[union-attr]  # second_unit is empty without one
        context.refuse(key, f"{analyte} in {unit}", f"but {what} {wanted}; name the drug's level")


def read_residual(context: Context, key: str, row: ResidualForm, observes: str) -> Residual:
    """Read a residual error; nought where it is unknown.

    Raises:
        LibraryError: None at all, kinds that exclude each other, a unit too many or too few.
    """
    given = row.proportional > 0 or row.additive > 0 or row.log_normal > 0
    if row.unknown:
        if given or row.reason is None:
            rule = "but then no figure belongs there, and a reason does"
            context.refuse(f"{key}.unknown", "true", rule)
        return Residual(0.0)
    if not given:
        context.refuse(
            key,
            "0",
            "but no assay and no model is without error; give the paper's, or say {unknown: true, reason: ...}",
        )
    if row.status is None:
        context.refuse(
            f"{key}.status", "missing", "but must say how far the source was checked: V, R, C or A"
        )
    if row.status == "A" and row.reason is None:
        context.refuse(f"{key}.reason", "missing", "but an assumption needs its reason")
    if row.log_normal > 0 and (row.proportional > 0 or row.additive > 0):
        rule = "but a log-normal error stands alone; keep the one the paper gives"
        context.refuse(f"{key}.log_normal", f"{row.log_normal:g}, beside others", rule)
    if (row.additive > 0) != (row.unit is not None):
        context.refuse(
            f"{key}.unit",
            row.unit or "missing",
            "but a unit belongs to an additive residual, and only there",
        )
    additive = 0.0
    if row.additive > 0:
        allowed = units.CONCENTRATION if observes == "concentration" else context.second_units
        additive = context.canonical(f"{key}.additive", row.additive, row.unit, allowed)
    context.provenance[key] = context.row_provenance(row.status, row.source)
    if row.log_normal > 0:
        return Residual(row.log_normal, 0.0, True)
    return Residual(row.proportional, additive)


def read_also_observed(context: Context, position: int, row: AlsoObservedForm) -> Observed:
    """Read a further laboratory test, of the other output.

    Raises:
        LibraryError: The output that the first test already reads, or one that does not fit.
    """
    key = f"also_observed[{position}]"
    if row.observes == context.form.observes:
        rule = "which the analyte of the file reads already; name the other output"
        context.refuse(f"{key}.observes", row.observes, rule)
    if row.residual.unknown:
        context.refuse(f"{key}.residual", "unknown", "but then the test teaches nothing; leave it out")
    check_analyte(context, f"{key}.analyte", row.analyte, row.observes)
    return Observed(
        row.analyte, row.observes, read_residual(context, f"{key}.residual", row.residual, row.observes)
    )
