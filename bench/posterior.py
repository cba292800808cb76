"""How near is the estimate to the true posterior: `python bench/posterior.py`.

Question answered: for four simulated models (A one compartment, infusions; B two compartments, oral with lag; C
Michaelis-Menten; D turnover, only the response is measured) and 1, 2 or 4 levels a patient, how far are mean, spread,
interval and probability of the product's estimate from those of a reference posterior (importance sampling from a
defensive mixture, effective sample size 5,000 or more), and how often does the truth lie where the estimate says?
Then: levels below the limit of quantification, one wrong level of four, and a clearance that drifts at a speed unknown.

Every figure comes from `twinstate.assimilation.posterior.assimilate`, as the pipeline calls it, bank of wrong levels
included; the reference is told that no level is wrong.

Options: `--patients` and `--many` make it smaller (the latter is the number behind NEES), `--json` prints one JSON
object instead of the table. Exit 1 when a target fails.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from rich.progress import track
from scipy.special import log_ndtr

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from bench._report import Check, report  # noqa: E402
from twinstate.assimilation.observation import Labs, labs_under  # noqa: E402
from twinstate.assimilation.posterior import Posterior, assimilate, carry_forward  # noqa: E402
from twinstate.assimilation.summary import weighted_quantile  # noqa: E402
from twinstate.drug import Residual, Variation  # noqa: E402
from twinstate.pk.course import (  # noqa: E402
    COAGULATION_PRODUCT,
    INTO_CENTRAL,
    INTO_DEPOT,
    SATURABLE,
    STRUCTURAL_PARAMETERS,
    Course,
    Structure,
    eta_row,
    log_row,
    no_occasions,
)
from twinstate.pk.propagate import solve_points  # noqa: E402

Floats = NDArray[np.float64]
SEED = 20260301
CLEARANCE = STRUCTURAL_PARAMETERS.index("clearance")
BANK = (0.0, 0.07, 0.15, 0.3)
START_H = 494_000.0


class Model(NamedTuple):
    """A population, its therapy, and what is asked of it.

    Attributes:
        course: Typical patient.
        omega: Covariance of eta.
        residual: Of a level.
        second: Whether the level is the response.
        drawn_h: Levels fall between these hours.
        day_h: AUC24 is that between these hours (of the response where `second`).
        threshold: P(AUC24 above this) is asked.
    """

    course: Course
    omega: Floats
    residual: Residual
    second: bool
    drawn_h: tuple[float, float]
    day_h: tuple[float, float]
    threshold: float


def _course(
    structure: Structure, typical: dict[str, float], etas: list[str], dosing: tuple[float, ...]
) -> Course:
    """Doses of `mg` at an interval; dosing = (count, interval h, mg, duration h, route)."""
    count, interval, mg, duration, route = dosing
    doses = int(count)
    return Course(
        structure,
        np.array([START_H]),
        log_row(typical)[np.newaxis],
        eta_row({name: position for position, name in enumerate(etas)}),
        no_occasions(1),
        START_H + interval * np.arange(doses, dtype=np.float64),
        np.full(doses, float(mg)),
        np.full(doses, float(duration)),
        np.full(doses, int(route), dtype=np.int64),
        np.zeros(doses),
    )


def _omega(sd: list[float], correlation: float) -> Floats:
    """Covariance with the first two etas correlated."""
    matrix = np.eye(len(sd))
    matrix[0, 1] = matrix[1, 0] = correlation
    return np.outer(sd, sd) * matrix


def models() -> dict[str, Model]:
    """The four models; structure and variability as in the reference, therapy and typical values ours."""
    a = {"clearance": 4.0, "central_volume": 50.0}
    b = {
        "clearance": 20.0,
        "central_volume": 100.0,
        "intercompartmental_clearance": 30.0,
        "peripheral_volume": 300.0,
        "absorption_rate": 1.2,
        "lag": 0.4,
    }
    c = {
        "maximum_elimination_rate": 17.0,
        "michaelis_constant": 4.0,
        "central_volume": 45.0,
        "absorption_rate": 0.4,
    }
    d = {
        "clearance": 0.25,
        "central_volume": 10.0,
        "absorption_rate": 1.0,
        "half_effect_concentration": 0.8,
        "hill": 1.0,
        "response_time": 1.0 / 0.03,
        "response_baseline": 1.0,
        "response_scale": 20.0,
        "response_exponent": 3.6,
    }
    b_etas = ["clearance", "central_volume", "absorption_rate", "intercompartmental_clearance", "lag"]
    d_etas = ["clearance", "central_volume", "half_effect_concentration", "response_time"]
    turnover = Structure(1, second=COAGULATION_PRODUCT, first_chain=1)
    return {
        "A": Model(
            _course(Structure(1), a, ["clearance", "central_volume"], (10, 12, 1000, 1, INTO_CENTRAL)),
            _omega([0.30, 0.20], 0.3),
            Residual(0.12, 0.6),
            False,
            (1, 110),
            (96, 120),
            600,
        ),
        "B": Model(
            _course(Structure(2), b, b_etas, (10, 12, 4000, 0, INTO_DEPOT)),
            _omega([0.5, 0.5, 0.7, 0.4, 0.3], 0.4),
            Residual(0.12, 0.3),
            False,
            (1, 110),
            (96, 120),
            500,
        ),
        "C": Model(
            _course(
                Structure(1, SATURABLE),
                c,
                ["maximum_elimination_rate", "michaelis_constant", "central_volume"],
                (30, 8, 100, 0, INTO_DEPOT),
            ),
            _omega([0.25, 0.50, 0.15], 0.0),
            Residual(0.10, 0.5),
            False,
            (24, 216),
            (216, 240),
            480,
        ),
        "D": Model(
            _course(turnover, d, d_etas, (10, 24, 5, 0, INTO_DEPOT)),
            _omega([0.30, 0.20, 0.35, 0.25], 0.0),
            Residual(0.08, 0.1),
            True,
            (48, 216),
            (216, 240),
            120,
        ),
    }


class Score(NamedTuple):
    """One patient against the reference, or against the truth alone where no reference was made."""

    shift: Floats
    spread: Floats
    auc_shift: float
    mass: float
    covered: bool
    probability: float
    reference_probability: float
    above: bool
    miss: float
    reference_miss: float
    nees: float
    bias: float


def outputs(model: Model, points: Floats, time_h: Floats) -> Floats:
    """What a level measures at each point, (points, times)."""
    concentration, _, second = solve_points(model.course, points, time_h)
    return second if model.second else concentration


def auc24(model: Model, points: Floats) -> Floats:
    """AUC24 of each point, (points,): exact for concentrations, by Simpson's rule for the response."""
    begin, end = model.day_h
    if not model.second:
        return np.diff(solve_points(model.course, points, START_H + np.array([begin, end]))[1])[:, 0]
    grid = np.linspace(begin, end, 25)
    response = outputs(model, points, START_H + grid)
    weights = np.full(25, 2.0)
    weights[1::2] = 4.0
    weights[[0, -1]] = 1.0
    return np.asarray(response @ weights * ((end - begin) / 24 / 3))


