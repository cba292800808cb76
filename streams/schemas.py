"""`config/schemas/`: the wire records as JSON Schema 2020-12, generated from `streams/records.py`.

Run `python -m streams.schemas` to write them, with `--check` to compare and exit 1 when one is not current.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import msgspec

from streams.records import (
    SCHEMA,
    DischargeRecord,
    DoseRecord,
    ForgetRecord,
    LabRecord,
    PatientRecord,
    RegimenRecord,
    TickRecord,
    WearableRecord,
)

KINDS = (
    PatientRecord,
    RegimenRecord,
    DoseRecord,
    LabRecord,
    WearableRecord,
    TickRecord,
    DischargeRecord,
    ForgetRecord,
)
DIRECTORY = Path("config/schemas")


def schema_files() -> dict[str, str]:
    """File name to content for every kind of record."""
    files: dict[str, str] = {}
    for kind in KINDS:
        (reference,), components = msgspec.json.schema_components((kind,), ref_template="#/$defs/{name}")
        name = str(kind.__struct_config__.tag)
        schema: dict[str, Any] = {
            "$schema": "https://json-schema.org/draft/2020-12/schema",
            "$id": f"urn:twin-updater:{SCHEMA.replace('/', ':')}:{name}",
            **reference,
            "$defs": dict(sorted(components.items())),
        }
        files[f"{name}.schema.json"] = json.dumps(schema, indent=2) + "\n"
    return files


def main(arguments: list[str]) -> int:
    """Write the files, or compare them with `--check`."""
    wanted = schema_files()
    if "--check" in arguments:
        present = {p.name: p.read_text() for p in DIRECTORY.glob("*.json")}
        stale = sorted(
            name for name in wanted.keys() | present.keys() if wanted.get(name) != present.get(name)
        )
        for name in stale:
            sys.stderr.write(
                f"{DIRECTORY / name} is not what streams/records.py says; run python -m streams.schemas\n"
            )
        return 1 if stale else 0
    DIRECTORY.mkdir(parents=True, exist_ok=True)
    for name, text in wanted.items():
        (DIRECTORY / name).write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
