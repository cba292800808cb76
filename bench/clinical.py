"""How well do twins forecast the real levels of the demo: `python bench/clinical.py`.

Question answered: for theophylline (12 volunteers), phenobarbital (59 neonates) and quinidine (136 inpatients), how
far is each level from its forecast as of the instant before its draw (doses and covariates up to it, levels strictly
before), how often does the 90 % interval hold it, and what would the population alone have said? The figures are read
from the stored bytes of twins that the pipeline made of the demo's own records, as the demo reads them from Redis.

Options: `--json` prints one JSON object instead of the table. Exit 1 when a target fails.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import msgspec

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from bench._report import Check, report  # noqa: E402
from streams.codec import partition_of  # noqa: E402
from streams.demo.plan import REAL_DRUGS  # noqa: E402
from streams.demo.real_patients import real_records  # noqa: E402
from streams.forecasts import score_forecasts  # noqa: E402
from streams.pipeline import create_pipeline  # noqa: E402
from streams.ports import RawRecord, StoredTwin  # noqa: E402
from twinstate.twin import TwinDocument  # noqa: E402

PARTITIONS = 4
LONG_AFTER_NS = 2_000_000_000 * 1_000_000_000  # append time of all records: nothing comes from the future
# Issue targets: highest median absolute error, and the coverage asked of the 90 % interval.
MOST_ERROR = {"theophylline": 9.5, "phenobarbital": 10.0, "quinidine": 23.5}
COVERAGE = {"theophylline": (85.0, 95.0), "phenobarbital": (85.0, 95.0)}


def stored_twins() -> list[TwinDocument]:
    """The real patients' twins, decoded from the bytes that would be stored."""
    logs: dict[int, list[RawRecord]] = {p: [] for p in range(PARTITIONS)}
    for record in real_records():
        key = record.patient.encode()
        log = logs[partition_of(key, PARTITIONS)]
        log.append(RawRecord(len(log), LONG_AFTER_NS, key, record.value, ()))
    stored: dict[str, StoredTwin] = {}
    for partition, log in logs.items():
        pipeline = create_pipeline(str(ROOT / "config"), partition, PARTITIONS, "bench")
        batch = pipeline.decode(log)
        for patient in pipeline.missing(batch):
            pipeline.remember(patient, None)
        stored.update(pipeline.update(batch).twins)
    return [msgspec.msgpack.decode(twin.canonical, type=TwinDocument) for _, twin in sorted(stored.items())]


def main() -> int:
    """Run, print, and say by the exit status whether every target holds."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--json", action="store_true", help="one JSON object instead of the table")
    asked = parser.parse_args()
    checks: list[Check] = []
    for score in score_forecasts(stored_twins(), REAL_DRUGS):
        low, high = COVERAGE.get(score.drug, (0.0, 100.0))
        checks += [
            Check(f"{score.drug}: levels forecast", score.levels, "levels"),
            Check(
                f"{score.drug}: median absolute error",
                100 * score.median_error,
                "%",
                high=MOST_ERROR[score.drug],
            ),
            Check(f"{score.drug}: 90 % interval holds", 100 * score.coverage, "%", low, high),
            Check(
                f"{score.drug}: population's median absolute error", 100 * score.population_median_error, "%"
            ),
            Check(f"{score.drug}: population's 90 % interval holds", 100 * score.population_coverage, "%"),
        ]
    return report("Forecasts of real levels after the first", checks, None, as_json=asked.json)


if __name__ == "__main__":
    sys.exit(main())
