"""One stored twin as people read it: as it stands, or computed again as of an earlier moment."""

from __future__ import annotations

import datetime as dt
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

import msgspec

from streams.ports import StoredTwin
from streams.queries import answers
from streams.reported import Scale, Scales, scales_of
from twinstate.clocks import Clocks, doubted
from twinstate.drug import DrugModel, Threshold
from twinstate.estimate import ChannelEstimate, DrugEstimate, LevelCheck
from twinstate.history import Entry
from twinstate.library import Library
from twinstate.pk.course import STRUCTURAL_PARAMETERS
from twinstate.risk.assess import Interval, Risk
from twinstate.risk.episodes import tell_story
from twinstate.telemetry import Telemetry
from twinstate.timeline import Timeline, hour_end
from twinstate.twin import FORGOTTEN, Rules, Twin, TwinDocument, TwinMemory
from twinstate.types import NS_PER_HOUR

AsOf = Literal["live", "settled"] | int
NORMAL_90 = 2 * 1.6448536269514722  # width of a normal 90 % interval, in standard deviations
NS_PER_SECOND = 1_000_000_000
WINDOW_VERDICTS = ("taken", "softened", "rejected", "unusable")
_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)


class QuestionError(Exception):
    """A question that has no answer.

    Attributes:
        slug: Stable name of the problem, for machines.
        text: One sentence for people, with the way out.
    """

    def __init__(self, slug: str, text: str) -> None:
        super().__init__(text)
        self.slug = slug
        self.text = text


class View(NamedTuple):
    """A twin at one moment (UTC ns); `recomputed` when that is not the moment it is stored for."""

    document: TwinDocument
    memory: TwinMemory
    watermark: int
    as_of: int
    mode: answers.Mode
    recomputed: bool

    @property
    def entries(self) -> list[Entry]:
        """Winning, uncancelled records up to the moment, in order."""
        counting = (e for e in self.document.entries if not e.cancelled and e.event_time <= self.as_of)
        return sorted(counting, key=lambda e: e.place)


def look(stored: StoredTwin, as_of: AsOf, rules: Rules) -> View:
    """See a stored twin as of a moment.

    Args:
        stored: Its bytes.
        as_of: `live` is the watermark, `settled` the settled time behind it; or UTC ns.
        rules: The library that made it, and the events' source.

    Raises:
        QuestionError: The moment lies after the watermark, or before what the twin remembers; or the bytes are of
            another version.
    """
    try:
        document = msgspec.msgpack.decode(stored.canonical, type=TwinDocument)
        memory = msgspec.msgpack.decode(stored.rest, type=TwinMemory)
    except msgspec.MsgspecError:
        raise QuestionError(
            "other-version",
            "this twin was stored by another version of the code; run that version, or derive it again: twin rebuild",
        ) from None
    if document.state == FORGOTTEN:
        raise QuestionError(
            "forgotten", "what was known of this patient was erased, and no record has come since"
        )
    if document.watermark == 0 and not any(not e.cancelled for e in (*document.entries, *memory.frames)):
        raise QuestionError(
            "no-such-twin", "every record of this patient has been cancelled, so nothing is known"
        )
    unknown = sorted({e.drug for e in document.estimates} - set(rules.library.drugs))
    if unknown:
        raise QuestionError(
            "other-version",
            f"this twin was made with a library that had {', '.join(unknown)}, which config/drugs lacks; "
            "run with the library of the worker",
        )
    times = rules.times
    watermark = document.watermark
    moment = _moment(as_of, watermark, times.settled)
    mode: answers.Mode = "settled" if moment <= watermark - times.settled else "live"
    if moment == watermark:
        return View(document, memory, watermark, moment, mode, recomputed=False)
    if moment > watermark:
        raise QuestionError(
            "as-of-ahead",
            f"as_of lies after the patient's watermark {text(watermark)}, up to which records have come; "
            "ask for the forecast instead, or leave as_of out",
        )
    # What left memory when the watermark stood highest stays gone.
    if moment < max(watermark, memory.highest or watermark) - times.revise:
        raise QuestionError(
            "as-of-forgotten",
            f"as_of lies more than {times.revise / NS_PER_HOUR / 24:g} days before the watermark {text(watermark)}; "
            "records that old have left the twin; derive it from the log instead",
        )
    return View(*_earlier(document, memory, moment, rules), watermark, moment, mode, recomputed=True)


def _moment(as_of: AsOf, watermark: int, settled: int) -> int:
    if isinstance(as_of, int):
        return as_of
    return watermark if as_of == "live" else watermark - settled


