"""The paper's own figures, recomputed on every load: a slip of a digit or a unit cannot pass unseen."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from twinstate.drug import DrugModel
from twinstate.errors import LibraryError, TwinError
from twinstate.pk.course import STRUCTURAL_PARAMETERS
from twinstate.population.covariates import typical_log_parameters
from twinstate.reading.context import Context
from twinstate.reading.forms import CheckForm
from twinstate.reading.parameters import PARAMETER_UNITS

SHORTEST_KEEP_H = 720.0
HALF_LIVES_KEPT = 10.0


def check_cases(context: Context, model: DrugModel) -> None:
    """Recompute the cases under `checks`, and see that `keep_hours` outlasts the slowest of them.

    Raises:
        LibraryError: A figure differs, or doses would leave while they still matter.
    """
    longest = max(
        _check_case(context, f"checks[{i}]", case, model) for i, case in enumerate(context.form.checks)
    )
    shortest = max(SHORTEST_KEEP_H, HALF_LIVES_KEPT * longest)
    if model.keep_h < shortest:
        context.refuse(
            "keep_hours.value",
            f"{model.keep_h:g} h",
            f"but must be at least {math.ceil(shortest)} h: {HALF_LIVES_KEPT:g} of the longest terminal half-life "
            "among the checks and never under 30 days, so that what leaves matters no more",
        )


def _check_case(context: Context, key: str, case: CheckForm, model: DrugModel) -> float:
    """Compare one case; its terminal half-life, h."""
    try:
        typical = typical_log_parameters(model, case.given, case.genotype)
    except TwinError as wrong:
        raise LibraryError(f"{context.place}: {key}.given cannot be computed: {wrong}") from None
    values: dict[str, float] = dict(
        zip(STRUCTURAL_PARAMETERS, np.exp(typical.log_typical).tolist(), strict=True)
    )
    values["terminal_half_life"] = terminal_half_life(model.compartments, values)
    for name, expected in case.expect.items():
        found = values.get(name)
        if found is None:
            context.refuse(f"{key}.expect", name, f"but only these can be expected: {', '.join(values)}")
        if abs(found - expected) > case.tolerance * expected:
            context.refuse(
                f"{key}.expect.{name}",
                f"{expected:g}",
                f"but the file's parameters give {found:.6g}; one of the two is mistyped, or a unit is wrong "
                f"({_slip(name, expected, found)})",
            )
    return values["terminal_half_life"]


def terminal_half_life(compartments: int, values: Mapping[str, float]) -> float:
    """Half-life of the slowest exponential, h.

    Args:
        compartments: 1 or 2.
        values: Structural parameters by name, canonical units.
    """
    out = values["clearance"] / values["central_volume"]
    if compartments == 1:
        return math.log(2.0) / out
    away = values["intercompartmental_clearance"] / values["central_volume"]
    back = values["intercompartmental_clearance"] / values["peripheral_volume"]
    total = out + away + back
    return math.log(2.0) / (0.5 * (total - math.sqrt(total * total - 4.0 * out * back)))


def _slip(name: str, expected: float, found: float) -> str:
    allowed = PARAMETER_UNITS.get(name, {})
    for unit, factor in allowed.items():
        if factor != 1 and math.isclose(found * factor, expected, rel_tol=0.05):
            return f"if the paper gives {unit}, {found:g} {unit} is {found * factor:g} {next(iter(allowed))}"
    return "compare both with the paper"
