"""What does each signal teach of what, and do its intervals hold: `python bench/effects.py`.

Question answered: of drugs whose effect a device reads (QTc under moxifloxacin, heart rate under carvedilol and
metoprolol, breathing under fentanyl, a home meter's INR under warfarin), how much narrower does the signal make the
drug's effect, the baseline and the exposure; do 90 % intervals cover, is the squared error what the covariance expects
(NEES/p), and does the probability that the signal itself passes a limit come true as often as it says? Patients are
simulated from the drugs' files (`_channel_patients.py`). In the service windows leave exposure alone; what they would
say of it comes from one estimate of levels and windows together (`joint.py`).

Options: `--json`; `--patients N`; `--seed N`; `--small`, 40 patients and wider targets, half a minute. Exit 1 when a
target fails.
"""

from __future__ import annotations

import argparse
import math
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from bench._channel_patients import (  # noqa: E402
    DAY_ONE_H,
    PLANS,
    Person,
    Plan,
    course_of,
    driving,
    no_readings,
    numbers_of,
    simulate,
)
from bench._report import Check, report  # noqa: E402
from bench.joint import joined  # noqa: E402
from twinstate.assimilation.channel import ChannelState, assimilate_model  # noqa: E402
from twinstate.assimilation.channel_extremes import extreme_ahead  # noqa: E402
from twinstate.assimilation.channel_forecast import rise_quantiles  # noqa: E402
from twinstate.assimilation.channel_model import BASELINE, EFFECT  # noqa: E402
from twinstate.assimilation.observation import Labs  # noqa: E402
from twinstate.assimilation.posterior import assimilate  # noqa: E402
from twinstate.assimilation.refine import Cloud  # noqa: E402
from twinstate.assimilation.summary import weighted_quantile  # noqa: E402
from twinstate.drug import DrugModel, Observed  # noqa: E402
from twinstate.library import load_library  # noqa: E402
from twinstate.pk.course import Course  # noqa: E402
from twinstate.pk.propagate import solve, solve_points  # noqa: E402

Floats = NDArray[np.float64]

SEED = 20261125
PATIENTS = 400
SMALL = 40
JOINED = 10  # the first of so many get the joint estimate too, point by point
Z90 = 1.6448536269514722
PAIR = [BASELINE, EFFECT]
NARROW = np.array([0.05, 0.95])
# Days of home readings, and the day whose INR is foretold.
HOME_DAYS = (4, 6, 8, 10, 12, 14)
FORETOLD_DAY = 20
METER = "inr_home_meter"


class Targets(NamedTuple):
    """Ends of the ranges that must hold; wider where few patients cannot tell."""

    covers: tuple[float, float]
    nees: tuple[float, float]
    comes_true: float


FULL = Targets((0.87, 0.94), (0.8, 1.2), 0.05)
FEW = Targets((0.80, 0.99), (0.55, 1.5), 0.15)


class Found(NamedTuple):
    """What was said of one patient beside what was true."""

    effect: bool
    baseline: bool
    nees: float
    effect_sd: float
    baseline_sd: float
    effect_sd_unheard: float
    baseline_sd_unheard: float
    change: bool
    extreme: bool
    stated: float
    happened: bool
    distrusted: bool


def state_of(person: Person, model: DrugModel, cloud: Cloud, *, heard: bool) -> ChannelState:
    """The channel when asked, with the watch or without."""
    readings = person.readings if heard else no_readings(person.readings)
    (state,) = assimilate_model(
        numbers_of(model), readings, person.course, cloud.mean, cloud.covariance, np.array([person.asked_h])
    )
    return state


def judge(person: Person, model: DrugModel, plan: Plan) -> Found:
    """Ask the twin once, at the end, and compare with the truth."""
    assert model.channel is not None
    numbers = numbers_of(model)
    cloud = assimilate(person.course, person.labs, model.omega).cloud
    state, unheard = (state_of(person, model, cloud, heard=heard) for heard in (True, False))
    miss = state.mean[PAIR] - np.array([person.baseline, person.effect])
    ahead = driving(model, person.planned, cloud.points, person.ahead_h)
    low, high = rise_quantiles(state, numbers, ahead.max(axis=1), cloud.weights, NARROW)
    extreme = extreme_ahead(
        state,
        numbers,
        ahead,
        cloud.weights,
        person.ahead_h,
        plan.limit,
        NARROW,
        lowest=model.channel.falls,
    )
    passed = person.extreme < plan.limit if model.channel.falls else person.extreme > plan.limit
    return Found(
        effect=abs(float(miss[1])) <= Z90 * state.effect_sd,
        baseline=abs(float(miss[0])) <= Z90 * state.baseline_sd,
        nees=float(miss @ np.linalg.solve(state.own_covariance[np.ix_(PAIR, PAIR)], miss)) / 2.0,
        effect_sd=state.effect_sd,
        baseline_sd=state.baseline_sd,
        effect_sd_unheard=unheard.effect_sd,
        baseline_sd_unheard=unheard.baseline_sd,
        change=bool(low <= person.change <= high),
        extreme=bool(extreme.quantiles[0] <= person.extreme <= extreme.quantiles[1]),
        stated=extreme.chance.probability,
        happened=bool(passed),
        distrusted=bool(state.distrusted),
    )


