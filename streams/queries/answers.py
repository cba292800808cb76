"""What operators are told: the same answers over HTTP, with `--json` and in the tables of the command line.

Every answer names what it is (`live`, `settled` or `forecast`), the moment it is about, and where its numbers come
from. Times are RFC 3339 in UTC; a number's unit is in its key or in the field `unit` beside it.
"""

from __future__ import annotations

import datetime as dt
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

Mode = Literal["live", "settled"]
State = Literal["pending", "live", "stale", "out_of_domain", "quarantined", "discharged"]
STATES: tuple[State, ...] = ("pending", "live", "stale", "out_of_domain", "quarantined", "discharged")


class Answer(BaseModel):
    """Frozen, and strict about its own fields."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Interval(Answer):
    """Posterior median and 90 % interval (5 % and 95 % quantiles)."""

    median: float
    low: float
    high: float
    unit: str = Field(examples=["mg/L"])
    monte_carlo_error: float | None = Field(
        default=None,
        description="Standard error of the middle by the number of points it was read from: the normal SD that the "
        "interval implies, divided by the root of effective_points; an upper bound, since the points are "
        "quasi-random. Null where the interval was not read from points",
    )


class Parameter(Answer):
    """One structural parameter of this patient, and the population's typical value for the same covariates."""

    name: str = Field(examples=["clearance"])
    estimate: Interval
    typical: float
    shrinkage: float | None = Field(default=None, description="Of the eta that moves it")


class RandomEffect(Answer):
    """How far one log-parameter of this patient lies from what is typical for the same covariates."""

    name: str = Field(examples=["clearance"], description="The parameter it moves")
    mean: float = Field(description="Posterior mean of eta")
    sd: float = Field(description="Posterior standard deviation of eta")
    omega: float = Field(description="Its standard deviation between patients")
    shrinkage: float = Field(
        description="Posterior variance over the variance between patients (NONMEM 7's empirical Bayes variance "
        "shrinkage, of one patient): 1 where the levels told nothing, 0 where they told all"
    )
    monte_carlo_error: float = Field(description="Standard error of the mean: sd / sqrt(effective_points)")


class RiskOfDrug(Answer):
    """Probability that one toxicity alarm is crossed within its horizon, at the moment of the answer."""

    threshold: str
    metric: str
    limit: float
    unit: str
    horizon_h: float
    probability: float
    probability_error: float = Field(description="Monte-Carlo standard error of the probability")
    expected: Interval = Field(description="Distribution of the metric over the horizon")
    threshold_version: str
    threshold_status: str = Field(description="V verified in its source, R recalled, C computed, A assumed")
    threshold_source: str
    distrusted: tuple[str, ...] = Field(
        default=(),
        description="Devices of the signal it rests on that lost trust, each `name:why` (`channel.distrusted`); empty "
        "for alarms on exposure",
    )


class LevelForecast(Answer):
    """A measured level beside what was forecast the instant before it was drawn, and what the population expects."""

    analyte: str = Field(examples=["vancomycin"])
    id: str
    source: str
    time: dt.datetime
    observed: float = Field(
        description="Without what its test is known to read too high, as a home meter of INR"
    )
    below_limit: bool = Field(description="Censored: the level lies below `observed`")
    levels_before: int
    forecast: Interval
    population: Interval
    doubt: float | None = Field(
        description="Probability that the level is wrong altogether (from the line, of another time or patient, a slip "
        "of a digit), where it is 0.2 or more: repeat it. Null below"
    )


class Channel(Answer):
    """The wearable signal that the drug's model explains."""

    signal: str = Field(examples=["qtc"])
    baseline: Interval
    largest_effect: Interval = Field(description="Of the drug at any level, whichever way it goes")
    rise_ahead: Interval = Field(
        description="Largest change by the drug within ahead_h; a fall where the drug lowers the signal"
    )
    windows: dict[str, int] = Field(description="5-minute windows by verdict")
    last_window: dt.datetime | None
    distrusted: tuple[str, ...] = Field(
        description="Devices that may no longer move the effect, each name:jump (far from every forecast for half an "
        "hour, longer than motion lasts, or a third time low where the drug lowers the signal), name:drift (small "
        "misses all of one sign), name:apart (two devices drifted away from one another) or name:twice (it counts "
        "every beat or breath twice)"
    )


