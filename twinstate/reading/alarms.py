"""What a drug file says of risk and of wearable signals: thresholds and the channel."""

from __future__ import annotations

from collections.abc import Mapping

from twinstate import units
from twinstate.catalogue import Provenance
from twinstate.drug import SIGNAL_METRICS, Channel, Rhythm, Target, Threshold
from twinstate.reading.context import Context
from twinstate.reading.drug_form import ChannelForm, ChannelNumber, TargetForm, ThresholdForm

# Read in the named source, or computed from what was.
KNOWN = ("V", "C")
# Keys of what an exposure is computed from, and of what levels weigh by, with the statuses that leave an alarm
# unverified. A residual chosen with a reason moves nobody of whom no level is told.
GROUND = {
    "parameters.": ("R", "A"),
    "correlations": ("R", "A"),
    "derived.": ("R", "A"),
    "residual": ("R",),
    "also_observed": ("R",),
}


def read_threshold(context: Context, name: str, row: ThresholdForm) -> Threshold:
    """Read one toxicity alarm.

    Raises:
        LibraryError: A unit its metric does not have, a signal without a channel, a second output that is not there, or
            an alarm that claims to be better known than the effect it rests on.
    """
    key = f"thresholds.{name}"
    allowed = _metric_units(context, key, row.metric)
    if (row.metric == "level_after") != (row.after_hours is not None):
        rule = "but level_after, and only it, says how many hours after the start of a dose"
        context.refuse(f"{key}.after_hours", row.after_hours or "missing", rule)
    _check_ground(context, key, row)
    context.provenance[key] = Provenance(row.status, row.source)
    return Threshold(
        name=name,
        metric=row.metric,
        limit=context.canonical(f"{key}.toxicity_alarm", row.toxicity_alarm, row.unit, allowed),
        unit=_canonical_unit(context, row.metric, allowed),
        horizon_h=row.horizon_hours,
        harm=row.harm,
        severity_label=row.severity_label,
        status=row.status,
        source=row.source,
        version=row.version,
        after_h=row.after_hours or 0.0,
        as_published=f"{row.toxicity_alarm:g} {row.unit}",
    )


def _check_ground(context: Context, key: str, row: ThresholdForm) -> None:
    """An alarm is verified only when what its probability is computed from is.

    Every alarm rests on the exposure: on parameters, how they differ and go together, and on the residual by which
    levels weigh. One on a signal rests on the effect as well. What is unknown (U) enters no computation: the estimate
    itself says so.
    """
    if row.status not in KNOWN:
        return
    weak = {
        place: known.status
        for place, known in context.provenance.items()
        if any(place.startswith(part) and known.status in weak for part, weak in GROUND.items())
    }
    channel = context.form.channel
    if row.metric in SIGNAL_METRICS and channel is not None:
        rests_on = {"emax": channel.emax, "ec50": channel.ec50, "part_of_effect": channel.part_of_effect}
        weak |= {
            f"channel.{name}": number.status
            for name, number in rests_on.items()
            if number is not None and number.status not in KNOWN
        }
    if weak:
        told = " and ".join(f"{place} has status {status}" for place, status in weak.items())
        rule = f"but {told}, so the alarm is unverified; give it status R"
        context.refuse(f"{key}.status", row.status, rule)


def read_target(context: Context, position: int, row: TargetForm) -> Target:
    """Read one range to aim at.

    Raises:
        LibraryError: Neither end, ends that do not ascend, or a unit its metric does not have.
    """
    key = f"targets[{position}]"
    allowed = _metric_units(context, key, row.metric)
    if row.low is None and row.high is None:
        context.refuse(key, "without low and high", "but needs at least one of them")
    if row.low is not None and row.high is not None and row.low >= row.high:
        context.refuse(key, f"{row.low:g} to {row.high:g}", "but low must be below high")
    context.provenance[key] = Provenance(row.status, row.source)

    def end(which: str, value: float | None) -> float | None:
        return None if value is None else context.canonical(f"{key}.{which}", value, row.unit, allowed)

    if row.low is None:
        words = f"below {row.high:g} {row.unit}"
    elif row.high is None:
        words = f"above {row.low:g} {row.unit}"
    else:
        words = f"{row.low:g} to {row.high:g} {row.unit}"
    return Target(
        metric=row.metric,
        low=end("low", row.low),
        high=end("high", row.high),
        unit=_canonical_unit(context, row.metric, allowed),
        as_published=words,
        when=row.when,
        status=row.status,
        source=row.source,
    )


def _metric_units(context: Context, key: str, metric: str) -> Mapping[str, float]:
    """Units in which a metric's figures may be written."""
    form = context.form
    if metric in SIGNAL_METRICS:
        if form.channel is None:
            rule = "but the file has no channel whose signal could be watched"
            context.refuse(f"{key}.metric", metric, rule)
        return context.signal("channel.signal", form.channel.signal).units
    if metric == "second":
        if form.second is None:
            context.refuse(f"{key}.metric", metric, "but the file has no second output; add the key second")
        return context.second_units
    if metric in ("auc24", "auc_total"):
        return units.EXPOSURE
    # A level is also read in the units of its own laboratory test, umol/L for instance.
    measured = context.analytes[form.analyte].units if form.observes == "concentration" else {}
    return {**units.CONCENTRATION, **measured}


