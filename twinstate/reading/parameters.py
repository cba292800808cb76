"""Structure, typical values and variability of a drug file."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from twinstate import units
from twinstate.drug import Parameter
from twinstate.errors import LibraryError
from twinstate.pk.course import STRUCTURAL_PARAMETERS
from twinstate.population.prior import log_sd_of_cv, prior_covariance
from twinstate.reading.context import Context
from twinstate.reading.effects import read_effect
from twinstate.reading.forms import ParameterForm, ParametersForm
from twinstate.types import EtaMatrix

PARAMETER_UNITS: Mapping[str, Mapping[str, float]] = {
    "clearance": units.CLEARANCE,
    "central_volume": units.VOLUME,
    "elimination_rate": units.RATE,
    "intercompartmental_clearance": units.CLEARANCE,
    "peripheral_volume": units.VOLUME,
    "absorption_rate": units.RATE,
    "lag": units.DURATION,
    "bioavailability": units.FRACTION,
    "input_duration": units.DURATION,
}


def read_parameters(context: Context) -> dict[str, Parameter]:
    """Read typical values and effects.

    Raises:
        LibraryError: A parameter the structure lacks or does not have, a wrong unit, an effect that is none.
    """
    _check_structure(context)
    return {name: _parameter(context, name, row) for name, row in _rows(context).items()}


def read_variability(context: Context) -> tuple[tuple[str, ...], EtaMatrix, NDArray[np.int64]]:
    """Read between-subject variability.

    Returns:
        Names of the parameters that vary; their covariance on the log scale, shape (eta, eta); which eta moves each
        structural parameter, shape (8,), -1 where none does.

    Raises:
        LibraryError: Nothing varies, a correlation names what does not vary, or the matrix is no covariance.
    """
    deviations = {name: sd for name, row in _rows(context).items() if (sd := _log_sd(context, name, row)) > 0}
    etas = tuple(name for name in STRUCTURAL_PARAMETERS if name in deviations)
    if not etas:
        context.refuse("parameters", "without any between_subject_*", "so that no level could teach anything")
    correlations = {}
    for i, row in enumerate(context.form.correlations):
        first, second = row.between
        if first == second or first not in etas or second not in etas:
            rule = f"but must name two different parameters that vary: {', '.join(etas)}"
            context.refuse(f"correlations[{i}].between", " and ".join(row.between), rule)
        correlations[(etas.index(first), etas.index(second))] = row.value
        context.noted(f"correlations[{i}]", row)
    try:
        omega = prior_covariance([deviations[name] for name in etas], correlations)
    except ValueError as wrong:
        raise LibraryError(f"{context.place}: correlations: {wrong}; check their signs and sizes") from None
    eta_index = np.array([etas.index(n) if n in etas else -1 for n in STRUCTURAL_PARAMETERS], dtype=np.int64)
    if context.form.parameters.elimination_rate is not None:
        # central volume = clearance / elimination rate: it moves with clearance's eta.
        eta_index[STRUCTURAL_PARAMETERS.index("central_volume")] = eta_index[0]
    omega.setflags(write=False)
    eta_index.setflags(write=False)
    return etas, omega, eta_index


def _rows(context: Context) -> dict[str, ParameterForm]:
    found = ((name, getattr(context.form.parameters, name)) for name in ParametersForm.model_fields)
    return {name: row for name, row in found if row is not None}


def _check_structure(context: Context) -> None:
    form, rows = context.form, _rows(context)
    volumes = [name for name in ("central_volume", "elimination_rate") if name in rows]
    if len(volumes) != 1:
        rule = "but exactly one of central_volume and elimination_rate belongs there"
        context.refuse("parameters", f"with {' and '.join(volumes) or 'neither'}", rule)
    wanted = {
        "intercompartmental_clearance": form.compartments == 2,
        "peripheral_volume": form.compartments == 2,
        "absorption_rate": form.oral == "first_order",
        "input_duration": form.oral == "zero_order",
    }
    for name, needed in wanted.items():
        if (name in rows) != needed:
            rule = f"which does not fit compartments: {form.compartments} and oral: {form.oral}"
            context.refuse(f"parameters.{name}", "missing" if needed else "there", f"{rule}; {_mend(needed)}")
    for name in ("lag", "bioavailability"):
        if name in rows and form.oral == "none":
            context.refuse(
                f"parameters.{name}", "there", "but only an oral route has one; remove it, or set oral"
            )
    if ("oral" in form.routes) != (form.oral != "none"):
        rule = f"which does not fit routes: {', '.join(form.routes)}; change one of the two"
        context.refuse("oral", form.oral, rule)
    rate = form.parameters.elimination_rate
    if rate is not None and _log_sd(context, "elimination_rate", rate) > 0:
        rule = "but its variability cannot be told from that of clearance; give central_volume instead"
        context.refuse("parameters.elimination_rate", "given a between_subject_*", rule)


def _mend(needed: bool) -> str:
    return "add it" if needed else "remove it"


def _parameter(context: Context, name: str, row: ParameterForm) -> Parameter:
    key = f"parameters.{name}"
    allowed = PARAMETER_UNITS[name]
    typical = context.canonical(f"{key}.typical", row.typical, row.unit, allowed)
    if typical == 0 and name != "lag":
        context.refuse(f"{key}.typical", f"0 {row.unit}", "but only a lag may be 0")
    effects = tuple(
        read_effect(context, f"{key}.scales_with[{i}]", effect, allowed[row.unit])
        for i, effect in enumerate(row.scales_with)
    )
    return Parameter(name, typical, next(iter(allowed)), effects, context.noted(key, row))


def _log_sd(context: Context, name: str, row: ParameterForm) -> float:
    """Standard deviation of the parameter's log between patients; 0 where it does not vary."""
    given = [
        deviation
        for deviation in (
            log_sd_of_cv(row.between_subject_cv) if row.between_subject_cv is not None else None,
            row.between_subject_sd,
            math.sqrt(row.between_subject_variance) if row.between_subject_variance is not None else None,
        )
        if deviation is not None
    ]
    if len(given) > 1:
        rule = "but CV, SD and variance say the same; keep the one the paper gives"
        context.refuse(f"parameters.{name}", "given more than one between_subject_*", rule)
    return given[0] if given else 0.0
