"""What a drug file says of risk and of wearable signals: thresholds and the channel."""

from __future__ import annotations

from collections.abc import Mapping

from twinstate import units
from twinstate.catalogue import Provenance
from twinstate.drug import Channel, Rhythm, Threshold
from twinstate.reading.context import Context
from twinstate.reading.forms import ChannelForm, ChannelNumber, ThresholdForm

METRIC_UNITS: Mapping[str, Mapping[str, float]] = {
    "concentration": units.CONCENTRATION,
    "auc24": units.EXPOSURE,
}


def read_threshold(context: Context, name: str, row: ThresholdForm) -> Threshold:
    """Read one toxicity alarm.

    Raises:
        LibraryError: A unit its metric does not have, or a rise without a channel.
    """
    key = f"thresholds.{name}"
    if row.metric == "effect_rise":
        channel = context.form.channel
        if channel is None:
            context.refuse(
                f"{key}.metric", "effect_rise", "but the file has no channel whose rise could be watched"
            )
        allowed = context.signal("channel.signal", channel.signal).units
    else:
        allowed = METRIC_UNITS[row.metric]
    context.provenance[key] = Provenance(row.status, row.source)
    return Threshold(
        name=name,
        metric=row.metric,
        limit=context.canonical(f"{key}.toxicity_alarm", row.toxicity_alarm, row.unit, allowed),
        unit=next(iter(allowed)),
        horizon_h=row.horizon_hours,
        harm=row.harm,
        severity_label=row.severity_label,
        status=row.status,
        source=row.source,
        version=row.version,
    )


def read_channel(context: Context, form: ChannelForm) -> Channel:
    """Read how the drug moves a wearable signal.

    Raises:
        LibraryError: An unknown signal or unit, an assumption without its reason, a rhythm that shifts from day to day.
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
    provenance["clock_zero"] = context.noted("channel.clock_zero", form.clock_zero)
    zero = form.clock_zero.utc_hour
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
        emax=number("emax", form.emax, signal.units),
        emax_cv=number("emax_between_subject_cv", form.emax_between_subject_cv),
        ec50_mg_L=number("ec50", form.ec50, units.CONCENTRATION),
        residual_cv=number("residual_cv", form.residual_cv),
        noise_time_constant_h=number("noise_time_constant", form.noise_time_constant, units.DURATION),
        baseline_drift_per_sqrt_h=number("baseline_drift_per_sqrt_hour", drift, signal.units),
        keep_h=signal.keep_h,
        provenance=provenance,
    )
