"""Twenty virtual patients on vancomycin: truth drawn round Goti 2018, dosed, sampled and told as wire records.

Four of them are overdosed: three get about three times what their kidneys allow, in one the kidneys fail under an
ordinary dose. Doses are chosen so that both sides are clear for every seed (docs/data.md gives the limits): an
overdose is decisive, an ordinary patient stays well below the alarm. The constants below repeat the paper rather than
read the drug file, so that an error in the file shows up as a wrong forecast.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from streams.simulation.dice import Dice, Floats, omega2
from streams.simulation.truth import Simulated, Story, Truth, first_above
from streams.simulation.wire import DemoRecord, Sender, from_hours, quantity, regimen_line, utc
from twinstate.pk.course import INTO_CENTRAL, Course, Structure, eta_row, log_row, no_occasions
from twinstate.pk.propagate import solve
from twinstate.types import NS_PER_HOUR, hours

PATIENTS = 20
WARD = 1  # first step of every path of dice
OPENS = utc("2026-03-02T06:00:00Z")
LIMIT = 600.0  # mg*h/L over 24 h
OVERDOSES = 3
# Limits on the highest trailing AUC24 of a course, mg*h/L.
ORDINARY_TRUE_AUC24 = 420.0
ORDINARY_TYPICAL_AUC24 = 450.0
OVERDOSE_AUC24 = {Story.OVERDOSE: 850.0, Story.FALLING_KIDNEYS: 1000.0}  # at least
# A prescriber's aim at steady state, mg*h/L; before the kidneys fail, the middle of the range 400 to 600.
AIMED_AUC24 = {Story.ORDINARY: 400.0, Story.OVERDOSE: 400.0, Story.FALLING_KIDNEYS: 500.0}
# How much earlier a typical patient on the same doses crosses the limit than the patient himself, h.
WARNING_H = {Story.OVERDOSE: 2.0, Story.FALLING_KIDNEYS: 14.0}
STEP_MG = 250.0
STEP_H = 1.0 / 12.0
MOST_SD = 1.3  # etas are drawn within this many standard deviations, clearance's within these:
CLEARANCE_SD = {
    Story.ORDINARY: (-MOST_SD, MOST_SD),
    Story.OVERDOSE: (0.0, 0.8),
    Story.FALLING_KIDNEYS: (0.4, 0.9),
}
# The same of a level's noise, so that a test of the twin is not one of an unlucky assay.
MOST_NOISE_SD = {Story.ORDINARY: 1.3, Story.OVERDOSE: 1.0, Story.FALLING_KIDNEYS: 0.6}
FIRST_DOSE_AFTER_H = 1.0

# Goti et al. 2018, doi:10.1097/FTD.0000000000000490, patients without dialysis.
SD_CLEARANCE = math.sqrt(omega2(0.398))
SD_CENTRAL_VOLUME = math.sqrt(omega2(0.816))
SD_PERIPHERAL_VOLUME = math.sqrt(omega2(0.571))
RESIDUAL_PROPORTIONAL = 0.227
RESIDUAL_MG_L = 3.4
ETA_INDEX = eta_row({"clearance": 0, "central_volume": 1, "peripheral_volume": 2})


class Person(NamedTuple):
    """Covariates that do not change."""

    age_a: int
    weight_kg: float
    female: bool

    def creatinine_clearance(self, creatinine_mg_dl: float) -> float:
        """Cockcroft and Gault (1976) with Goti's two rules, mL/min."""
        creatinine = max(creatinine_mg_dl, 1.0) if self.age_a > 60 else creatinine_mg_dl
        clearance = (140.0 - self.age_a) * self.weight_kg / (72.0 * creatinine)
        return min(0.85 * clearance if self.female else clearance, 150.0)

    def typical_clearance(self, creatinine_mg_dl: float) -> float:
        """L/h."""
        return float(4.5 * (self.creatinine_clearance(creatinine_mg_dl) / 120.0) ** 0.8)


