"""What a twin says of one drug at its watermark: parameters, exposure, risk, and how its forecasts have fared."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np

from twinstate.assimilation.channel_forecast import rise_quantiles
from twinstate.assimilation.channel_model import BASELINE, EFFECT, channel_model
from twinstate.assimilation.posterior import carry_forward
from twinstate.assimilation.summary import predictive_quantiles
from twinstate.assimilation.windows import WINDOW_NS
from twinstate.drug import DrugModel
from twinstate.errors import CovariateError, MathsError
from twinstate.history import Entry, Lab
from twinstate.library import Library
from twinstate.outlook import (
    LOOK_BACK_H,
    STEP_H,
    Heard,
    Memo,
    Outlook,
    fit_levels,
    levels_disagree,
    look_ahead,
)
from twinstate.pk.course import STRUCTURAL_UNITS
from twinstate.pk.propagate import solve_points
from twinstate.risk.assess import (
    QUANTILES,
    Interval,
    Risk,
    assess,
    highest_auc24,
    interval,
    peak_concentration,
    peak_driving,
)
from twinstate.therapy import Therapy, content_key, therapy_at
from twinstate.types import hours

# A level with this probability of being wrong altogether is named, so that somebody repeats it.
DOUBTFUL = 0.2
NORMAL_95 = 1.6448536269514722  # standard normal quantile at 0.95


class ParameterEstimate(msgspec.Struct, frozen=True, array_like=True):
    """One structural parameter of this patient beside the population's typical value for the same covariates."""

    name: str
    unit: str
    estimate: Interval
    typical: float


class LevelCheck(msgspec.Struct, frozen=True, array_like=True):
    """A level beside its forecast as of the instant before it was drawn (levels strictly before it).

    `forecast` is what a new level was expected to read (residual error included); `population` the same without any
    level of this patient. `observed` is without what its test is known to read too high. In the test's unit.
    """

    source: str
    id: str
    event_time: int
    observed: float
    censored: bool
    levels_before: int
    forecast: Interval
    population: Interval
    analyte: str = ""


class LevelDoubt(msgspec.Struct, frozen=True, array_like=True):
    """A level that neither the model nor the patient's other levels explain well.

    Attributes:
        source: Of the lab record.
        id: Of the lab record.
        probability: That the level is wrong altogether (from the line, of another time or patient, a slip of a digit).
    """

    source: str
    id: str
    probability: float


class ChannelEstimate(msgspec.Struct, frozen=True, array_like=True):
    """The wearable signal that the drug's model explains, at the watermark; values in `unit`.

    Attributes:
        signal: Slug.
        unit: Of all values below.
        baseline: Mesor.
        effect: Largest effect of the drug, whichever way it goes.
        rise_ahead: Largest change by the drug within the forecast's horizon.
        windows: Windows by verdict: taken, softened, rejected, unusable.
        last_window: End of the last window that counts, UTC ns; 0 without one.
        distrusted: Devices that may no longer move the effect, each `name:why`; why is one of `LOST_BY`.
    """

    signal: str
    unit: str
    baseline: Interval
    effect: Interval
    rise_ahead: Interval
    windows: tuple[int, int, int, int]
    last_window: int
    distrusted: tuple[str, ...] = ()


class DrugEstimate(msgspec.Struct, frozen=True, array_like=True):
    """One drug of one patient at the watermark.

    Attributes:
        drug: Drug.
        model: Model's name.
        model_digest: SHA-256 of the model's file.
        state: `live`, `out_of_domain` or `pending`.
        reason: Sentences behind a state that is not `live`.
        as_of: UTC ns.
        levels: Levels assimilated.
        last_input: Event time of the last dose or level, UTC ns; 0 without one.
        status: How the fit ended.
        effective_size: Of the refined posterior's points.
        eta_names: Random effects of the patient, order of the two fields below.
        eta_mean: Posterior mean of eta.
        eta_covariance: Posterior covariance of eta, row by row.
        parameters: Structural parameters.
        concentration: Now, mg/L.
        auc24: Over the last 24 h, mg*h/L.
        ahead_h: Horizon of the two forecasts below, h.
        peak_ahead: Highest concentration ahead, mg/L.
        auc24_ahead: Highest AUC24 ahead, mg*h/L.
        assumes: What the forecast assumed of doses to come.
        risks: Every threshold that could be assessed.
        checks: Every level that counts, with its forecast.
        flags: Data-quality flags.
        channel: The signal the model explains; None when it explains none.
        doubts: Levels that may be wrong altogether, the first drawn first: repeat them.
    """

    drug: str
    model: str
    model_digest: str
    state: str
    reason: tuple[str, ...]
    as_of: int
    levels: int = 0
    last_input: int = 0
    status: str = ""
    effective_size: float = 0.0
    eta_names: tuple[str, ...] = ()
    eta_mean: tuple[float, ...] = ()
    eta_covariance: tuple[tuple[float, ...], ...] = ()
    parameters: tuple[ParameterEstimate, ...] = ()
    concentration: Interval | None = None
    auc24: Interval | None = None
    ahead_h: float = 0.0
    peak_ahead: Interval | None = None
    auc24_ahead: Interval | None = None
    assumes: str = ""
    risks: tuple[Risk, ...] = ()
    checks: tuple[LevelCheck, ...] = ()
    flags: tuple[str, ...] = ()
    channel: ChannelEstimate | None = None
    doubts: tuple[LevelDoubt, ...] = ()


