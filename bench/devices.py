"""Are devices gone wrong found out, and sound ones left alone: `python bench/devices.py`.

Question answered: a patch reads QTc each minute for two days of moxifloxacin (the patients of `wearables.py`). From a
random hour on it lies on a table (nulls, or noise all over its range), hangs, reads twice too much, or creeps upwards
by 5 % an hour: how often is that flagged within three hours, and is it found out before it lifts P(rise > 30 ms) to
0.5, the tier at which risk is raised? What the same patch, sound, would have raised at that hour is not the fault's
doing: some patients' true rise comes near 30 ms. And with nothing wrong, how often is anything flagged in an hour, and
do the intervals still cover, also under a daily rhythm twice the published one and bouts of activity?

Options: `--json`, `--patients N`, `--seed N ...` (figures are pooled over several). Exit 1 when a target fails.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from bench._report import Check, report  # noqa: E402
from bench.wearables import LIMIT_MS, MONITORED_H, Patient, covers, posterior, simulate  # noqa: E402
from twinstate.assimilation.channel import ChannelState, assimilate_model  # noqa: E402
from twinstate.assimilation.channel_forecast import chance_of_rise  # noqa: E402
from twinstate.assimilation.channel_model import channel_model  # noqa: E402
from twinstate.assimilation.readings import UNUSABLE_MARKS, from_device, readings_of  # noqa: E402
from twinstate.assimilation.windows import fold_frame  # noqa: E402
from twinstate.catalogue import Signal  # noqa: E402
from twinstate.drug import DrugModel  # noqa: E402
from twinstate.library import load_library  # noqa: E402
from twinstate.pk.propagate import solve_points  # noqa: E402

Floats = NDArray[np.float64]
Fault = Callable[[Floats, Floats, np.random.Generator], Floats]

SEED = 20260302
PATIENTS = 100
FOUND_WITHIN_H = 3
RAISED = 0.5
FAULTS: dict[str, Fault] = {
    "off the body, nulls": lambda values, since_h, dice: np.where(since_h >= 0, np.nan, values),
    "off the body, noise": lambda values, since_h, dice: np.where(
        since_h >= 0, dice.uniform(200.0, 800.0, values.size), values
    ),
    "stuck": lambda values, since_h, dice: np.where(since_h >= 0, values[np.argmax(since_h >= 0)], values),
    "twice the gain": lambda values, since_h, dice: np.where(since_h >= 0, 2.0 * values, values),
    "5 % an hour upwards": lambda values, since_h, dice: values * (1.0 + 0.05 * np.maximum(since_h, 0.0)),
}
SOUND = ("sound", "rhythm and activity")


class Heard(NamedTuple):
    """What the twin made of one patch, each full hour after the first dose, (hours,) each."""

    flagged: NDArray[np.bool_]
    chance: Floats
    state: ChannelState


def listen(patient: Patient, values: Floats, model: DrugModel, signal: Signal) -> Heard:
    """Ask the twin hourly; both levels are known from the beginning, so that all that changes is the patch."""
    assert model.channel is not None
    channel = channel_model(model.channel)
    monitored = slice(0, 60 * MONITORED_H - 1)
    windows = fold_frame(values[monitored], patient.times[monitored], signal)
    readings = readings_of(from_device("patch", windows), signal, channel.scatter_sd)
    cloud = posterior(patient, model, 2)
    hours = np.arange(1.0, MONITORED_H + 1.0)
    asked = patient.start_h + hours
    states = assimilate_model(channel, readings, patient.course, cloud.mean, cloud.covariance, asked)
    ahead, _, _ = solve_points(patient.course, cloud.points, patient.start_h + patient.grid_h)
    flagged, chance = np.zeros(hours.size, np.bool_), np.empty(hours.size)
    for i, (hour, state) in enumerate(zip(hours, states, strict=True)):
        lately = (readings.end_h <= asked[i]) & (readings.end_h > asked[i] - 1.0)
        flagged[i] = bool(state.distrusted) or bool((readings.marks[lately] & UNUSABLE_MARKS).any())
        within = (patient.grid_h >= hour) & (patient.grid_h <= hour + 24.0)
        peak = ahead[:, within].max(axis=1)
        chance[i] = chance_of_rise(state, channel, peak, cloud.weights, LIMIT_MS).probability
    return Heard(flagged, chance, states[-1])


def lively(patient: Patient, dice: np.random.Generator) -> Floats:
    """The readings with the daily rhythm once more on top, and a bout of activity (20 to 60 min, 8 ms) each 6 h."""
    time_h = np.array(patient.times, dtype=np.float64) / 3.6e12
    values = patient.values + 3.65 * np.cos(2.0 * np.pi * (time_h - 9.11) / 24.0)
    for begin_h in np.arange(patient.start_h, time_h[-1], 6.0) + dice.uniform(0.0, 5.0):
        bout = (time_h > begin_h) & (time_h < begin_h + dice.uniform(1.0 / 3.0, 1.0))
        values = values + 8.0 * bout
    return np.asarray(values)


class Told(NamedTuple):
    """What a seed's patients gave, by name of the fault or of the sound stream.

    Attributes:
        found: Whether the fault was flagged in time.
        before: Whether risk was not raised by the fault, or flagged before.
        first_flags: Patients of whom something was ever flagged though nothing was wrong.
        hours: Watched until then.
        covers: Whether the interval of the effect holds the truth.
    """

    found: dict[str, list[bool]]
    before: dict[str, list[bool]]
    first_flags: dict[str, int]
    hours: dict[str, int]
    covers: dict[str, list[bool]]


def ask(patients: int, seed: int, told: Told) -> None:
    """Simulate one seed's patients, break their patches, ask."""
    library = load_library(ROOT / "config")
    model, signal = library.drugs["moxifloxacin"], library.signals["qtc"]
    dice = np.random.default_rng(seed)
    people = [simulate(dice, model, signal, raised=False) for _ in range(patients)]
    sound = [listen(patient, patient.values, model, signal) for patient in people]
    for name, fault in FAULTS.items():
        for patient, without in zip(people, sound, strict=True):
            begins = int(dice.integers(6, MONITORED_H - FOUND_WITHIN_H))
            since_h = (np.array(patient.times, dtype=np.float64) / 3.6e12) - patient.start_h - begins
            heard = listen(patient, fault(patient.values, since_h, dice), model, signal)
            # Entry i is hour i + 1: what was flagged before the fault does not count as found.
            told.found[name].append(bool(heard.flagged[begins : begins + FOUND_WITHIN_H].any()))
            flagged = np.flatnonzero(heard.flagged[begins:])
            by_fault = (heard.chance >= RAISED) & (without.chance < RAISED)
            raised = np.flatnonzero(by_fault[begins:])
            told.before[name].append(not raised.size or bool(flagged.size and flagged[0] < raised[0]))
    for name in SOUND:
        heard_all = sound if name == "sound" else [listen(p, lively(p, dice), model, signal) for p in people]
        for patient, heard in zip(people, heard_all, strict=True):
            told.first_flags[name] += bool(heard.flagged.any())
            told.hours[name] += int(np.argmax(heard.flagged)) + 1 if heard.flagged.any() else MONITORED_H
            told.covers[name].append(covers(heard.state.effect, heard.state.effect_sd, patient.effect))


