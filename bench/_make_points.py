"""Regenerate the refinement's table of normal points with `python bench/_make_points.py`.

Question answered: where do the bytes of `twinstate/assimilation/points.npy` come from? From SciPy's Sobol
sequence, scrambled once with the seed below and mapped to standard normal by the inverse distribution
function. The table is checked in and its hash asserted at load, because a generator's output may change with
its version.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
from scipy.special import ndtri
from scipy.stats import qmc

SEED = 20260301
LOG2_POINTS = 12
COLUMNS = 17  # one to choose the part of the proposal, sixteen for the etas
TABLE = Path(__file__).parent.parent / "twinstate" / "assimilation" / "points.npy"


def main() -> None:
    """Write the table and print the hash that `twinstate/assimilation/points.py` must hold."""
    sobol = qmc.Sobol(d=COLUMNS, scramble=True, rng=SEED)
    normal = ndtri(sobol.random_base2(LOG2_POINTS)).astype("<f8")
    if not np.isfinite(normal).all():
        raise SystemExit(f"Seed {SEED} puts a point on the edge of the unit cube: take another.")
    np.save(TABLE, normal)
    print(normal.shape, hashlib.sha256(TABLE.read_bytes()).hexdigest())


if __name__ == "__main__":
    main()
