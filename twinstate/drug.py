"""One published model of one drug, as its file in `config/drugs/` says it; canonical units throughout.

How a covariate changes a parameter is one of the effects below. The list is closed: a file holds numbers, never a
formula to execute. `population/covariates.py` computes with them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from twinstate.catalogue import Bounds, Covariate, Provenance


class Residual(NamedTuple):
    """Spread of a level around its prediction.

    Attributes:
        proportional: SD as a share of the prediction; of the natural logarithm where `logarithmic`.
        additive: SD in the level's unit: SD^2 = (proportional * prediction)^2 + additive^2.
        logarithmic: Whether the logarithm of the level is normal round that of the prediction.
    """

    proportional: float
    additive: float = 0.0
    logarithmic: bool = False


class Variation(NamedTuple):
    """How one structural parameter changes within a patient.

    Attributes:
        parameter: Its position in `course.STRUCTURAL_PARAMETERS`.
        occasion_sd: SD of its logarithm between occasions; 0 when it does not vary so.
        drift_sd: SD of its logarithm's random walk after one day: the values held possible, equally likely at
            first; empty when it does not drift.
    """

    parameter: int
    occasion_sd: float
    drift_sd: tuple[float, ...]


class Observed(NamedTuple):
    """A laboratory test that reads one of a model's outputs.

    Attributes:
        analyte: Slug.
        output: `concentration` or `second`.
        residual: Of the test round that output.
        reads_high: How much too high it reads: (reading, excess) in the test's unit, readings ascending; straight
            between, constant beyond. Empty for a test without bias.
    """

    analyte: str
    output: str
    residual: Residual
    reads_high: tuple[tuple[float, float], ...] = ()

    def corrected(self, reading: float) -> float:
        """The reading without what it is too high by."""
        if not self.reads_high:
            return reading
        at, by = zip(*self.reads_high, strict=True)
        return reading - float(np.interp(reading, at, by))


class TypicalPatient(NamedTuple):
    """A patient at a usual dose, to simulate and to draw.

    Attributes:
        covariates: Canonical units.
        genotype: Diplotype by gene.
        amount_mg: Of one dose.
        route: `iv` or `oral`.
        duration_h: Of one infusion; 0 is a bolus.
        every_h: Between doses.
        doses: How many.
        show_h: How long is simulated.
        reason: Why this dose.
    """

    covariates: Mapping[str, float | str | bool]
    genotype: Mapping[str, str]
    amount_mg: float
    route: str
    duration_h: float
    every_h: float
    doses: int
    show_h: float
    reason: str


@dataclass(frozen=True)
class Condition:
    """When a factor or another typical value applies: exactly one of the last three fields is set.

    Attributes:
        covariate: Flag, category or number.
        is_value: A flag's truth or a category's word.
        below: A number below this.
        at_least: A number at or above this.
    """

    covariate: str
    is_value: bool | str | None = None
    below: float | None = None
    at_least: float | None = None


@dataclass(frozen=True)
class Instead:
    """The typical value is `typical` when the condition holds."""

    condition: Condition
    typical: float


@dataclass(frozen=True)
class Factor:
    """Multiply by `factor` when the condition holds."""

    condition: Condition
    factor: float


@dataclass(frozen=True)
class Power:
    """Multiply by (x / reference) ^ power, x kept within `within`."""

    covariate: str
    reference: float
    power: float
    within: Bounds


@dataclass(frozen=True)
class Exponential:
    """Multiply by exp(slope * (x - reference)), x kept within `within`."""

    covariate: str
    reference: float
    slope: float
    within: Bounds


@dataclass(frozen=True)
class LinearCentred:
    """Multiply by 1 + slope * (x - reference), x kept within `within`."""

    covariate: str
    reference: float
    slope: float
    within: Bounds


@dataclass(frozen=True)
class LinearSum:
    """Add slope * (x - reference), x kept within `within`; slope in the parameter's unit per unit of x."""

    covariate: str
    slope: float
    within: Bounds
    reference: float = 0.0


