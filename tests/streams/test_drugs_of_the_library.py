"""Patients of every kind of drug, from records to twins: pipeline and oracle agree, and say what is expected."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from streams.oracle import Account
from streams.ports import RawRecord
from tests.streams import two_ways
from tests.streams.logs import Sent, dose, level, logged, moment, send
from tests.streams.two_ways import Run
from tests.twinstate.library.configs import CONFIG
from twinstate.library import load_library
from twinstate.twin import TwinDocument

LIBRARY = load_library(CONFIG)

Told = dict[str, Any]


def quantity(value: float, unit: str) -> dict[str, Any]:
    return {"value": value, "unit": unit}


def plan(
    drug: str, amount_mg: float, first_h: float, every_h: float, count: int, route: str
) -> dict[str, Any]:
    line = {
        "amount": quantity(amount_mg, "mg"),
        "route": route,
        "first_due": moment(first_h),
        "every_h": every_h,
        "count": count,
    }
    return {"drug": drug, "lines": [line]}


def course(
    drug: str,
    told: Told,
    amount_mg: float,
    every_h: float,
    count: int,
    levels: list[tuple[float, dict[str, Any]]],
    *,
    route: str = "oral",
    planned: int = 6,
    duration_h: float = 1.0,
) -> list[Sent]:
    """One patient: `count` doses given, as many planned as asked for, and levels at hours after the first dose."""
    sent = [
        send("p-1", "patient", "adm", 0.0, told),
        send("p-1", "regimen", "r1", 0.5, plan(drug, amount_mg, 1.0, every_h, count + planned, route)),
    ]
    for n in range(count):
        given = dose(amount_mg, drug, route)
        if route == "iv":
            given["duration_h"] = duration_h
        sent.append(send("p-1", "dose", f"d{n}", 1.0 + every_h * n, given))
    sent += [send("p-1", "lab", f"l{n}", 1.0 + at, result) for n, (at, result) in enumerate(levels)]
    return sorted(sent, key=lambda one: one.at_h)


KIDNEY = {
    "covariates": {
        "age": quantity(52, "a"),
        "weight": quantity(74, "kg"),
        "height": quantity(176, "cm"),
        "sex": "male",
        "albumin": quantity(40, "g/L"),
        "creatinine": quantity(140, "umol/L"),
        "haematocrit": quantity(33, "%"),
    },
    "genotype": {"CYP3A5": "*3/*1"},
}
WARDS: dict[str, list[Sent]] = {
    "warfarin": course(
        "warfarin",
        {"covariates": {"age": quantity(67, "a")}, "genotype": {"CYP2C9": "*2/*1", "VKORC1": "AG"}},
        7.5,
        24.0,
        14,
        [(71.5, level(2.8, "inr", "{INR}")), (191.5, level(3.6, "6301-6", "{INR}"))],
    ),
    "tacrolimus": course(
        "tacrolimus",
        KIDNEY,
        6.0,
        12.0,
        8,
        [(59.9, level(11.2, "11253-2", "ng/mL")), (83.9, level(16.4, "tacrolimus", "ng/mL"))],
    ),
    "phenytoin": course(
        "phenytoin",
        {
            "covariates": {
                "age": quantity(40, "a"),
                "weight": quantity(70, "kg"),
                "further_antiepileptics": False,
            },
            "genotype": {"CYP2C9": "*1/*3"},
        },
        150.0,
        12.0,
        20,
        [(119.5, level(14.0, "phenytoin"))],
    ),
    "digoxin": course(
        "digoxin",
        {
            "covariates": {
                "age": quantity(71, "a"),
                "weight": quantity(62, "kg"),
                "sex": "female",
                "creatinine": quantity(1.3, "mg/dL"),
                "amiodarone": True,
            }
        },
        0.25,
        24.0,
        8,
        [(167.5, level(1.7, "digoxin", "ng/mL"))],
    ),
    "lithium": course(
        "lithium",
        {"covariates": {"age": quantity(35, "a")}},
        900.0,
        12.0,
        10,
        [(107.9, level(1.4, "lithium", "mmol/L"))],
    ),
    "methotrexate": course(
        "methotrexate",
        {
            "covariates": {
                "age": quantity(14, "a"),
                "body_surface": quantity(1.6, "m2"),
                "creatinine": quantity(1.9, "mg/dL"),
            }
        },
        12000.0,
        336.0,
        1,
        [(24.0, level(95.0, "methotrexate", "umol/L"))],
        route="iv",
        planned=0,
        duration_h=24.0,
    ),
    "busulfan": course(
        "busulfan",
        {"covariates": {"weight": quantity(12, "kg"), "age": quantity(2, "a")}},
        16.0,
        6.0,
        4,
        [(2.0, level(1.6, "busulfan")), (5.9, level(0.5, "busulfan"))],
        route="iv",
        planned=12,
        duration_h=2.0,
    ),
    "fluorouracil": course(
        "fluorouracil",
        {
            "covariates": {
                "age": quantity(58, "a"),
                "body_surface": quantity(1.9, "m2"),
                "cisplatin": False,
            },
            "genotype": {"DPYD": "1"},
        },
        4560.0,
        336.0,
        1,
        [(20.0, level(0.8, "fluorouracil"))],
        route="iv",
        planned=1,
        duration_h=46.0,
    ),
    "remifentanil": course(
        "remifentanil",
        {
            "covariates": {
                "age": quantity(45, "a"),
                "weight": quantity(70, "kg"),
                "height": quantity(175, "cm"),
                "sex": "male",
            }
        },
        0.4,
        24.0,
        1,
        [],
        route="iv",
        planned=0,
    ),
}


def read(twin: bytes) -> TwinDocument:
    return msgspec.msgpack.decode(twin, type=TwinDocument)


def piped(log: list[RawRecord]) -> Run:
    return two_ways.piped(LIBRARY, two_ways.in_batches(log, 7))


def foretold(log: list[RawRecord]) -> Account:
    return two_ways.foretold(LIBRARY, log)


def document(drug: str) -> TwinDocument:
    """The twin at the end of a ward's records, on which pipeline and oracle agree to the byte."""
    log = logged(WARDS[drug])
    twins, outgoing, _ = piped(log)
    account = foretold(log)
    assert [one for one in outgoing if one.topic == "dead_letters"] == []
    assert twins == account.twins
    assert [one for one in outgoing if one.topic == "risk"] == account.risk[0]
    return read(twins["p-1"])