def draw(model: Model, random: np.random.Generator, levels: int, limit: float = 0.0) -> tuple[Floats, Labs]:
    """A patient: true eta, levels; those below `limit` are censored."""
    eta = random.multivariate_normal(np.zeros(len(model.omega)), model.omega)
    time_h = START_H + np.sort(random.uniform(*model.drawn_h, levels))
    f = outputs(model, eta[np.newaxis], time_h)[0]
    value = f + np.hypot(model.residual.proportional * f, model.residual.additive) * random.normal(
        size=levels
    )
    # A level of nought or less cannot be reported; the simulation keeps a trace.
    value = np.maximum(value, 0.05)
    below = (value < limit).astype(np.int64)
    return eta, labs_under(model.residual, time_h, np.maximum(value, limit), below, int(model.second))


def log_normal(x: Floats, mean: Floats, covariance: Floats) -> Floats:
    """Log-density of a Gaussian at the rows of x, up to ln 2 pi."""
    factor = np.linalg.cholesky(covariance)
    scaled = np.linalg.solve(factor, (x - mean).T)
    return np.asarray(-0.5 * (scaled**2).sum(axis=0) - np.log(np.diag(factor)).sum())


def reference(
    model: Model, labs: Labs, near: Posterior, random: np.random.Generator
) -> tuple[Floats, Floats]:
    """Draws and weights of the true posterior; its density is written anew."""
    mean, covariance = near.cloud.mean, near.cloud.covariance
    nought = np.zeros(len(model.omega))
    for count in (16_000, 64_000, 256_000):
        parts = [
            (0.5, mean, 1.2 * covariance),
            (0.25, mean, 4.0 * covariance),
            (0.25, nought, model.omega),
        ]
        draws = np.concatenate(
            [random.multivariate_normal(m, c, int(count * share)) for share, m, c in parts]
        )
        densities = [np.log(share) + log_normal(draws, m, c) for share, m, c in parts]
        f = outputs(model, draws, labs.time_h)
        sd = np.hypot(model.residual.proportional * f, model.residual.additive)
        scaled = (labs.value - f) / sd
        log_likelihood = np.where(labs.censored == 1, log_ndtr(scaled), -0.5 * scaled**2 - np.log(sd)).sum(
            axis=1
        )
        log_weight = (
            log_normal(draws, nought, model.omega) + log_likelihood - np.logaddexp.reduce(densities, axis=0)
        )
        weights = np.exp(log_weight - log_weight.max())
        weights /= weights.sum()
        if 1.0 / (weights**2).sum() >= 5000:
            return draws, weights
        mean = weights @ draws
        covariance = (draws - mean).T * weights @ (draws - mean) + 1e-9 * np.eye(len(mean))
    raise RuntimeError(
        f"the reference posterior reached an effective size of {1 / (weights**2).sum():.0f} only"
    )


