"""A patient's estimate is the same to the bit, whoever is processed before, after or beside them."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from tests.twinstate.patients import Model, draw_labs, posterior_of, tacrolimus_like, vancomycin_like
from twinstate.assimilation.observation import Labs
from twinstate.pk.propagate import solve_points

ROOT = Path(__file__).parents[2]
PATIENTS = 24


def patients() -> list[tuple[Model, Labs]]:
    random = np.random.default_rng(99)
    found = []
    for index in range(PATIENTS):
        model = vancomycin_like() if index % 2 else tacrolimus_like()
        found.append((model, draw_labs(model, random, 1 + index % 5, 5.0 if index % 3 == 0 else 0.0)))
    return found


def digest(patient: tuple[Model, Labs]) -> str:
    model, labs = patient
    cloud = posterior_of(model, labs).cloud
    trajectories = solve_points(model.course, cloud.points, labs.time_h)
    content = b"".join(
        part.tobytes() for part in (cloud.points, cloud.weights, cloud.mean, cloud.covariance, *trajectories)
    )
    return hashlib.sha256(content).hexdigest()


def test_estimate_does_not_depend_on_who_came_before() -> None:
    everyone = patients()
    in_order = [digest(patient) for patient in everyone]
    backwards = [digest(patient) for patient in reversed(everyone)]
    assert in_order == backwards[::-1]


def test_estimate_does_not_depend_on_who_is_processed_at_the_same_time() -> None:
    everyone = patients()
    alone = [digest(patient) for patient in everyone]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(digest, everyone * 3)) == alone * 3


def test_estimate_is_the_same_in_another_process() -> None:
    script = (
        "from tests.twinstate.test_bits import digest, patients\n"
        "everyone = patients()\n"
        "print({k: digest(everyone[k]) for k in (17, 3, 8)})\n"
    )
    other = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.strip()
    everyone = patients()
    assert other == str({k: digest(everyone[k]) for k in (17, 3, 8)})
