"""Covariate and genotype effects: one line of `scales_with` to one `Effect` in canonical units."""

from __future__ import annotations

import math
from itertools import pairwise

from twinstate.catalogue import Bounds, Covariate, Provenance
from twinstate.drug import (
    AlleleSum,
    Condition,
    Effect,
    Exponential,
    Factor,
    Genotype,
    Instead,
    LinearCentred,
    LinearSum,
    Piecewise,
    Power,
)
from twinstate.reading.context import Context
from twinstate.reading.drug_form import EffectForm

# The closed vocabulary, and which other keys each kind may have beside `covariate` and `unit`.
KINDS: dict[str, frozenset[str]] = {
    "factor": frozenset({"when", "below", "at_least"}),
    "typical": frozenset({"when", "below", "at_least"}),
    "power": frozenset({"reference", "floor", "cap"}),
    "exponential": frozenset({"reference", "floor", "cap"}),
    "linear_centred": frozenset({"reference", "floor", "cap"}),
    "linear_sum": frozenset({"reference", "floor", "cap"}),
    "piecewise": frozenset(),
    "diplotypes": frozenset({"gene", "not_told"}),
    "allele_sum": frozenset({"gene"}),
}
# Keys any kind may have.
ALWAYS = frozenset({"covariate", "unit", "status", "source"})


def read_effect(context: Context, key: str, row: EffectForm, parameter_factor: float) -> Effect:
    """Read one line of `scales_with`.

    Args:
        context: The file.
        key: Where the line stands.
        row: The line.
        parameter_factor: Of the parameter's unit, for numbers that are in it.

    Raises:
        LibraryError: Not exactly one kind, a key that kind does not read, or one it lacks.
    """
    kind = _kind(context, key, row)
    if row.status is not None:
        context.provenance[key] = Provenance(row.status, row.source or context.form.source)
    if row.diplotypes is not None:
        gene = context.gene(key, row.gene if row.covariate is None else None)
        for diplotype in row.diplotypes:
            context.check_diplotype(f"{key}.diplotypes", gene, diplotype)
        return Genotype(gene.symbol, dict(row.diplotypes), row.not_told)
    if row.allele_sum is not None:
        gene = context.gene(key, row.gene if row.covariate is None else None)
        return AlleleSum(gene.symbol, {a: v * parameter_factor for a, v in row.allele_sum.items()})
    if row.factor is not None:
        return Factor(_condition(context, key, row), row.factor)
    if row.typical is not None:
        return Instead(_condition(context, key, row), row.typical * parameter_factor)
    covariate = context.covariate(f"{key}.covariate", row.covariate, "number")
    per_unit = 1.0 / _canonical(context, key, row, covariate, 1.0)
    within = Bounds(
        -math.inf if row.floor is None else _canonical(context, f"{key}.floor", row, covariate, row.floor),
        math.inf if row.cap is None else _canonical(context, f"{key}.cap", row, covariate, row.cap),
    )
    if row.piecewise is not None:
        points = tuple((_canonical(context, key, row, covariate, x), factor) for x, factor in row.piecewise)
        if any(right[0] <= left[0] or right[1] <= 0 for left, right in pairwise(points)) or points[0][1] <= 0:
            rule = "but the first numbers must ascend and the second, the factors, be above 0"
            context.refuse(f"{key}.piecewise", [list(point) for point in row.piecewise], rule)
        return Piecewise(covariate.slug, points)
    if row.linear_sum is not None:
        zero = 0.0 if row.reference is None else row.reference
        reference = _canonical(context, f"{key}.reference", row, covariate, zero)
        return LinearSum(covariate.slug, row.linear_sum * per_unit * parameter_factor, within, reference)
    if row.reference is None:
        context.refuse(
            key, f"{kind} without a reference", "but needs the paper's reference value of the covariate"
        )
    reference = _canonical(context, f"{key}.reference", row, covariate, row.reference)
    if row.exponential is not None:
        return Exponential(covariate.slug, reference, row.exponential * per_unit, within)
    if row.linear_centred is not None:
        return LinearCentred(covariate.slug, reference, row.linear_centred * per_unit, within)
    assert row.power is not None
    if reference <= 0:
        context.refuse(f"{key}.reference", f"{reference:g}", "but a power needs a reference above 0")
    return Power(covariate.slug, reference, row.power, within)


def _kind(context: Context, key: str, row: EffectForm) -> str:
    given = {name for name in EffectForm.model_fields if getattr(row, name) is not None}
    kinds = [kind for kind in KINDS if kind in given]
    if len(kinds) != 1:
        context.refuse(
            key, " and ".join(kinds) or "without an effect", f"but needs exactly one of: {', '.join(KINDS)}"
        )
    unread = sorted(given - KINDS[kinds[0]] - ALWAYS - {kinds[0]})
    if unread:
        allowed = ", ".join(sorted(KINDS[kinds[0]])) or "none"
        context.refuse(key, f"{kinds[0]} with {', '.join(unread)}", f"but {kinds[0]} reads only: {allowed}")
    return kinds[0]


def _canonical(context: Context, key: str, row: EffectForm, covariate: Covariate, value: float) -> float:
    return context.canonical(key, value, row.unit, covariate.units)


def _condition(context: Context, key: str, row: EffectForm) -> Condition:
    covariate = context.covariate(f"{key}.covariate", row.covariate)
    if row.below is None and row.at_least is None:
        when = True if row.when is None and covariate.kind == "flag" else row.when
        context.check_word(f"{key}.when", covariate, when)
        return Condition(covariate.slug, is_value=when)
    if (
        covariate.kind != "number"
        or row.when is not None
        or (row.below is not None and row.at_least is not None)
    ):
        context.refuse(key, "a condition on below or at_least", "but these need a number, and stand alone")
    if row.below is not None:
        return Condition(covariate.slug, below=_canonical(context, key, row, covariate, row.below))
    assert row.at_least is not None
    return Condition(covariate.slug, at_least=_canonical(context, key, row, covariate, row.at_least))