@dataclass(frozen=True)
class Piecewise:
    """Multiply by the factor interpolated between (x, factor) points, constant beyond the ends."""

    covariate: str
    points: tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class Genotype:
    """Multiply by the factor of this gene's diplotype; by `not_told` where nobody told it, if the model has that."""

    gene: str
    factors: Mapping[str, float]
    not_told: float | None = None


@dataclass(frozen=True)
class AlleleSum:
    """The typical value is the sum of what the two alleles of this gene contribute."""

    gene: str
    alleles: Mapping[str, float]


Effect = Instead | Factor | Power | Exponential | LinearCentred | LinearSum | Piecewise | Genotype | AlleleSum


@dataclass(frozen=True)
class Parameter:
    """A structural parameter: typical value, then effects in the order they are applied."""

    name: str
    typical: float
    unit: str
    effects: tuple[Effect, ...]
    provenance: Provenance


@dataclass(frozen=True)
class CreatinineClearance:
    """How the paper computed creatinine clearance.

    Attributes:
        method: `cockcroft_gault` or `dettli`.
        cap: mL/min; above it the clearance is this. Infinite where the paper has none.
        creatinine_floor: mg/dL; a creatinine below it is taken as this. 0 where the paper has none.
        floor_above_age: a; the floor holds for older patients only.
    """

    method: str
    cap: float
    creatinine_floor: float
    floor_above_age: float


@dataclass(frozen=True)
class Range:
    """What the paper's population held of one covariate: a range, or words and flags."""

    covariate: str
    within: Bounds | None
    one_of: tuple[bool | str, ...]
    provenance: Provenance


@dataclass(frozen=True)
class Domain:
    """Whom the model was built on. Outside it the twin is `out_of_domain` and says why.

    Attributes:
        ranges: Covariates.
        doses_mg: Single doses that were studied, mg; empty where any dose is fine.
        dose_note: What is known of other doses.
    """

    ranges: tuple[Range, ...]
    doses_mg: tuple[float, ...]
    dose_note: str


# Metrics of a channel: the drug's effect on its signal, and the signal itself.
SIGNAL_METRICS = ("effect_rise", "signal_high", "signal_low")


@dataclass(frozen=True)
class Threshold:
    """A toxicity alarm: one row of the drug's file.

    Attributes:
        name: Unique within the drug.
        metric: `concentration` (peak ahead), `trough` (highest level just before a dose to come), `level_after`
            (highest level from `after_h` after a dose on, up to the next), `auc24` (highest 24 h ahead), `auc_total`
            (from the first dose to the horizon), `second` (highest second output ahead), `effect_rise` (largest change
            of the channel's signal by the drug), `signal_high` or `signal_low` (the signal itself, noise left out).
        limit: Crossed above this (`signal_low`: below it), in `unit`.
        unit: mg/L, mg*h/L, the second output's or the channel's unit.
        horizon_h: How far ahead is looked, h.
        harm: What is feared, for people.
        severity_label: The source's word for it: `warn` or `alarm`.
        status: How far the source was checked (see `Provenance`).
        source: Citation.
        version: Part of every episode's identity: raise it whenever the row changes.
        after_h: h after the start of a dose, of `level_after`.
        as_published: The limit in the source's unit.
    """

    name: str
    metric: str
    limit: float
    unit: str
    horizon_h: float
    harm: str
    severity_label: str
    status: str
    source: str
    version: str
    after_h: float = 0.0
    as_published: str = ""

    @property
    def of_the_signal(self) -> bool:
        """Whether it rests on the channel's signal, and so on the devices that read it."""
        return self.metric in SIGNAL_METRICS

    @property
    def crossed(self) -> str:
        """On which side of the limit harm lies: `above` or `below`."""
        return "below" if self.metric == "signal_low" else "above"


