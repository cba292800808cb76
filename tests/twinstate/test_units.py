"""A unit is read letter by letter or refused with the way out."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from twinstate import units
from twinstate.errors import UnitError
from twinstate.units import to_canonical

CREATININE = {"mg/dL": 1.0, "umol/L": 1 / 88.4}


def test_a_value_in_the_canonical_unit_stays_what_it_is() -> None:
    assert to_canonical(14.2, "mg/L", units.CONCENTRATION, "lab vancomycin") == 14.2


def test_88_4_micromoles_per_litre_of_creatinine_are_1_milligram_per_decilitre() -> None:
    assert to_canonical(88.4, "umol/L", CREATININE, "lab creatinine") == pytest.approx(1.0, rel=1e-15)


@pytest.mark.parametrize(
    ("unit", "allowed", "meant"),
    [
        ("MG/L", units.CONCENTRATION, "'mg/L'"),
        ("mcg/mL", units.CONCENTRATION, "'ug/mL'"),
        ("C", {"Cel": 1.0}, "'Cel'"),
        ("K/uL", {"10*3/uL": 1.0}, "'10*3/uL'"),
        ("µmol/L", CREATININE, "'umol/L'"),
        ("bpm", {"/min": 1.0}, "'/min'"),
        ("mmHg", {"mm[Hg]": 1.0}, "'mm[Hg]'"),
    ],
)
def test_a_unit_in_another_spelling_is_refused_and_the_right_one_named(
    unit: str, allowed: dict[str, float], meant: str
) -> None:
    with pytest.raises(UnitError, match="is not read") as refused:
        to_canonical(1.0, unit, allowed, "lab level")
    assert f"'{unit}' may mean {meant}" in str(refused.value)


def test_a_refused_unit_is_answered_with_what_the_value_was_and_which_units_are_read() -> None:
    with pytest.raises(UnitError) as refused:
        to_canonical(80.0, "mmol/L", CREATININE, "lab creatinine")
    assert str(refused.value) == (
        "lab creatinine: 80 has the unit 'mmol/L', which is not read; send one of 'mg/dL', 'umol/L'"
    )


@pytest.mark.parametrize("unit", ["", " mg/L", "mg/L ", "mg", "L/mg"])
def test_no_unit_is_completed_trimmed_or_guessed(unit: str) -> None:
    with pytest.raises(UnitError):
        to_canonical(1.0, unit, units.CONCENTRATION, "lab level")


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_not_a_finite_number_is_refused(value: float) -> None:
    with pytest.raises(UnitError, match="not a finite number"):
        to_canonical(value, "mg/L", units.CONCENTRATION, "lab level")


def test_clearance_of_75_ml_per_min_is_4_5_litres_per_hour() -> None:
    assert to_canonical(75.0, "mL/min", units.CLEARANCE, "clearance") == pytest.approx(4.5, rel=1e-15)


@given(value=st.floats(1e-9, 1e9), unit=st.sampled_from(sorted(units.CONCENTRATION)))
def test_order_of_values_is_the_same_in_every_unit(value: float, unit: str) -> None:
    smaller = to_canonical(value, unit, units.CONCENTRATION, "level")
    assert smaller <= to_canonical(math.nextafter(value, math.inf), unit, units.CONCENTRATION, "level")
