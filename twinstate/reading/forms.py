"""The form of the files under `config/`: which keys there are, and of what kind. Meaning comes after.

Every number stands beside its unit and its status (V read in the named source, R recalled, C computed from V values,
A assumed here with a reason). Unknown keys are refused.
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


class EffectForm(Form):
    """One line of `scales_with`; which of the effect keys is there says what kind it is."""

    covariate: Slug | None = None
    gene: Text | None = None
    unit: Text | None = None
    reference: Number | None = None
    floor: Number | None = None
    cap: Number | None = None
    # Conditions of `factor` and `typical`.
    when: bool | str | None = None
    below: Number | None = None
    at_least: Number | None = None
    # Exactly one of these.
    factor: Positive | None = None
    typical: Positive | None = None
    power: Number | None = None
    exponential: Number | None = None
    linear_centred: Number | None = None
    linear_sum: Number | None = None
    piecewise: Annotated[list[Pair], Field(min_length=2)] | None = None
    diplotypes: Annotated[dict[str, Positive], Field(min_length=1)] | None = None


class ParameterForm(Sourced):
    """A structural parameter; at most one of the three `between_subject_*`."""

    typical: NotNegative
    unit: Text
    scales_with: list[EffectForm] = []
    between_subject_cv: Positive | None = None
    between_subject_sd: Positive | None = None
    between_subject_variance: Positive | None = None


class ParametersForm(Form):
    """Those the structure has; `elimination_rate` may stand in for `central_volume`."""

    clearance: ParameterForm
    central_volume: ParameterForm | None = None
    elimination_rate: ParameterForm | None = None
    intercompartmental_clearance: ParameterForm | None = None
    peripheral_volume: ParameterForm | None = None
    absorption_rate: ParameterForm | None = None
    lag: ParameterForm | None = None
    bioavailability: ParameterForm | None = None
    input_duration: ParameterForm | None = None


class CorrelationForm(Sourced):
    """Of two parameters' variability."""

    between: Annotated[list[Slug], Field(min_length=2, max_length=2)]
    value: Annotated[float, Field(gt=-1, lt=1)]


class CreatinineFloorForm(Form):
    """A creatinine below `value` is taken as `value`, in patients older than `above_age` years."""

    value: Positive
    unit: Text
    above_age: NotNegative = 0.0


class CreatinineClearanceForm(Sourced):
    """How the paper computed creatinine clearance."""

    method: Literal["cockcroft_gault", "dettli"]
    cap: Quantity | None = None
    creatinine_floor: CreatinineFloorForm | None = None


class DerivedForm(Form):
    """Rules of derived covariates that differ from paper to paper."""

    creatinine_clearance: CreatinineClearanceForm | None = None


class DefaultForm(Sourced):
    """What is assumed of a patient of whom nothing was told, and why."""

    value: Number | bool | str
    unit: Text | None = None
    reason: Text


class RangeForm(Sourced):
    """Whom the paper studied: a range with its unit, or words and flags."""

    low: Number | None = None
    high: Number | None = None
    unit: Text | None = None
    one_of: list[bool | str] = []


class DosesForm(Sourced):
    """Single doses that were studied."""

    one_of: Annotated[list[Positive], Field(min_length=1)]
    unit: Text
    note: str = ""


class DomainForm(Form):
    """Whom the model was built on."""

    covariates: dict[Slug, RangeForm] = {}
    doses: DosesForm | None = None


class ResidualForm(Sourced):
    """SD^2 = (proportional * level)^2 + additive^2."""

    proportional: NotNegative = 0.0
    additive: NotNegative = 0.0
    unit: Text | None = None


class DriftForm(Sourced):
    """A parameter that walks at random: the SDs of its logarithm after one day that are held possible."""

    parameter: Slug
    sd_per_sqrt_day: Annotated[list[NotNegative], Field(min_length=1, max_length=6)]
    reason: Text


class BetweenOccasionForm(Sourced):
    """A parameter that differs between occasions: coefficient of variation, log-normal."""

    parameter: Slug
    cv: Positive


class ThresholdForm(Form):
    """A toxicity alarm; here the source is never the file's."""

    metric: Literal["concentration", "auc24", "effect_rise"]
    toxicity_alarm: Positive
    unit: Text
    horizon_hours: Annotated[float, Field(gt=0, le=168)] = 24.0
    harm: Text
    severity_label: Literal["warn", "alarm"]
    status: Status
    source: Text
    version: Annotated[str, Field(pattern=r"^[0-9]+$")]


class ChannelNumber(Sourced):
    """A number of the channel; `reason` is demanded of an assumed one."""

    value: Positive
    unit: Text | None = None
    reason: str = ""


class RhythmForm(Sourced):
    """A cosine: period and acrophase in h after the channel's `clock_zero`, amplitude as a fraction of the baseline."""

    period_hours: Positive
    amplitude: Positive
    acrophase_hours: Number


class ClockForm(Sourced):
    """Where the paper's time of day begins, as an hour of UTC."""

    utc_hour: Annotated[float, Field(ge=0, lt=24)]
    reason: Text


class ChannelForm(Form):
    """Direct Emax effect of the level on a wearable signal."""

    signal: Slug
    baseline: ChannelNumber
    baseline_between_subject_cv: ChannelNumber
    rhythms: list[RhythmForm] = []
    clock_zero: ClockForm
    emax: ChannelNumber
    emax_between_subject_cv: ChannelNumber
    ec50: ChannelNumber
    residual_cv: ChannelNumber
    noise_time_constant: ChannelNumber
    baseline_drift_per_sqrt_hour: ChannelNumber


class HoursForm(Sourced):
    """A span of time, and why it is this long."""

    value: Positive
    reason: Text


class CheckForm(Form):
    """What the model must give for a patient, recomputed on every load. Values in canonical units."""

    given: dict[Slug, Number | bool | str]
    genotype: dict[str, str] = {}
    expect: Annotated[dict[Slug, Positive], Field(min_length=1)]
    tolerance: Annotated[float, Field(gt=0, le=0.05)] = 0.01


class DrugForm(Form):
    """A file of `config/drugs/`."""

    drug: Slug
    default: bool
    source: Text
    transcription: Text
    population: Text
    notes: list[Text] = []
    analyte: Slug
    routes: Annotated[list[Literal["iv", "oral"]], Field(min_length=1)]
    compartments: Literal[1, 2]
    oral: Literal["first_order", "zero_order", "none"]
    parameters: ParametersForm
    correlations: list[CorrelationForm] = []
    derived: DerivedForm = DerivedForm()
    defaults: dict[Slug, DefaultForm] = {}
    domain: DomainForm
    residual: ResidualForm
    drift: DriftForm | None = None
    between_occasion: BetweenOccasionForm | None = None
    keep_hours: HoursForm
    stale_after_hours: HoursForm
    thresholds: dict[Slug, ThresholdForm] = {}
    channel: ChannelForm | None = None
    checks: Annotated[list[CheckForm], Field(min_length=1)]


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
    codes: Sourced
    bounds: Sourced


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
