"""What a drug model is, in words a pharmacologist can check: the content of `twin drugs show`.

Plain data, the same for the terminal and for `--json`.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from streams.model_words import (
    STATUS_WORDS,
    channel_in_words,
    cv_of,
    doses_in_words,
    effect_in_words,
    patient_in_words,
    range_in_words,
    residual_in_words,
    structure_in_words,
    variation_in_words,
)
from twinstate.drug import AlleleSum, DrugModel, Genotype
from twinstate.library import Library

METRIC_WORDS = {
    "concentration": "highest level",
    "trough": "level before a dose",
    "level_after": "level after a dose",
    "auc24": "AUC over 24 h",
    "auc_total": "AUC since the first dose",
    "second": "second output",
    "effect_rise": "rise of the signal",
    "signal_high": "highest value of the signal",
    "signal_low": "lowest value of the signal",
}
# A target is a range to stay in, not the highest value.
TARGET_WORDS = {"concentration": "level"}
SECOND_NAMES = {
    "metabolite": "highest level of the metabolite",
    "effect_site": "highest level at the effect site",
    "coagulation_product": "highest INR",
    "coagulation_mean": "highest INR",
    "myelosuppression": "highest count",
}


@dataclass(frozen=True)
class ParameterRow:
    """A structural parameter in canonical units; `cv` between patients as a fraction."""

    name: str
    typical: float
    unit: str
    changes_with: tuple[str, ...]
    cv: float | None
    occasion_cv: float | None
    status: str
    variability_status: str
    source: str


@dataclass(frozen=True)
class LimitRow:
    """A target or a threshold, as its source writes it and in the canonical unit."""

    name: str
    metric: str
    text: str
    low: float | None
    high: float | None
    unit: str
    note: str
    horizon_h: float | None
    status: str
    source: str


@dataclass(frozen=True)
class Card:
    """Everything of one model that a person should see before trusting it."""

    drug: str
    model: str
    default: bool
    readiness: str
    unknown: tuple[str, ...]
    source: str
    transcription: str
    population: str
    structure: str
    observed: tuple[str, ...]
    parameters: tuple[ParameterRow, ...]
    correlations: tuple[tuple[str, str, float], ...]
    within_patient: str
    domain: tuple[str, ...]
    covariates: tuple[str, ...]
    genes: tuple[str, ...]
    targets: tuple[LimitRow, ...]
    thresholds: tuple[LimitRow, ...]
    channel: str
    keep_h: float
    stale_after_h: float
    typical_patient: str
    checks: tuple[str, ...]
    notes: tuple[str, ...]
    statuses: dict[str, int]
    unverified: tuple[str, ...]
    assumed: tuple[str, ...]
    digest: str

    def as_json(self) -> dict[str, Any]:
        """Plain data; infinite bounds do not occur."""
        return asdict(self)


def card_of(model: DrugModel, library: Library) -> Card:
    """Describe a model.

    Args:
        model: Of the library.
        library: Tells the units in which levels are reported.
    """
    by_status = {
        status: tuple(key for key, p in model.provenance.items() if p.status == status)
        for status in STATUS_WORDS
    }
    return Card(
        drug=model.drug,
        model=model.model,
        default=model.default,
        readiness=readiness_of(model),
        unknown=model.unknown,
        source=model.source,
        transcription=model.transcription,
        population=model.population,
        structure=structure_in_words(model),
        observed=tuple(_observed(model, library)),
        parameters=_parameters(model),
        correlations=_correlations(model),
        within_patient=variation_in_words(model),
        domain=tuple(range_in_words(row, model) for row in model.domain.ranges) + doses_in_words(model),
        covariates=tuple(model.covariates),
        genes=genes_of(model),
        targets=_targets(model),
        thresholds=_thresholds(model),
        channel=channel_in_words(model),
        keep_h=model.keep_h,
        stale_after_h=model.stale_after_h,
        typical_patient=patient_in_words(model),
        checks=model.checks,
        notes=model.notes,
        statuses=dict(sorted(Counter(p.status for p in model.provenance.values()).items())),
        unverified=by_status["R"],
        assumed=by_status["A"],
        digest=model.digest,
    )


def readiness_of(model: DrugModel) -> str:
    """Whether a twin of this model learns from levels."""
    if not model.etas:
        return "simulates only"
    return "estimates" if model.estimates else "simulates only (prior)"


def genes_of(model: DrugModel) -> tuple[str, ...]:
    """Genes the model reads; one in brackets may stay untold."""
    found: dict[str, str] = {}
    for parameter in model.parameters.values():
        for effect in parameter.effects:
            if isinstance(effect, Genotype | AlleleSum):
                optional = isinstance(effect, Genotype) and effect.not_told is not None
                found[effect.gene] = f"({effect.gene})" if optional else effect.gene
    return tuple(found.values())


def _observed(model: DrugModel, library: Library) -> Iterable[str]:
    rows = [(model.analyte, model.observes, model.residual)]
    rows += [(row.analyte, row.output, row.residual) for row in model.also_observed]
    for analyte, output, residual in rows:
        row = library.analytes[analyte]
        codes = f"LOINC {', '.join(row.loinc)}" if row.loinc else "no LOINC code known"
        what = "the level" if output == "concentration" else "the second output"
        known = model.estimates or analyte != model.analyte
        spread = residual_in_words(residual, row.unit) if known else "residual error unknown"
        yield f"{row.title} ({analyte}, {codes}) reads {what}: {spread}"


def _parameters(model: DrugModel) -> tuple[ParameterRow, ...]:
    variances = {name: float(model.omega[i, i]) for i, name in enumerate(model.etas)}
    occasion = model.variation.occasion_sd if model.variation else 0.0
    rows = []
    for p in model.parameters.values():
        spread = model.provenance.get(f"parameters.{p.name}.between_subject", p.provenance)
        rows.append(
            ParameterRow(
                name=p.name,
                typical=p.typical,
                unit=p.unit,
                changes_with=tuple(effect_in_words(effect, model, p.unit) for effect in p.effects),
                cv=cv_of(variances[p.name]) if p.name in variances else None,
                occasion_cv=cv_of(occasion * occasion) if occasion and p.name == "clearance" else None,
                status=p.provenance.status,
                variability_status=spread.status if p.name in variances else "",
                source=p.provenance.source,
            )
        )
    return tuple(rows)


def _correlations(model: DrugModel) -> tuple[tuple[str, str, float], ...]:
    found = []
    for i, first in enumerate(model.etas):
        for j in range(i + 1, len(model.etas)):
            covariance = float(model.omega[i, j])
            if covariance:
                scale = math.sqrt(float(model.omega[i, i] * model.omega[j, j]))
                found.append((first, model.etas[j], covariance / scale))
    return tuple(found)


def _metric(metric: str, model: DrugModel) -> str:
    return SECOND_NAMES[model.second] if metric == "second" else METRIC_WORDS[metric]


def _targets(model: DrugModel) -> tuple[LimitRow, ...]:
    return tuple(
        LimitRow(
            name="",
            metric=row.metric,
            text=f"{TARGET_WORDS.get(row.metric) or _metric(row.metric, model)} {row.as_published}",
            low=row.low,
            high=row.high,
            unit=row.unit,
            note=row.when,
            horizon_h=None,
            status=row.status,
            source=row.source,
        )
        for row in model.targets
    )


def _thresholds(model: DrugModel) -> tuple[LimitRow, ...]:
    return tuple(
        LimitRow(
            name=row.name,
            metric=row.metric,
            text=(
                f"level {row.after_h:g} h after a dose > {row.as_published}"
                if row.metric == "level_after"
                else f"{_metric(row.metric, model)} {'<' if row.crossed == 'below' else '>'} {row.as_published}"
            ),
            low=row.limit if row.crossed == "below" else None,
            high=None if row.crossed == "below" else row.limit,
            unit=row.unit,
            note=f"{row.severity_label}: {row.harm}",
            horizon_h=row.horizon_h,
            status=row.status,
            source=row.source,
        )
        for row in model.thresholds
    )
