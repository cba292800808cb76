"""Twenty virtual patients on moxifloxacin 400 mg a day who wear an ECG patch: truth drawn round Hong 2015.

The patch is on some hours before the first dose, so that a long QTc of the patient's own can be told from a rise by
the drug; one patient has one. Nobody is overdosed: half the largest effect needs 3.9 mg/L, so that for a typical
patient 30 ms needs 25 mg/L, eight times the usual peak (docs/data.md). The constants repeat the paper rather than read
the drug file, so that an error in the file shows up as a wrong forecast.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from streams.simulation.dice import Dice, Floats, omega2, wandering
from streams.simulation.truth import Simulated, Story, Truth, first_above
from streams.simulation.wire import DemoRecord, Sender, from_hours, quantity, regimen_line, utc
from twinstate.pk.course import INTO_DEPOT, Course, Structure, eta_row, log_row, no_occasions
from twinstate.pk.propagate import solve
from twinstate.types import NS_PER_HOUR, hours

PATIENTS = 20
WARD = 2  # first step of every path of dice
OPENS = utc("2026-03-09T00:00:00Z")
LIMIT = 30.0  # ms above the patient's own baseline
ORDINARY_RISE = 22.0  # ms, highest true rise of any patient here
RAISED_BY = 45.0  # ms, of the one patient with a long baseline
DOSE_MG = 400.0
EVERY_H = 24.0
PLANNED_DOSES = 5
WORN_H = 48.0
MOST_SD = 1.3  # etas are drawn within this many standard deviations
STEP_H = 1.0 / 12.0

# Hong et al. 2015, doi:10.2147/DDDT.S79772.
TYPICAL = {"clearance": 11.8, "central_volume": 173.0, "absorption_rate": 16.7}
FIXED = {"intercompartmental_clearance": 5.62, "peripheral_volume": 47.1, "lag": 0.46}
SD_CLEARANCE = math.sqrt(omega2(0.270))
SD_CENTRAL_VOLUME = math.sqrt(omega2(0.174))
SD_ABSORPTION_RATE = math.sqrt(omega2(0.959))
CLEARANCE_VOLUME_CORRELATION = 0.92
LEVEL_RESIDUAL = 0.140
BASELINE_MS = 406.0
SD_BASELINE = math.sqrt(omega2(0.0382))
EMAX_MS = 34.7
SD_EMAX = math.sqrt(omega2(0.329))
EC50_MG_L = 3.92
RHYTHMS = (
    (24.0, 0.0090, 8.0 + 1.11),
    (6.0, 0.0045, 8.0 + 4.65),
)  # period h, amplitude, peak h after 00:00 UTC
NOISE = 0.0152  # of the expected QTc
# Assumed here, not published: how long the noise remembers, and the patch's own scatter.
NOISE_TIME_CONSTANT_H = 1.5
SCATTER_MS = 4.0
ETA_INDEX = eta_row({"clearance": 0, "central_volume": 1, "absorption_rate": 2})

# The patch: frames of ten one-minute readings.
FRAME = 10
UNREADABLE = 0.12  # share of readings without a QTc
ARTEFACTS = 0.003  # share of readings that are nonsense
LOST_FRAMES = 0.03


class Heart(NamedTuple):
    """A patient's own values.

    Attributes:
        eta: Of clearance, central volume and absorption rate, shape (3,).
        baseline_ms: Mesor of QTc without the drug.
        emax_ms: Largest effect of the drug.
    """

    eta: Floats
    baseline_ms: float
    emax_ms: float

    def rise(self, concentration: Floats) -> Floats:
        """Rise of QTc by the drug, ms, at concentrations in mg/L, both shape (times,)."""
        return self.emax_ms * concentration / (EC50_MG_L + concentration)

    def without_drug(self, time_h: Floats) -> Floats:
        """QTc before any drug, ms, at times in h since 1970, shape (times,)."""
        rhythm = np.ones(len(time_h))
        for period_h, amplitude, peak_h in RHYTHMS:
            rhythm += amplitude * np.cos(2.0 * np.pi * (time_h - peak_h) / period_h)
        return self.baseline_ms * rhythm


class Stay(NamedTuple):
    """When a patient comes and takes his tablets.

    Attributes:
        admitted: UTC ns; the patch is worn from here on.
        dose_h: When tablets are taken, h after admission, shape (doses,).
        due_h: When the first was due, h after admission.
        planned_doses: How many the order has.
    """

    admitted: int
    dose_h: Floats
    due_h: float
    planned_doses: int = PLANNED_DOSES

    def course(self, dose_h: Floats) -> Course:
        """Doses of 400 mg at `dose_h`, h after admission."""
        zero_h = hours(self.admitted)
        return Course(
            structure=Structure(2),
            segment_start_h=np.array([zero_h]),
            log_typical=log_row({**TYPICAL, **FIXED})[np.newaxis],
            eta_index=ETA_INDEX,
            occasion_index=no_occasions(1),
            dose_time_h=zero_h + dose_h,
            dose_mg=np.full(len(dose_h), DOSE_MG),
            dose_duration_h=np.zeros(len(dose_h)),
            dose_route=np.full(len(dose_h), INTO_DEPOT, dtype=np.int64),
            dose_interval_h=np.zeros(len(dose_h)),
        )

    @property
    def planned(self) -> Course:
        """The doses taken, and those the order plans after them."""
        later = self.due_h + EVERY_H * np.arange(len(self.dose_h), self.planned_doses)
        return self.course(np.concatenate([self.dose_h, later]))


def simulate_moxifloxacin(seed: int) -> list[Simulated]:
    """The twenty patients; which of them has a long baseline changes with the seed."""
    raised = Dice(seed, WARD).order(PATIENTS)[0]
    return [
        simulate_patient(seed, number + 1, Story.RAISED_BASELINE if number == raised else Story.ORDINARY)
        for number in range(PATIENTS)
    ]


def simulate_patient(seed: int, number: int, story: Story) -> Simulated:
    """Draw one patient and tell his two days."""
    dice = Dice(seed, WARD, number)
    stay = draw_stay(dice)
    steps = round(EVERY_H * PLANNED_DOSES / STEP_H)
    time_h: Floats = hours(stay.admitted) + STEP_H * np.arange(steps + 1.0)
    heart, rise = draw_ordinary_heart(dice, story, stay, time_h)
    typical = Heart(np.zeros(3), BASELINE_MS, EMAX_MS)
    patient = f"moxi-{number:02d}"
    truth = Truth(
        patient=patient,
        drug="moxifloxacin",
        story=story,
        threshold="qtc_rise",
        limit=LIMIT,
        eta=dict(zip(TYPICAL, heart.eta.tolist(), strict=True)),
        parameters={"baseline_ms": heart.baseline_ms, "emax_ms": heart.emax_ms},
        first_dose=from_hours(stay.admitted, float(stay.dose_h[0])),
        crossing=first_above(time_h, rise, LIMIT),
        peak=float(rise.max()),
        typical_peak=float(typical.rise(solve(stay.planned, typical.eta, time_h)[0]).max()),
    )
    return Simulated(tell(patient, stay, heart, dice), truth)


def draw_stay(dice: Dice) -> Stay:
    """When the patch goes on, and two tablets 6 to 12 h later and a day after that."""
    due_h = float(dice.whole(6, 12))
    late_h = np.round(np.clip(10.0 * dice.normals(2), -20.0, 40.0)) / 60.0
    return Stay(
        admitted=OPENS + 900 * dice.whole(0, 48) * (NS_PER_HOUR // 3600),
        dose_h=due_h + EVERY_H * np.arange(2) + late_h,
        due_h=due_h,
    )


def draw_heart(dice: Dice, story: Story) -> Heart:
    """Etas within 1.3 standard deviations; a raised baseline is 45 ms above the typical one, or a little more."""

    def draw() -> float:
        return dice.normal(-MOST_SD, MOST_SD)

    shared, own = draw(), draw()
    rest = math.sqrt(1.0 - CLEARANCE_VOLUME_CORRELATION**2)
    volume = float(np.clip(CLEARANCE_VOLUME_CORRELATION * shared + rest * own, -MOST_SD, MOST_SD))
    eta = np.array([SD_CLEARANCE * shared, SD_CENTRAL_VOLUME * volume, SD_ABSORPTION_RATE * draw()])
    baseline_ms = BASELINE_MS * math.exp(SD_BASELINE * draw())
    if story is Story.RAISED_BASELINE:
        baseline_ms = BASELINE_MS + RAISED_BY + dice.between(0.0, 5.0)
    return Heart(eta, baseline_ms, EMAX_MS * math.exp(SD_EMAX * draw()))


def draw_ordinary_heart(dice: Dice, story: Story, stay: Stay, time_h: Floats) -> tuple[Heart, Floats]:
    """A heart, drawn until the plan's highest rise is an ordinary one, and that rise at `time_h`, ms, (times,)."""
    while True:
        heart = draw_heart(dice, story)
        rise = heart.rise(solve(stay.planned, heart.eta, time_h)[0])
        if float(rise.max()) <= ORDINARY_RISE:
            return heart, rise