def horizon_of(model: DrugModel) -> float:
    """How far ahead this model's thresholds look, h; a day when it has none."""
    return max((t.horizon_h for t in model.thresholds), default=24.0)


def estimate_drug(
    entries: Sequence[Entry], model: DrugModel, library: Library, as_of: int, memo: Memo, heard: Heard
) -> DrugEstimate:
    """Estimate one drug from the history up to `as_of`.

    Args:
        entries: History in order.
        model: The drug's model.
        library: Analytes and signals.
        as_of: UTC ns.
        memo: Cache by content.
        heard: Windows of the channel the model explains, up to `as_of`.

    Raises:
        MathsError: The arithmetic failed; the caller quarantines the twin.
    """
    try:
        therapy = therapy_at(entries, model, library, as_of)
    except CovariateError as missing:
        return DrugEstimate(model.drug, model.model, model.digest, "pending", (str(missing),), as_of)
    outlook = look_ahead(therapy, memo, horizon_of(model), heard)
    horizon = horizon_of(model)
    weights = outlook.cloud.weights
    day = round(LOOK_BACK_H / STEP_H)
    last_day = outlook.auc[:, outlook.now] - outlook.auc[:, outlook.grid[0]]
    return DrugEstimate(
        drug=model.drug,
        model=model.model,
        model_digest=model.digest,
        state="out_of_domain" if therapy.outside else "live",
        reason=therapy.outside,
        as_of=as_of,
        levels=len(therapy.lab_entries),
        last_input=_last_input(entries, model, as_of),
        status=outlook.fit.status,
        effective_size=outlook.cloud.effective_size,
        eta_names=tuple(model.etas),
        eta_mean=tuple(outlook.cloud.mean[: len(model.etas)].tolist()),
        eta_covariance=tuple(
            tuple(row[: len(model.etas)]) for row in outlook.cloud.covariance[: len(model.etas)].tolist()
        ),
        doubts=_doubts(outlook),
        parameters=_parameters(outlook),
        concentration=interval(outlook.concentration[:, outlook.grid[day]], weights),
        auc24=interval(last_day, weights),
        ahead_h=horizon,
        peak_ahead=interval(peak_concentration(outlook, horizon), weights),
        auc24_ahead=interval(highest_auc24(outlook, horizon), weights),
        assumes=assumption(therapy),
        risks=tuple(
            risk for threshold in model.thresholds if (risk := assess(outlook, threshold)) is not None
        ),
        checks=tuple(
            check
            for entry in therapy.lab_entries
            if (check := check_level(entries, entry, model, library, memo)) is not None
        ),
        flags=(
            *therapy.flags,
            *(("levels_disagree",) if levels_disagree(outlook) else ()),
            *(("device_distrusted",) if outlook.channel is not None and outlook.channel.distrusted else ()),
            *(("signal_not_heard",) if signal_missed(outlook) else ()),
            *(("level_doubtful",) if _doubts(outlook) else ()),
        ),
        channel=_channel(outlook, horizon),
    )


def signal_missed(outlook: Outlook) -> bool:
    """Whether a threshold on the signal itself could not be assessed, as no reading of it counts."""
    return (
        outlook.channel is not None
        and not outlook.channel.heard
        and any(row.metric in ("signal_high", "signal_low") for row in outlook.therapy.model.thresholds)
    )


def assumption(therapy: Therapy) -> str:
    """What a forecast takes for granted, in one sentence."""
    return "; ".join((_plan_assumed(therapy), *therapy.model.unknown))


def _plan_assumed(therapy: Therapy) -> str:
    if not therapy.has_plan:
        return "no regimen is known: no further doses are assumed"
    if not therapy.planned:
        return "the regimen has no doses left: no further doses are assumed"
    return f"the {len(therapy.planned)} planned doses still to come are given when due; covariates stay as they are"