def score(model: Model, eta: Floats, labs: Labs, random: np.random.Generator | None) -> Score:
    """Compare the estimate with the reference (made when `random` is given) and with the truth."""
    found = assimilate(model.course, labs, model.omega)
    cloud = found.cloud
    miss = eta - cloud.mean
    nees = float(miss @ np.linalg.solve(cloud.covariance, miss)) / len(eta)
    nothing = np.full(len(eta), np.nan)
    if random is None:
        unknown = float("nan")
        return Score(
            shift=nothing,
            spread=nothing,
            auc_shift=unknown,
            mass=unknown,
            covered=False,
            probability=unknown,
            reference_probability=unknown,
            above=False,
            miss=unknown,
            reference_miss=unknown,
            nees=nees,
            bias=unknown,
        )
    exposure = auc24(model, cloud.points)
    truth = float(auc24(model, eta[np.newaxis])[0])
    low, high = (weighted_quantile(exposure, cloud.weights, q) for q in (0.05, 0.95))
    draws, weights = reference(model, labs, found, random)
    mean = weights @ draws
    sd = np.sqrt(weights @ (draws - mean) ** 2)
    of_draws = auc24(model, draws)
    expected = float(weights @ of_draws)
    spread = float(np.sqrt(weights @ (of_draws - expected) ** 2))
    estimate = float(cloud.weights @ exposure)
    return Score(
        shift=(cloud.mean - mean) / sd,
        spread=np.sqrt(np.diag(cloud.covariance)) / sd,
        auc_shift=(estimate - expected) / spread,
        mass=float(weights[(of_draws >= low) & (of_draws <= high)].sum()),
        covered=low <= truth <= high,
        probability=float(cloud.weights[exposure > model.threshold].sum()),
        reference_probability=float(weights[of_draws > model.threshold].sum()),
        above=truth > model.threshold,
        miss=estimate - truth,
        reference_miss=expected - truth,
        nees=nees,
        bias=float((cloud.mean[0] - mean[0]) / sd[0]),
    )


def cell(name: str, levels: int, patients: int, many: int, limit: float) -> list[Score]:
    """All patients of one model and number of levels: `patients` with a reference, `many` in all."""
    model = models()[name]
    random = np.random.default_rng([SEED, ord(name), levels, int(limit > 0)])
    scores = []
    for patient in range(max(patients, many)):
        eta, labs = draw(model, random, levels, limit)
        scores.append(score(model, eta, labs, random.spawn(1)[0] if patient < patients else None))
    return scores


def rms(values: object) -> float:
    """Root mean square."""
    return float(np.sqrt(np.mean(np.square(np.asarray(values, dtype=float)))))


def cell_checks(name: str, levels: int, scores: list[Score], patients: int) -> list[Check]:
    """The targets of one cell."""
    known = scores[:patients]
    title = f"{name}, {levels} level{'s' if levels > 1 else ''}"
    ratio = rms([s.miss for s in known]) / rms([s.reference_miss for s in known])
    gaps = [abs(s.probability - s.reference_probability) for s in known]
    return [
        Check(f"{title}: shift of eta, rms", rms([s.shift for s in known]), "sd", high=0.08),
        Check(f"{title}: shift of AUC24, rms", rms([s.auc_shift for s in known]), "sd", high=0.08),
        Check(f"{title}: sd ratio", float(np.mean([s.spread for s in known])), "", 0.95, 1.05),
        Check(
            f"{title}: AUC24 RMSE ratio",
            ratio,
            "",
            high=1.02,
        ),
        Check(f"{title}: mass in the 90 % interval", float(np.mean([s.mass for s in known])), "", 0.88, 0.92),
        Check(
            f"{title}: NEES / p ({len(scores)} patients)",
            float(np.mean([s.nees for s in scores])),
            "",
            0.85,
            1.15,
        ),
        Check(f"{title}: |dP(AUC24 > threshold)|", float(np.mean(gaps)), "", high=0.008),
        Check(f"{title}: |dP|, 99 % quantile", float(np.quantile(gaps, 0.99)), "", high=0.06),
    ]