def of_a_watch(drug: str, model: DrugModel, people: list[Person], targets: Targets) -> list[Check]:
    """What the watch's signal contributes, and whether what is said of it holds."""
    assert model.channel is not None
    plan = PLANS[drug]
    found = [judge(person, model, plan) for person in people]
    said = f"{drug}, {model.channel.signal}"

    def mean(name: str) -> float:
        return float(np.mean([getattr(one, name) for one in found]))

    few = people[: max(1, len(people) // JOINED)]
    without = [joined(person, model, 0) for person in few]
    checks = [
        Check(f"{said}: SD of the effect, heard over not", mean("effect_sd") / mean("effect_sd_unheard"), ""),
        Check(
            f"{said}: SD of the baseline, heard over not",
            mean("baseline_sd") / mean("baseline_sd_unheard"),
            "",
        ),
        Check(
            f"{said}: SD of ln clearance without levels, joined over two-step",
            float(
                np.mean([one.eta_sd[0] for one in without]) / np.mean([one.alone_sd[0] for one in without])
            ),
            "",
        ),
    ]
    if plan.levels_h:
        with_levels = [joined(person, model, len(plan.levels_h)) for person in few]
        checks.append(
            Check(
                f"{said}: the same with {len(plan.levels_h)} levels",
                float(
                    np.mean([one.eta_sd[0] for one in with_levels])
                    / np.mean([one.alone_sd[0] for one in with_levels])
                ),
                "",
            )
        )
    return [
        *checks,
        Check(f"{said}: 90 % interval of the effect covers", mean("effect"), "", *targets.covers),
        Check(f"{said}: 90 % interval of the baseline covers", mean("baseline"), "", *targets.covers),
        Check(f"{said}: NEES/p of baseline and effect", mean("nees"), "", *targets.nees),
        Check(f"{said}: 90 % interval of the largest change ahead covers", mean("change"), ""),
        Check(f"{said}: 90 % interval of the signal's extreme ahead covers", mean("extreme"), ""),
        Check(
            f"{said}: P(signal passes {plan.limit:g}), mean less frequency of {mean('happened'):.2f}",
            mean("stated") - mean("happened"),
            "",
            -targets.comes_true,
            targets.comes_true,
        ),
        Check(f"{said}: sound devices distrusted", mean("distrusted"), "of patients"),
    ]


class Home(NamedTuple):
    """Warfarin with one kind of readings: spread and errors of ln clearance and ln half-effect concentration."""

    sd: Floats
    covers: NDArray[np.bool_]
    nees: float
    inr: bool


def at_home(dice: np.random.Generator, model: DrugModel) -> dict[str, Home]:
    """One patient on warfarin: no INR, six of a home meter, the same six of the laboratory."""
    plan = Plan(
        5.0,
        tuple(24.0 * day for day in range(FORETOLD_DAY)),
        "oral",
        0.0,
        0.0,
        0.0,
        (),
        0.0,
        {"age": float(dice.uniform(45.0, 85.0))},
        {
            "CYP2C9": str(dice.choice(["*1/*1", "*1/*2", "*1/*3"])),
            "VKORC1": str(dice.choice(["GG", "AG", "AA"])),
        },
    )
    course = course_of(model, plan, DAY_ONE_H, math.inf)
    eta = np.linalg.cholesky(model.omega) @ dice.standard_normal(len(model.etas))
    drawn_h = DAY_ONE_H + 24.0 * np.array(HOME_DAYS) - 1.0
    later = np.array([DAY_ONE_H + 24.0 * FORETOLD_DAY])
    _, _, true = solve(course, eta, drawn_h)
    _, _, ahead = solve(course, eta, later)
    spread = model.residual.proportional
    laboratory = true * np.exp(spread * dice.standard_normal(true.size))
    meter = model.tests[METER]
    read = np.array(
        [_read_high(value, meter) for value in laboratory + 0.32 * dice.standard_normal(true.size)]
    )
    records = {
        "none": _labs(model.tests[model.analyte], drawn_h[:0], laboratory[:0]),
        "home meter": _labs(meter, drawn_h, np.array([meter.corrected(value) for value in read])),
        "laboratory": _labs(model.tests[model.analyte], drawn_h, laboratory),
    }
    return {name: _home(model, course, labs, eta, later, float(ahead[0])) for name, labs in records.items()}


def _read_high(value: float, meter: Observed) -> float:
    """The reading whose correction gives `value`, and the lowest a meter shows."""
    reading = value
    for _ in range(50):
        reading = value + reading - meter.corrected(reading)
    return max(reading, 0.6)


def _labs(test: Observed, drawn_h: Floats, value: Floats) -> Labs:
    count = value.size
    return Labs(
        drawn_h,
        value,
        np.zeros(count, dtype=np.int64),
        np.ones(count, dtype=np.int64),
        np.full(count, test.residual.proportional),
        np.full(count, test.residual.additive),
        np.full(count, int(test.residual.logarithmic), dtype=np.int64),
    )


def _home(model: DrugModel, course: Course, labs: Labs, eta: Floats, later: Floats, inr: float) -> Home:
    cloud = assimilate(course, labs, model.omega).cloud
    miss = cloud.mean - eta
    sd = np.sqrt(np.diag(cloud.covariance))
    _, _, ahead = solve_points(course, cloud.points, later)
    low, high = (weighted_quantile(ahead[:, 0], cloud.weights, q) for q in (0.05, 0.95))
    return Home(
        sd=sd,
        covers=np.abs(miss) <= Z90 * sd,
        nees=float(miss @ np.linalg.solve(cloud.covariance, miss)) / miss.size,
        inr=bool(low <= inr <= high),
    )


def of_a_meter(model: DrugModel, homes: list[dict[str, Home]], targets: Targets) -> list[Check]:
    """What six readings of a home meter contribute, beside six of the laboratory."""
    spread = {name: np.mean([one[name].sd for one in homes], axis=0) for name in homes[0]}
    checks = []
    for kind in ("home meter", "laboratory"):
        for place, eta in enumerate(model.etas):
            ratio = float(spread[kind][place] / spread["none"][place])
            checks.append(
                Check(
                    f"warfarin, {kind}: SD of ln {eta.replace('_', ' ')}, {len(HOME_DAYS)} readings over none",
                    ratio,
                    "",
                )
            )
    held = np.mean([one["home meter"].covers for one in homes], axis=0)
    checks += [
        Check(
            f"warfarin, home meter: 90 % interval of ln {eta.replace('_', ' ')} covers",
            float(held[place]),
            "",
            *targets.covers,
        )
        for place, eta in enumerate(model.etas)
    ]
    return [
        *checks,
        Check(
            "warfarin, home meter: NEES/p of both",
            float(np.mean([o["home meter"].nees for o in homes])),
            "",
            *targets.nees,
        ),
        Check(
            f"warfarin, home meter: 90 % interval of the INR on day {FORETOLD_DAY} covers",
            float(np.mean([o["home meter"].inr for o in homes])),
            "",
            *targets.covers,
        ),
    ]


def run(patients: int, seed: int, targets: Targets) -> list[Check]:
    """Simulate, ask, compare."""
    library = load_library(ROOT / "config")
    dice = np.random.default_rng(seed)
    checks: list[Check] = []
    for drug, plan in PLANS.items():
        model = library.drugs[drug]
        assert model.channel is not None
        signal = library.signals[model.channel.signal]
        checks += of_a_watch(
            drug, model, [simulate(dice, model, signal, plan) for _ in range(patients)], targets
        )
    warfarin = library.drugs["warfarin"]
    return [*checks, *of_a_meter(warfarin, [at_home(dice, warfarin) for _ in range(patients)], targets)]


def main() -> int:
    """Run, print, and say by the exit status whether every target holds."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--json", action="store_true", help="one JSON object instead of the table")
    parser.add_argument("--patients", type=int)
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--small", action="store_true", help=f"{SMALL} patients, wider targets")
    asked = parser.parse_args()
    patients = asked.patients or (SMALL if asked.small else PATIENTS)
    checks = run(patients, asked.seed, FEW if asked.small else FULL)
    return report(f"Effects: {patients} patients a drug", checks, asked.seed, as_json=asked.json)


if __name__ == "__main__":
    sys.exit(main())
