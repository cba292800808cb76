"""The sheet to print: what must stand on it, and that it is a sheet of A4."""

from __future__ import annotations

import re

import pytest

from streams.pipeline import EVENT_SOURCE
from streams.queries.answers import ForecastAnswer, Position, TwinAnswer
from streams.queries.forecast import Span, forecast_drug
from streams.queries.views import describe_twin, look
from streams.sheet import draw_sheet
from tests.streams.logs import level, regimen, send
from tests.streams.test_export import VANCOMYCIN, stored
from tests.twinstate.library.configs import CONFIG
from twinstate.library import load_library
from twinstate.twin import Rules
from twinstate.types import NS_PER_HOUR

RULES = Rules(load_library(CONFIG), EVENT_SOURCE)
HERE = Position(partition=2, next_offset=9)


@pytest.fixture(scope="module")
def asked() -> tuple[TwinAnswer, ForecastAnswer]:
    sent = [
        *VANCOMYCIN[:-1],
        send("p-1", "regimen", "r1", 38.0, regimen(49.0, count=2)),
        send("p-1", "lab", "l4", 47.0, level(19.0)),
    ]
    view = look(stored(sent), "live", RULES)
    now = view.watermark + 3 * NS_PER_HOUR
    return (
        describe_twin(view, 1, HERE, "f" * 64, now, RULES),
        forecast_drug(view, None, Span(None, None, 0.5), 1, HERE, RULES),
    )


def test_sheet_is_a4_and_tells_everything_a_reader_must_know(
    asked: tuple[TwinAnswer, ForecastAnswer],
) -> None:
    drawn = draw_sheet(*asked, pdf=False).decode()
    width, height = (
        re.search(r'<svg[^>]* width="([\d.]+)pt"', drawn),
        re.search(r' height="([\d.]+)pt"', drawn),
    )
    assert width is not None
    assert height is not None
    # 210 by 297 mm in points of 1/72 inch.
    assert float(width[1]) == pytest.approx(210 / 25.4 * 72, abs=1.0)
    assert float(height[1]) == pytest.approx(297 / 25.4 * 72, abs=1.0)
    for text in (
        "p-1: vancomycin, live",
        "measured level",
        "forecast: median and 90 % band",
        "clearance",
        "shrinkage",
        "P(auc24 &gt; 600 mg*h/L, 24 h)",
        "3.0 h before this was printed",
        "the 2 planned doses still to come are given when due",
        "twin drugs show vancomycin",
        "partition 2",
        "Decision support: the clinician decides.",
    ):
        assert text in drawn, text


def test_sheet_as_pdf_is_one_page_and_the_same_bytes_again(
    asked: tuple[TwinAnswer, ForecastAnswer],
) -> None:
    drawn = draw_sheet(*asked)
    assert drawn.startswith(b"%PDF-")
    assert len(re.findall(rb"/Type /Page\b", drawn)) == 1
    assert draw_sheet(*asked) == drawn


def test_sheet_of_a_drug_the_twin_does_not_have_is_refused(
    asked: tuple[TwinAnswer, ForecastAnswer],
) -> None:
    twin, forecast = asked
    with pytest.raises(ValueError, match="no estimate of digoxin"):
        draw_sheet(twin, forecast.model_copy(update={"drug": "digoxin"}))
