"""The form of a file of `config/drugs/`: which keys there are, and of what kind. Meaning comes after."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from twinstate.reading.forms import (
    Form,
    NotNegative,
    Number,
    Pair,
    Positive,
    Quantity,
    Slug,
    Sourced,
    Status,
    Text,
)


class EffectForm(Form):
    """One line of `scales_with`; which of the effect keys is there says what kind it is."""

    covariate: Slug | None = None
    gene: Text | None = None
    unit: Text | None = None
    reference: Number | None = None
    floor: Number | None = None
    cap: Number | None = None
    status: Status | None = None  # where it is not the parameter's, as for a gene's effect from another study
    source: Text | None = None
    not_told: Positive | None = None  # factor of a patient whose genotype nobody told
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
    allele_sum: Annotated[dict[str, Positive], Field(min_length=1)] | None = None


class ParameterForm(Sourced):
    """A structural parameter; at most one of the three `between_subject_*`, and of the three `between_occasion_*`."""

    typical: NotNegative
    unit: Text
    scales_with: list[EffectForm] = []
    between_subject_cv: Positive | None = None
    between_subject_sd: Positive | None = None
    between_subject_variance: Positive | None = None
    variability_status: Status | None = None  # where it is not that of the typical value
    variability_source: Text | None = None
    between_occasion_cv: Positive | None = None
    between_occasion_sd: Positive | None = None
    between_occasion_variance: Positive | None = None


class ParametersForm(Form):
    """Those the structure has; `elimination_rate` may stand in for `central_volume`."""

    clearance: ParameterForm | None = None
    central_volume: ParameterForm | None = None
    elimination_rate: ParameterForm | None = None
    intercompartmental_clearance: ParameterForm | None = None
    peripheral_volume: ParameterForm | None = None
    absorption_rate: ParameterForm | None = None
    lag: ParameterForm | None = None
    bioavailability: ParameterForm | None = None
    input_duration: ParameterForm | None = None
    second_intercompartmental_clearance: ParameterForm | None = None
    second_peripheral_volume: ParameterForm | None = None
    maximum_elimination_rate: ParameterForm | None = None
    michaelis_constant: ParameterForm | None = None
    first_order_fraction: ParameterForm | None = None
    transit_rate: ParameterForm | None = None
    metabolite_fraction: ParameterForm | None = None
    metabolite_clearance: ParameterForm | None = None
    metabolite_volume: ParameterForm | None = None
    effect_rate: ParameterForm | None = None
    response_baseline: ParameterForm | None = None
    half_effect_concentration: ParameterForm | None = None
    hill: ParameterForm | None = None
    response_time: ParameterForm | None = None
    second_response_time: ParameterForm | None = None
    response_scale: ParameterForm | None = None
    response_exponent: ParameterForm | None = None
    response_slope: ParameterForm | None = None
    response_feedback: ParameterForm | None = None


class SecondForm(Form):
    """What the second output is, and how many compartments its chains have."""

    kind: Literal["metabolite", "effect_site", "coagulation_product", "coagulation_mean", "myelosuppression"]
    first_chain: Annotated[int, Field(ge=1, le=12)] | None = None
    second_chain: Annotated[int, Field(ge=1, le=12)] | None = None


class VariabilityForm(Form):
    """Said when the paper's variability between patients was not found."""

    unknown: Literal[True]
    reason: Text


class DriftForm(Sourced):
    """A parameter that walks at random: the SDs of its logarithm after one day that are held possible."""

    parameter: Slug
    sd_per_sqrt_day: Annotated[list[NotNegative], Field(min_length=1, max_length=6)]
    reason: Text


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


class LeanBodyMassForm(Sourced):
    """How the paper computed lean body mass; `reason` is demanded of an assumed equation."""

    method: Literal["james"]
    reason: str = ""


class DerivedForm(Form):
    """Rules of derived covariates that differ from paper to paper."""

    creatinine_clearance: CreatinineClearanceForm | None = None
    lean_body_mass: LeanBodyMassForm | None = None


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


class ResidualForm(Form):
    """SD^2 = (proportional * level)^2 + additive^2; or the SD of the level's logarithm; or unknown, and why."""

    proportional: NotNegative = 0.0
    additive: NotNegative = 0.0
    log_normal: NotNegative = 0.0
    unit: Text | None = None
    unknown: Literal[True] | None = None
    reason: Text | None = None
    status: Status | None = None
    source: Text | None = None


class BiasForm(Sourced):
    """[reading, by how much it is too high], readings ascending; straight between, constant beyond."""

    points: Annotated[list[Pair], Field(min_length=1)]
    unit: Text
    reason: str = ""