def run(patients: int, seeds: Sequence[int]) -> list[Check]:
    """Ask for each seed, and pool."""
    told = Told(
        {n: [] for n in FAULTS},
        {n: [] for n in FAULTS},
        dict.fromkeys(SOUND, 0),
        dict.fromkeys(SOUND, 0),
        {n: [] for n in SOUND},
    )
    for seed in seeds:
        ask(patients, seed, told)
    within = f"flagged within {FOUND_WITHIN_H} h"
    checks = []
    for name in FAULTS:
        checks += [
            Check(f"{name}: {within}", float(np.mean(told.found[name])), "of cases", 0.95, 1.0),
            Check(
                f"{name}: risk not raised by it, or flagged before",
                float(np.mean(told.before[name])),
                "of cases",
                0.99,
                1.0,
            ),
        ]
    for name in SOUND:
        rate = told.first_flags[name] / told.hours[name]
        checks += [
            Check(f"{name}: first false flags an hour watched", float(rate), "", 0.0, 0.01),
            Check(
                f"{name}: 90 % interval of the effect covers",
                float(np.mean(told.covers[name])),
                "",
                0.85,
                0.97,
            ),
        ]
    return checks


def main() -> int:
    """Run, print, and say by the exit status whether every target holds."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--json", action="store_true", help="one JSON object instead of the table")
    parser.add_argument("--patients", type=int, default=PATIENTS)
    parser.add_argument("--seed", type=int, nargs="+", default=[SEED])
    asked = parser.parse_args()
    return report(
        f"Devices: {asked.patients} patients", run(asked.patients, asked.seed), asked.seed, as_json=asked.json
    )


if __name__ == "__main__":
    sys.exit(main())
