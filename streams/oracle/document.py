"""The canonical twin of a chart: what a worker should have stored, byte for byte."""

from __future__ import annotations

import numpy as np
from msgspec import Raw, msgpack

from streams.oracle.acceptance import (
    Chart,
    absences,
    frames_of,
    hour_end,
    is_empty,
    is_pending,
    nanoseconds,
    watermark_of,
)
from streams.oracle.episodes import Spell
from streams.oracle.exposure import (
    DAY,
    QUANTILES,
    Exposure,
    contradictory,
    expose,
    fit,
    highest_day,
    horizon_of,
    interval,
    peak,
    rise_ahead,
    risk_of,
)
from streams.oracle.known import Known, drugs_named, heard, heard_between, know, test_of, true_reading
from twinstate.assimilation.posterior import carry_forward
from twinstate.assimilation.readings import names_of, readings_of
from twinstate.assimilation.summary import predictive_quantiles
from twinstate.assimilation.windows import WINDOW_NS, add_window
from twinstate.drug import DrugModel
from twinstate.errors import OF_THE_MACHINE, CovariateError, MathsError
from twinstate.estimate import ChannelEstimate, DrugEstimate, LevelCheck, LevelDoubt, ParameterEstimate
from twinstate.history import Entry, Frame, Lab, Window
from twinstate.library import Library
from twinstate.pk.course import STRUCTURAL_PARAMETERS
from twinstate.pk.propagate import solve_points
from twinstate.risk.assess import Interval
from twinstate.telemetry import Stored
from twinstate.twin import FORMAT, StandingEpisode, TwinDocument, encode
from twinstate.types import NS_PER_HOUR, hours

NORMAL_95 = 1.6448536269514722  # standard normal quantile at 0.95
UNITS = {
    "clearance": "L/h",
    "central_volume": "L",
    "intercompartmental_clearance": "L/h",
    "peripheral_volume": "L",
    "absorption_rate": "1/h",
    "lag": "h",
    "bioavailability": "1",
    "input_duration": "h",
    "second_intercompartmental_clearance": "L/h",
    "second_peripheral_volume": "L",
    "maximum_elimination_rate": "mg/h",
    "michaelis_constant": "mg/L",
    "first_order_fraction": "1",
    "transit_rate": "1/h",
    "metabolite_fraction": "1",
    "metabolite_clearance": "L/h",
    "metabolite_volume": "L",
    "effect_rate": "1/h",
    "response_baseline": "1",
    "half_effect_concentration": "mg/L",
    "hill": "1",
    "response_time": "h",
    "second_response_time": "h",
    "response_scale": "1",
    "response_exponent": "1",
    "response_slope": "L/mg",
    "response_feedback": "1",
}


def canonical_bytes(
    patient: str, chart: Chart, spells: list[Spell], library: Library, hour: int | None
) -> bytes:
    """Write the twin of a patient.

    Args:
        patient: Pseudonym.
        chart: The winning entries that have not left memory.
        spells: The patient's episodes.
        library: Models, signals and policy.
        hour: Last full hour that the watermark has reached since the patient is known.
    """
    watermark = watermark_of(chart) or 0
    entries = sorted(
        (e for e in chart.values() if e.kind != "wearable"), key=lambda e: (e.place, e.cancelled)
    )
    records = [entry for entry in entries if not entry.cancelled]
    windows = _windows(chart, library, hour)
    estimates: list[DrugEstimate] = []
    failure = ""
    try:
        for drug in drugs_named(records, library, watermark):
            estimates.append(_estimate(chart, records, library.drugs[drug], library, watermark))
    except OF_THE_MACHINE:
        raise
    except Exception as failed:
        estimates, failure = [], str(failed) or type(failed).__name__
    state, reason = _state(chart, estimates, failure)
    return encode(
        TwinDocument(
            format=FORMAT,
            patient=patient,
            state=state,
            reason=reason,
            watermark=watermark,
            entries=tuple(entries),
            windows=windows,
            estimates=tuple(estimates),
            standing=tuple(
                StandingEpisode(spell.id, spell.drug, spell.threshold, spell.severity, spell.crossing)
                for spell in spells
                if spell.ended is None
            ),
            quality=_quality(chart, records, windows, estimates, library),
        )
    )


def _windows(chart: Chart, library: Library, hour: int | None) -> Stored:
    """Windows by signal and device that an open point may look back at; frames of one UTC hour are kept together."""
    merged: dict[str, dict[str, dict[int, dict[int, Window]]]] = {}
    for entry in frames_of(chart):
        if not isinstance(entry.content, Frame):
            continue
        signal = entry.content.signal
        for window in entry.content.windows:
            release = hour_end(entry.event_time)
            reach = nanoseconds(library.policy.revise_h) + nanoseconds(library.signals[signal].keep_h)
            if hour is not None and release < hour - reach:
                continue
            device = entry.id[: entry.id.rindex(":")]
            of_hour = merged.setdefault(signal, {}).setdefault(device, {}).setdefault(release, {})
            known = of_hour.get(window.index)
            of_hour[window.index] = window if known is None else add_window(known, window)
    return {
        signal: {
            device: tuple(
                (release, Raw(msgpack.encode([window for _, window in sorted(by_index.items())])))
                for release, by_index in sorted(hours.items())
            )
            for device, hours in sorted(devices.items())
        }
        for signal, devices in sorted(merged.items())
    }