def tell(patient: str, stay: Stay, heart: Heart, dice: Dice) -> list[DemoRecord]:
    """The two days as wire records, without a closing tick."""
    records = tell_care(patient, stay, heart, dice)
    records.extend(frames(patient, stay, heart, stay.course(stay.dose_h), dice))
    return records


def tell_care(patient: str, stay: Stay, heart: Heart, dice: Dice) -> list[DemoRecord]:
    """What people tell: who came, the order, the tablets taken, and for every second patient a level."""
    zero = stay.admitted
    ward = Sender(patient, "ward-5")
    facts = {
        "age": quantity(dice.whole(20, 40), "a"),
        "weight": quantity(round(dice.between(60.0, 78.0), 1), "kg"),
        "sex": "male",
    }
    line = regimen_line(DOSE_MG, "oral", from_hours(zero, stay.due_h), EVERY_H, stay.planned_doses)
    records = [
        ward.patient_record(zero, "admission", facts),
        ward.regimen(from_hours(zero, stay.due_h - 1.0), "order-1", "moxifloxacin", [line]),
    ]
    for number, at_h in enumerate(stay.dose_h, start=1):
        records.append(
            ward.dose(from_hours(zero, float(at_h)), f"dose-{number}", "moxifloxacin", DOSE_MG, "oral")
        )
    taken = stay.course(stay.dose_h)
    if dice.chance(0.5):
        drawn = from_hours(zero, float(stay.dose_h[0]) + dice.whole(8, 24) / 4.0)
        true = float(solve(taken, heart.eta, np.array([hours(drawn)]))[0][0])
        level = round(true * (1.0 + LEVEL_RESIDUAL * dice.normal(-2.0, 2.0)), 2)
        laboratory = Sender(patient, "laboratory")
        known = from_hours(drawn, dice.between(2.0, 5.0))
        records.append(laboratory.lab(drawn, "moxifloxacin-1", "moxifloxacin", level, "mg/L", known))
    return records


