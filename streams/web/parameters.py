"""Query parameters with their rules, read once for all routes."""

from __future__ import annotations

import datetime as dt
from typing import Annotated

from fastapi import Path, Query
from fastapi.exceptions import RequestValidationError

from streams.codec import to_ns
from streams.queries import AsOf

Patient = Annotated[
    str,
    Path(
        description="The patient's pseudonym, as in the records",
        min_length=1,
        max_length=128,
        pattern=r"^[!-~]+$",
        examples=["p-3f9a"],
    ),
]
AsOfText = Annotated[
    str,
    Query(
        alias="as_of",
        description="`live` (the watermark), `settled` (72 h behind it), or an RFC 3339 moment up to the watermark "
        "(wearable frames count by whole UTC hours then)",
        examples=["settled", "2026-03-02T08:00:00Z"],
    ),
]


def read_as_of(text: str) -> AsOf:
    """Read `live`, `settled` or a moment as UTC ns.

    Raises:
        RequestValidationError: It is none of these.
    """
    if text == "live":
        return "live"
    if text == "settled":
        return "settled"
    try:
        moment = dt.datetime.fromisoformat(text)
    except ValueError:
        moment = None
    if moment is None or moment.tzinfo is None:
        rule = (
            "is neither live, settled nor an RFC 3339 moment with its offset, such as 2026-03-02T08:00:00Z "
            "(write + as %2B)"
        )
        raise RequestValidationError([{"loc": ("query", "as_of"), "msg": rule, "type": "value_error"}])
    return to_ns(moment)
