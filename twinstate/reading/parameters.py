"""Structure, typical values and variability of a drug file."""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from twinstate import units
from twinstate.drug import Parameter, Variation
from twinstate.errors import LibraryError
from twinstate.pk.course import STRUCTURAL_PARAMETERS
from twinstate.population.prior import log_sd_of_cv, prior_covariance
from twinstate.reading.context import Context
from twinstate.reading.drug_form import ParameterForm, ParametersForm
from twinstate.reading.effects import read_effect
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
    "second_intercompartmental_clearance": units.CLEARANCE,
    "second_peripheral_volume": units.VOLUME,
    "maximum_elimination_rate": units.AMOUNT_RATE,
    "michaelis_constant": units.CONCENTRATION,
    "first_order_fraction": units.FRACTION,
    "transit_rate": units.RATE,
    "metabolite_fraction": units.FRACTION,
    "metabolite_clearance": units.CLEARANCE,
    "metabolite_volume": units.VOLUME,
    "effect_rate": units.RATE,
    "response_baseline": {**units.INR, **units.CELLS},
    "half_effect_concentration": units.CONCENTRATION,
    "hill": units.FRACTION,
    "response_time": units.DURATION,
    "second_response_time": units.DURATION,
    "response_scale": units.FRACTION,
    "response_exponent": units.FRACTION,
    "response_slope": units.SLOPE,
    "response_feedback": units.FRACTION,
}
COAGULATION = frozenset({"coagulation_product", "coagulation_mean"})
MYELOSUPPRESSION = frozenset({"myelosuppression"})
METABOLITE = frozenset({"metabolite"})
EFFECT_SITE = frozenset({"effect_site"})
# The second outputs that read each of these parameters.
OF_SECOND: Mapping[str, frozenset[str]] = {
    "metabolite_fraction": METABOLITE,
    "metabolite_clearance": METABOLITE,
    "metabolite_volume": METABOLITE,
    "effect_rate": EFFECT_SITE,
    "response_baseline": COAGULATION | MYELOSUPPRESSION,
    "half_effect_concentration": COAGULATION,
    "hill": COAGULATION,
    "response_time": COAGULATION | MYELOSUPPRESSION,
    "second_response_time": COAGULATION,
    "response_scale": COAGULATION,
    "response_exponent": COAGULATION,
    "response_slope": MYELOSUPPRESSION,
    "response_feedback": MYELOSUPPRESSION,
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
        structural parameter, shape (parameters,), -1 where none does.

    Raises:
        LibraryError: Nothing varies, a correlation names what does not vary, or the matrix is no covariance.
    """
    deviations = {name: sd for name, row in _rows(context).items() if (sd := _log_sd(context, name, row)) > 0}
    etas = tuple(name for name in STRUCTURAL_PARAMETERS if name in deviations)
    unknown = context.form.variability
    if not etas and unknown is None:
        context.refuse(
            "parameters",
            "without any between_subject_*",
            "so that no level could teach anything; if it was not found, say variability: {unknown: true, reason: ...}",
        )
    if etas and unknown is not None:
        context.refuse(
            "variability.unknown",
            "true",
            f"but {', '.join(etas)} have a between_subject_*; remove one of the two",
        )
    correlations = {}
    for i, row in enumerate(context.form.correlations):
        first, second = row.between
        if first == second or first not in etas or second not in etas:
            rule = f"but must name two different parameters that vary: {', '.join(etas)}"
            context.refuse(f"correlations[{i}].between", " and ".join(row.between), rule)
        pair = (
            etas.index(min(first, second, key=etas.index)),
            etas.index(max(first, second, key=etas.index)),
        )
        if pair in correlations:
            context.refuse(
                f"correlations[{i}].between", " and ".join(row.between), "which stands there twice"
            )
        correlations[pair] = row.value
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


def read_variation(context: Context) -> Variation | None:
    """Read what changes within a patient: between occasions, or as a random walk; at most one of the two.

    Raises:
        LibraryError: Both, more than one parameter, one other than clearance beside central_volume, SDs out of order.
    """
    occasions = {
        name: _one_sd(
            context,
            name,
            "between_occasion",
            row.between_occasion_cv,
            row.between_occasion_sd,
            row.between_occasion_variance,
        )
        for name, row in _rows(context).items()
    }
    varying = {f"parameters.{name}.between_occasion": name for name, sd in occasions.items() if sd > 0}
    drift = context.form.drift
    if drift is not None:
        varying["drift.parameter"] = drift.parameter
    if not varying:
        return None
    if len(varying) > 1:
        rule = "but one parameter at most changes within a patient, either between occasions or as a drift"
        context.refuse(" and ".join(varying), "there", rule)
    [(key, name)] = varying.items()
    if (
        name != "clearance"
        or context.form.parameters.elimination_rate
        or not context.form.parameters.clearance
    ):
        # A level is amount over volume: only clearance may change without moving the level at that instant.
        context.refuse(key, name, "but only clearance, beside central_volume, may change within a patient")
    position = STRUCTURAL_PARAMETERS.index(name)
    if drift is None:
        return Variation(position, occasions[name], ())
    bank = drift.sd_per_sqrt_day
    if any(after <= before for before, after in pairwise(bank)):
        context.refuse("drift.sd_per_sqrt_day", bank, "but must ascend, with 0 for no drift")
    context.noted("drift", drift)
    return Variation(position, 0.0, tuple(bank))


def _rows(context: Context) -> dict[str, ParameterForm]:
    found = ((name, getattr(context.form.parameters, name)) for name in ParametersForm.model_fields)
    return {name: row for name, row in found if row is not None}


def _check_structure(context: Context) -> None:
    form, rows = context.form, _rows(context)
    second = form.second.kind if form.second else "none"
    volumes = [name for name in ("central_volume", "elimination_rate") if name in rows]
    if len(volumes) != 1:
        rule = "but exactly one of central_volume and elimination_rate belongs there"
        context.refuse("parameters", f"with {' and '.join(volumes) or 'neither'}", rule)
    if "elimination_rate" in rows and form.elimination != "linear":
        rule = f"but elimination is {form.elimination}; give central_volume instead"
        context.refuse("parameters.elimination_rate", "there", rule)
    wanted = {
        "clearance": form.elimination != "saturable",
        "maximum_elimination_rate": form.elimination != "linear",
        "michaelis_constant": form.elimination != "linear",
        "intercompartmental_clearance": form.compartments >= 2,
        "peripheral_volume": form.compartments >= 2,
        "second_intercompartmental_clearance": form.compartments == 3,
        "second_peripheral_volume": form.compartments == 3,
        "absorption_rate": form.oral in ("first_order", "parallel"),
        "input_duration": form.oral in ("zero_order", "parallel"),
        "first_order_fraction": form.oral == "parallel",
        "transit_rate": form.transits > 0,
    } | {name: second in kinds for name, kinds in OF_SECOND.items()}
    for name, needed in wanted.items():
        if (name in rows) != needed:
            rule = (
                f"which does not fit compartments: {form.compartments}, oral: {form.oral}, elimination: "
                f"{form.elimination}, transits: {form.transits} and second: {second}"
            )
            context.refuse(
                f"parameters.{name}", "there" if name in rows else "missing", f"{rule}; {_mend(needed)}"
            )
    for name in ("lag", "bioavailability"):
        if name in rows and form.oral == "none":
            context.refuse(
                f"parameters.{name}", "there", "but only an oral route has one; remove it, or set oral"
            )
    if ("oral" in form.routes) != (form.oral != "none"):
        rule = f"which does not fit routes: {', '.join(form.routes)}; change one of the two"
        context.refuse("oral", form.oral, rule)
    if form.transits and form.oral not in ("first_order", "transit"):
        context.refuse(
            "transits", form.transits, "but only oral: first_order and oral: transit have some; set 0"
        )
    if form.oral == "transit" and not form.transits:
        context.refuse("transits", 0, "but oral: transit is a chain of them; say how many")
    _check_chains(context)
    rate = form.parameters.elimination_rate
    if rate is not None and _log_sd(context, "elimination_rate", rate) > 0:
        rule = "but its variability cannot be told from that of clearance; give central_volume instead"
        context.refuse("parameters.elimination_rate", "given a between_subject_*", rule)


def _check_chains(context: Context) -> None:
    form = context.form.second
    if form is None:
        return
    wanted = {
        "first_chain": form.kind in COAGULATION | MYELOSUPPRESSION,
        "second_chain": form.kind in COAGULATION,
    }
    for name, needed in wanted.items():
        there = getattr(form, name) is not None
        if there != needed:
            rule = f"which does not fit kind: {form.kind}; {_mend(needed)}"
            context.refuse(f"second.{name}", "there" if there else "missing", rule)


def _mend(needed: bool) -> str:
    return "add it" if needed else "remove it"


def _parameter(context: Context, name: str, row: ParameterForm) -> Parameter:
    key = f"parameters.{name}"
    allowed = PARAMETER_UNITS[name]
    typical = context.canonical(f"{key}.typical", row.typical, row.unit, allowed)
    if typical == 0 and name != "lag":
        context.refuse(f"{key}.typical", f"0 {row.unit}", "but only a lag may be 0")
    if name in ("bioavailability", "first_order_fraction", "metabolite_fraction") and typical > 1:
        context.refuse(
            f"{key}.typical",
            f"{row.typical:g} {row.unit}",
            "but a fraction is 1 at most; if it is a percentage, write %",
        )
    effects = tuple(
        read_effect(context, f"{key}.scales_with[{i}]", effect, allowed[row.unit])
        for i, effect in enumerate(row.scales_with)
    )
    provenance = context.noted(key, row)
    if row.variability_status is not None:
        if _log_sd(context, name, row) == 0:
            context.refuse(
                f"{key}.variability_status", "there", "but nothing varies; remove it, or add the variability"
            )
        context.provenance[f"{key}.between_subject"] = context.row_provenance(
            row.variability_status, row.variability_source
        )
    return Parameter(name, typical, next(iter(allowed)), effects, provenance)


def _log_sd(context: Context, name: str, row: ParameterForm) -> float:
    """Standard deviation of the parameter's log between patients; 0 where it does not vary."""
    return _one_sd(
        context,
        name,
        "between_subject",
        row.between_subject_cv,
        row.between_subject_sd,
        row.between_subject_variance,
    )


def _one_sd(
    context: Context, name: str, between: str, cv: float | None, sd: float | None, variance: float | None
) -> float:
    given = [
        deviation
        for deviation in (
            log_sd_of_cv(cv) if cv is not None else None,
            sd,
            math.sqrt(variance) if variance is not None else None,
        )
        if deviation is not None
    ]
    if len(given) > 1:
        rule = "but CV, SD and variance say the same; keep the one the paper gives"
        context.refuse(f"parameters.{name}", f"given more than one {between}_*", rule)
    return given[0] if given else 0.0