def _state(chart: Chart, estimates: list[DrugEstimate], failure: str) -> tuple[str, tuple[str, ...]]:
    away = absences(chart)
    if failure:
        return "quarantined", (failure,)
    if chart.erased_until is not None and is_empty(chart):
        return "forgotten", ()
    if is_pending(chart):
        return "pending", ("no patient record has been accepted yet",)
    if away and away[-1][1] is None:
        return "discharged", ()
    for state in ("pending", "out_of_domain"):
        reason = [
            sentence for estimate in estimates if estimate.state == state for sentence in estimate.reason
        ]
        if reason:
            return state, tuple(reason)
    return "live", ()


def _quality(
    chart: Chart,
    records: list[Entry],
    windows: Stored,
    estimates: list[DrugEstimate],
    library: Library,
) -> tuple[str, ...]:
    flags = set()
    for estimate in estimates:
        for flag in estimate.flags:
            flags.add(f"{estimate.drug}:{flag}")
    for signal in windows:
        if all(model.channel is None or model.channel.signal != signal for model in library.drugs.values()):
            flags.add(f"{signal}:unmodelled")
        for oddity in _oddities(chart, signal, windows[signal], library):
            flags.add(f"{signal}:{oddity}")
    for record in records:
        if isinstance(record.content, Lab):
            usual = library.analytes[record.content.analyte].usual
            if usual is not None and not usual.low <= record.content.value <= usual.high:
                flags.add(f"{record.content.analyte}:unusual")
    for left, back in absences(chart):
        if any(left < record.event_time and (back is None or record.event_time < back) for record in records):
            flags.add("after_discharge")
    if chart.erased_until is not None:
        flags.add("history_forgotten")
    return tuple(sorted(flags))


def _oddities(
    chart: Chart, slug: str, devices: dict[str, tuple[tuple[int, Raw], ...]], library: Library
) -> set[str]:
    """What is odd about a signal's devices: in the running hour and the one before it, and among frames that count."""
    watermark = watermark_of(chart)
    assert watermark is not None
    signal = library.signals[slug]
    recent = heard_between(chart, slug, watermark - NS_PER_HOUR, hour_end(watermark))
    found: set[str] = set()
    for marks in readings_of(recent, signal, 0.0).marks:
        found.update(names_of(int(marks)))
    if len({one.window.index for one in recent}) < len(recent):
        found.add("devices_overlap")
    counts_from = watermark - nanoseconds(signal.keep_h)
    counting = [
        device
        for device, hours in devices.items()
        if any(counts_from < release <= hour_end(watermark) for release, _ in hours)
    ]
    if len(counting) > 1:
        found.add("several_devices")
    told: dict[str, int] = {}  # until when each device has told of itself
    frames = [
        (frame.content.first, frame.event_time, frame.id[: frame.id.rindex(":")])
        for frame in chart.values()  # a frame that has left memory is known by its samples only
        if isinstance(frame.content, Frame)
        and frame.content.signal == slug
        and frame.event_time > counts_from
    ]
    for first, last, device in sorted(frames):
        if device in told and first <= told[device]:
            found.add("frames_overlap")
        told[device] = max(last, told.get(device, last))
    return found


def _estimate(
    chart: Chart, records: list[Entry], model: DrugModel, library: Library, at: int
) -> DrugEstimate:
    horizon_h = horizon_of(model)
    try:
        known = know(records, model, library, at, horizon_h)
    except CovariateError as missing:
        return DrugEstimate(model.drug, model.model, model.digest, "pending", (str(missing),), at)
    windows = heard(chart, model, at, until_hour=hour_end(at))
    exposure = expose(model, known, at, horizon_h, windows, library)
    cloud = exposure.cloud
    now, day_ago = exposure.grid[DAY], exposure.grid[0]
    checks = [_check(records, level, model, library) for level in known.levels]
    doubts = tuple(
        LevelDoubt(level.source, level.id, float(exposure.posterior.cloud.doubt[place]))
        for place, level in enumerate(known.levels)
        if exposure.posterior.cloud.doubt[place] >= 0.2
    )
    return DrugEstimate(
        drug=model.drug,
        model=model.model,
        model_digest=model.digest,
        state="out_of_domain" if known.outside else "live",
        reason=known.outside,
        as_of=at,
        levels=len(known.levels),
        last_input=_last_input(records, model),
        status=exposure.posterior.status,
        effective_size=cloud.effective_size,
        eta_names=tuple(model.etas),
        eta_mean=tuple(float(cloud.mean[eta]) for eta in range(len(model.etas))),
        eta_covariance=tuple(
            tuple(float(cloud.covariance[eta, other]) for other in range(len(model.etas)))
            for eta in range(len(model.etas))
        ),
        doubts=doubts,
        parameters=_parameters(exposure),
        concentration=interval(exposure.concentration[:, now], cloud.weights),
        auc24=interval(exposure.auc[:, now] - exposure.auc[:, day_ago], cloud.weights),
        ahead_h=horizon_h,
        peak_ahead=interval(peak(exposure, horizon_h), cloud.weights),
        auc24_ahead=interval(highest_day(exposure, horizon_h), cloud.weights),
        assumes="; ".join([_assumes(known), *model.unknown]),
        risks=tuple(
            risk
            for risk in (risk_of(exposure, model, threshold) for threshold in model.thresholds)
            if risk is not None
        ),
        checks=tuple(check for check in checks if check is not None),
        flags=(*_flags(exposure, known, model), *(["level_doubtful"] if doubts else [])),
        channel=_channel(exposure, model, horizon_h),
    )