@pytest.mark.parametrize("drug", sorted(set(WARDS) - {"remifentanil"}))
def test_the_pipeline_says_what_the_oracle_says_of_every_kind_of_drug(drug: str) -> None:
    found = document(drug)
    [estimate] = found.estimates
    assert estimate.drug == drug
    assert estimate.state == "live", estimate.reason
    limits = {t.name: t for t in LIBRARY.drugs[drug].thresholds}
    assert [risk.threshold for risk in estimate.risks] == list(limits)
    for risk in estimate.risks:
        low, median, high = risk.metric.low, risk.metric.median, risk.metric.high
        assert 0.0 < low <= median <= high
        # The probability says on which side of the limit the distribution lies.
        limit = limits[risk.threshold].limit
        assert (risk.probability > 0.5) == (median > limit)
        assert (risk.probability > 0.95) == (low > limit)


def test_an_inr_ahead_of_the_population_lifts_the_forecast_of_the_next() -> None:
    [estimate] = document("warfarin").estimates
    assert estimate.levels == 2
    [first, second] = estimate.checks
    assert first.forecast == first.population
    assert first.population.median < 2.8
    assert second.forecast.median > second.population.median
    assert 1.0 < second.forecast.low < second.forecast.median < second.forecast.high < 10.0


def test_a_level_of_a_model_without_residual_error_is_set_aside_and_the_answer_says_why() -> None:
    for drug in ("lithium", "methotrexate"):
        [estimate] = document(drug).estimates
        assert estimate.levels == 0
        assert "level_not_used" in estimate.flags
        assert "residual error of" in estimate.assumes
        assert "is unknown" in estimate.assumes
        assert estimate.risks


def test_a_model_that_does_not_know_how_patients_differ_leaves_its_twin_pending_and_says_so() -> None:
    [estimate] = document("remifentanil").estimates
    assert estimate.state == "pending"
    assert any("how patients differ is unknown for remifentanil-minto-1997" in r for r in estimate.reason)


def test_a_late_level_is_watched_from_its_hour_on_until_the_next_dose() -> None:
    [estimate] = document("methotrexate").estimates
    # As of the level at the end of the infusion, 24 h after its start: all three limits lie ahead, the level falls.
    medians = [risk.metric.median for risk in estimate.risks]
    assert medians == sorted(medians, reverse=True)
    assert medians[0] > medians[2] > 0.0


@pytest.mark.parametrize(
    ("genotype", "refusal", "hint"),
    [
        ({"CYP9Z9": "*1/*1"}, "unknown_gene", "CYP2C9"),
        ({"CYP2C9": "one of each"}, "wrong_schema", "*1/*3"),
        ({"VKORC1": "*1/*1"}, "wrong_schema", "GG or AG or AA"),
    ],
)
def test_a_gene_nobody_reads_or_a_diplotype_nobody_understands_is_a_dead_letter(
    genotype: dict[str, str], refusal: str, hint: str
) -> None:
    log = logged([send("p-1", "patient", "adm", 0.0, {"covariates": {}, "genotype": genotype})])
    _, outgoing, _ = piped(log)
    [letter] = [one for one in outgoing if one.topic == "dead_letters"]
    headers = {name: value.decode() for name, value in letter.headers}
    assert headers["twin-error-class"] == refusal
    assert hint in headers["twin-error-message"]


def test_a_diplotype_the_model_does_not_know_leaves_the_twin_pending_and_names_those_it_knows() -> None:
    told = {"covariates": {"age": quantity(67, "a")}, "genotype": {"CYP2C9": "*1/*8", "VKORC1": "GG"}}
    log = logged(course("warfarin", told, 5.0, 24.0, 2, []))
    twins, *_ = piped(log)
    [estimate] = read(twins["p-1"]).estimates
    assert estimate.state == "pending"
    assert "has no effect for CYP2C9 *1/*8; its file knows *1/*1, *1/*2, *1/*3" in estimate.reason[0]


def test_the_order_of_a_diplotypes_alleles_changes_no_byte() -> None:
    def twin(diplotype: str) -> object:
        told = {"covariates": {"age": quantity(67, "a")}, "genotype": {"CYP2C9": diplotype, "VKORC1": "GG"}}
        twins, *_ = piped(logged(course("warfarin", told, 5.0, 24.0, 2, [])))
        [estimate] = read(twins["p-1"]).estimates
        return estimate.parameters

    assert twin("*1/*3") == twin("*3/*1")
    assert twin("*1/*3") != twin("*1/*1")
