"""The alert rules speak of metrics that exist, and lead to a chapter of the runbook."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from streams.partition import PartitionStatus
from streams.queries.answers import STATES, Counts
from streams.web.metrics import render_metrics
from streams.worker_metrics import CrewCollector

ROOT = Path(__file__).parents[2]
RULES = yaml.safe_load((ROOT / "config" / "alerts.yaml").read_text())["groups"][0]["rules"]
DURATION = re.compile(r"^[1-9]\d*[smh]$")


def exported() -> dict[str, set[str]]:
    """Names of all samples a scrape of the API and of a worker gives, each with its labels."""
    counts = Counts(
        records={"applied": 1},
        events={"raised": 1},
        dead_letters={"late": 1},
        twins={"live": 1},
        standing={"high": 1},
        positions={0: 1},
        waiting={0: {"risk": 1, "dead_letters": 0}},
        seen_s={0: 1.0},
        fingerprints=("f",),
    )
    registry = CollectorRegistry()
    crew: Any = SimpleNamespace(
        processors={0: SimpleNamespace(status=PartitionStatus(position=1))}, ends={0: 2}, loop_beat=0.0
    )
    registry.register(CrewCollector(crew))
    text = render_metrics(counts, "library").decode() + generate_latest(registry).decode()
    return {
        sample.name: set(sample.labels)
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


@pytest.mark.parametrize("rule", RULES, ids=[rule["alert"] for rule in RULES])
def test_a_rule_is_whole_and_names_metrics_and_labels_that_exist(rule: dict[str, Any]) -> None:
    assert set(rule) <= {"alert", "expr", "for", "labels", "annotations"}
    assert rule["labels"]["severity"] in ("page", "ticket")
    assert set(rule["annotations"]) == {"summary", "runbook"}
    assert DURATION.match(rule.get("for", "1m"))
    expression = rule["expr"]
    assert expression.count("(") == expression.count(")")
    samples = exported()
    named = re.findall(r"\btwin_[a-z_]+", expression)
    assert named, "a rule about nothing of ours"
    assert set(named) <= set(samples), "no such metric"
    # `instance` is Prometheus's own.
    labels = set(re.findall(r"\$labels\.(\w+)", rule["annotations"]["summary"])) - {"instance"}
    for group in re.findall(r"\b(?:by|on) \(([^)]*)\)", expression):
        labels |= {label.strip() for label in group.split(",")}
    labels |= set(re.findall(r"[{,]\s*(\w+)\s*=~?\"", expression))
    assert labels <= set.union(*(samples[name] for name in named)), "no such label"


def test_states_and_outboxes_a_rule_asks_for_exist() -> None:
    text = " ".join(rule["expr"] for rule in RULES)
    assert set(re.findall(r'state="(\w+)"', text)) <= set(STATES)
    assert set(re.findall(r'outbox="(\w+)"', text)) <= {"risk", "dead_letters"}


@pytest.mark.parametrize("rule", RULES, ids=[rule["alert"] for rule in RULES])
def test_the_runbook_has_the_chapter_a_rule_leads_to(rule: dict[str, Any]) -> None:
    page, _, anchor = rule["annotations"]["runbook"].partition("#")
    headings = re.findall(r"^## (.+)$", (ROOT / page).read_text(), re.MULTILINE)
    slugs = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
    assert anchor in slugs
