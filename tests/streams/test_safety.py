"""What must never be hidden, forgotten or outlived: cases that pipeline and oracle both once got wrong."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from streams.pipeline import create_pipeline
from streams.queries.curve import draw
from streams.queries.views import describe_estimate
from tests.streams.logs import ADMISSION, Sent, dose, level, regimen, send
from tests.streams.test_oracle import logged
from tests.twinstate.library.configs import CONFIG
from twinstate.estimate import DrugEstimate
from twinstate.library import load_library
from twinstate.twin import TwinDocument

LIBRARY = load_library(CONFIG)
FAR_H = 24.0 * 200


def told(sent: list[Sent]) -> tuple[TwinDocument, list[dict[str, Any]], dict[str, Any]]:
    """The twin, its risk events and its row in lists, after these records in this order."""
    pipeline = create_pipeline("config", 0, 1, "test")
    batch = pipeline.decode(logged(sent, append_h=2 * FAR_H))
    for patient in pipeline.missing(batch):
        pipeline.remember(patient, None)
    outcome = pipeline.update(batch)
    events = [msgspec.json.decode(one.value or b"") for one in outcome.outgoing if one.topic == "risk"]
    document = msgspec.msgpack.decode(outcome.twins["p-1"].canonical, type=TwinDocument)
    return document, events, msgspec.json.decode(outcome.index["p-1"])


def vancomycin(document: TwinDocument) -> DrugEstimate:
    (estimate,) = (one for one in document.estimates if one.drug == "vancomycin")
    return estimate


def admitted(**covariates: Any) -> Sent:
    return send("p-1", "patient", "adm", 0.0, {"covariates": {**ADMISSION["covariates"], **covariates}})


def test_a_stopped_plan_stays_stopped_when_the_stop_is_older_than_any_model_looks_back() -> None:
    stop = {"drug": "vancomycin", "lines": []}
    document, _, _ = told(
        [
            admitted(),
            send("p-1", "regimen", "r1", 1.0, regimen(2.0, 1000.0, 1000, 12.0)),
            send("p-1", "dose", "d1", 2.0, dose()),
            send("p-1", "regimen", "stop", 240.0, stop),
            send("p-1", "dose", "d2", 24.0 * 99, dose()),
            send("p-1", "tick", "t", 24.0 * 100),
        ]
    )
    assert "no doses left" in vancomycin(document).assumes


def test_an_order_of_long_ago_with_doses_ahead_is_in_force() -> None:
    document, _, _ = told(
        [
            admitted(),
            send("p-1", "regimen", "r1", 1.0, regimen(2.0, 1000.0, 400, 12.0)),
            *(send("p-1", "dose", f"d{n}", 2.0 + 12.0 * n, dose()) for n in range(190, 196)),
        ]
    )
    assert "planned doses still to come" in vancomycin(document).assumes


def test_one_drugs_failing_arithmetic_does_not_hide_the_overdose_of_another() -> None:
    # Of the least dose that is taken nothing can be measured; the model's residual is proportional, so no parameters
    # explain the levels, and that both of them are wrong is not held possible.
    poisoned = dose(1e-6, "quinidine", "oral")
    theophylline = {"drug": "theophylline", "status": "given", "route": "oral"}
    heart = {"severe_heart_or_liver_failure": False, "creatinine_clearance": {"value": 75, "unit": "mL/min"}}
    document, events, row = told(
        [
            admitted(**heart),
            send("p-1", "dose", "d1", 1.0, poisoned),
            send("p-1", "lab", "l1", 5.0, level(4.0, "quinidine")),
            send("p-1", "lab", "l2", 5.5, level(4.0, "quinidine")),
            send("p-1", "dose", "d2", 6.0, {**theophylline, "amount": {"value": 20, "unit": "g"}}),
        ]
    )
    assert document.state == "quarantined"
    assert [(event["type"], event["drug"]) for event in events] == [("raised", "theophylline")]
    assert row["highest_probability"] is None


def test_a_newer_creatinine_replaces_a_clearance_that_was_sent_once() -> None:
    sent = admitted(creatinine_clearance={"value": 90, "unit": "mL/min"})
    later = send("p-1", "lab", "c1", 48.0, level(6.0, "creatinine", "mg/dL"))
    given = send("p-1", "dose", "d1", 1.0, dose())
    end = send("p-1", "tick", "t", 49.0)
    (before, _, _), (after, _, _) = told([sent, given, end]), told([sent, given, later, end])
    typical = [vancomycin(document).parameters[0].typical for document in (before, after)]
    assert typical[1] < typical[0] / 3


def test_levels_that_contradict_each_other_are_flagged() -> None:
    document, _, _ = told(
        [
            admitted(),
            send("p-1", "dose", "d1", 1.0, dose()),
            *(send("p-1", "lab", f"l{n}", 6.0 + n, level(value)) for n, value in enumerate((150, 3, 150))),
        ]
    )
    assert "vancomycin:levels_disagree" in document.quality


def test_a_dose_given_before_its_order_was_sent_again_is_not_expected_once_more() -> None:
    document, _, _ = told(
        [
            admitted(),
            send("p-1", "regimen", "r1", 0.5, regimen(13.0, count=3)),
            send("p-1", "dose", "d1", 13.0, dose()),
            send("p-1", "regimen", "r2", 13.1, regimen(13.0, count=3)),
            send("p-1", "tick", "t", 13.2),
        ]
    )
    assert "the 2 planned doses" in vancomycin(document).assumes


def test_a_dose_before_the_order_does_not_use_up_what_the_order_plans() -> None:
    document, _, _ = told(
        [
            admitted(),
            send("p-1", "dose", "loading", 1.0, dose(2000.0)),
            send("p-1", "regimen", "r1", 1.1, regimen(2.0, count=3)),
            send("p-1", "tick", "t", 1.5),
        ]
    )
    assert "the 3 planned doses" in vancomycin(document).assumes


def test_a_level_far_from_the_usual_is_kept_and_marked() -> None:
    document, _, _ = told([admitted(), send("p-1", "lab", "l1", 1.0, level(190.0))])
    assert "vancomycin:unusual" in document.quality


def test_a_level_that_may_be_wrong_is_named_to_whoever_asks() -> None:
    doses = [send("p-1", "dose", f"d{n}", 2.0 + 12.0 * n, dose()) for n in range(6)]
    levels = {"l1": (25.0, 11.0), "l2": (37.0, 13.0), "slip": (49.0, 140.0), "l4": (61.0, 15.0)}
    drawn = [send("p-1", "lab", name, at, level(value)) for name, (at, value) in levels.items()]
    document, _, _ = told(sorted([admitted(), *doses, *drawn], key=lambda one: one.at_h))
    estimate = vancomycin(document)
    shown = describe_estimate(estimate, LIBRARY)
    doubts = {one.id: one.doubt for one in shown.level_forecasts}
    assert doubts["slip"] is not None
    assert doubts["slip"] > 0.9
    assert [name for name, doubt in doubts.items() if doubt is not None] == ["slip"]
    assert "level_doubtful" in shown.flags


def test_a_level_is_shown_in_what_it_measures() -> None:
    facts = {
        "covariates": {"age": {"value": 67, "unit": "a"}},
        "genotype": {"CYP2C9": "*1/*1", "VKORC1": "GG"},
    }
    given = {"drug": "warfarin", "status": "given", "route": "oral", "amount": {"value": 7.5, "unit": "mg"}}
    sent = [send("p-1", "patient", "adm", 0.0, facts)]
    sent += [send("p-1", "dose", f"d{n}", 1.0 + 24.0 * n, given) for n in range(6)]
    sent.append(send("p-1", "lab", "inr", 140.0, level(2.4, "inr", "{INR}")))
    document, _, _ = told(sent)
    (estimate,) = document.estimates
    shown = describe_estimate(estimate, LIBRARY)
    (checked,) = shown.level_forecasts
    assert checked.forecast.unit == "{INR}"
    assert 1.0 < checked.forecast.median < 6.0
    assert shown.concentration is not None
    assert shown.concentration.unit == "mg/L"
    # The curve under the levels is the INR too: it starts at its baseline and rises over the days.
    curve = draw(
        document.entries, LIBRARY.drugs["warfarin"], LIBRARY, document.watermark, back_h=150.0, ahead_h=24.0
    )
    assert min(curve.median) == pytest.approx(1.0, abs=0.05)
    assert 2.0 < max(curve.median) < 6.0


def test_what_the_machine_lacks_for_a_moment_is_no_reason_to_doubt_a_patient(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def no_files_left(*_: object) -> None:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr("twinstate.outlook.assimilate", no_files_left)
    sent = [
        admitted(),
        send("p-1", "dose", "d1", 1.0, dose()),
        send("p-1", "lab", "l1", 6.0, level(20.0)),
    ]
    with pytest.raises(OSError, match="open files"):
        told(sent)
