"""The alert rules speak of metrics that exist, and lead to a chapter of the runbook."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import promql_parser
import pytest
import yaml
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from streams.adapters.mqtt_bridge import Figures
from streams.bridge import BridgeCollector
from streams.partition import PartitionStatus
from streams.queries.answers import STATES, Counts
from streams.web.metrics import render_metrics
from streams.worker_metrics import CrewCollector

ROOT = Path(__file__).parents[2]
RULES = yaml.safe_load((ROOT / "config" / "alerts.yaml").read_text())["groups"][0]["rules"]
DURATION = re.compile(r"^[1-9]\d*[smh]$")


def exported() -> dict[str, set[str]]:
    """Names of all samples a scrape of the API, of a worker and of a bridge gives, each with its labels."""
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
    bridge: Any = SimpleNamespace(figures=Figures(), waiting=0, oldest_s=0.0)
    registry.register(BridgeCollector(bridge))
    text = render_metrics(counts, "library").decode() + generate_latest(registry).decode()
    return {
        sample.name: set(sample.labels)
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


class Asked(NamedTuple):
    """What an expression asks for: metrics, and the labels it matches, groups or joins by."""

    metrics: set[str]
    labels: set[str]


def asked(expression: str) -> Asked:
    """Read an expression as Prometheus does; one it would refuse raises ValueError."""
    found = Asked(set(), set())

    def visit(node: Any) -> None:
        if isinstance(node, promql_parser.VectorSelector):
            found.metrics.add(node.name)
            found.labels.update(matcher.name for matcher in node.matchers.matchers)
        modifier = getattr(node, "modifier", None)
        grouping = getattr(modifier, "matching", modifier)
        found.labels.update(getattr(grouping, "labels", None) or ())

    promql_parser.walk(promql_parser.parse(expression), visit)
    return found


@pytest.mark.parametrize("rule", RULES, ids=[rule["alert"] for rule in RULES])
def test_a_rule_is_whole_and_names_metrics_and_labels_that_exist(rule: dict[str, Any]) -> None:
    assert set(rule) <= {"alert", "expr", "for", "labels", "annotations"}
    assert rule["labels"]["severity"] in ("page", "ticket")
    assert set(rule["annotations"]) == {"summary", "runbook"}
    assert DURATION.match(rule.get("for", "1m"))
    samples = exported()
    wanted = asked(rule["expr"])
    assert wanted.metrics, "a rule about nothing"
    assert wanted.metrics <= set(samples), "no such metric"
    # `instance` is Prometheus's own.
    labels = wanted.labels | set(re.findall(r"\$labels\.(\w+)", rule["annotations"]["summary"])) - {
        "instance"
    }
    assert labels <= set.union(*(samples[name] for name in wanted.metrics)), "no such label"


@pytest.mark.parametrize("wrong", ["sum by (reason) (twin_x_total", "rate(twin_x_total)", "twin_x > > 1"])
def test_an_expression_prometheus_would_refuse_is_refused_here(wrong: str) -> None:
    with pytest.raises(ValueError, match=r"promql|expected|parenthesis"):
        asked(wrong)


def test_every_rule_fires_on_its_trouble_and_is_silent_on_good_order() -> None:
    told = yaml.safe_load((ROOT / "tests" / "streams" / "alerts_test.yaml").read_text())["tests"]
    fires = {case["alertname"] for test in told for case in test["alert_rule_test"] if case["exp_alerts"]}
    silent = {
        case["alertname"] for test in told for case in test["alert_rule_test"] if not case["exp_alerts"]
    }
    assert fires == silent == {rule["alert"] for rule in RULES}
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip(
            "promtool is not on PATH (Debian: apt install prometheus), so only the expressions are read"
        )
    done = subprocess.run(
        [promtool, "test", "rules", "alerts_test.yaml"],
        cwd=ROOT / "tests" / "streams",
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


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
