"""Units as UCUM spells them, and the one door through which a measured number becomes a canonical one.

No unit is parsed, completed or guessed: a unit is read when the allow-list of the thing measured has it, letter by
letter, and refused otherwise.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from twinstate.errors import UnitError

# What one of the unit is in the canonical unit, which has the factor 1.
AMOUNT: Mapping[str, float] = {"mg": 1.0, "g": 1000.0, "ug": 0.001}
AMOUNT_RATE: Mapping[str, float] = {"mg/h": 1.0, "mg/d": 1 / 24, "mg/min": 60.0}
CONCENTRATION: Mapping[str, float] = {"mg/L": 1.0, "ug/mL": 1.0, "ng/mL": 0.001, "ug/L": 0.001}
CLEARANCE: Mapping[str, float] = {"L/h": 1.0, "L/min": 60.0, "mL/min": 0.06, "mL/h": 0.001}
VOLUME: Mapping[str, float] = {"L": 1.0, "mL": 0.001}
RATE: Mapping[str, float] = {"1/h": 1.0, "1/min": 60.0}
DURATION: Mapping[str, float] = {"h": 1.0, "min": 1 / 60, "d": 24.0}
FRACTION: Mapping[str, float] = {"1": 1.0, "%": 0.01}
EXPOSURE: Mapping[str, float] = {"mg*h/L": 1.0}
SLOPE: Mapping[str, float] = {"L/mg": 1.0}
INR: Mapping[str, float] = {"{INR}": 1.0}
CELLS: Mapping[str, float] = {"10*3/uL": 1.0, "10*9/L": 1.0}

# What people and devices write instead. A hint for the reader of an error, never a conversion.
_SPELLINGS: Mapping[str, str] = {
    "C": "Cel",
    "°C": "Cel",
    "degC": "Cel",
    "K/uL": "10*3/uL",
    "k/ul": "10*3/uL",
    "mcg": "ug",
    "mcg/mL": "ug/mL",
    "µg/mL": "ug/mL",
    "µmol/L": "umol/L",
    "µg": "ug",
    "mmHg": "mm[Hg]",
    "bpm": "/min",
    "beats/min": "/min",
    "breaths/min": "/min",
    "years": "a",
    "y": "a",
    "lbs": "[lb_av]",
    "lb": "[lb_av]",
    "percent": "%",
    "msec": "ms",
}


def to_canonical(value: float, unit: str, allowed: Mapping[str, float], what: str) -> float:
    """Express a measured value in the canonical unit of what was measured.

    Args:
        value: The number as sent.
        unit: Its UCUM unit as sent, compared letter by letter.
        allowed: Factor of every unit that is read; the canonical one has 1.
        what: What was measured, for the error ("lab vancomycin").

    Returns:
        The value in the canonical unit.

    Raises:
        UnitError: The unit is not in the list, or the value is not a finite number.
    """
    factor = factor_of(unit, allowed, f"{what}: {value:g}")
    if not math.isfinite(value):
        raise UnitError(f"{what}: {value} {unit} is not a finite number; leave the value out instead")
    return value * factor


def factor_of(unit: str, allowed: Mapping[str, float], what: str) -> float:
    """What one of a unit is in the canonical unit.

    Args:
        unit: The UCUM unit as sent, compared letter by letter.
        allowed: Factor of every unit that is read.
        what: What has it, for the error, with its number where there is one ("lab vancomycin: 14.2").

    Raises:
        UnitError: The unit is not in the list.
    """
    factor = allowed.get(unit)
    if factor is None:
        raise UnitError(
            f"{what} has the unit '{unit}', which is not read; send {_one_of(allowed)}{_hint(unit, allowed)}"
        )
    return factor


def _one_of(allowed: Mapping[str, float]) -> str:
    return (
        "one of " + ", ".join(f"'{unit}'" for unit in allowed)
        if len(allowed) > 1
        else f"'{next(iter(allowed))}'"
    )


def _hint(unit: str, allowed: Mapping[str, float]) -> str:
    meant = _SPELLINGS.get(unit)
    if meant is None or meant not in allowed:
        meant = next((known for known in allowed if known.lower() == unit.lower()), None)
    if meant is None:
        return ""
    return f" (units are UCUM and case matters: '{unit}' may mean '{meant}')"