def pooled_checks(scores: list[Score]) -> list[Check]:
    """Targets over all cells."""
    covered = float(np.mean([s.covered for s in scores]))
    brier = float(np.mean([(s.probability - s.above) ** 2 for s in scores]))
    of_reference = float(np.mean([(s.reference_probability - s.above) ** 2 for s in scores]))
    return [
        Check("all: the 90 % interval holds the truth", covered, "", 0.87, 0.93),
        Check("all: Brier score less the reference's", brier - of_reference, "", high=0.0005),
    ]


def corrupt(kind: str, model: Model, eta: Floats, labs: Labs, random: np.random.Generator) -> Labs:
    """One of the levels made wrong."""
    value = labs.value.copy()
    which = int(random.integers(len(value)))
    if kind == "ten times":
        value[which] *= 10.0
    elif kind == "from the line":
        value[which] += 40.0
    else:
        at = labs.time_h[which]
        if kind == "of another patient":
            eta = random.multivariate_normal(np.zeros(len(model.omega)), model.omega)
        else:  # drawn one to six hours before or after what was written
            at += random.uniform(1.0, 6.0) * random.choice([-1.0, 1.0])
        f = float(outputs(model, eta[np.newaxis], np.array([at]))[0, 0])
        value[which] = max(f * (1.0 + model.residual.proportional * random.normal()), 0.05)
    return labs._replace(value=value)


def wrong_levels(patients: int) -> list[Check]:
    """One level of four is wrong: error and coverage of AUC24 on the log scale; levels of the two days before."""
    model = models()["A"]._replace(drawn_h=(48.0, 96.0))
    checks = []
    for kind in ("none", "ten times", "from the line", "of another patient", "wrong time"):
        random = np.random.default_rng([SEED, 77])
        misses, covered, seconds = [], [], 0.0
        for _ in range(patients):
            eta, labs = draw(model, random, 4)
            if kind != "none":
                labs = corrupt(kind, model, eta, labs, random.spawn(1)[0])
            began = time.perf_counter()
            cloud = assimilate(model.course, labs, model.omega).cloud
            seconds += time.perf_counter() - began
            exposure = np.log(auc24(model, cloud.points))
            truth = float(np.log(auc24(model, eta[np.newaxis])[0]))
            misses.append(float(cloud.weights @ exposure) - truth)
            low, high = (weighted_quantile(exposure, cloud.weights, q) for q in (0.05, 0.95))
            covered.append(low <= truth <= high)
        title = f"A, 4 levels, one wrong ({kind})" if kind != "none" else "A, 4 levels, none wrong"
        checks += [
            Check(f"{title}: log-RMSE of AUC24", rms(misses), "", high=0.09),
            Check(f"{title}: 90 % interval holds", float(np.mean(covered)), "", low=0.80),
            Check(f"{title}: a fit", 1e3 * seconds / patients, "ms"),
        ]
    return checks


