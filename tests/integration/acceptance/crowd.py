"""Records by the thousand: one patient of whom very many come, and a surge of large frames."""

from __future__ import annotations

import random
from collections.abc import Iterator

from streams.demo.plan import DemoRecord
from streams.simulation.wire import Sender, from_hours, quantity, utc
from tests.integration.acceptance.records import altered, body_of

START = utc("2026-03-01T08:00:00Z")
HOT = "hot-patient"
SAMPLES = 3_600  # one second apart: a frame of an hour, some 18 kB


def hot_patient(frames: int) -> list[DemoRecord]:
    """One dose, a frame of six minutes every minute, and a level every twenty."""
    who = Sender(HOT, "ward-3")
    covariates = {"weight": quantity(70, "kg"), "age": quantity(40, "a"), "sex": "male"}
    records = [
        who.patient_record(START, "admission", covariates),
        who.dose(START, "dose", "moxifloxacin", 400.0, "oral"),
    ]
    for minute in range(1, frames + 1):
        at = from_hours(START, minute / 60)
        if minute % 20 == 0:
            level = max(0.05, 3.0 * 2.0 ** (-minute / 60 / 12))
            records.append(who.lab(at, f"level-{minute}", "moxifloxacin", level, "mg/L"))
        samples = [402.0 + (7 * minute + n) % 11 for n in range(6)]
        records.append(who.frame(at, f"watch:{minute}", "qtc", "ms", samples))
    return records


def surge(patients: int, hours: int, dice: random.Random) -> Iterator[DemoRecord]:
    """A frame an hour of each patient, a sample a second; patients take turns."""
    who = [Sender(f"surge-{number}", "ward-3") for number in range(patients)]
    for sender in who:
        yield sender.patient_record(START, "admission", {"weight": quantity(70, "kg")})
    for hour in range(1, hours + 1):
        for sender in who:
            base = dice.randrange(400, 420)
            samples = [float(base + n % 7) for n in range(SAMPLES)]
            frame = sender.frame(from_hours(START, hour), f"watch:{hour}", "qtc", "ms", samples)
            yield altered(frame, payload={**body_of(frame)["payload"], "period_s": 1.0})
