"""Keys that a JSON object holds twice.

RFC 8259 leaves open which of the two values counts, and parsers differ: a dose of 10 mg for one is 100 mg for another.
"""

from __future__ import annotations

import json
import re
from typing import Any

import msgspec

_DETACHED_COLON = re.compile(rb'"[ \t\r\n]+:')
_PARSED = msgspec.json.Decoder()


def repeated_key(body: bytes) -> str | None:
    """Name a key that one object of a JSON text holds twice; None when there is none.

    Args:
        body: A JSON text that msgspec can read, in UTF-8.
    """
    # With no space before a colon this counts each key as written, and text that looks like one: never too few.
    if body.count(b'":') == _count(_PARSED.decode(body)) and not _DETACHED_COLON.search(body):
        return None
    repeated: list[str] = []

    def note(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                repeated.append(key)
            seen.add(key)
        return dict(pairs)

    json.loads(body, object_pairs_hook=note)
    return repeated[0] if repeated else None


def _count(value: Any) -> int:
    """Count the keys of all objects; an array is looked into when it begins with an object."""
    if isinstance(value, dict):
        return len(value) + sum(map(_count, value.values()))
    if isinstance(value, list) and value and isinstance(value[0], dict):
        return sum(map(_count, value))
    return 0
