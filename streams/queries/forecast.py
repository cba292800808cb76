"""One drug of a seen twin as an answer about time to come: curve, doses, levels, thresholds, and what was assumed."""

from __future__ import annotations

from typing import NamedTuple

from streams.queries import answers
from streams.queries.curve import Curve, doses_given, draw, start_of
from streams.queries.views import QuestionError, View, describe_estimate, instant
from streams.reported import Scale, scales_of
from twinstate.errors import CovariateError, MathsError
from twinstate.estimate import DrugEstimate, assumption, horizon_of
from twinstate.history import Lab
from twinstate.twin import Rules
from twinstate.types import NS_PER_HOUR

LONGEST_HORIZON_H = 168.0
LONGEST_LOOK_BACK_H = 24.0 * 90


class Span(NamedTuple):
    """How far a forecast is drawn.

    Attributes:
        ahead_h: After the moment, h; None takes the longest horizon of the drug's thresholds.
        back_h: Before it, h; None goes back to the first dose.
        step_h: Grid, h.
    """

    ahead_h: float | None = None
    back_h: float | None = 24.0
    step_h: float = 0.5


def forecast_drug(
    view: View, drug: str | None, span: Span, version: int, position: answers.Position, rules: Rules
) -> answers.ForecastAnswer:
    """Forecast one drug from a twin's moment.

    Args:
        view: The twin at its moment.
        drug: Which; None where the patient has one.
        span: How far back and ahead.
        version: Writes of the stored twin.
        position: Where in the log it is true.
        rules: Library and source.

    Raises:
        QuestionError: No such drug, or nothing to start from.
    """
    estimate = chosen_estimate(view, drug)
    model = rules.library.drugs[estimate.drug]
    entries = view.entries
    back_h = span.back_h
    if back_h is None:
        since_h = (view.as_of - start_of(entries, model.drug, view.as_of)) / NS_PER_HOUR
        back_h = min(LONGEST_LOOK_BACK_H, since_h + 1.0)
    ahead_h = horizon_of(model) if span.ahead_h is None else span.ahead_h
    try:
        curve = draw(
            entries, model, rules.library, view.as_of, back_h=back_h, ahead_h=ahead_h, step_h=span.step_h
        )
    except (CovariateError, MathsError) as missing:
        raise QuestionError("no-estimate", f"there is nothing to forecast from: {missing}") from None
    described = describe_estimate(estimate, rules.library)
    scale = scales_of(model, rules.library).measured
    return answers.ForecastAnswer(
        patient=view.document.patient,
        drug=model.drug,
        model=model.model,
        state=described.state,
        reasons=described.reasons,
        mode=view.mode,
        as_of=instant(view.as_of),
        watermark=instant(view.watermark),
        horizon_h=ahead_h,
        measures="second" if model.observes == "second" else "concentration",
        unit=scale.unit,
        assumes=assumption(curve.therapy),
        levels_used=len(curve.therapy.labs.time_h),
        points=_points(curve, view, rules, scale),
        doses=_doses(curve, view),
        levels=tuple(
            answers.LevelMark(
                time=instant(e.event_time),
                value=scale.shown(model.tests[e.content.analyte].corrected(e.content.value)),
                below_limit=e.content.censored,
            )
            for e in curve.therapy.lab_entries
            if isinstance(e.content, Lab)
            and e.event_time >= curve.times[0]
            and model.tests[e.content.analyte].output == model.observes  # the other output has another unit
        ),
        risks=described.risks,
        version=version,
        position=position,
    )


def chosen_estimate(view: View, drug: str | None) -> DrugEstimate:
    """The estimate of the drug asked about, or of the patient's only one.

    Raises:
        QuestionError: The twin is quarantined, has no such drug, or has several and none was named.
    """
    document = view.document
    if document.state == "quarantined":
        raise QuestionError("no-estimate", f"the twin is quarantined: {'; '.join(document.reason)}")
    estimates = {e.drug: e for e in document.estimates}
    if not estimates:
        raise QuestionError(
            "no-such-drug", "no dose, regimen or level of any drug is known of this patient then"
        )
    if drug is None and len(estimates) > 1:
        raise QuestionError(
            "which-drug", f"this patient has several drugs, say which one: {', '.join(estimates)}"
        )
    chosen = drug if drug is not None else next(iter(estimates))
    if chosen not in estimates:
        raise QuestionError("no-such-drug", f"this patient has no {chosen}; there is {', '.join(estimates)}")
    return estimates[chosen]


def _points(curve: Curve, view: View, rules: Rules, scale: Scale) -> tuple[answers.CurvePoint, ...]:
    settled = view.watermark - rules.times.settled
    return tuple(
        answers.CurvePoint(
            time=instant(at),
            mode="forecast" if at > view.as_of else "settled" if at <= settled else "live",
            median=scale.shown(median),
            low=scale.shown(low),
            high=scale.shown(high),
        )
        for at, median, low, high in zip(curve.times, curve.median, curve.low, curve.high, strict=True)
    )


def _doses(curve: Curve, view: View) -> tuple[answers.DoseMark, ...]:
    given = [
        answers.DoseMark(
            time=instant(at),
            amount_mg=dose.amount_mg,
            route=dose.route,
            duration_h=dose.duration_h,
            status="given",
        )
        for at, dose in doses_given(view.entries, curve.therapy.model.drug, view.as_of)
        if at >= curve.times[0]
    ]
    # An overdue dose that may still come is taken as given now, as the risk is computed.
    planned = [
        answers.DoseMark(
            time=instant(max(dose.due, view.as_of)),
            amount_mg=dose.amount_mg,
            route=dose.route,
            duration_h=dose.duration_h,
            status="planned",
        )
        for dose in curve.therapy.planned
        if dose.due <= curve.times[-1]
    ]
    return (*given, *planned)
