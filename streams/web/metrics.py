"""The eleven figures that matter, for Prometheus. No label names a patient, a record or a device."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib.metadata import PackageNotFoundError, version

from prometheus_client import CollectorRegistry, Metric, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from streams.queries.answers import STATES, Counts

MEDIA_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class _Snapshot(Collector):
    def __init__(self, counts: Counts | None, library_fingerprint: str) -> None:
        self._counts = counts
        self._library = library_fingerprint

    def collect(self) -> Iterator[Metric]:
        yield GaugeMetricFamily(
            "twin_redis_up", "1 when Redis answered this scrape", value=0 if self._counts is None else 1
        )
        build = GaugeMetricFamily(
            "twin_build_info", "Constant 1", labels=["version", "library", "fingerprint"]
        )
        prints = ("",) if self._counts is None else self._counts.fingerprints or ("",)
        for fingerprint in prints:
            build.add_metric([_version(), self._library[:12], fingerprint], 1)
        yield build
        if self._counts is None:
            return
        counts = self._counts
        yield _counter(
            "twin_records",
            "Records by what became of them (dead letters apart)",
            "outcome",
            counts.records,
        )
        yield _counter("twin_risk_events", "Risk events by type", "type", counts.events)
        yield _counter(
            "twin_dead_letters", "Records refused to the dead-letter topic", "reason", counts.dead_letters
        )
        twins: dict[str, float] = {state: counts.twins.get(state, 0) for state in STATES}
        yield _gauge("twin_twins", "Twins by state, stale derived at their watermark", "state", twins)
        yield _gauge("twin_standing_episodes", "Standing episodes of risk", "severity", counts.standing)
        clocks = {doubt: float(counts.doubted_clocks.get(doubt, 0)) for doubt in ("ahead", "behind")}
        yield _gauge(
            "twin_doubted_clocks", "Devices whose clock is off the broker's, or always late", "doubt", clocks
        )
        yield _gauge(
            "twin_next_offset",
            "Next input offset; the topic's end offset less this is the lag",
            "partition",
            {str(p): float(n) for p, n in counts.positions.items()},
        )
        waiting = GaugeMetricFamily(
            "twin_outbox_messages", "Messages not yet published", labels=["partition", "outbox"]
        )
        for partition, outboxes in counts.waiting.items():
            for outbox, n in outboxes.items():
                waiting.add_metric([str(partition), outbox], n)
        yield waiting
        yield _gauge(
            "twin_last_write_age_seconds",
            "Since a worker last wrote or acquired the partition; with lag, a stalled worker",
            "partition",
            {str(p): age for p, age in counts.seen_s.items()},
        )


def render_metrics(counts: Counts | None, library_fingerprint: str, *more: Collector) -> bytes:
    """Write the exposition.

    Args:
        counts: From the queries; None when Redis did not answer, which is a metric too.
        library_fingerprint: Of the library this process read.
        more: Figures of this process itself.
    """
    registry = CollectorRegistry()
    registry.register(_Snapshot(counts, library_fingerprint))
    for collector in more:
        registry.register(collector)
    return generate_latest(registry)


def _counter(name: str, text: str, label: str, values: Mapping[str, float]) -> CounterMetricFamily:
    family = CounterMetricFamily(name, text, labels=[label])
    for key, n in sorted(values.items()):
        family.add_metric([key], n)
    return family


def _gauge(name: str, text: str, label: str, values: Mapping[str, float]) -> GaugeMetricFamily:
    family = GaugeMetricFamily(name, text, labels=[label])
    for key, n in sorted(values.items()):
        family.add_metric([key], n)
    return family


def _version() -> str:
    try:
        return version("twin-updater")
    except PackageNotFoundError:
        return "unknown"