def _canonical_unit(context: Context, metric: str, allowed: Mapping[str, float]) -> str:
    own = (*SIGNAL_METRICS, "second", "auc24", "auc_total")
    return next(iter(allowed)) if metric in own else "mg/L"


def read_channel(context: Context, form: ChannelForm) -> Channel:
    """Read how the drug moves a wearable signal.

    Raises:
        LibraryError: An unknown signal or unit, an assumption without its reason, a rhythm that shifts from day to day
            or has no clock, two rhythms of a day, an effect site the model has not, or an effect of which nothing says
            how patients differ.
    """
    signal = context.signal("channel.signal", form.signal)
    provenance: dict[str, Provenance] = {}

    def number(key: str, row: ChannelNumber, allowed: Mapping[str, float] | None = None) -> float:
        place = f"channel.{key}"
        if row.status == "A" and not row.reason:
            context.refuse(
                place,
                f"{row.value:g} with status A",
                "but an assumption needs its reason; add the key reason",
            )
        provenance[key] = context.noted(place, row)
        if allowed is not None:
            return context.canonical(place, row.value, row.unit, allowed)
        if row.unit is not None:
            context.refuse(f"{place}.unit", row.unit, "but this is a fraction; remove the unit")
        return row.value

    for i, rhythm in enumerate(form.rhythms):
        key = f"rhythms[{i}]"
        if 24.0 % rhythm.period_hours:
            rule = "but must divide 24, so that every day has the same phase"
            context.refuse(f"channel.{key}.period_hours", f"{rhythm.period_hours:g}", rule)
        provenance[key] = context.noted(f"channel.{key}", rhythm)
    zero = 0.0
    if form.clock_zero is not None:
        provenance["clock_zero"] = context.noted("channel.clock_zero", form.clock_zero)
        zero = form.clock_zero.utc_hour
    elif form.rhythms:
        context.refuse("channel.clock_zero", "missing", "but rhythms need the hour of UTC they count from")
    if form.open_rhythm is not None:
        provenance["open_rhythm"] = context.noted("channel.open_rhythm", form.open_rhythm)
        if any(rhythm.period_hours == 24 for rhythm in form.rhythms):
            rule = "but the file lists a rhythm of 24 h, and a signal has one; remove either"
            context.refuse("channel.open_rhythm", f"{form.open_rhythm.amplitude:g}", rule)
    if form.activity is not None:
        provenance["activity"] = context.noted("channel.activity", form.activity)
    second = context.form.second
    if form.follows == "second" and (second is None or second.kind != "effect_site"):
        rule = "but the model has no effect site; add second: {kind: effect_site}, or leave the key out"
        context.refuse("channel.follows", form.follows, rule)
    part = (1.0, 1.0)
    if form.part_of_effect is not None:
        provenance["part_of_effect"] = context.noted("channel.part_of_effect", form.part_of_effect)
        part = (form.part_of_effect.low, form.part_of_effect.high)
        if part[0] >= part[1]:
            rule = "but low must be below high"
            context.refuse("channel.part_of_effect", f"{part[0]:g} to {part[1]:g}", rule)
    elif form.emax_between_subject_cv is None:
        rule = "but nothing says how patients differ; give it, or part_of_effect where that is unknown"
        context.refuse("channel.emax_between_subject_cv", "missing", rule)
    relative = form.emax.unit is None
    if relative and form.emax.value > 1:
        units_read = ", ".join(signal.units)
        rule = (
            f"but without a unit it is a fraction of the baseline, at most 1; else give one of: {units_read}"
        )
        context.refuse("channel.emax", f"{form.emax.value:g}", rule)

    def fraction(key: str, row: ChannelNumber | None, absent: float) -> float:
        return absent if row is None else number(key, row)

    drift = form.baseline_drift_per_sqrt_hour
    return Channel(
        signal=signal.slug,
        unit=signal.unit,
        baseline_typical=number("baseline", form.baseline, signal.units),
        baseline_cv=number("baseline_between_subject_cv", form.baseline_between_subject_cv),
        rhythms=tuple(
            Rhythm(r.period_hours, r.amplitude, (zero + r.acrophase_hours) % r.period_hours)
            for r in form.rhythms
        ),
        emax=number("emax", form.emax, None if relative else signal.units),
        emax_cv=fraction("emax_between_subject_cv", form.emax_between_subject_cv, 0.0),
        ec50_mg_L=number("ec50", form.ec50, units.CONCENTRATION),
        residual_cv=number("residual_cv", form.residual_cv),
        noise_time_constant_h=number("noise_time_constant", form.noise_time_constant, units.DURATION),
        baseline_drift_per_sqrt_h=number("baseline_drift_per_sqrt_hour", drift, signal.units),
        keep_h=signal.keep_h,
        provenance=provenance,
        device_sd=signal.device_sd,
        follows=form.follows,
        hill=fraction("hill", form.hill, 1.0),
        exponent=fraction("exponent", form.exponent, 1.0),
        falls=form.direction == "falls",
        relative=relative,
        part=part,
        open_amplitude=0.0 if form.open_rhythm is None else form.open_rhythm.amplitude,
        activity_cv=0.0 if form.activity is None else form.activity.noise_cv,
        longest_activity_h=0.0 if form.activity is None else form.activity.longest_hours,
    )
