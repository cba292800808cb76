"""Levels are shown in the unit the laboratory reports, twins and events keep the canonical one."""

from __future__ import annotations

import pytest

from streams.pipeline import EVENT_SOURCE, Pipeline
from streams.plot import draw_forecast
from streams.queries.answers import Position
from streams.queries.forecast import Span, forecast_drug
from streams.queries.views import describe_estimate, look
from streams.reported import scales_of
from tests.streams.logs import logged
from tests.streams.test_drugs_of_the_library import LIBRARY, WARDS
from twinstate.twin import Rules

RULES = Rules(LIBRARY, EVENT_SOURCE)


@pytest.mark.parametrize(
    ("drug", "level", "exposure", "measured", "one"),
    [
        ("tacrolimus", "ng/mL", "ng*h/mL", "ng/mL", 0.001),
        # Li2CO3 weighs 73.89 g/mol and holds two lithium (CIAAW 2021).
        ("lithium", "mmol/L", "mmol*h/L", "mmol/L", 73.89 / 2),
        ("vancomycin", "mg/L", "mg*h/L", "mg/L", 1.0),
        ("warfarin", "mg/L", "mg*h/L", "{INR}", 1.0),
    ],
)
def test_the_scale_of_a_drug_is_that_of_its_laboratory_test(
    drug: str, level: str, exposure: str, measured: str, one: float
) -> None:
    scales = scales_of(LIBRARY.drugs[drug], LIBRARY)
    assert (scales.level.unit, scales.exposure.unit, scales.measured.unit) == (level, exposure, measured)
    assert scales.level.shown(one) == pytest.approx(1.0, rel=1e-4)


@pytest.mark.parametrize("drug", ["tacrolimus", "lithium", "digoxin"])
def test_everything_asked_of_a_level_is_answered_in_that_unit(drug: str) -> None:
    pipeline = Pipeline(LIBRARY, 0, 1)
    batch = pipeline.decode(logged(WARDS[drug]))
    pipeline.remember("p-1", None)
    view = look(pipeline.update(batch).twins["p-1"], "live", RULES)
    [kept] = view.document.estimates
    shown = describe_estimate(kept, LIBRARY)
    model = LIBRARY.drugs[drug]
    scales = scales_of(model, LIBRARY)
    # The twin itself stays canonical.
    assert kept.concentration is not None
    assert shown.concentration is not None
    assert shown.concentration.median == pytest.approx(kept.concentration.median / scales.level.factor)
    assert shown.auc24 is not None
    assert {shown.concentration.unit, shown.peak_ahead.unit if shown.peak_ahead else ""} == {
        scales.level.unit
    }
    assert shown.auc24.unit == scales.exposure.unit
    limits = {t.name: t for t in model.thresholds}
    for risk in shown.risks:
        row = limits[risk.threshold]
        number, _, unit = row.as_published.partition(" ")
        assert (risk.unit, risk.expected.unit) == (unit, unit), row.name
        assert risk.limit == pytest.approx(float(number), rel=1e-3)
    sent = [payload for one in WARDS[drug] for payload in [one.value] if b'"lab"' in payload]
    forecast = forecast_drug(
        view, None, Span(None, None, 1.0), 1, Position(partition=0, next_offset=1), RULES
    )
    assert forecast.unit == scales.level.unit
    assert len(forecast.levels) == (len(sent) if model.estimates else 0)
    for mark in forecast.levels:
        assert f'"value": {mark.value:.10g}'.encode() in b"".join(sent)
    assert forecast.measures == "concentration"
    drawn = draw_forecast(forecast).decode()
    assert f"{drug} ({scales.level.unit})" in drawn