def drift(patients: int) -> list[Check]:
    """Clearance walks at a speed unknown; one level a day for two weeks."""
    a = models()["A"]
    days = 14
    bank, checks = Variation(CLEARANCE, 0.0, BANK), []
    for speed in (0.1, 0.2):
        random = np.random.default_rng([SEED, 88])
        misses: dict[str, list[float]] = {"bank": [], "known": [], "static": []}
        covered = []
        for _ in range(patients):
            eta = random.multivariate_normal(np.zeros(2), a.omega)
            walk = speed * np.cumsum(np.concatenate([[0.0], random.normal(size=days - 1)]))
            starts = START_H + 24.0 * np.arange(days, dtype=np.float64)
            plan = _course(
                Structure(1),
                {"clearance": 4.0, "central_volume": 50.0},
                ["clearance", "central_volume"],
                (2 * days, 12, 1000, 1, INTO_CENTRAL),
            )
            moving = np.repeat(plan.log_typical, days, axis=0)
            moving[:, CLEARANCE] += walk
            true = plan._replace(
                segment_start_h=starts, log_typical=moving, occasion_index=no_occasions(days)
            )
            time_h = START_H + 24.0 * np.arange(days, dtype=np.float64) + 23.5
            f = solve_points(true, eta[np.newaxis], time_h)[0][0]
            value = np.maximum(f + np.hypot(0.12 * f, 0.6) * random.normal(size=days), 0.05)
            labs = labs_under(a.residual, time_h, value, np.zeros(days, dtype=np.int64))
            truth = float(np.log(4.0) + eta[0] + walk[-1])
            for name, variation in (
                ("bank", bank),
                ("known", Variation(CLEARANCE, 0.0, (speed,))),
                ("static", None),
            ):
                found = assimilate(plan, labs, a.omega, variation)
                course, cloud = carry_forward(found, plan, variation, float(time_h[-1]))
                column = int(course.occasion_index[-1, CLEARANCE])
                log_clearance = (
                    np.log(4.0) + cloud.points[:, 0] + (cloud.points[:, column] if column >= 0 else 0.0)
                )
                misses[name].append(float(cloud.weights @ log_clearance) - truth)
                if name == "bank":
                    low, high = (weighted_quantile(log_clearance, cloud.weights, q) for q in (0.05, 0.95))
                    covered.append(low <= truth <= high)
        title = f"clearance drifts {speed:g} per sqrt day, speed unknown"
        checks += [
            Check(
                f"{title}: RMSE ratio to speed known",
                rms(misses["bank"]) / rms(misses["known"]),
                "",
                high=1.10,
            ),
            Check(f"{title}: 90 % interval holds", float(np.mean(covered)), "", low=0.85),
            Check(
                f"{title}: RMSE ratio of a static estimate", rms(misses["static"]) / rms(misses["known"]), ""
            ),
        ]
    return checks


def cost(fits: int) -> list[Check]:
    """Time of one lab refit, one patient after the other in one process; four levels."""
    checks = []
    for name, target in (("A", 1.5), ("B", 1.5), ("C", 5.0), ("D", 5.0)):
        model = models()[name]
        random = np.random.default_rng([SEED, 99])
        records = [draw(model, random, 4)[1] for _ in range(fits)]
        assimilate(model.course, records[0], model.omega)
        each = []
        for labs in records:
            began = time.perf_counter()
            assimilate(model.course, labs, model.omega)
            each.append(1e3 * (time.perf_counter() - began))
        checks += [
            Check(f"{name}: a lab refit, mean of {fits} patients", float(np.mean(each)), "ms", high=target),
            Check(f"{name}: a lab refit, slowest patient", float(np.max(each)), "ms"),
        ]
    return checks


def main() -> int:
    """Run, print, and say by the exit status whether every target holds."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--json", action="store_true", help="one JSON object instead of the table")
    parser.add_argument(
        "--patients", type=int, default=300, help="patients a cell with a reference posterior (300)"
    )
    parser.add_argument("--many", type=int, default=1000, help="patients a cell behind NEES (1000)")
    parser.add_argument("--models", default="ABCD", help="which of the four models (ABCD)")
    asked = parser.parse_args()
    checks: list[Check] = []
    pooled: list[Score] = []
    jobs = [
        (name, levels, asked.patients, asked.many, 0.0)
        for levels in (4, 2, 1)
        for name in reversed(asked.models)
    ]
    jobs.append(("A", 2, asked.patients, asked.patients, 12.0))
    with ProcessPoolExecutor(os.cpu_count(), mp_context=get_context("spawn")) as pool:
        running = [pool.submit(cell, *job) for job in jobs]
        for job, future in zip(jobs, track(running, "cells", disable=asked.json), strict=True):
            scores = future.result()
            if job[4] > 0.0:
                bias = float(np.mean([s.bias for s in scores]))
                checks.append(
                    Check("A, 2 levels, some below the limit: bias of clearance", bias, "sd", -0.03, 0.03)
                )
                continue
            checks += cell_checks(job[0], job[1], scores, asked.patients)
            pooled += scores[: asked.patients]
    checks += pooled_checks(pooled)
    checks += wrong_levels(asked.many)
    checks += drift(asked.patients)
    checks += cost(min(asked.many, 1000))
    return report("The estimate beside the true posterior", checks, SEED, as_json=asked.json)


if __name__ == "__main__":
    sys.exit(main())
