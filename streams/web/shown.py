"""The examples that OpenAPI shows."""

from __future__ import annotations

import json
from importlib import resources
from typing import Any


def example_value(name: str) -> Any:
    """The content of one file of `examples/`."""
    text = resources.files("streams.web").joinpath("examples", f"{name}.json").read_text("utf-8")
    return json.loads(text)


def example(name: str) -> dict[str, Any]:
    """An answer from `examples/`, as OpenAPI shows it."""
    return {"content": {"application/json": {"example": example_value(name)}}}
