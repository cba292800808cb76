"""A patient at a steady state that hardly anybody can have: the twin says so, until levels tell that he can."""

from __future__ import annotations

from streams.oracle import Oracle
from tests.streams.histories import PATIENT, dose, send
from tests.streams.logs import Sent, logged
from tests.streams.structures import WARDS, library_of
from tests.streams.test_histories import APPENDED_H, piped
from twinstate.library import Library

WARD = "saturable elimination"


def sent(levels: tuple[float, ...]) -> list[Sent]:
    """400 mg of phenytoin a day at steady state; levels in mg/L, four hours apart."""
    ward = WARDS[WARD]
    given = {**dose(200.0, "phenytoin", "oral"), "steady_state_interval_h": 12.0}
    return [
        send(PATIENT, "patient", "adm", 0.0, ward.told),
        send(PATIENT, "dose", "d", 1.0, given),
        *(
            send(
                PATIENT,
                "lab",
                f"l{n}",
                5.0 + 4.0 * n,
                {"analyte": ward.analyte, "value": value, "unit": "mg/L"},
            )
            for n, value in enumerate(levels)
        ),
        send(PATIENT, "tick", "t", 30.0, {}),
    ]


def twin_of(library: Library, told: list[Sent]) -> bytes:
    """The twin's canonical bytes, of pipeline and oracle alike."""
    oracle = Oracle(library, 1)
    oracle.read(0, logged(told, APPENDED_H))
    twin = piped(library, told, [1])
    assert oracle.account().twins[PATIENT] == twin
    return twin


def test_before_any_level_the_twin_is_quarantined_and_says_what_to_correct() -> None:
    library = library_of(WARD)
    twin = twin_of(library, sent(()))
    assert b"quarantined" in twin
    assert b"Correct amount or interval, or send the doses one by one." in twin


def test_levels_that_tell_otherwise_give_an_estimate_though_no_forecast_of_the_population_stands_beside_them() -> (
    None
):
    library = library_of(WARD)
    assert b"quarantined" not in twin_of(library, sent((18.0, 19.0)))
