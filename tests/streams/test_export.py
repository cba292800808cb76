"""A twin taken away as rows: read again by somebody else, they give the predictions they claim."""

from __future__ import annotations

import csv
import io
import math

import numpy as np
import pytest
from scipy.integrate import solve_ivp

from streams.pipeline import EVENT_SOURCE, Pipeline
from streams.ports import StoredTwin
from streams.queries.answers import ExportAnswer, Position
from streams.queries.export import as_csv, export_drug
from streams.queries.views import QuestionError, describe_estimate, look
from tests.streams.logs import ADMISSION, Sent, dose, level, logged, send
from tests.streams.structures import covariates, quantity
from tests.twinstate.library.configs import CONFIG
from twinstate.library import load_library
from twinstate.twin import Rules

RULES = Rules(load_library(CONFIG), EVENT_SOURCE)
PATIENT = "p-1"
Row = dict[str, str]


def stored(sent: list[Sent]) -> StoredTwin:
    pipeline = Pipeline(RULES.library, 0, 1)
    batch = pipeline.decode(logged(sent))
    pipeline.remember(PATIENT, None)
    outcome = pipeline.update(batch)
    assert not [one for one in outcome.outgoing if one.topic == "dead_letters"]
    return outcome.twins[PATIENT]


def exported(sent: list[Sent], drug: str | None = None) -> ExportAnswer:
    view = look(stored(sent), "live", RULES)
    return export_drug(view, drug, "f" * 64, Position(partition=0, next_offset=9), RULES)


def read(answer: ExportAnswer) -> list[Row]:
    return list(csv.DictReader(io.StringIO(as_csv(answer))))


VANCOMYCIN = [
    send(PATIENT, "patient", "adm", 0.0, ADMISSION),
    *(send(PATIENT, "dose", f"d{n}", 1.0 + 12.0 * n, dose(1000.0)) for n in range(4)),
    send(PATIENT, "lab", "l1", 12.5, level(14.2)),
    send(PATIENT, "lab", "c1", 20.0, level(1.9, "creatinine", "mg/dL")),
    send(PATIENT, "lab", "l2", 30.0, level(21.7)),
    send(PATIENT, "lab", "l3", 40.0, {**level(2.0), "censored": "below"}),
]
HEART = covariates(
    age=quantity(66, "a"),
    weight=quantity(70, "kg"),
    creatinine_clearance=quantity(75, "mL/min"),
    severe_heart_or_liver_failure=False,
)
QUINIDINE = [
    send(PATIENT, "patient", "adm", 0.0, HEART),
    send(
        PATIENT,
        "dose",
        "d0",
        1.0,
        {**dose(249.0, "quinidine", "oral"), "steady_state_interval_h": 6.0},
    ),
    *(send(PATIENT, "dose", f"d{n}", 1.0 + 6.0 * n, dose(249.0, "quinidine", "oral")) for n in range(1, 9)),
    send(PATIENT, "lab", "l0", 3.0, level(3.2, "quinidine")),
    send(PATIENT, "lab", "l1", 30.0, level(3.1, "quinidine")),
    send(PATIENT, "lab", "l2", 52.0, level(3.9, "quinidine")),
]


def simulated(rows: list[Row], *, individual: bool) -> list[float]:
    """Concentrations at every row by SciPy from the columns alone: two compartments, infusions or zero-order input."""
    times = [float(row["TIME"]) for row in rows]

    def parameter(row: Row, name: str) -> float:
        value = float(row[f"TV_{name}"])
        if individual and f"ETA_{name}" in row:
            value *= math.exp(float(row[f"ETA_{name}"]))
        return value

    inputs = []  # start, end, rate
    for row in rows:
        if row["EVID"] != "1":
            continue
        rate = float(row["RATE"])
        amount = float(row["AMT"]) * float(row["TV_BIOAVAILABILITY"])
        length = parameter(row, "INPUT_DURATION") if rate == -2.0 else float(row["AMT"]) / rate
        back = 300 if row["SS"] == "1" else 0
        inputs += [
            (start, start + length, amount / length)
            for n in range(back + 1)
            for start in [float(row["TIME"]) - n * float(row["II"])]
        ]
    starts = [start for start, _, _ in inputs]
    stops = sorted({*times, *starts, *(end for _, end, _ in inputs)})
    state, found = np.zeros(2), {}
    for now, then in zip(stops, [*stops[1:], stops[-1]], strict=True):
        place = max((n for n, at in enumerate(times) if at <= now), default=-1)
        row = rows[max(place, 0)]
        clearance, volume = parameter(row, "CLEARANCE"), parameter(row, "CENTRAL_VOLUME")
        if individual:  # what a row says of its occasion held just before it
            clearance *= math.exp(float(rows[min(place + 1, len(rows) - 1)]["ETA_OCC"]))
        between, outer = (
            parameter(row, "INTERCOMPARTMENTAL_CLEARANCE"),
            parameter(row, "PERIPHERAL_VOLUME"),
        )
        found[now] = state[0] / volume
        flow = sum(rate for start, end, rate in inputs if start <= now < end)
        rates = np.array(
            [[-(clearance + between) / volume, between / outer], [between / volume, -between / outer]]
        )

        def slope(_: float, y: np.ndarray, flow: float = flow, rates: np.ndarray = rates) -> np.ndarray:
            return rates @ y + np.array([flow, 0.0])

        if then > now:
            state = solve_ivp(slope, (now, then), state, method="DOP853", rtol=1e-11, atol=1e-12).y[:, -1]
    first = min(float(row["TIME"]) for row in rows if row["EVID"] == "1")
    return [found[time] if time >= first else 0.0 for time in times]


