"""docs/api.md tells what the code does."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from streams.adapters.record_intake import Place
from streams.queries.answers import Counts
from streams.web.intake import IntakeMetrics
from streams.web.metrics import render_metrics
from streams.web.problems import KINDS
from streams.web.risk_stream import StreamMetrics


class NothingSent:
    waiting = 0

    async def send(self, records: Sequence[tuple[str, bytes]]) -> list[Place]:
        raise NotImplementedError

    async def close(self) -> None:
        raise NotImplementedError


PAGE = (Path(__file__).parents[2] / "docs" / "api.md").read_text()


def test_page_lists_every_problem_with_its_status() -> None:
    told = dict(re.findall(r"^\| `([a-z-]+)` \| (\d{3}) \|", PAGE, re.MULTILINE))
    assert told == {slug: str(int(kind.status)) for slug, kind in KINDS.items()}


def test_page_lists_every_metric_with_its_labels() -> None:
    counts = Counts(
        records={"applied": 1},
        events={"raised": 1},
        dead_letters={"late": 1},
        twins={"live": 1},
        standing={"high": 1},
        positions={0: 1},
        waiting={0: {"risk": 1}},
        seen_s={0: 1.0},
        fingerprints=("f",),
    )
    intake = IntakeMetrics(NothingSent())
    intake.refused["too-large"] = intake.bad["late"] = 1
    text = render_metrics(counts, "0" * 64, intake, StreamMetrics()).decode()
    exposed = {}
    for name, labels in re.findall(r"^(twin_\w+)(?:\{(.*)\})? ", text, re.MULTILINE):
        exposed[name] = set(re.findall(r'(\w+)="', labels))
    told = {
        name: {label for label in labels.split(",") if label}
        for name, labels in re.findall(r"^\| `(twin_\w+)(?:\{([\w,]+)\})?` \|", PAGE, re.MULTILINE)
    }
    assert told == exposed