class Stay(NamedTuple):
    """Everything about a patient but the size of his doses and his etas.

    Attributes:
        person: Fixed covariates.
        admitted: UTC ns.
        length_h: From admission to the last thing that happens.
        every_h: Dosing interval.
        creatinine_h: When creatinine is drawn, h after admission, shape (draws,).
        creatinine: What is found, mg/dL, shape (draws,).
        dose_h: When the infusions begin, h after admission, shape (doses,).
        missed: Which of the doses are not given, shape (doses,).
    """

    person: Person
    admitted: int
    length_h: float
    every_h: float
    creatinine_h: Floats
    creatinine: Floats
    dose_h: Floats
    missed: tuple[bool, ...]

    def course(self, dose_mg: float) -> Course:
        """The doses given, each of `dose_mg`, under parameters that follow each creatinine from its draw on."""
        zero_h = hours(self.admitted)
        given = self.dose_h[~np.array(self.missed)]
        weight = self.person.weight_kg / 70.0
        log_typical = np.array(
            [
                log_row(
                    {
                        "clearance": self.person.typical_clearance(float(creatinine)),
                        "central_volume": 58.4 * weight,
                        "intercompartmental_clearance": 6.5,
                        "peripheral_volume": 38.4 * weight,
                    }
                )
                for creatinine in self.creatinine
            ]
        )
        return Course(
            structure=Structure(2),
            segment_start_h=zero_h + self.creatinine_h,
            log_typical=log_typical,
            eta_index=ETA_INDEX,
            occasion_index=no_occasions(len(log_typical)),
            dose_time_h=zero_h + given,
            dose_mg=np.full(len(given), dose_mg),
            dose_duration_h=np.full(len(given), infusion_h(dose_mg)),
            dose_route=np.full(len(given), INTO_CENTRAL, dtype=np.int64),
            dose_interval_h=np.zeros(len(given)),
        )


class Exposure(NamedTuple):
    """Trailing AUC24 over a stay and the 24 h after it; both shape (times,)."""

    time_h: Floats
    auc24: Floats

    @property
    def peak(self) -> float:
        """Highest trailing AUC24, mg*h/L."""
        return float(self.auc24.max())


def infusion_h(dose_mg: float) -> float:
    """One hour for each gram, never shorter than one hour."""
    return max(1.0, dose_mg / 1000.0)


def exposure(stay: Stay, dose_mg: float, eta: Floats) -> Exposure:
    """AUC over the 24 h before every fifth minute, from admission to 24 h after the stay.

    Args:
        stay: The patient's stay.
        dose_mg: Of each dose.
        eta: Of clearance, central and peripheral volume, shape (3,).
    """
    start_h = hours(stay.admitted)
    steps = round((stay.length_h + 24.0) / STEP_H)
    time_h: Floats = start_h + STEP_H * np.arange(steps + 1.0)
    _, auc, _ = solve(stay.course(dose_mg), eta, time_h)
    day = round(24.0 / STEP_H)
    before = np.concatenate([np.zeros(min(day, len(auc))), auc[:-day]])
    return Exposure(time_h, auc - before)


def simulate_vancomycin(seed: int) -> list[Simulated]:
    """The twenty patients; which of them are overdosed changes with the seed."""
    stories = [Story.ORDINARY] * PATIENTS
    chosen = Dice(seed, WARD).order(PATIENTS)
    for patient in chosen[:OVERDOSES]:
        stories[patient] = Story.OVERDOSE
    stories[chosen[OVERDOSES]] = Story.FALLING_KIDNEYS
    return [simulate_patient(seed, number, story) for number, story in enumerate(stories, start=1)]


def simulate_patient(seed: int, number: int, story: Story) -> Simulated:
    """Draw one patient, choose his dose, and tell his stay."""
    dice = Dice(seed, WARD, number)
    while True:  # until a dose in steps of 250 mg fits his story
        stay = draw_stay(dice, story)
        eta = draw_eta(dice, story)
        dose_mg = choose_dose(stay, eta, story)
        if dose_mg is not None:
            break
    true, typical = exposure(stay, dose_mg, eta), exposure(stay, dose_mg, np.zeros(3))
    patient = f"vanc-{number:02d}"
    truth = Truth(
        patient=patient,
        drug="vancomycin",
        story=story,
        threshold="high_auc24",
        limit=LIMIT,
        eta=dict(zip(("clearance", "central_volume", "peripheral_volume"), eta.tolist(), strict=True)),
        parameters={"dose_mg": dose_mg},
        first_dose=from_hours(stay.admitted, float(stay.dose_h[0])),
        crossing=first_above(true.time_h, true.auc24, LIMIT),
        peak=true.peak,
        typical_peak=typical.peak,
    )
    return Simulated(tell(patient, stay, dose_mg, eta, story, dice), truth)


