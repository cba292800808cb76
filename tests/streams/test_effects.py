"""Signals that a drug moves, from records to twins: carvedilol's heart rate, fentanyl's breathing, QTc, a home INR."""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Sequence
from typing import Any

import msgspec
import pytest

from streams.oracle import Account
from streams.ports import RawRecord
from streams.queries.views import describe_estimate
from tests.streams import two_ways
from tests.streams.logs import Sent, disturbed, dose, level, logged, send
from tests.streams.two_ways import Run
from tests.twinstate.library.configs import CONFIG
from twinstate.estimate import DrugEstimate
from twinstate.library import load_library
from twinstate.twin import TwinDocument

LIBRARY = load_library(CONFIG)
MINUTES = 10 * 60

Told = dict[str, Any]
YOUNG_MAN: Told = {"covariates": {"sex": "male"}, "genotype": {"CYP2D6": "*1/*10"}}
PATIENTS: dict[str, Told] = {
    "carvedilol": YOUNG_MAN,
    "metoprolol": {
        "covariates": {
            "sex": "female",
            "age": {"value": 70, "unit": "a"},
            "weight": {"value": 60, "unit": "kg"},
        },
        "genotype": {"CYP2D6": "*1/*4"},
    },
    "fentanyl": {"covariates": {"weight": {"value": 70, "unit": "kg"}}},
}
SIGNALS = {"carvedilol": "heart_rate", "metoprolol": "heart_rate", "fentanyl": "respiratory_rate"}
DOSES_MG = {"carvedilol": 25.0, "metoprolol": 50.0, "fentanyl": 0.1}
ROUTES = {"carvedilol": "oral", "metoprolol": "oral", "fentanyl": "iv"}
WATCHED = [("carvedilol", 72.0, 61.0), ("metoprolol", 72.0, 61.0), ("fentanyl", 15.0, 12.0)]


def readings(seed: int, rest: float, after: float, spread: float) -> list[float | None]:
    """A reading a minute for ten hours: `rest` for the first two, then `after`, some unreadable."""
    dice = random.Random(seed)
    return [
        None if dice.random() < 0.05 else round(dice.gauss(rest if minute < 120 else after, spread), 1)
        for minute in range(MINUTES)
    ]


def frame(drug: str, values: Sequence[float | None]) -> Told:
    return {"signal": SIGNALS[drug], "unit": "/min", "values": list(values), "period_s": 60.0}


def stay(drug: str, values: list[float | None], cuts: Sequence[int]) -> list[Sent]:
    """One patient, one dose after two hours, and the readings in frames cut at these minutes."""
    given = dose(DOSES_MG[drug], drug, ROUTES[drug])
    sent = [
        send("p-1", "patient", "adm", 0.0, PATIENTS[drug]),
        send("p-1", "dose", "d1", 2.0, given),
        *(
            send("p-1", "wearable", f"watch:{n}", (end - 1) / 60.0, frame(drug, values[begin:end]))
            for n, (begin, end) in enumerate(itertools.pairwise(cuts))
        ),
        send("p-1", "tick", "t", 10.5),
    ]
    return sorted(sent, key=lambda one: one.at_h)


def piped(log: list[RawRecord], size: int = 7) -> Run:
    return two_ways.piped(LIBRARY, two_ways.in_batches(log, size))


def foretold(log: list[RawRecord]) -> Account:
    return two_ways.foretold(LIBRARY, log)


def estimate(log: list[RawRecord]) -> tuple[DrugEstimate, list[Told]]:
    """The only estimate of the only patient, and the risk events told; pipeline and oracle agree to the byte."""
    twins, outgoing, _ = piped(log)
    account = foretold(log)
    assert [one for one in outgoing if one.topic == "dead_letters"] == []
    assert twins == account.twins
    told = [one for one in outgoing if one.topic == "risk"]
    assert told == account.risk[0]
    [found] = msgspec.msgpack.decode(twins["p-1"], type=TwinDocument).estimates
    return found, [json.loads(one.value) for one in told]


