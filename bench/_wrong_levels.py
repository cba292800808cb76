"""One level of four is wrong altogether: what it does to the estimate, and what any estimate could do about it."""

from __future__ import annotations

import time
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from bench._four_models import Model, auc24, draw, models, outputs
from bench._report import Check, rms
from twinstate.assimilation.observation import Labs
from twinstate.assimilation.posterior import assimilate
from twinstate.assimilation.summary import weighted_quantile

Floats = NDArray[np.float64]
EIGHT_HOURS_AFTER_H = np.array([56.0, 68.0, 80.0, 92.0])
# Ways a level can be wrong for which the best estimate there is can be worked out.
TOLD = ("of another patient", "wrong time")
HOURS_OFF = np.linspace(1.0, 6.0, 8)


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


def wrong_levels(patients: int, seed: int) -> list[Check]:
    """One level of four is wrong: error and coverage of AUC24 on the log scale.

    Levels are drawn once in each of four intervals, eight hours after the infusion begins, on the two days before. A
    record drawn at random within those days says less, even when nothing is wrong; there no target is set, and the
    error of an estimate that was told that one level is wrong, and in which way, is put beside ours.
    """
    model = models()["A"]._replace(drawn_h=(48.0, 96.0))
    checks: list[Check] = []
    prior = random_patients(model, np.random.default_rng([seed, 78]))
    for when, drawn, worst, least in (
        ("eight hours after each infusion", EIGHT_HOURS_AFTER_H, 0.09, 0.80),
        ("at any time", 4, np.inf, -np.inf),
    ):
        for kind in ("none", "ten times", "from the line", "of another patient", "wrong time"):
            random = np.random.default_rng([seed, 77])
            misses, of_told, covered, seconds = [], [], [], 0.0
            for _ in range(patients):
                eta, labs = draw(model, random, drawn)
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
                if kind in TOLD and isinstance(drawn, int):
                    of_told.append(told_how(kind, prior, labs) - truth)
            title = f"A, 4 levels {when}, {'none wrong' if kind == 'none' else f'one wrong ({kind})'}"
            checks += [
                Check(f"{title}: log-RMSE of AUC24", rms(misses), "", high=worst),
                Check(f"{title}: 90 % interval holds", float(np.mean(covered)), "", low=least),
                Check(f"{title}: a fit", 1e3 * seconds / patients, "ms"),
            ]
            if of_told:
                checks.append(Check(f"{title}: log-RMSE if told so", rms(of_told), ""))
    return checks


class Patients(NamedTuple):
    """Patients of the population, as the estimate that is told what went wrong looks among them.

    Attributes:
        model: Their population.
        eta: (patients, eta).
        log_exposure: Logarithm of AUC24, (patients,).
    """

    model: Model
    eta: Floats
    log_exposure: Floats


def random_patients(model: Model, random: np.random.Generator) -> Patients:
    """Twenty thousand of them."""
    eta = random.multivariate_normal(np.zeros(len(model.omega)), model.omega, 20_000)
    return Patients(model, eta, np.log(auc24(model, eta)))


def told_how(kind: str, prior: Patients, labs: Labs) -> float:
    """Mean of ln AUC24 when it is known that one level is wrong, not which, and in which way: no estimate knows more.

    Args:
        kind: One of `TOLD`.
        prior: Among whom the patient is looked for.
        labs: Four levels.
    """
    model = prior.model
    proportional, additive = model.residual.proportional, model.residual.additive
    predicted = outputs(model, prior.eta, labs.time_h)
    right = _density(labs.value, predicted, np.hypot(proportional * predicted, additive))
    weights = np.zeros(len(prior.eta))
    for level, (value, at) in enumerate(zip(labs.value, labs.time_h, strict=True)):
        if kind == "of another patient":
            elsewhere = predicted[:, level]
            wrong = np.full(len(weights), _density(value, elsewhere, proportional * elsewhere).mean())
        else:
            elsewhere = outputs(model, prior.eta, np.sort(at + np.concatenate([-HOURS_OFF, HOURS_OFF])))
            wrong = _density(value, elsewhere, proportional * elsewhere).mean(axis=1)
        weights += np.delete(right, level, axis=1).prod(axis=1) * wrong
    return float(weights @ prior.log_exposure / weights.sum())


def _density(value: Floats | float, mean: Floats, sd: Floats) -> Floats:
    return np.asarray(np.exp(-0.5 * ((value - mean) / sd) ** 2) / sd)
