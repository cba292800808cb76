"""What every test shares: one hypothesis profile, and an environment without settings of the machine."""

from __future__ import annotations

import os

import pytest
from hypothesis import settings

from tests.faults_report import FaultRows

# The same examples in every run: a red test must stay red until its cause is gone. A first call compiles a kernel.
settings.register_profile("project", derandomize=True, deadline=None)
settings.load_profile("project")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add what `make faults` asks for."""
    parser.addoption(
        "--rows", action="store_true", help="only the rows of the fault matrix; results in build/faults.json"
    )
    parser.addoption(
        "--short", action="store_true", help="with --rows: without the long tests, and with few repetitions"
    )
    parser.addoption(
        "--add", action="store_true", help="add to build/faults.json what the run before left out"
    )
    parser.addoption(
        "--seed", type=int, default=20261125, help="of the dice that say when a fault is injected"
    )


def pytest_configure(config: pytest.Config) -> None:
    """Collect what becomes of the rows of the fault matrix."""
    config.pluginmanager.register(FaultRows(config), "fault-rows")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave the long rows to `make faults`."""
    if config.getoption("--rows") and not config.getoption("--short"):
        return
    config.hook.pytest_deselected(items=[item for item in items if item.get_closest_marker("long")])
    items[:] = [item for item in items if not item.get_closest_marker("long")]


@pytest.fixture(autouse=True)
def _no_settings_from_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    for key in list(os.environ):
        if key.startswith("TWIN_") or key in {"KAFKA_BOOTSTRAP_SERVERS", "REDIS_URL"}:
            monkeypatch.delenv(key)