@pytest.mark.parametrize(("drug", "rest", "after"), WATCHED)
def test_what_the_watch_reads_moves_baseline_and_effect_as_the_oracle_says(
    drug: str, rest: float, after: float
) -> None:
    hourly = [*range(0, MINUTES + 1, 60)]
    found, _ = estimate(logged(stay(drug, readings(1, rest, after, 1.5), hourly)))
    silent, _ = estimate(logged([one for one in stay(drug, [], [0]) if b"wearable" not in one.value]))
    assert found.channel is not None
    assert silent.channel is not None
    assert found.channel.signal == SIGNALS[drug]
    assert sum(found.channel.windows) == 120
    width = found.channel.baseline.high - found.channel.baseline.low
    assert width < 0.8 * (silent.channel.baseline.high - silent.channel.baseline.low)
    assert found.channel.baseline.low < rest < found.channel.baseline.high
    assert found.channel.effect.high - found.channel.effect.low < (
        silent.channel.effect.high - silent.channel.effect.low
    )


@pytest.mark.parametrize(("drug", "rest", "after"), WATCHED)
def test_any_order_split_and_duplication_of_the_readings_gives_the_same_bytes(
    drug: str, rest: float, after: float
) -> None:
    values = readings(2, rest, after, 1.5)
    seen = set()
    for seed in range(4):
        dice = random.Random(seed)
        # Cut at every full hour and anywhere between: the last minute of an hour belongs to that hour.
        cuts = {0, MINUTES, *(60 * hour + 1 for hour in range(10))}
        cuts |= {dice.randrange(1, MINUTES) for _ in range(25)}
        told = stay(drug, values, sorted(cuts))
        [first, *rest_of_it] = told
        frames = [one for one in rest_of_it if b'"wearable"' in one.value]
        rest_of_it += dice.sample(frames, 10)
        dice.shuffle(rest_of_it)
        twins, *_ = piped(logged([first, *rest_of_it]), size=dice.randint(1, 12))
        seen.add(twins["p-1"])
    assert len(seen) == 1


@pytest.mark.parametrize("drug", ["carvedilol", "fentanyl"])
def test_late_corrected_and_cancelled_records_end_as_the_oracle_says(drug: str) -> None:
    at_rest, lowered = (66.0, 47.0) if drug == "carvedilol" else (14.0, 8.0)
    sent = stay(drug, readings(3, at_rest, lowered, 1.5), [*range(0, MINUTES + 1, 30)])
    for seed in (1, 2):
        log = logged(disturbed(sent, seed))
        twins, outgoing, _ = piped(log)
        account = foretold(log)
        assert twins == account.twins
        assert [one for one in outgoing if one.topic == "risk"] == account.risk[0]


def test_a_slow_heart_is_raised_as_unverified_and_never_without_a_reading() -> None:
    hourly = [*range(0, MINUTES + 1, 60)]
    found, told = estimate(logged(stay("carvedilol", readings(4, 60.0, 44.0, 1.5), hourly)))
    assert {risk.threshold for risk in found.risks} == {"bradycardia", "severe_bradycardia"}
    raised = [one for one in told if one["type"] == "raised"]
    assert [one["threshold"] for one in raised] == ["bradycardia"]
    assert raised[0]["metric"] == "signal_low"
    assert raised[0]["limit"] == 50.0
    assert raised[0]["threshold_status"] == "R"
    silent, nothing = estimate(
        logged([one for one in stay("carvedilol", [], [0]) if b"wearable" not in one.value])
    )
    assert silent.risks == ()
    assert "signal_not_heard" in silent.flags
    assert nothing == []


def test_breathing_that_slows_after_the_dose_is_raised() -> None:
    hourly = [*range(0, MINUTES + 1, 60)]
    found, told = estimate(logged(stay("fentanyl", readings(5, 13.0, 8.5, 0.7), hourly)))
    raised = [one["threshold"] for one in told if one["type"] == "raised"]
    assert "slow_breathing" in raised
    by_name = {risk.threshold: risk for risk in found.risks}
    assert by_name["slow_breathing"].probability > by_name["very_slow_breathing"].probability


