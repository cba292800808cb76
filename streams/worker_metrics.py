"""What a worker tells Prometheus of the partitions it holds. No label names a patient, a record or a device."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

from prometheus_client import CollectorRegistry, Metric, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from streams.crew import Crew
from streams.partition import PartitionStatus
from streams.worker import RefusedError

# Name, what it counts, and how to read it off a partition's status.
COUNTERS: tuple[tuple[str, str, Callable[[PartitionStatus], float]], ...] = (
    ("twin_worker_batches", "Batches applied", lambda s: s.batches),
    ("twin_worker_records", "Records applied", lambda s: s.records),
    ("twin_worker_update_seconds", "Time spent folding batches into twins", lambda s: s.update_s),
    ("twin_worker_apply_seconds", "Time spent writing to Redis", lambda s: s.apply_s),
    ("twin_worker_fenced", "Times another owner had taken the partition", lambda s: s.fenced),
    ("twin_worker_rolled_back", "Times Redis stood behind this worker", lambda s: s.rolled_back),
)


class CrewCollector(Collector):
    """Reads the crew at each scrape.

    Args:
        crew: Of this worker.
    """

    def __init__(self, crew: Crew) -> None:
        self._crew = crew

    def collect(self) -> Iterator[Metric]:
        """Give one sample a partition held."""
        held = dict(self._crew.processors)
        for name, told, read in COUNTERS:
            counter = CounterMetricFamily(name, told, labels=["partition"])
            for partition, processor in held.items():
                counter.add_metric([str(partition)], read(processor.status))
            yield counter
        lag = GaugeMetricFamily(
            "twin_worker_lag_records",
            "Log end, as last seen, less the store's position",
            labels=["partition"],
        )
        for partition, processor in held.items():
            end, position = self._crew.ends.get(partition), processor.status.position
            if end is not None and position is not None:
                lag.add_metric([str(partition)], max(end - position, 0))
        yield lag
        yield GaugeMetricFamily("twin_worker_partitions", "Partitions held", value=len(held))
        yield GaugeMetricFamily(
            "twin_worker_loop_age_seconds",
            "Since the event loop last beat; a hanging worker grows old",
            value=time.monotonic() - self._crew.loop_beat,
        )


def serve_metrics(host: str, port: int) -> Callable[[Crew], None]:
    """Prepare to serve a crew's metrics over HTTP.

    Args:
        host: Address to listen on.
        port: 0 serves nothing.

    Returns:
        What `run_worker` calls with its crew. It raises `RefusedError` when the port is taken.
    """

    def observe(crew: Crew) -> None:
        if port == 0:
            return
        registry = CollectorRegistry()
        registry.register(CrewCollector(crew))
        try:
            start_http_server(port, addr=host, registry=registry)
        except OSError as error:
            raise RefusedError(
                f"metrics cannot be served on {host}:{port}: {error.strerror or error}. Give each worker of a "
                "machine a port of its own (worker.metrics_port, or TWIN_WORKER__METRICS_PORT; 0 for none)"
            ) from error

    return observe