class Estimate(Answer):
    """One drug of the patient at the moment of the answer."""

    drug: str
    model: str
    model_digest: str
    state: State
    reasons: tuple[str, ...]
    levels: int
    last_input: dt.datetime | None = Field(description="Event time of the last dose or level that counts")
    stale_after_h: float
    fit: str = Field(description="How the fit ended")
    effective_points: float = Field(description="Effective sample size of the refined posterior")
    etas: tuple[RandomEffect, ...] = ()
    parameters: tuple[Parameter, ...]
    concentration: Interval | None
    auc24: Interval | None = Field(description="Over the last 24 h")
    ahead_h: float
    peak_ahead: Interval | None = Field(description="Highest concentration within ahead_h")
    auc24_ahead: Interval | None = Field(description="Highest 24 h exposure within ahead_h")
    assumes: str = Field(description="What the values ahead take for granted of doses to come")
    channel: Channel | None = Field(description="None for a model that explains no signal")
    risks: tuple[RiskOfDrug, ...]
    level_forecasts: tuple[LevelForecast, ...]
    flags: tuple[str, ...]


class StandingBrief(Answer):
    """An episode of risk that stands at the moment of the answer."""

    episode: str
    drug: str
    threshold: str
    severity: str
    crossing: dt.datetime


class Position(Answer):
    """Where in the input topic an answer is true: every record of `partition` before `next_offset` is in it."""

    partition: int
    next_offset: int
    rolled_back: bool = Field(
        default=False,
        description="an answer before this one was of a later place: the store lost its newest writes, and they are "
        "being made again from the log",
    )


class DeviceClock(Answer):
    """A device whose clock is in doubt, by when the broker appended its frames."""

    device: str
    doubt: Literal["ahead", "behind"] = Field(
        description="ahead of the broker's clock; or behind it, or sending everything so late"
    )
    seconds: float = Field(
        description="At least so much (ahead); at most so much of it is the clock's (behind)"
    )
    frames: int = Field(description="Frames this rests on, of the last 6 to 12 h")


class TwinAnswer(Answer):
    """One patient's twin."""

    patient: str
    state: State
    reasons: tuple[str, ...]
    mode: Mode = Field(description="live: may still be revised; settled: at or before settled_until")
    as_of: dt.datetime
    watermark: dt.datetime = Field(description="Largest event time accepted for this patient")
    settled_until: dt.datetime
    age_h: float = Field(description="Hours from the watermark to the wall clock of this answer")
    recomputed: bool = Field(
        description="Computed now from the stored records, for an as_of before the watermark"
    )
    estimates: tuple[Estimate, ...]
    standing: tuple[StandingBrief, ...]
    quality: tuple[str, ...]
    clocks: tuple[DeviceClock, ...] = Field(
        (),
        description="Devices whose clock is in doubt; by append time, so apart from the twin and its as_of",
    )
    records: dict[str, int] = Field(description="Records the twin rests on, by kind; cancelled ones apart")
    settled_revised: int = Field(description="How often a late or corrected record changed the settled past")
    version: int = Field(description="How often the stored twin was written")
    position: Position
    fingerprint: str = Field(description="Code and library that made the stored twin")


class CurvePoint(Answer):
    """What a level measures at one time, in the answer's `unit`: median and 90 % band, without residual error."""

    time: dt.datetime
    mode: Literal["live", "settled", "forecast"]
    median: float
    low: float
    high: float


class DoseMark(Answer):
    """A dose given up to the moment of the answer, or planned after it."""

    time: dt.datetime
    amount_mg: float
    route: str
    duration_h: float
    status: Literal["given", "planned"]


class LevelMark(Answer):
    """A level that was measured, in the answer's `unit`."""

    time: dt.datetime
    value: float
    below_limit: bool