def _earlier(
    document: TwinDocument, memory: TwinMemory, moment: int, rules: Rules
) -> tuple[TwinDocument, TwinMemory]:
    """The twin that the records up to `moment` make, by the worker's own arithmetic.

    Wearable frames are kept folded by the UTC hour they came in: of an hour not over at `moment` none counts.
    """
    timeline = Timeline(
        entries={e.identity: e for e in document.entries if e.event_time <= moment},
        frames={f.identity: f for f in memory.frames if hour_end(f.event_time) <= moment},
        telemetry=Telemetry.of(Telemetry.of(document.windows).stored(until=moment)),
        watermark=moment,
        clocks=Clocks.of(memory.clocks),
    )
    twin = Twin(document.patient, timeline, opening=memory.opening, settled_revised=memory.settled_revised)
    twin.decisions = [d for d in memory.decisions if d.at <= moment]
    twin.story = tell_story(twin.decisions, rules.library.policy, rules.source, twin.patient, twin.opening)
    return twin.describe(rules)


def describe_twin(
    view: View, version: int, position: answers.Position, fingerprint: str, now: int, rules: Rules
) -> answers.TwinAnswer:
    """The whole twin as an answer.

    Args:
        view: The twin at its moment.
        version: Writes of the stored twin.
        position: Where in the log it is true.
        fingerprint: Under which it was stored.
        now: Wall clock, UTC ns: the twin's age is told by it, nothing else.
        rules: Library and source.
    """
    document = view.document
    kinds = Counter(e.kind for e in view.entries)
    cancelled = sum(e.cancelled for e in document.entries)
    frames = sum(not f.cancelled and f.event_time <= view.as_of for f in view.memory.frames)
    kinds.update({"wearable (recent)": frames} if frames else {})
    kinds.update({"cancelled": cancelled} if cancelled else {})
    last_input = max((e.last_input for e in document.estimates), default=0)
    stale = document.state == "live" and is_stale(
        view.as_of, last_input, [e.drug for e in document.estimates], rules.library.drugs
    )
    reasons = (stale_reason(last_input),) if stale else document.reason
    return answers.TwinAnswer(
        patient=document.patient,
        state=_state("stale" if stale else document.state),
        reasons=reasons,
        mode=view.mode,
        as_of=instant(view.as_of),
        watermark=instant(view.watermark),
        settled_until=instant(view.watermark - rules.times.settled),
        age_h=round((now - view.watermark) / NS_PER_HOUR, 3),
        recomputed=view.recomputed,
        estimates=tuple(describe_estimate(e, rules.library) for e in document.estimates),
        standing=tuple(
            answers.StandingBrief(
                episode=s.id,
                drug=s.drug,
                threshold=s.threshold,
                severity=s.severity,
                crossing=instant(s.crossing),
            )
            for s in document.standing
        ),
        quality=document.quality,
        clocks=tuple(
            answers.DeviceClock(
                device=clock.device,
                doubt="ahead" if clock.doubt == "ahead" else "behind",
                seconds=round(abs(clock.lag) / NS_PER_SECOND, 1),
                frames=clock.heard,
            )
            for clock in doubted(view.memory.clocks)
        ),
        records=dict(sorted(kinds.items())),
        settled_revised=view.memory.settled_revised,
        version=version,
        position=position,
        fingerprint=fingerprint,
    )


def describe_estimate(estimate: DrugEstimate, library: Library) -> answers.Estimate:
    """One drug as an answer, levels in the unit the laboratory reports; `stale` is derived here."""
    model = library.drugs[estimate.drug]
    scales = scales_of(model, library)
    stale = estimate.state == "live" and is_stale(
        estimate.as_of, estimate.last_input, [estimate.drug], {estimate.drug: model}
    )
    doubts = {(doubt.source, doubt.id): doubt.probability for doubt in estimate.doubts}
    points = estimate.effective_size
    distrusted = () if estimate.channel is None else estimate.channel.distrusted
    etas = _etas(estimate, model)
    return answers.Estimate(
        drug=estimate.drug,
        model=estimate.model,
        model_digest=estimate.model_digest,
        state=_state("stale" if stale else estimate.state),
        reasons=(stale_reason(estimate.last_input),) if stale else estimate.reason,
        levels=estimate.levels,
        last_input=instant(estimate.last_input) if estimate.last_input else None,
        stale_after_h=model.stale_after_h,
        fit=estimate.status,
        effective_points=points,
        etas=etas,
        parameters=tuple(
            answers.Parameter(
                name=p.name,
                estimate=_interval(p.estimate, Scale(p.unit, 1.0), points),
                typical=p.typical,
                shrinkage=etas[int(model.eta_index[STRUCTURAL_PARAMETERS.index(p.name)])].shrinkage,
            )
            for p in estimate.parameters
        ),
        concentration=_maybe(estimate.concentration, scales.level, points),
        auc24=_maybe(estimate.auc24, scales.exposure, points),
        ahead_h=estimate.ahead_h,
        peak_ahead=_maybe(estimate.peak_ahead, scales.level, points),
        auc24_ahead=_maybe(estimate.auc24_ahead, scales.exposure, points),
        assumes=estimate.assumes,
        channel=_channel(estimate.channel),
        risks=describe_risks(estimate.risks, model.thresholds, scales, points, distrusted),
        level_forecasts=tuple(_level(check, model, scales, doubts) for check in estimate.checks),
        flags=estimate.flags,
    )


