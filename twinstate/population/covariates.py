"""Typical parameters of this patient: the model's typical values under his covariates and genotype."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from itertools import combinations_with_replacement, pairwise
from typing import NamedTuple

import numpy as np

from twinstate.drug import (
    AlleleSum,
    Condition,
    CreatinineClearance,
    DrugModel,
    Effect,
    Exponential,
    Factor,
    Genotype,
    Instead,
    LinearCentred,
    LinearSum,
    Parameter,
    Piecewise,
    Power,
)
from twinstate.errors import CovariateError, MathsError
from twinstate.history import CovariateValue
from twinstate.pk.course import STRUCTURAL_PARAMETERS
from twinstate.population.derived import body_surface, cockcroft_gault, dettli, fat_free_mass, lean_body_mass
from twinstate.types import Eta

# What each derived covariate is computed from. One that is sent wins over one that is computed.
DERIVED: Mapping[str, tuple[str, ...]] = {
    "creatinine_clearance": ("age", "weight", "sex", "creatinine"),
    "fat_free_mass": ("weight", "height", "sex"),
    "lean_body_mass": ("weight", "height", "sex"),
    "body_surface": ("weight", "height"),
}
# What a laboratory measures anew makes an older value of what is computed from it stale.
MEASURED_ANEW: Mapping[str, str] = {"creatinine": "creatinine_clearance"}


class Typical(NamedTuple):
    """The model's typical patient with these covariates.

    Attributes:
        log_typical: Natural log of the structural parameters, shape (parameters,), order and units of
            `STRUCTURAL_UNITS`; -inf where the model has none.
        outside: One sentence for each value outside the model's domain.
    """

    log_typical: Eta
    outside: tuple[str, ...]


def typical_log_parameters(
    model: DrugModel, covariates: Mapping[str, CovariateValue], genotype: Mapping[str, str]
) -> Typical:
    """Adjust the model's typical parameters to one patient.

    Args:
        model: The drug's model.
        covariates: What is known, in canonical units.
        genotype: Diplotype by gene.

    Raises:
        CovariateError: Something the model needs is not known, or is of the wrong kind.
        MathsError: An effect makes a parameter zero, negative or not finite.
    """
    patient = _Patient(model, covariates, genotype)
    values = {name: patient.typical(parameter) for name, parameter in model.parameters.items()}
    if "elimination_rate" in values:
        values["central_volume"] = values["clearance"] / values.pop("elimination_rate")
    values.setdefault("bioavailability", 1.0)
    log_typical = np.full(len(STRUCTURAL_PARAMETERS), -np.inf)
    for i, name in enumerate(STRUCTURAL_PARAMETERS):
        value = values.get(name, 0.0)
        if value > 0:
            log_typical[i] = math.log(value)
    return Typical(log_typical, tuple(patient.outside()))


def newest(
    known: Mapping[str, CovariateValue], told: Mapping[str, CovariateValue]
) -> dict[str, CovariateValue]:
    """What holds after something new is told.

    A clearance sent once must not outlive the kidneys it described: a newer creatinine replaces it, as soon as all that
    a clearance is computed from is known.

    Args:
        known: What held before, in canonical units.
        told: What is told now.
    """
    after = {**known, **told}
    for measured, derived in MEASURED_ANEW.items():
        if measured in told and derived not in told and all(part in after for part in DERIVED[derived]):
            after.pop(derived, None)
    return after


def doses_outside(model: DrugModel, doses_mg: Iterable[float]) -> tuple[str, ...]:
    """One sentence for each dose size the model was not built on."""
    studied = model.domain.doses_mg
    if not studied:
        return ()
    known = " or ".join(f"{dose:g}" for dose in studied)
    note = f" {model.domain.dose_note}" if model.domain.dose_note else ""
    return tuple(
        f"a dose of {dose:g} mg is outside the domain of {model.model}: it is valid for {known} mg.{note}"
        for dose in sorted({d for d in doses_mg if d not in studied})
    )


def alleles_of(diplotype: str) -> tuple[str, ...]:
    """The two alleles of a diplotype: `*1/*3`, or `AG` of a single base; a word that is none stands alone."""
    if "/" in diplotype:
        return tuple(diplotype.split("/"))
    return tuple(diplotype) if len(diplotype) == 2 else (diplotype,)


def _pairs(alleles: Iterable[str]) -> Iterable[tuple[str, str]]:
    return combinations_with_replacement(alleles, 2)


class _Patient:
    """What one model reads of one patient: sent, derived, or declared by the file, in this order."""

    def __init__(
        self, model: DrugModel, covariates: Mapping[str, CovariateValue], genotype: Mapping[str, str]
    ) -> None:
        self._model = model
        self._known = {**model.defaults, **covariates}
        self._genotype = genotype

    def typical(self, parameter: Parameter) -> float:
        value = parameter.typical
        for effect in parameter.effects:
            value = self._applied(effect, value)
        if not (math.isfinite(value) and (value > 0 or parameter.name == "lag")):
            raise MathsError(
                f"{self._model.model}: this patient's covariates make {parameter.name} {value:g} {parameter.unit}, "
                "which must be finite and above 0; check the covariates sent"
            )
        return value

    def outside(self) -> Iterable[str]:
        for row in self._model.domain.ranges:
            value = self._found(row.covariate)
            if value is None:
                continue
            unit = self._model.covariates[row.covariate].unit
            if row.within is not None and isinstance(value, float) and not row.within.holds(value):
                yield (
                    f"{row.covariate} is {value:g} {unit}, outside the domain of {self._model.model}: "
                    f"{row.within.low:g} to {row.within.high:g} {unit}"
                )
            elif row.one_of and value not in row.one_of:
                words = " or ".join(str(word).lower() for word in row.one_of)
                yield (
                    f"{row.covariate} is {str(value).lower()}, outside the domain of {self._model.model}: {words}"
                )

    def _applied(self, effect: Effect, value: float) -> float:
        match effect:
            case Instead(condition, typical):
                return typical if self._holds(condition) else value
            case Factor(condition, factor):
                return value * factor if self._holds(condition) else value
            case Power(covariate, reference, power, within):
                x = min(max(self._number(covariate), within.low), within.high)
                return value * math.pow(x / reference, power)
            case Exponential(covariate, reference, slope, within):
                x = min(max(self._number(covariate), within.low), within.high)
                return value * math.exp(slope * (x - reference))
            case LinearCentred(covariate, reference, slope, within):
                x = min(max(self._number(covariate), within.low), within.high)
                return value * (1.0 + slope * (x - reference))
            case LinearSum(covariate, slope, within, reference):
                x = min(max(self._number(covariate), within.low), within.high)
                return value + slope * (x - reference)
            case Piecewise(covariate, points):
                return value * _interpolated(self._number(covariate), points)
            case Genotype(gene, factors, not_told):
                if not_told is not None and gene not in self._genotype:
                    return value * not_told
                return value * factors[self._diplotype(gene, factors)]
            case AlleleSum(gene, alleles):
                known = tuple(f"{a}/{b}" if "*" in a else f"{a}{b}" for a, b in _pairs(alleles))
                return sum(alleles[allele] for allele in alleles_of(self._diplotype(gene, known)))

    def _holds(self, condition: Condition) -> bool:
        if condition.below is not None:
            return self._number(condition.covariate) < condition.below
        if condition.at_least is not None:
            return self._number(condition.covariate) >= condition.at_least
        value = self._found(condition.covariate)
        if value is None:
            raise self._missing(condition.covariate)
        row = self._model.covariates[condition.covariate]
        understood = isinstance(value, bool) if row.kind == "flag" else value in row.categories
        if not understood:
            raise self._wrong_kind(condition.covariate, value)
        return value == condition.is_value

    def _diplotype(self, gene: str, known: Iterable[str]) -> str:
        """The patient's diplotype as the file writes it: whichever allele comes first is the same."""
        told = self._genotype.get(gene)
        names = ", ".join(known)
        if told is None:
            raise CovariateError(
                f"{self._model.model} needs the genotype of {gene}, which no accepted record has given. Send a "
                f'patient record whose payload has "genotype": {{"{gene}": ...}} with one of {names}'
            )
        for diplotype in known:
            if sorted(alleles_of(diplotype)) == sorted(alleles_of(told)):
                return diplotype
        raise CovariateError(
            f"{self._model.model} has no effect for {gene} {told}; its file knows {names}. Add a row to the "
            "file if a source gives one"
        )

    def _number(self, covariate: str) -> float:
        value = self._found(covariate)
        if value is None:
            raise self._missing(covariate)
        if isinstance(value, bool | str):
            raise self._wrong_kind(covariate, value)
        return value

    def _found(self, covariate: str) -> CovariateValue | None:
        """The value sent, else derived, else None."""
        rule = self._model.creatinine_clearance
        value = self._known.get(covariate)
        if value is None and all(part in self._known for part in DERIVED.get(covariate, (covariate,))):
            value = self._derived(covariate, rule)
        if covariate == "creatinine_clearance" and rule is not None and isinstance(value, float | int):
            value = min(float(value), rule.cap)
        return float(value) if isinstance(value, int) and not isinstance(value, bool) else value

    def _derived(self, covariate: str, rule: CreatinineClearance | None) -> float | None:
        if covariate == "fat_free_mass":
            return fat_free_mass(self._number("weight"), self._number("height"), self._female())
        if covariate == "lean_body_mass":
            return lean_body_mass(self._number("weight"), self._number("height"), self._female())
        if covariate == "body_surface":
            return body_surface(self._number("weight"), self._number("height"))
        if covariate != "creatinine_clearance" or rule is None:
            return None
        age = self._number("age")
        creatinine = self._number("creatinine")
        if age > rule.floor_above_age:
            creatinine = max(creatinine, rule.creatinine_floor)
        equation = dettli if rule.method == "dettli" else cockcroft_gault
        return equation(age, self._number("weight"), self._female(), creatinine)

    def _female(self) -> bool:
        sex = self._known["sex"]
        if sex not in ("female", "male"):
            raise self._wrong_kind("sex", sex)
        return sex == "female"

    def _wrong_kind(self, covariate: str, value: CovariateValue) -> CovariateError:
        row = self._model.covariates[covariate]
        kind = (
            " or ".join(row.categories)
            if row.categories
            else {"flag": "true or false"}.get(row.kind, "a number")
        )
        return CovariateError(
            f"{self._model.model} needs {covariate} as {kind}, but {value!r} was sent. Send a patient record whose "
            f"payload has {row.example} in its covariates"
        )

    def _missing(self, covariate: str) -> CovariateError:
        rows = self._model.covariates
        parts = [part for part in DERIVED.get(covariate, ()) if part not in self._known]
        text = (
            f"{self._model.model} needs the covariate {covariate}, which no accepted record has given. Send a "
            f"patient record whose payload has {rows[covariate].example} in its covariates"
        )
        if parts:
            text += f"; or, to have it computed, what is missing of {', '.join(DERIVED[covariate])}: {', '.join(parts)}"
        fed = sorted({lab for name in (covariate, *parts) for lab in rows[name].fed_by})
        if fed:
            text += f". A lab record with the analyte {' or '.join(fed)} does as well"
        return CovariateError(text)


def _interpolated(x: float, points: tuple[tuple[float, float], ...]) -> float:
    if x <= points[0][0]:
        return points[0][1]
    for (x0, y0), (x1, y1) in pairwise(points):
        if x <= x1:
            return y0 + (y1 - y0) * (x - x0) / (x1 - x0)
    return points[-1][1]