class ForecastAnswer(Answer):
    """What the levels of one drug measure, over time: what was estimated up to `as_of`, what is forecast after it."""

    patient: str
    drug: str
    model: str
    state: State
    reasons: tuple[str, ...]
    mode: Mode = Field(description="Of the estimate the forecast starts from")
    as_of: dt.datetime
    watermark: dt.datetime
    horizon_h: float
    measures: Literal["concentration", "second"] = Field(
        description="What the curve shows: the level, or the model's second output, such as an INR"
    )
    unit: str = Field(
        description="Of the curve and the levels, as the laboratory reports them: mg/L, ng/mL, {INR}"
    )
    band: str = "5 % to 95 % of what a level measures; a measured level spreads more, by the residual error"
    assumes: str
    levels_used: int
    points: tuple[CurvePoint, ...]
    doses: tuple[DoseMark, ...]
    levels: tuple[LevelMark, ...]
    risks: tuple[RiskOfDrug, ...]
    version: int
    position: Position


class ExportColumn(Answer):
    """One column of an export."""

    name: str
    unit: str
    meaning: str


class ExportAnswer(Answer):
    """One drug of a twin as rows in the manner of NONMEM; docs/export.md describes them."""

    patient: str
    drug: str
    model: str
    model_digest: str
    fingerprint: str
    mode: Mode
    as_of: dt.datetime
    columns: tuple[ExportColumn, ...]
    rows: tuple[tuple[float | str | None, ...], ...] = Field(
        description="Cells in the order of `columns`; null where there is nothing to tell"
    )
    position: Position


class TwinRow(Answer):
    """A twin in a list."""

    patient: str
    state: State
    watermark: dt.datetime
    drugs: tuple[str, ...]
    last_input: dt.datetime | None
    levels: int
    standing: int
    highest_probability: float | None = Field(
        description="Of any threshold; null when no risk can be assessed"
    )
    doubted_clocks: tuple[str, ...] = Field(
        (), description="`ahead` or `behind` for each of the patient's devices whose clock is in doubt"
    )


class TwinList(Answer):
    """A page of twins; `next` is the cursor of the following page."""

    twins: tuple[TwinRow, ...]
    matching: int
    next: str | None
    positions: tuple[Position, ...]


class RiskPartition(Answer):
    """Standing episodes of one partition, all from one moment.

    Attributes:
        partition: Of the input topic and of the risk topic.
        next_offset: Of the input topic: the episodes are true for every record before it.
        risk_topic_offset: Where a newcomer starts to read the risk topic; it ignores revisions that are not higher
            than the ones below.
        episodes: As the risk events describe them, each with `revision`, the last one emitted.
        rolled_back: As in `Position`.
    """

    partition: int
    next_offset: int
    risk_topic_offset: int
    episodes: tuple[dict[str, Any], ...]
    rolled_back: bool = False


class RisksAnswer(Answer):
    """Every standing episode, and per partition the position it is true for."""

    standing: int
    partitions: tuple[RiskPartition, ...]


class Trail(Answer):
    """What became of one revision of a record when it arrived."""

    partition: int
    offset: int
    patient: str | None
    kind: str | None
    source: str | None
    id: str | None
    revision: int | None
    outcome: str
    reason: str


class Holding(Answer):
    """A record as the twin holds it now."""

    patient: str
    kind: str
    source: str
    id: str
    revision: int
    cancelled: bool
    event_time: dt.datetime
    twin_version: int


class TraceAnswer(Answer):
    """Where a record went: arrivals still in the bounded trace, and what the twins hold of it."""

    id: str
    arrivals: tuple[Trail, ...]
    held: tuple[Holding, ...]
    note: str


class Counts(Answer):
    """Counters and gauges of the whole group, for /metrics and `twin doctor`."""

    records: dict[str, int]
    events: dict[str, int]
    dead_letters: dict[str, int]
    twins: dict[str, int]
    standing: dict[str, int]
    doubted_clocks: dict[str, int] = {}
    positions: dict[int, int]
    waiting: dict[int, dict[str, int]]
    seen_s: dict[int, float]
    fingerprints: tuple[str, ...]
