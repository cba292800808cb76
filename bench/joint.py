"""Would one estimate from levels and windows together gain anything: `python bench/joint.py`.

Question answered: the service estimates exposure from the levels, then baseline and effect from the windows given that:
two steps. Here both are also joined: every point of the levels' posterior gets the exact likelihood of all windows (a
Kalman filter with the exposure known), so that windows weigh exposure too. On patients of moxifloxacin with QTc for two
days (`_channel_patients.py`), with no, one and two levels: how much narrower and nearer to the truth are clearance,
effect, baseline and the rise ahead, do intervals still cover, and how do the probabilities of a rise score? Without a
target: what it says is kept in `docs/decisions/0009-windows-after-levels.md`.

Options: `--json`; `--patients N`; `--seed N`; `--drug NAME`, one of those `effects.py` watches;
`--points N`, how many points of the levels' posterior get a filter of their own.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import logsumexp
from scipy.stats import norm

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from bench._channel_patients import PLANS, Person, driving, numbers_of, occupied, simulate  # noqa: E402
from bench._report import Check, report  # noqa: E402
from twinstate.assimilation.channel import assimilate_model, filter_windows  # noqa: E402
from twinstate.assimilation.channel_model import BASELINE, EFFECT  # noqa: E402
from twinstate.assimilation.observation import first_levels  # noqa: E402
from twinstate.assimilation.points import MOST_POINTS  # noqa: E402
from twinstate.assimilation.posterior import assimilate  # noqa: E402
from twinstate.assimilation.refine import Cloud  # noqa: E402
from twinstate.drug import DrugModel  # noqa: E402
from twinstate.library import load_library  # noqa: E402

Floats = NDArray[np.float64]

SEED = 20261126
PATIENTS = 150
Z90 = 1.6448536269514722
PAIR = [BASELINE, EFFECT]
# A change of the signal met often enough to tell a good probability from a bad one, in the signal's unit.
OFTEN_MET = {"moxifloxacin": 15.0, "carvedilol": 6.0, "metoprolol": 5.0, "fentanyl": 3.0}


class Joined(NamedTuple):
    """Both estimates of one patient.

    Attributes:
        effective: Effective points under the joint weights.
        eta_mean: Of the levels and windows together, (eta,).
        eta_sd: The same.
        alone_mean: Of the levels alone, as the service has it, (eta,).
        alone_sd: The same.
        pair: Joint mean of baseline and effect, (2,).
        pair_covariance: (2, 2).
        two_step: The service's mean of baseline and effect, (2,).
        two_step_covariance: (2, 2).
        chance: Joint probability that the largest change ahead passes `OFTEN_MET`.
        two_step_chance: The service's.
    """

    effective: float
    eta_mean: Floats
    eta_sd: Floats
    alone_mean: Floats
    alone_sd: Floats
    pair: Floats
    pair_covariance: Floats
    two_step: Floats
    two_step_covariance: Floats
    chance: float
    two_step_chance: float


def fewer(cloud: Cloud, count: int) -> tuple[Floats, Floats]:
    """So many of a cloud's points, equally weighted (systematic resampling), or all of them with their weights."""
    if count >= len(cloud.weights):
        return cloud.points, cloud.weights
    reached = np.searchsorted(np.cumsum(cloud.weights), (np.arange(count) + 0.5) / count)
    chosen = cloud.points[np.minimum(reached, len(cloud.weights) - 1)]
    return np.ascontiguousarray(chosen), np.full(count, 1.0 / count)


def joined(person: Person, model: DrugModel, levels: int, count: int = MOST_POINTS) -> Joined:
    """Estimate one patient both ways from the first levels and all windows, at so many points."""
    assert model.channel is not None
    numbers = numbers_of(model)
    cloud = assimilate(person.course, first_levels(person.labs, levels), model.omega).cloud
    points, prior = fewer(cloud, count)
    readings = person.readings
    asked = np.array([person.asked_h])
    share = numbers.sign * occupied(model.channel, driving(model, person.course, points, readings.time_h))
    nothing = np.zeros((readings.time_h.size, 0))
    log_weight = np.log(np.maximum(prior, 1e-300))
    mean = np.empty((len(prior), 2))
    covariance = np.empty((len(prior), 2, 2))
    for point in range(len(prior)):
        told = filter_windows(numbers, readings, np.ascontiguousarray(share[point]), nothing, asked)
        used = np.isfinite(told.forecast[:, 0])
        miss = (readings.value[used] - told.forecast[used, 0]) / told.forecast[used, 1]
        log_weight[point] += float(-0.5 * miss @ miss - np.log(told.forecast[used, 1]).sum())
        mean[point] = told.mean[0, PAIR]
        covariance[point] = told.covariance[0][np.ix_(PAIR, PAIR)]
    weights = np.exp(log_weight - logsumexp(log_weight))
    pair = weights @ mean
    off = mean - pair
    eta_mean = weights @ points
    eta_off = points - eta_mean
    (state,) = assimilate_model(numbers, readings, person.course, cloud.mean, cloud.covariance, asked)
    peak = occupied(model.channel, driving(model, person.planned, points, person.ahead_h)).max(axis=1)
    every = occupied(model.channel, driving(model, person.planned, cloud.points, person.ahead_h)).max(axis=1)
    limit = OFTEN_MET[model.drug]
    return Joined(
        effective=float(1.0 / (weights @ weights)),
        eta_mean=eta_mean,
        eta_sd=np.sqrt(weights @ eta_off**2),
        alone_mean=cloud.mean,
        alone_sd=np.sqrt(np.diag(cloud.covariance)),
        pair=pair,
        pair_covariance=np.einsum("i,ijk->jk", weights, covariance)
        + np.einsum("i,ij,ik->jk", weights, off, off),
        two_step=state.mean[PAIR],
        two_step_covariance=state.own_covariance[np.ix_(PAIR, PAIR)],
        chance=float(weights @ norm.sf(limit, mean[:, 1] * peak, np.sqrt(covariance[:, 1, 1]) * peak)),
        two_step_chance=float(cloud.weights @ norm.sf(limit, state.effect * every, state.effect_sd * every)),
    )