def frames(patient: str, stay: Stay, heart: Heart, taken: Course, dice: Dice) -> list[DemoRecord]:
    """What the patch sends: readings in whole ms, gaps where it could not read, was off, or lost its link."""
    readings = round(WORN_H * 60.0)
    at_h = np.arange(1, readings + 1) / 60.0
    time_h = hours(stay.admitted) + at_h
    expected = heart.without_drug(time_h) + heart.rise(solve(taken, heart.eta, time_h)[0])
    measured = np.round(
        expected * (1.0 + NOISE * wandering(dice, readings, 1.0 / 60.0, NOISE_TIME_CONSTANT_H))
        + SCATTER_MS * dice.normals(readings)
    )
    unreadable = dice.uniforms(readings) < UNREADABLE
    for _ in range(dice.whole(1, 3)):  # showers, and a patch that came off
        begin_h = dice.between(0.0, WORN_H)
        unreadable |= (at_h > begin_h) & (at_h < begin_h + dice.between(0.5, 2.0))
    nonsense = dice.uniforms(readings) < ARTEFACTS
    measured[nonsense] = 900.0
    device = f"patch-{patient}"
    sender = Sender(patient, "wearables")
    records = []
    for sequence, begin in enumerate(range(0, readings, FRAME), start=1):
        part = slice(begin, begin + FRAME)
        lost = dice.chance(LOST_FRAMES)
        if lost or unreadable[part].all():
            continue
        values = [None if gap else int(v) for v, gap in zip(measured[part], unreadable[part], strict=True)]
        at = from_hours(stay.admitted, float(at_h[begin + FRAME - 1]))
        records.append(sender.frame(at, f"{device}:{sequence}", "qtc", "ms", values))
    return records