@pytest.mark.parametrize(
    "sent", [VANCOMYCIN, QUINIDINE], ids=["infusions", "zero order, steady state, drift"]
)
def test_rows_read_again_give_the_predictions_they_claim(sent: list[Sent]) -> None:
    rows = read(exported(sent))
    for individual, column in ((False, "PRED"), (True, "IPRED")):
        expected = simulated(rows, individual=individual)
        np.testing.assert_allclose([float(row[column]) for row in rows], expected, rtol=1e-6, atol=1e-9)
    assert any(abs(float(row["IPRED"]) / max(float(row["PRED"]), 1e-9) - 1.0) > 0.05 for row in rows)


def test_every_dose_level_and_covariate_has_its_row_and_is_coded_as_nonmem_reads_it() -> None:
    rows = read(exported(VANCOMYCIN))
    assert [row["EVID"] for row in rows] == ["2", "1", "0", "1", "2", "1", "0", "1", "0"]
    doses = [row for row in rows if row["EVID"] == "1"]
    assert {(row["AMT"], row["RATE"], row["SS"], row["ADDL"], row["MDV"], row["DV"]) for row in doses} == {
        ("1000", "1000", "0", "0", "1", ".")
    }
    assert [float(row["TIME"]) for row in doses] == pytest.approx([1.0, 13.0, 25.0, 37.0])
    levels = [row for row in rows if row["EVID"] == "0"]
    assert [(row["DV"], row["LLOQ"], row["CENS"], row["MDV"]) for row in levels] == [
        ("14.2", ".", "0", "0"),
        ("21.7", ".", "0", "0"),
        ("2", "2", "1", "0"),
    ]
    assert [row["CREATININE"] for row in rows] == ["1.1"] * 4 + ["1.9"] * 5
    assert float(rows[-1]["TV_CLEARANCE"]) < 0.9 * float(rows[0]["TV_CLEARANCE"])
    assert {row["MODEL"] for row in rows} == {"vancomycin-goti-2018"}
    assert {(row["ID"], row["PATIENT"], row["FINGERPRINT"]) for row in rows} == {("1", PATIENT, "f" * 64)}


def test_a_level_that_is_not_used_is_told_and_marked() -> None:
    early = send(PATIENT, "lab", "l0", 0.5, level(3.0))
    [row] = [row for row in read(exported([*VANCOMYCIN, early])) if row["DV"] == "3"]
    assert (row["EVID"], row["MDV"]) == ("0", "1")


def test_nothing_tells_who_when_or_which_record_beyond_the_pseudonym() -> None:
    text = as_csv(exported(VANCOMYCIN))
    assert "2026" not in text
    assert "ward" not in text
    assert "l1" not in text


def test_every_column_is_described_with_its_unit() -> None:
    answer = exported(VANCOMYCIN)
    names = [column.name for column in answer.columns]
    assert len(names) == len(set(names)) == len(answer.rows[0])
    units = {column.name: column.unit for column in answer.columns}
    assert (units["TIME"], units["AMT"], units["DV"], units["TV_CLEARANCE"], units["CREATININE"]) == (
        "h", "mg", "mg/L", "L/h", "mg/dL",
    )  # fmt: skip
    assert all(column.meaning for column in answer.columns)


def test_shrinkage_and_monte_carlo_error_follow_from_what_the_twin_keeps() -> None:
    [estimate] = look(stored(VANCOMYCIN), "live", RULES).document.estimates
    described = describe_estimate(estimate, RULES.library)
    omega = RULES.library.drugs["vancomycin"].omega
    for place, eta in enumerate(described.etas):
        variance = estimate.eta_covariance[place][place]
        assert eta.shrinkage == pytest.approx(variance / omega[place, place])
        assert eta.monte_carlo_error == pytest.approx(math.sqrt(variance / estimate.effective_size))
    by_name = {p.name: p for p in described.parameters}
    assert by_name["clearance"].shrinkage == described.etas[0].shrinkage < 0.9
    # Before any level nothing was learnt, and the points are the prior's own.
    [fresh] = look(stored(VANCOMYCIN[:2]), "live", RULES).document.estimates
    assert [eta.shrinkage for eta in describe_estimate(fresh, RULES.library).etas] == pytest.approx(
        [1.0] * len(omega)
    )


def test_an_export_without_an_estimate_says_why() -> None:
    with pytest.raises(
        QuestionError, match="nothing to export: vancomycin-goti-2018 waits for a patient record"
    ):
        exported([VANCOMYCIN[1]])
