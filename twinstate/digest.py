"""One number for a whole ward: equal digests mean that every twin has the same bytes."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping


def digest_of(twins: Mapping[str, bytes]) -> str:
    """SHA-256 (hex) over canonical twins sorted by patient.

    Each part goes in with its length before it, so that no two different wards can read alike.

    Args:
        twins: Canonical bytes by patient's pseudonym.
    """
    digest = hashlib.sha256()
    for patient in sorted(twins):
        for part in (patient.encode(), twins[patient]):
            digest.update(len(part).to_bytes(8, "big"))
            digest.update(part)
    return digest.hexdigest()