def test_a_qtc_beyond_500_ms_is_told_from_the_signal_itself_not_from_the_drugs_share_of_it() -> None:
    told_of = {
        "covariates": {
            "weight": {"value": 68, "unit": "kg"},
            "age": {"value": 31, "unit": "a"},
            "sex": "male",
        }
    }
    dice = random.Random(6)
    values = [round(dice.gauss(508.0, 4.0)) for _ in range(360)]
    sent = [
        send("p-1", "patient", "adm", 0.0, told_of),
        *(
            send(
                "p-1",
                "wearable",
                f"patch:{n}",
                (60 * n + 59) / 60.0,
                {"signal": "qtc", "unit": "ms", "values": values[60 * n : 60 * n + 60], "period_s": 60.0},
            )
            for n in range(6)
        ),
        send("p-1", "dose", "d1", 5.9, dose(400.0, "moxifloxacin", "oral")),
        send("p-1", "tick", "t", 6.1),
    ]
    found, _ = estimate(logged(sorted(sent, key=lambda one: one.at_h)))
    by_name = {risk.threshold: risk for risk in found.risks}
    assert by_name["qtc_absolute"].probability > 0.9
    assert by_name["qtc_rise"].probability < 0.05
    assert by_name["qtc_absolute"].metric.median > 508.0


def patched(values: Sequence[int]) -> list[Sent]:
    """A young man on one tablet after an hour, and the readings of his patch: one a minute, a frame an hour."""
    told_of = {
        "covariates": {
            "weight": {"value": 68, "unit": "kg"},
            "age": {"value": 31, "unit": "a"},
            "sex": "male",
        }
    }
    frames = [
        {"signal": "qtc", "unit": "ms", "values": values[at : at + 60], "period_s": 60.0}
        for at in range(0, len(values), 60)
    ]
    sent = [
        send("p-1", "patient", "adm", 0.0, told_of),
        send("p-1", "dose", "d1", 1.0, dose(400.0, "moxifloxacin", "oral")),
        *(
            send("p-1", "wearable", f"patch:{n}", (60 * n + 59) / 60.0, payload)
            for n, payload in enumerate(frames)
        ),
        send("p-1", "tick", "t", len(values) / 60.0 + 0.5),
    ]
    return sorted(sent, key=lambda one: one.at_h)


def test_an_event_names_the_device_behind_it_that_lost_trust_and_none_while_all_are_trusted() -> None:
    dice = random.Random(11)
    # From a hundred and twenty minutes on the patch reads 120 ms more, at once: no body does that.
    jumped = [round(dice.gauss(410.0 if minute < 120 else 530.0, 4.0)) for minute in range(480)]
    found, told = estimate(logged(patched(jumped)))
    assert found.channel is not None
    assert found.channel.distrusted == ("patch:jump",)
    [raised] = [one for one in told if one["type"] == "raised" and one["threshold"] == "qtc_absolute"]
    assert raised["distrusted"] == ["patch:jump"]
    hourly = [*range(0, MINUTES + 1, 60)]
    _, told = estimate(logged(stay("carvedilol", readings(4, 60.0, 50.0, 1.5), hourly)))
    [raised] = [one for one in told if one["type"] == "raised"]
    assert (raised["threshold"], raised["distrusted"]) == ("bradycardia", [])


def test_events_name_distrusted_devices_as_the_oracle_does_in_any_order_of_arrival() -> None:
    dice = random.Random(12)
    jumped = [round(dice.gauss(410.0 if minute < 120 else 530.0, 4.0)) for minute in range(480)]
    named = set()
    for seed in (1, 2, 3):
        log = logged(disturbed(patched(jumped), seed))
        twins, outgoing, _ = piped(log)
        account = foretold(log)
        events = [one for one in outgoing if one.topic == "risk"]
        assert twins == account.twins
        assert events == account.risk[0]
        named |= {tuple(json.loads(one.value)["distrusted"]) for one in events}
    assert ("patch:jump",) in named