def compare(people: list[Person], model: DrugModel, levels: int, count: int) -> list[Check]:
    """Joined over two-step, with so many levels."""
    both = [joined(person, model, levels, count) for person in people]
    eta = np.array([person.eta for person in people])
    truth = np.array([[person.baseline, person.effect] for person in people])
    happened = np.array([person.change > OFTEN_MET[model.drug] for person in people], dtype=np.float64)
    said = f"{levels} levels" if levels != 1 else "1 level"

    def column(name: str) -> Floats:
        return np.array([getattr(one, name) for one in both])

    def rms(values: Floats) -> Floats:
        return np.asarray(np.sqrt((values**2).mean(axis=0)))

    joint_sd, step_sd = (
        np.sqrt(np.diagonal(column(name), axis1=1, axis2=2))
        for name in ("pair_covariance", "two_step_covariance")
    )
    joint_miss, step_miss = column("pair") - truth, column("two_step") - truth
    eta_error = rms(column("eta_mean") - eta) / rms(column("alone_mean") - eta)
    rows = [
        ("SD of ln clearance", float(column("eta_sd")[:, 0].mean() / column("alone_sd")[:, 0].mean())),
        ("error of ln clearance, rms", float(eta_error[0])),
        ("SD of the effect", float(joint_sd[:, 1].mean() / step_sd[:, 1].mean())),
        ("error of the effect, rms", float(rms(joint_miss)[1] / rms(step_miss)[1])),
        ("SD of the baseline", float(joint_sd[:, 0].mean() / step_sd[:, 0].mean())),
        ("error of the baseline, rms", float(rms(joint_miss)[0] / rms(step_miss)[0])),
    ]
    checks = [Check(f"{said}: {name}, joined over two-step", value, "") for name, value in rows]
    for name, miss, sd, covariance in (
        ("joined", joint_miss, joint_sd, column("pair_covariance")),
        ("two-step", step_miss, step_sd, column("two_step_covariance")),
    ):
        nees = np.einsum("ij,ij->i", miss, np.linalg.solve(covariance, miss[:, :, np.newaxis])[:, :, 0]) / 2.0
        held = (np.abs(miss) <= Z90 * sd).mean(axis=0)
        checks += [
            Check(f"{said}: 90 % interval of the effect covers, {name}", float(held[1]), ""),
            Check(f"{said}: NEES/p of baseline and effect, {name}", float(nees.mean()), ""),
        ]
    for name, chance in (("joined", column("chance")), ("two-step", column("two_step_chance"))):
        checks.append(
            Check(
                f"{said}: Brier score of P(change > {OFTEN_MET[model.drug]:g}), {name}",
                float(((chance - happened) ** 2).mean()),
                "",
            )
        )
    checks.append(Check(f"{said}: effective points, median", float(np.median(column("effective"))), ""))
    return checks


def run(patients: int, seed: int, drug: str, count: int) -> list[Check]:
    """Simulate, estimate both ways, compare."""
    library = load_library(ROOT / "config")
    model = library.drugs[drug]
    assert model.channel is not None
    dice = np.random.default_rng(seed)
    plan = PLANS[drug]
    people = [simulate(dice, model, library.signals[model.channel.signal], plan) for _ in range(patients)]
    return [
        check for levels in range(len(plan.levels_h) + 1) for check in compare(people, model, levels, count)
    ]


def main() -> int:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--json", action="store_true", help="one JSON object instead of the table")
    parser.add_argument("--patients", type=int, default=PATIENTS)
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--drug", choices=sorted(PLANS), default="moxifloxacin")
    parser.add_argument(
        "--points", type=int, default=MOST_POINTS, help="of the levels' posterior; all when left out"
    )
    asked = parser.parse_args()
    checks = run(asked.patients, asked.seed, asked.drug, asked.points)
    return report(
        f"Joint and two-step, {asked.drug}: {asked.patients} patients", checks, asked.seed, as_json=asked.json
    )


if __name__ == "__main__":
    sys.exit(main())