@dataclass(frozen=True)
class Target:
    """A range to aim at, for people; nothing is decided by it.

    Attributes:
        metric: As in `Threshold`.
        low: In `unit`; None where there is none.
        high: In `unit`; None where there is none.
        unit: Canonical.
        as_published: The range in the source's unit.
        when: For whom, or during what.
        status: How far the source was checked.
        source: Citation.
    """

    metric: str
    low: float | None
    high: float | None
    unit: str
    as_published: str
    when: str
    status: str
    source: str


@dataclass(frozen=True)
class Rhythm:
    """baseline * amplitude * cos(2 pi (t - acrophase_h) / period_h), t in hours since 1970 (UTC).

    Attributes:
        period_h: h; divides 24, so that the phase is the same every day.
        amplitude: Fraction of the baseline.
        acrophase_h: When it peaks, h after 00:00 UTC.
    """

    period_h: float
    amplitude: float
    acrophase_h: float


@dataclass(frozen=True)
class Channel:
    """How the drug moves one wearable signal: baseline, rhythms, and an Emax effect of a concentration x.

    expected = baseline * (1 + rhythms) +- effect * g(x),  g(x) = (x^hill / (ec50^hill + x^hill))^exponent

    x is the level or the second output (the effect site). The largest effect of a patient is emax (of his baseline,
    where `relative`) times the part of it that reaches the signal.

    Attributes:
        signal: Slug of the signal; values in its unit.
        unit: The signal's unit.
        baseline_typical: Mesor.
        baseline_cv: Between patients, log-normal, omega^2 = ln(1 + CV^2).
        rhythms: Cosines round the mesor.
        emax: Largest effect of the drug, in `unit`, or as a fraction of the baseline where `relative`.
        emax_cv: Between patients, log-normal, omega^2 = ln(1 + CV^2); 0 where it is not known apart from `part`.
        ec50_mg_L: Concentration at half occupancy, mg/L.
        residual_cv: Of one reading, as a fraction of what is expected.
        noise_time_constant_h: Time after which the residual's autocorrelation is 1/e, h.
        baseline_drift_per_sqrt_h: SD of the baseline's random walk after one hour, in `unit`.
        keep_h: How long windows count, h (the signal's).
        device_sd: By how much a device is wrong about the signal, in `unit` (the signal's); None where it is unknown.
        provenance: By field name.
        follows: What x is: `concentration` or `second`.
        hill: Of the occupancy.
        exponent: To which the occupancy is raised.
        falls: Whether the drug lowers the signal.
        relative: Whether `emax` is a fraction of the patient's baseline.
        part: Of the published effect, how much reaches this signal, where nobody has published it: anything between
            these two, equally likely.
        open_amplitude: Root mean square between people of a daily rhythm of unknown hour, as a fraction of the
            baseline; 0 without one.
        activity_cv: SD of what motion adds to the residual, as a fraction of the baseline.
        longest_activity_h: How long a bout of motion may lift the signal, h; 0 where motion is not modelled.
    """

    signal: str
    unit: str
    baseline_typical: float
    baseline_cv: float
    rhythms: tuple[Rhythm, ...]
    emax: float
    emax_cv: float
    ec50_mg_L: float
    residual_cv: float
    noise_time_constant_h: float
    baseline_drift_per_sqrt_h: float
    keep_h: float
    provenance: Mapping[str, Provenance]
    device_sd: float | None = None
    follows: str = "concentration"
    hill: float = 1.0
    exponent: float = 1.0
    falls: bool = False
    relative: bool = False
    part: tuple[float, float] = (1.0, 1.0)
    open_amplitude: float = 0.0
    activity_cv: float = 0.0
    longest_activity_h: float = 0.0