def test_an_alarm_on_exposure_rests_on_no_device() -> None:
    log = logged(stay("metoprolol", readings(7, 72.0, 20.0, 0.3), [*range(0, MINUTES + 1, 60)]))
    found, _ = estimate(log)
    assert found.channel is not None
    [lost] = found.channel.distrusted
    assert lost.startswith("watch:")
    [row] = describe_estimate(found, LIBRARY).risks[:1]
    assert (row.threshold, row.distrusted) == ("high_concentration", ())
    others = describe_estimate(found, LIBRARY).risks[1:]
    assert {row.distrusted for row in others} == {(lost,)}


def test_low_potassium_and_magnesium_are_flagged_beside_qtc_and_change_no_estimate() -> None:
    told_of = {
        "covariates": {
            "weight": {"value": 68, "unit": "kg"},
            "age": {"value": 31, "unit": "a"},
            "sex": "male",
        }
    }
    sent = [
        send("p-1", "patient", "adm", 0.0, told_of),
        send("p-1", "dose", "d1", 1.0, dose(400.0, "moxifloxacin", "oral")),
        send("p-1", "tick", "t", 3.0),
    ]
    low = [
        send("p-1", "lab", "k", 2.0, level(2.3, "potassium", "mmol/L")),
        send("p-1", "lab", "mg", 2.0, level(0.8, "magnesium", "mg/dL")),
    ]
    twins = {}
    for name, log in (("plain", logged(sent)), ("low", logged([*sent, *low]))):
        found, *_ = piped(log)
        assert found == foretold(log).twins
        twins[name] = msgspec.msgpack.decode(found["p-1"], type=TwinDocument)
    assert {"potassium:unusual", "magnesium:unusual"} <= set(twins["low"].quality)
    assert not {"potassium:unusual", "magnesium:unusual"} & set(twins["plain"].quality)
    assert twins["low"].estimates == twins["plain"].estimates


def inr_course(levels: list[tuple[float, str, float]]) -> list[Sent]:
    told = {
        "covariates": {"age": {"value": 67, "unit": "a"}},
        "genotype": {"CYP2C9": "*1/*1", "VKORC1": "AG"},
    }
    sent = [send("p-1", "patient", "adm", 0.0, told)]
    sent += [send("p-1", "dose", f"d{n}", 1.0 + 24.0 * n, dose(5.0, "warfarin", "oral")) for n in range(10)]
    sent += [
        send("p-1", "lab", f"l{n}", at, level(value, analyte, "{INR}"))
        for n, (at, analyte, value) in enumerate(levels)
    ]
    return sorted(sent, key=lambda one: one.at_h)


def test_a_home_meter_counts_as_a_level_with_its_own_error_and_without_its_bias() -> None:
    at_h = 200.0
    alone, _ = estimate(logged(inr_course([])))
    laboratory, _ = estimate(logged(inr_course([(at_h, "inr", 2.5)])))
    home, _ = estimate(logged(inr_course([(at_h, "inr_home_meter", 2.79)])))
    assert (alone.levels, laboratory.levels, home.levels) == (0, 1, 1)
    [check] = home.checks
    # Between the classes 2 to 3 (0.29) and above 3 (0.40), whose middles are taken for 2.5 and 3.5.
    assert check.observed == pytest.approx(2.79 - (0.29 + 0.29 * 0.11), abs=1e-9)
    assert check.analyte == "inr_home_meter"

    def width(of: DrugEstimate) -> float:
        [clearance] = [row for row in of.parameters if row.name == "clearance"]
        return clearance.estimate.high - clearance.estimate.low

    # A reading at home says something, the laboratory's more.
    assert width(laboratory) < width(home) < width(alone)
    risks = {risk.threshold: risk for risk in home.risks}
    assert risks["high_inr"].metric.median > 1.0


def test_a_further_test_alone_names_no_drug() -> None:
    sent = [
        send("p-1", "patient", "adm", 0.0, {"covariates": {}}),
        send("p-1", "lab", "l", 1.0, level(6.0, "leukocytes", "10*3/uL")),
    ]
    twins, *_ = piped(logged(sent))
    assert twins == foretold(logged(sent)).twins
    assert msgspec.msgpack.decode(twins["p-1"], type=TwinDocument).estimates == ()
