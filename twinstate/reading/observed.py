"""What of a model a laboratory can measure, and how far a measurement lies from it."""

from __future__ import annotations

from itertools import pairwise

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
    """Read a further laboratory test, of either output.

    Raises:
        LibraryError: A test named twice, an output that does not fit, readings of a bias that do not ascend.
    """
    key = f"also_observed[{position}]"
    named = [context.form.analyte, *(other.analyte for other in context.form.also_observed[:position])]
    if row.analyte in named:
        rule = "which the file reads already; a second test needs a row of its own in config/signals.yaml"
        context.refuse(f"{key}.analyte", row.analyte, rule)
    if row.residual.unknown:
        context.refuse(f"{key}.residual", "unknown", "but then the test teaches nothing; leave it out")
    check_analyte(context, f"{key}.analyte", row.analyte, row.observes)
    residual = read_residual(context, f"{key}.residual", row.residual, row.observes)
    return Observed(row.analyte, row.observes, residual, _reads_high(context, key, row))


def _reads_high(context: Context, key: str, row: AlsoObservedForm) -> tuple[tuple[float, float], ...]:
    bias = row.reads_high
    if bias is None:
        return ()
    place = f"{key}.reads_high"
    context.noted(place, bias)
    if bias.status == "A" and not bias.reason:
        context.refuse(f"{place}.reason", "missing", "but an assumption needs its reason; add the key reason")
    allowed = context.analytes[row.analyte].units
    points = tuple(
        (
            context.canonical(place, reading, bias.unit, allowed),
            context.canonical(place, excess, bias.unit, allowed),
        )
        for reading, excess in bias.points
    )
    ascending = all(earlier[0] < later[0] for earlier, later in pairwise(points))
    if not ascending or max(excess for _, excess in points) >= context.analytes[row.analyte].reject.low:
        rule = "but readings must ascend, and no excess reach the lowest reading there is"
        context.refuse(f"{place}.points", [list(point) for point in bias.points], rule)
    return points