def check_level(
    entries: Sequence[Entry], entry: Entry, model: DrugModel, library: Library, memo: Memo
) -> LevelCheck | None:
    """Forecast one level as of the instant before its draw: doses and covariates up to it, levels strictly before.

    A dose at the very time of the draw comes after it.

    Returns:
        None when nothing could be forecast: a covariate the model needs was told only after the draw, or hardly any
        parameters have the steady state declared.
    """
    lab = entry.content
    assert isinstance(lab, Lab)
    test = model.tests[lab.analyte]
    try:
        before = therapy_at(entries, model, library, entry.event_time)
    except CovariateError:
        return None
    levels = int(np.searchsorted(before.labs.time_h, hours(entry.event_time), side="left"))
    at = np.array([hours(entry.event_time)], dtype=np.float64)

    def forecast(count: int) -> Interval | None:
        fit = fit_levels(before, count, memo)
        try:
            course, cloud = carry_forward(fit, before.given, model.variation, float(at[0]))
        except MathsError:
            return None
        concentration, _, second = solve_points(course, cloud.points, at)
        measured = second if test.output == "second" else concentration
        quantiles = predictive_quantiles(measured[:, 0], cloud.weights, test.residual, QUANTILES)
        return Interval(*(float(q) for q in quantiles))

    def compute() -> LevelCheck | None:
        own, population = forecast(levels), forecast(0)
        if own is None or population is None:
            return None
        return LevelCheck(
            source=entry.source,
            id=entry.id,
            event_time=entry.event_time,
            observed=test.corrected(lab.value),
            censored=lab.censored,
            levels_before=levels,
            forecast=own,
            population=population,
            analyte=lab.analyte,
        )

    key = content_key(model, before.given, *before.labs, at) + f"{entry.source}\x1f{entry.id}".encode()
    return memo.recall(key, compute)


def _parameters(outlook: Outlook) -> tuple[ParameterEstimate, ...]:
    course = outlook.course
    weights = outlook.cloud.weights
    found = []
    for i, (name, unit) in enumerate(STRUCTURAL_UNITS.items()):
        typical = float(np.exp(course.log_typical[-1, i]))
        eta = int(course.eta_index[i])
        if eta < 0:
            continue
        log_values = course.log_typical[-1, i] + outlook.cloud.points[:, eta]
        occasion = int(course.occasion_index[-1, i])
        if occasion >= 0:
            log_values = log_values + outlook.cloud.points[:, occasion]
        values = np.exp(log_values)
        found.append(ParameterEstimate(name, unit, interval(values, weights), typical))
    return tuple(found)


def _doubts(outlook: Outlook) -> tuple[LevelDoubt, ...]:
    return tuple(
        LevelDoubt(entry.source, entry.id, probability)
        for entry, probability in zip(
            outlook.therapy.lab_entries, outlook.fit.cloud.doubt.tolist(), strict=True
        )
        if probability >= DOUBTFUL
    )


def _channel(outlook: Outlook, horizon_h: float) -> ChannelEstimate | None:
    channel, state = outlook.therapy.model.channel, outlook.channel
    if channel is None or state is None:
        return None
    covariance = state.own_covariance

    def gaussian(position: int) -> Interval:
        mean = float(state.mean[position])
        reach = NORMAL_95 * float(np.sqrt(covariance[position, position]))
        return Interval(mean, mean - reach, mean + reach)

    # The effect has one direction; below 0 lies only what the Gaussian adds.
    effect = Interval(*(max(end, 0.0) for end in gaussian(EFFECT)))
    peak = peak_driving(outlook, horizon_h)
    rise = rise_quantiles(state, channel_model(channel), peak, outlook.cloud.weights, QUANTILES)
    return ChannelEstimate(
        signal=channel.signal,
        unit=channel.unit,
        baseline=gaussian(BASELINE),
        effect=effect,
        rise_ahead=Interval(*(float(q) for q in rise)),
        windows=state.counts,
        last_window=(state.last.window + 1) * WINDOW_NS if state.last.verdict else 0,
        distrusted=state.distrusted,
    )


def _last_input(entries: Sequence[Entry], model: DrugModel, as_of: int) -> int:
    times = [
        e.event_time
        for e in entries
        if e.event_time <= as_of
        and (
            (e.kind == "dose" and getattr(e.content, "drug", "") == model.drug)
            or (e.kind == "lab" and getattr(e.content, "analyte", "") in model.tests)
        )
    ]
    return max(times, default=0)
