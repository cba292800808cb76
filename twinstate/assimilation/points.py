"""The refinement's standard normal points: a checked-in table, as a generator may change with its version."""

from __future__ import annotations

import hashlib
import io
from functools import cache
from importlib.resources import files

import numpy as np
from numpy.typing import NDArray

from twinstate.errors import LibraryError

# Of the whole file; `bench/_make_points.py` prints it.
SHA256 = "048bb960a65f9c911b2fa1d53d8b4bd71f7482795f31ff6638e5c7dab1794371"
FEWEST_POINTS = 256
MOST_POINTS = 4096
MOST_ETAS = 16


@cache
def normal_points() -> NDArray[np.float64]:
    """Scrambled Sobol points mapped to standard normal; every first 2^k rows fill the space evenly.

    Returns:
        Shape (`MOST_POINTS`, 1 + `MOST_ETAS`), read-only. Column 0 chooses the part of a mixture, the others
        are etas.

    Raises:
        LibraryError: The table is not the one this code was written for.

    References:
        Owen (1998), J. Complexity 14:466-489 (scrambling); made by `bench/_make_points.py`.
    """
    content = files("twinstate.assimilation").joinpath("points.npy").read_bytes()
    found = hashlib.sha256(content).hexdigest()
    if found != SHA256:
        raise LibraryError(
            f"twinstate/assimilation/points.npy has SHA-256 {found}, not {SHA256}: every refined estimate "
            "would change. Restore the file from the repository, or regenerate it with bench/_make_points.py."
        )
    table: NDArray[np.float64] = np.ascontiguousarray(np.load(io.BytesIO(content), allow_pickle=False))
    table.setflags(write=False)
    return table