def _etas(estimate: DrugEstimate, model: DrugModel) -> tuple[answers.RandomEffect, ...]:
    """Random effects with what the levels told of each.

    References:
        Pharmpy, `calculate_individual_shrinkage`: variance of an individual's eta over omega. Averaged over patients
        that is NONMEM 7's shrinkage by empirical Bayes variances.
    """
    found = []
    for place, name in enumerate(estimate.eta_names):
        variance, between = estimate.eta_covariance[place][place], float(model.omega[place, place])
        found.append(
            answers.RandomEffect(
                name=name,
                mean=estimate.eta_mean[place],
                sd=math.sqrt(variance),
                omega=math.sqrt(between),
                shrinkage=variance / between,
                monte_carlo_error=math.sqrt(variance / estimate.effective_size),
            )
        )
    return tuple(found)


def describe_risks(
    risks: Sequence[Risk],
    thresholds: Sequence[Threshold],
    scales: Scales,
    points: float,
    distrusted: tuple[str, ...] = (),
) -> tuple[answers.RiskOfDrug, ...]:
    """Probabilities beside the rows of the drug file they are about.

    Args:
        risks: As the twin keeps them, canonical units.
        thresholds: Rows of the drug's file.
        scales: Units they are shown in.
        points: Effective number of points they were read from.
        distrusted: Devices of the drug's signal that lost trust.
    """
    rows = {t.name: t for t in thresholds}
    return tuple(
        answers.RiskOfDrug(
            threshold=risk.threshold,
            metric=row.metric,
            limit=scales.of(row).shown(row.limit),
            unit=scales.of(row).unit,
            horizon_h=row.horizon_h,
            probability=risk.probability,
            probability_error=risk.error,
            expected=_interval(risk.metric, scales.of(row), None if row.metric == "effect_rise" else points),
            threshold_version=str(row.version),
            threshold_status=row.status,
            threshold_source=row.source,
            distrusted=distrusted if row.of_the_signal else (),
        )
        for risk in risks
        if (row := rows.get(risk.threshold)) is not None
    )


def is_stale(as_of: int, last_input: int, drugs: Sequence[str], models: Mapping[str, DrugModel]) -> bool:
    """Whether the last dose or level lies further behind `as_of` than every one of the drugs' limits allows."""
    limits = [models[drug].stale_after_h for drug in drugs if drug in models]
    return bool(limits) and last_input != 0 and as_of - last_input > max(limits) * NS_PER_HOUR


def stale_reason(last_input: int) -> str:
    """Why a twin is stale."""
    return f"no dose and no level since {text(last_input)}; send what was given since, or a discharge"


def instant(nanoseconds: int) -> dt.datetime:
    """UTC nanoseconds as an aware datetime, to the microsecond."""
    return _EPOCH + dt.timedelta(microseconds=nanoseconds // 1000)


def text(nanoseconds: int) -> str:
    """UTC nanoseconds as people read them."""
    return f"{instant(nanoseconds):%Y-%m-%dT%H:%M:%SZ}"


def _state(state: str) -> answers.State:
    return next(s for s in answers.STATES if s == state)


def _interval(value: Interval, scale: Scale, points: float | None = None) -> answers.Interval:
    """An interval in its unit; `points` is the effective number of points it was read from, None for no points."""
    median, low, high = (scale.shown(end) for end in value)
    error = None if not points else (high - low) / NORMAL_90 / math.sqrt(points)
    return answers.Interval(median=median, low=low, high=high, unit=scale.unit, monte_carlo_error=error)


def _maybe(value: Interval | None, scale: Scale, points: float) -> answers.Interval | None:
    return None if value is None else _interval(value, scale, points)


def _channel(channel: ChannelEstimate | None) -> answers.Channel | None:
    if channel is None:
        return None
    scale = Scale(channel.unit, 1.0)
    return answers.Channel(
        signal=channel.signal,
        baseline=_interval(channel.baseline, scale),
        largest_effect=_interval(channel.effect, scale),
        rise_ahead=_interval(channel.rise_ahead, scale),
        windows=dict(zip(WINDOW_VERDICTS, channel.windows, strict=True)),
        last_window=instant(channel.last_window) if channel.last_window else None,
        distrusted=channel.distrusted,
    )


def _level(
    check: LevelCheck, model: DrugModel, scales: Scales, doubts: Mapping[tuple[str, str], float]
) -> answers.LevelForecast:
    test = model.tests.get(check.analyte)
    scale = scales.of_output(model.observes if test is None else test.output)
    return answers.LevelForecast(
        analyte=check.analyte,
        id=check.id,
        source=check.source,
        time=instant(check.event_time),
        observed=scale.shown(check.observed),
        below_limit=check.censored,
        levels_before=check.levels_before,
        forecast=_interval(check.forecast, scale),
        population=_interval(check.population, scale),
        doubt=doubts.get((check.source, check.id)),
    )