def _flags(exposure: Exposure, known: Known, model: DrugModel) -> tuple[str, ...]:
    flags = [*known.flags]
    if contradictory(exposure, known):
        flags.append("levels_disagree")
    if exposure.channel is not None and len(exposure.channel.distrusted) > 0:
        flags.append("device_distrusted")
    watched = [row for row in model.thresholds if row.metric in ("signal_high", "signal_low")]
    if exposure.channel is not None and watched and exposure.channel.counts[:2] == (0, 0):
        flags.append("signal_not_heard")
    return tuple(flags)


def _channel(exposure: Exposure, model: DrugModel, horizon_h: float) -> ChannelEstimate | None:
    state = exposure.channel
    if model.channel is None or state is None:
        return None
    intervals = []
    for mean, sd in ((state.baseline, state.baseline_sd), (state.effect, state.effect_sd)):
        intervals.append(Interval(mean, mean - NORMAL_95 * sd, mean + NORMAL_95 * sd))
    return ChannelEstimate(
        signal=model.channel.signal,
        unit=model.channel.unit,
        baseline=intervals[0],
        effect=Interval(*(max(0.0, end) for end in intervals[1])),
        rise_ahead=rise_ahead(exposure, model, horizon_h),
        windows=state.counts,
        last_window=(state.last.window + 1) * WINDOW_NS if state.last.verdict else 0,
        distrusted=state.distrusted,
    )


def _assumes(known: Known) -> str:
    if not known.has_plan:
        return "no regimen is known: no further doses are assumed"
    if len(known.planned) == 0:
        return "the regimen has no doses left: no further doses are assumed"
    return f"the {len(known.planned)} planned doses still to come are given when due; covariates stay as they are"


def _parameters(exposure: Exposure) -> tuple[ParameterEstimate, ...]:
    parameters = []
    course = exposure.course
    for place, name in enumerate(STRUCTURAL_PARAMETERS):
        eta = int(course.eta_index[place])
        if eta < 0:
            continue
        log_typical = course.log_typical[-1, place]
        log_values = log_typical + exposure.cloud.points[:, eta]
        if course.occasion_index[-1, place] >= 0:
            log_values = log_values + exposure.cloud.points[:, course.occasion_index[-1, place]]
        values = np.exp(log_values)
        estimate = interval(values, exposure.cloud.weights)
        parameters.append(ParameterEstimate(name, UNITS[name], estimate, float(np.exp(log_typical))))
    return tuple(parameters)


def _check(records: list[Entry], level: Entry, model: DrugModel, library: Library) -> LevelCheck | None:
    """A level beside its forecasts; None when nothing could be forecast, as nobody had said who the patient is."""
    assert isinstance(level.content, Lab)
    test = test_of(level.content, model)
    assert test is not None
    try:
        known = know(records, model, library, level.event_time, 0.0)
    except CovariateError:
        return None
    before = len([other for other in known.levels if other.event_time < level.event_time])
    forecasts = []
    for levels in (before, 0):
        posterior = fit(known.given, model, known, levels)
        instant = np.array([hours(level.event_time)], dtype=np.float64)
        try:
            course, cloud = carry_forward(posterior, known.given, model.variation, float(instant[0]))
        except MathsError:
            return None
        outputs = solve_points(course, cloud.points, instant)
        measured = outputs[2] if test.output == "second" else outputs[0]
        quantiles = predictive_quantiles(measured[:, 0], cloud.weights, test.residual, QUANTILES)
        forecasts.append(Interval(*(float(quantile) for quantile in quantiles)))
    return LevelCheck(
        source=level.source,
        id=level.id,
        event_time=level.event_time,
        observed=true_reading(level.content.value, test),
        censored=level.content.censored,
        levels_before=before,
        forecast=forecasts[0],
        population=forecasts[1],
        analyte=test.analyte,
    )


def _last_input(records: list[Entry], model: DrugModel) -> int:
    times = []
    for record in records:
        dose = record.kind == "dose" and getattr(record.content, "drug", None) == model.drug
        analytes = [model.analyte, *(test.analyte for test in model.also_observed)]
        level = record.kind == "lab" and getattr(record.content, "analyte", None) in analytes
        if dose or level:
            times.append(record.event_time)
    return max(times, default=0)
