"""Is risk true in the virtual ward, whatever its seed: `python bench/ward.py`.

Question answered: over many seeds, is every known overdose raised before its true crossing, how many other patients
are raised, and does a raised QTc baseline alone ever raise a QTc-rise event? Each ward's records run through the
pipeline in event time, as the demo publishes them; the truth comes from the simulator and is never published.

Options: `--seeds N` (from 1 on), `--json`. Exit 1 when a target fails.
"""

from __future__ import annotations

import argparse
import datetime as dt
import sys
from pathlib import Path
from typing import NamedTuple

import msgspec

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from bench._report import Check, report  # noqa: E402
from streams.codec import partition_of, to_ns  # noqa: E402
from streams.demo.plan import demo_records, truth  # noqa: E402
from streams.pipeline import create_pipeline  # noqa: E402
from streams.ports import RawRecord  # noqa: E402
from streams.simulation.truth import Truth  # noqa: E402

PARTITIONS = 1
LONG_AFTER_NS = 2_000_000_000 * 1_000_000_000
SEEDS = 20


class Raised(msgspec.Struct):
    """What is read of a risk event."""

    patient: str
    threshold: str
    type: str
    crossing: str


class Verdict(NamedTuple):
    """One ward.

    Attributes:
        overdoses: Patients whose truth crosses.
        in_time: Of these, raised before the true crossing.
        others: Patients raised although their truth does not cross.
        rises: QTc-rise events of patients whose true rise stays below the limit.
        least_lead_h: Shortest time from an alarm to the true crossing, h.
    """

    overdoses: int
    in_time: int
    others: int
    rises: int
    least_lead_h: float


def judge_ward(seed: int) -> Verdict:
    """Run one ward and compare its alarms with its truth."""
    known = truth(seed)
    log = [
        RawRecord(i, LONG_AFTER_NS, r.patient.encode(), r.value, ())
        for i, r in enumerate(r for r in demo_records(seed) if r.patient in known)
    ]
    assert all(partition_of(r.key or b"", PARTITIONS) == 0 for r in log)
    pipeline = create_pipeline(str(ROOT / "config"), 0, PARTITIONS, "bench")
    batch = pipeline.decode(log)
    for patient in pipeline.missing(batch):
        pipeline.remember(patient, None)
    first: dict[tuple[str, str], int] = {}
    for message in pipeline.update(batch).outgoing:
        event = msgspec.json.decode(message.value or b"", type=Raised)
        if event.type == "raised":
            at = to_ns(msgspec.json.decode(f'"{event.crossing}"'.encode(), type=dt.datetime))
            first.setdefault((event.patient, event.threshold), at)
    crossing = {(t.patient, t.threshold): t.crossing for t in known.values() if t.crossing is not None}
    in_time = [key for key, at in crossing.items() if key in first and first[key] < at]
    leads = [(crossing[key] - first[key]) / 3.6e12 for key in in_time]
    return Verdict(
        overdoses=len(crossing),
        in_time=len(in_time),
        others=len({patient for patient, threshold in first if (patient, threshold) not in crossing}),
        rises=sum(1 for patient, name in first if name == "qtc_rise" and not _rises(known[patient])),
        least_lead_h=min(leads, default=float("nan")),
    )


def _rises(patient: Truth) -> bool:
    return patient.threshold == "qtc_rise" and patient.crossing is not None


def main() -> int:
    """Run, print, and say by the exit status whether every target holds."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--json", action="store_true", help="one JSON object instead of the table")
    parser.add_argument("--seeds", type=int, default=SEEDS)
    asked = parser.parse_args()
    wards = [judge_ward(seed) for seed in range(1, asked.seeds + 1)]
    overdoses = sum(w.overdoses for w in wards)
    checks = [
        Check("wards", len(wards), "seeds"),
        Check("known overdoses", overdoses, "patients", low=1),
        Check(
            "raised before the true crossing", sum(w.in_time for w in wards), "patients", overdoses, overdoses
        ),
        Check("shortest lead", min(w.least_lead_h for w in wards), "h", low=0),
        Check("most other patients raised in one ward", max(w.others for w in wards), "patients", high=1),
        Check("QTc-rise events without a true rise", sum(w.rises for w in wards), "events", 0, 0),
    ]
    return report("Risk in the virtual ward", checks, 1, as_json=asked.json)


if __name__ == "__main__":
    sys.exit(main())