@dataclass(frozen=True, eq=False)
class DrugModel:
    """One file of `config/drugs/`.

    Attributes:
        drug: Name on the wire.
        model: The file's stem.
        digest: SHA-256 (hex) of the file's bytes.
        default: Whether this is the model the drug uses.
        source: Citation of the model.
        transcription: Where its numbers were read.
        population: Who was studied.
        notes: What a user must know, one sentence each.
        analyte: The laboratory test this model is corrected by.
        observes: Which output that test reads: `concentration` or `second`.
        also_observed: Further tests of either output.
        routes: `iv`, `oral`, or both.
        compartments: 1, 2 or 3.
        oral_kind: `first_order` (depot), `zero_order`, `parallel` (both at once), `transit` (chain without a depot),
            `at_once` or `none`.
        elimination: `linear`, `saturable` or `mixed`.
        transits: Transit compartments of an oral dose.
        second: What the second output is (`metabolite`, `effect_site`, `coagulation_product`, `coagulation_mean`,
            `myelosuppression`); empty where there is none.
        second_unit: Its unit.
        chains: Compartments of the response's first and second chain; 0 without one.
        parameters: By name, those of `STRUCTURAL_PARAMETERS` the model has; `elimination_rate` may stand in for
            `central_volume` (which then is clearance / elimination_rate and shares clearance's variability).
        etas: Names of the parameters that vary between patients, in the order of `omega`.
        omega: Between-subject covariance of the log-parameters, shape (eta, eta).
        eta_index: Which eta moves each structural parameter, shape (parameters,), int64; -1 where none does.
        residual: Of `analyte`; all nought where it is unknown, and then `unknown` says so.
        variation: What changes within a patient, from occasion to occasion or as a random walk; None for nothing.
        unknown: What must be known before a level may correct this model, one sentence each; empty for most.
        creatinine_clearance: The paper's rule, None when the model does not ask for it.
        defaults: Covariates the file declares for patients of whom nothing was told; empty for most.
        covariates: Catalogue rows of everything the model may read.
        domain: Whom it was built on.
        targets: Ranges to aim at.
        thresholds: Toxicity alarms.
        channel: Effect on a wearable signal, or None.
        keep_h: How long a dose or a level counts, h.
        stale_after_h: Without a dose or level for this long the twin is stale, h.
        typical_patient: Someone at a usual dose.
        checks: The figures the file was checked against on load, one sentence a case.
        provenance: Of every number, by its key in the file.
    """

    drug: str
    model: str
    digest: str
    default: bool
    source: str
    transcription: str
    population: str
    notes: tuple[str, ...]
    analyte: str
    observes: str
    also_observed: tuple[Observed, ...]
    routes: tuple[str, ...]
    compartments: int
    oral_kind: str
    elimination: str
    transits: int
    second: str
    second_unit: str
    chains: tuple[int, int]
    parameters: Mapping[str, Parameter]
    etas: tuple[str, ...]
    omega: NDArray[np.float64]
    eta_index: NDArray[np.int64]
    residual: Residual
    variation: Variation | None
    unknown: tuple[str, ...]
    creatinine_clearance: CreatinineClearance | None
    defaults: Mapping[str, float | str | bool]
    covariates: Mapping[str, Covariate]
    domain: Domain
    targets: tuple[Target, ...]
    thresholds: tuple[Threshold, ...]
    channel: Channel | None
    keep_h: float
    stale_after_h: float
    typical_patient: TypicalPatient
    checks: tuple[str, ...]
    provenance: Mapping[str, Provenance]

    @property
    def estimates(self) -> bool:
        """Whether a level may correct it; otherwise it is simulated as published, and says what is unknown."""
        return not self.unknown

    @property
    def tests(self) -> Mapping[str, Observed]:
        """Every laboratory test that corrects it, by analyte; the one of the file first."""
        first = Observed(self.analyte, self.observes, self.residual)
        return {row.analyte: row for row in (first, *self.also_observed)}

    @property
    def level_unit(self) -> str:
        """What a level of `analyte` is kept, forecast and shown in: mg/L, or the unit of the second output."""
        return self.unit_of(self.observes)

    def unit_of(self, output: str) -> str:
        """What a level of this output, `concentration` or `second`, is kept in."""
        return self.second_unit if output == "second" else "mg/L"
