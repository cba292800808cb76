"""The form of the files under `config/`: which keys there are, and of what kind. Meaning comes after.

Every number stands beside its unit and its status (V read in the named source, R recalled, C computed from V values,
A assumed here with a reason). What is unknown is said to be, with a reason. Unknown keys are refused.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Status = Literal["V", "R", "C", "A"]
Text = Annotated[str, Field(min_length=1)]
Slug = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")]
Number = Annotated[float, Field(allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Probability = Annotated[float, Field(gt=0, lt=1)]
Loinc = Annotated[str, Field(pattern=r"^[0-9]{1,7}-[0-9]$")]
Pair = Annotated[list[Number], Field(min_length=2, max_length=2)]
Units = Annotated[dict[str, Positive], Field(min_length=1)]


class Form(BaseModel):
    """Strict: a number is a number, and a key nobody reads is a mistake."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Sourced(Form):
    """A row with its own status and, where it is not the file's, its own source."""

    status: Status
    source: Text | None = None


class Quantity(Form):
    """A number and its unit."""

    value: Number
    unit: Text


class SignalForm(Form):
    """A wearable channel."""

    title: Text
    loinc: list[Loinc]
    unit: Text
    units: Units
    resolution: Positive
    reject: Pair
    flag: Pair | None = None
    keep_hours: Positive = 24.0
    device_sd: Positive | None = None
    still_minutes: Positive | None = None
    codes: Sourced
    bounds: Sourced
    noise: Sourced | None = None


class AnalyteForm(Form):
    """A laboratory test."""

    title: Text
    loinc: list[Loinc]
    unit: Text
    units: Units
    reject: Pair
    flag: Pair | None = None
    covariate: Slug | None = None
    reported: Text | None = None
    codes: Sourced
    bounds: Sourced


class GeneForm(Sourced):
    """A gene whose diplotype a `patient` record may tell: star alleles, or one of a few words."""

    meaning: Text
    words: list[Text] = []


class CovariateForm(Form):
    """Something a `patient` record may tell."""

    kind: Literal["number", "flag", "category"]
    meaning: Text
    unit: Text | None = None
    units: Units | None = None
    bounds: Pair | None = None
    categories: list[Text] = []


class SignalsFile(Form):
    """`config/signals.yaml`."""

    signals: dict[Slug, SignalForm]
    analytes: dict[Slug, AnalyteForm]
    covariates: dict[Slug, CovariateForm]
    genes: dict[Text, GeneForm]


class EpisodesForm(Form):
    """Probabilities between which an episode lives."""

    raise_probability: Probability
    clear_probability: Probability
    high_probability: Probability
    high_until_probability: Probability
    out_of_domain_cap: Literal["moderate", "high"]


class LatenessForm(Form):
    """How far from the watermark a record is still taken."""

    late_after_hours: Positive
    late_wearable_after_hours: Positive
    revise_days: Positive
    revise_wearable_hours: Positive
    future_tolerance_minutes: Positive
    settled_after_hours: Positive


class RiskFile(Form):
    """`config/risk.yaml`."""

    episodes: EpisodesForm
    time: LatenessForm