def draw_stay(dice: Dice, story: Story) -> Stay:
    """Who comes, when, for how long; when blood is drawn and doses are due."""
    person = Person(
        age_a=dice.whole(35, 85),
        weight_kg=round(79.0 + 15.0 * dice.normal(-1.8, 2.5), 1),
        female=dice.chance(0.45),
    )
    falling = story is Story.FALLING_KIDNEYS
    baseline = math.exp(math.log(0.95) + 0.2 * dice.normal(-1.5, 1.5 if falling else 2.0))
    length_h = 168.0 if falling else float(dice.whole(66, 84))
    creatinine_h = np.arange(0.0, length_h, 12.0 if falling else 24.0)
    course = (
        1.0 + 3.2 * np.clip((creatinine_h - 18.0) / 36.0, 0.0, 1.0) if falling else np.ones(len(creatinine_h))
    )
    noise = np.exp(0.03 * np.clip(dice.normals(len(creatinine_h)), -2.0, 2.0))
    creatinine = np.asarray(np.round(np.maximum(baseline * course * noise, 0.4), 2), dtype=np.float64)
    every_h = 12.0 if person.creatinine_clearance(baseline) >= 45.0 else 24.0
    due_h = np.arange(FIRST_DOSE_AFTER_H, length_h - 2.0, every_h)
    dose_h = due_h + np.round(np.clip(10.0 * dice.normals(len(due_h)), -20.0, 30.0)) / 60.0
    may_miss = story is Story.ORDINARY and len(due_h) > 4 and dice.chance(0.3)
    skipped = dice.whole(3, len(due_h) - 1) if may_miss else -1
    return Stay(
        person=person,
        admitted=OPENS + 900 * dice.whole(0, 64) * (NS_PER_HOUR // 3600),
        length_h=length_h,
        every_h=every_h,
        creatinine_h=creatinine_h,
        creatinine=creatinine,
        dose_h=dose_h,
        missed=tuple(i == skipped for i in range(len(due_h))),
    )


def draw_eta(dice: Dice, story: Story) -> Floats:
    """Etas of clearance, central and peripheral volume, shape (3,), each within 1.3 standard deviations.

    An overdosed patient's clearance is drawn on the high side, so that it is the dose that harms him and not a rare
    constitution, and a typical patient on his dose would be harmed as well.
    """
    low, high = CLEARANCE_SD[story]
    return np.array(
        [
            SD_CLEARANCE * dice.normal(low, high),
            SD_CENTRAL_VOLUME * dice.normal(-MOST_SD, MOST_SD),
            SD_PERIPHERAL_VOLUME * dice.normal(-MOST_SD, MOST_SD),
        ]
    )


def choose_dose(stay: Stay, eta: Floats, story: Story) -> float | None:
    """The dose in steps of 250 mg that fits the story; None when there is none.

    Ordinary: the prescriber's dose, lowered (as after a level) until the course stays below its limits. Overdose: 2.5
    times that dose, raised until both the patient and a typical one exceed the decisive exposure. Falling kidneys: the
    prescriber's dose for the kidneys at admission, if it becomes decisive later.
    """
    daily = AIMED_AUC24[story] * stay.person.typical_clearance(float(stay.creatinine[0]))
    prescribed = max(1.0, round(daily * stay.every_h / 24.0 / STEP_MG)) * STEP_MG
    doses = {
        Story.ORDINARY: np.arange(prescribed, 0.0, -STEP_MG),
        Story.OVERDOSE: np.arange(
            math.ceil(2.5 * prescribed / STEP_MG) * STEP_MG, 4.0 * prescribed + 1.0, STEP_MG
        ),
        Story.FALLING_KIDNEYS: np.array([prescribed]),
    }
    for dose in doses[story]:
        if fits(story, exposure(stay, float(dose), eta), exposure(stay, float(dose), np.zeros(3))):
            return float(dose)
    return None


def fits(story: Story, true: Exposure, typical: Exposure) -> bool:
    """Whether exposure, the patient's and a typical one's on the same doses, is as clear as the story asks."""
    if story is Story.ORDINARY:
        return true.peak <= ORDINARY_TRUE_AUC24 and typical.peak <= ORDINARY_TYPICAL_AUC24
    if min(true.peak, typical.peak) < OVERDOSE_AUC24[story]:
        return False
    harmed, foreseen = (first_above(x.time_h, x.auc24, LIMIT) for x in (true, typical))
    return harmed is not None and foreseen is not None and harmed - foreseen >= WARNING_H[story] * NS_PER_HOUR


def tell(patient: str, stay: Stay, dose_mg: float, eta: Floats, story: Story, dice: Dice) -> list[DemoRecord]:
    """The stay as wire records, without a closing tick."""
    zero = stay.admitted
    ward = Sender(patient, "ward-3")
    laboratory = Sender(patient, "laboratory")
    person = stay.person
    facts = {
        "age": quantity(person.age_a, "a"),
        "weight": quantity(person.weight_kg, "kg"),
        "sex": "female" if person.female else "male",
        "dialysis": False,
    }
    records = [ward.patient_record(zero, "admission", facts)]
    for number, (at_h, value) in enumerate(zip(stay.creatinine_h, stay.creatinine, strict=True), start=1):
        at = from_hours(zero, at_h)
        known = from_hours(at, dice.between(0.75, 2.0))
        records.append(laboratory.lab(at, f"creatinine-{number}", "creatinine", float(value), "mg/dL", known))
    ordered = from_hours(zero, 0.25)
    line = regimen_line(
        dose_mg,
        "iv",
        from_hours(zero, FIRST_DOSE_AFTER_H),
        stay.every_h,
        len(stay.dose_h),
        infusion_h(dose_mg),
    )
    records.append(ward.regimen(ordered, "order-1", "vancomycin", [line]))
    for number, (at_h, missed) in enumerate(zip(stay.dose_h, stay.missed, strict=True), start=1):
        at = from_hours(zero, at_h)
        if missed:
            records.append(ward.missed_dose(at, f"dose-{number}", "vancomycin"))
        else:
            records.append(
                ward.dose(at, f"dose-{number}", "vancomycin", dose_mg, "iv", duration_h=infusion_h(dose_mg))
            )
    drawn_h = draws(stay, dose_mg, story, dice)
    concentration, _, _ = solve(stay.course(dose_mg), eta, hours(zero) + drawn_h)
    for number, (at_h, true) in enumerate(zip(drawn_h, concentration, strict=True), start=1):
        at = from_hours(zero, at_h)
        spread = math.hypot(RESIDUAL_PROPORTIONAL * float(true), RESIDUAL_MG_L)
        level = max(
            round(float(true) + spread * dice.normal(-MOST_NOISE_SD[story], MOST_NOISE_SD[story]), 1), 1.0
        )
        known = from_hours(at, dice.between(1.0, 3.0))
        records.append(laboratory.lab(at, f"vancomycin-{number}", "vancomycin", level, "mg/L", known))
    if story is Story.ORDINARY and dice.chance(0.2):
        records.append(ward.discharge(from_hours(zero, stay.length_h), "discharge"))
    return records


def draws(stay: Stay, dose_mg: float, story: Story, dice: Dice) -> Floats:
    """When levels are drawn: troughs, and one 2 h after an infusion, in h after admission, ascending.

    Two to four of them; always four while creatinine rises, as anybody would ask.
    """
    dose_h = stay.dose_h
    third = 2 if stay.every_h == 12.0 else 1
    troughs = [float(dose_h[i]) - 0.5 for i in range(third, len(dose_h), third)]
    after_peak = float(dose_h[third]) + infusion_h(dose_mg) + 2.0
    chosen = sorted([troughs[0], after_peak, *troughs[1:3]])
    return np.array(chosen[: dice.whole(4 if story is Story.FALLING_KIDNEYS else 2, 4)])