class AlsoObservedForm(Form):
    """A further laboratory test, of either output; `reads_high` says how far its readings lie above the first one's."""

    analyte: Slug
    observes: Literal["concentration", "second"]
    residual: ResidualForm
    reads_high: BiasForm | None = None


class TargetForm(Form):
    """A range to aim at, for people; nothing is decided by it."""

    metric: Literal["concentration", "trough", "level_after", "auc24", "auc_total", "second"]
    low: NotNegative | None = None
    high: Positive | None = None
    unit: Text
    when: str = ""
    status: Status
    source: Text


class ThresholdForm(Form):
    """A toxicity alarm; here the source is never the file's."""

    metric: Literal[
        "concentration",
        "trough",
        "level_after",
        "auc24",
        "auc_total",
        "second",
        "effect_rise",
        "signal_high",
        "signal_low",
    ]
    toxicity_alarm: Positive
    unit: Text
    after_hours: Annotated[float, Field(gt=0, le=168)] | None = None
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


class OpenRhythmForm(Sourced):
    """A daily rhythm that was not published with the effect: root mean square amplitude, a fraction of the baseline."""

    amplitude: Positive
    reason: Text


class ActivityForm(Sourced):
    """What motion does to the signal: noise, as a fraction of the baseline, and how long a bout may last."""

    noise_cv: Positive
    longest_hours: Positive
    reason: Text


class PartForm(Sourced):
    """How much of the published effect reaches the signal, where nobody has published it: anything between these."""

    low: Annotated[float, Field(ge=0, le=1)]
    high: Annotated[float, Field(gt=0, le=1)]
    reason: Text


class ChannelForm(Form):
    """Emax effect of the level, or of the concentration at the effect site, on a wearable signal."""

    signal: Slug
    follows: Literal["concentration", "second"] = "concentration"
    direction: Literal["rises", "falls"] = "rises"
    baseline: ChannelNumber
    baseline_between_subject_cv: ChannelNumber
    rhythms: list[RhythmForm] = []
    clock_zero: ClockForm | None = None
    open_rhythm: OpenRhythmForm | None = None
    activity: ActivityForm | None = None
    emax: ChannelNumber
    emax_between_subject_cv: ChannelNumber | None = None
    part_of_effect: PartForm | None = None
    ec50: ChannelNumber
    hill: ChannelNumber | None = None
    exponent: ChannelNumber | None = None
    residual_cv: ChannelNumber
    noise_time_constant: ChannelNumber
    baseline_drift_per_sqrt_hour: ChannelNumber


class HoursForm(Sourced):
    """A span of time, and why it is this long."""

    value: Positive
    reason: Text


class RegimenForm(Form):
    """One dose again and again, for the figures that depend on it."""

    amount: Positive
    unit: Text
    every_hours: Positive
    infusion_rate: bool = False  # without end, at amount per every_hours


class TypicalPatientForm(Sourced):
    """A patient at a usual dose, to simulate and to draw. Covariates in canonical units."""

    given: dict[Slug, Number | bool | str]
    genotype: dict[str, str] = {}
    amount: Positive
    unit: Text
    route: Literal["iv", "oral"]
    duration_hours: NotNegative = 0.0
    every_hours: Positive
    count: Annotated[int, Field(ge=1, le=400)]
    show_hours: Positive
    reason: Text


class CheckForm(Form):
    """What the model must give for a patient, recomputed on every load. Values in canonical units."""

    given: dict[Slug, Number | bool | str]
    genotype: dict[str, str] = {}
    regimen: RegimenForm | None = None
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
    observes: Literal["concentration", "second"] = "concentration"
    routes: Annotated[list[Literal["iv", "oral"]], Field(min_length=1)]
    compartments: Literal[1, 2, 3]
    oral: Literal["first_order", "zero_order", "parallel", "at_once", "transit", "none"]
    elimination: Literal["linear", "saturable", "mixed"] = "linear"
    transits: Annotated[int, Field(ge=0, le=20)] = 0
    second: SecondForm | None = None
    parameters: ParametersForm
    variability: VariabilityForm | None = None
    correlations: list[CorrelationForm] = []
    derived: DerivedForm = DerivedForm()
    defaults: dict[Slug, DefaultForm] = {}
    domain: DomainForm
    residual: ResidualForm
    also_observed: list[AlsoObservedForm] = []
    drift: DriftForm | None = None
    keep_hours: HoursForm
    stale_after_hours: HoursForm
    targets: list[TargetForm] = []
    thresholds: dict[Slug, ThresholdForm] = {}
    channel: ChannelForm | None = None
    typical_patient: TypicalPatientForm
    checks: Annotated[list[CheckForm], Field(min_length=1)]
