"""What Prometheus is told of a worker."""

from __future__ import annotations

import socket
import urllib.request
from types import SimpleNamespace
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from streams.embedded.ports import free_ports
from streams.partition import PartitionStatus
from streams.worker import RefusedError
from streams.worker_metrics import CrewCollector, serve_metrics


def crew() -> Any:
    status = PartitionStatus(position=40, batches=3, records=40, update_s=1.5)
    return SimpleNamespace(processors={2: SimpleNamespace(status=status)}, ends={2: 100}, loop_beat=0.0)


def test_lag_is_the_end_of_the_log_less_the_stores_position() -> None:
    registry = CollectorRegistry()
    registry.register(CrewCollector(crew()))
    told = generate_latest(registry).decode()
    assert 'twin_worker_lag_records{partition="2"} 60.0' in told
    assert 'twin_worker_update_seconds_total{partition="2"} 1.5' in told


def test_metrics_are_served_where_the_settings_say() -> None:
    (port,) = free_ports(1)
    serve_metrics("127.0.0.1", port)(crew())
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
        assert b"twin_worker_records_total" in answer.read()


def test_port_0_serves_nothing() -> None:
    serve_metrics("127.0.0.1", 0)(crew())


def test_a_port_that_is_taken_is_a_refusal_that_says_what_to_do() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(RefusedError, match="TWIN_WORKER__METRICS_PORT"):
            serve_metrics("127.0.0.1", port)(crew())
