"""Figures on paper against an independent solution of the same equations, and what a check says of a wrong file."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.integrate import solve_ivp

from tests.twinstate.library.configs import (
    PHENYTOIN,
    TACROLIMUS,
    VANCOMYCIN,
    WARFARIN,
    Edit,
    edited,
    parameter,
    refusal,
)
from twinstate.library import Library
from twinstate.reading.cases import typical_values
from twinstate.reading.figures import Regimen, figures, half_lives, mean_concentration, slowest_half_life

METHOTREXATE = "drugs/methotrexate-taylor-2020.yaml"
BUSULFAN = "drugs/busulfan-paci-2012.yaml"
FLUOROURACIL = "drugs/fluorouracil-arshad-2020.yaml"


def values_of(library: Library, name: str) -> dict[str, float]:
    model = library.models[name]
    return typical_values(model, model.typical_patient)


def test_a_level_long_after_a_bolus_falls_with_the_terminal_half_life(library: Library) -> None:
    model = library.models["methotrexate-taylor-2020"]
    v = values_of(library, model.model)
    out = v["clearance"] / v["central_volume"]
    to_2, to_3 = (
        v[f"{place}intercompartmental_clearance"] / v["central_volume"] for place in ("", "second_")
    )
    from_2 = v["intercompartmental_clearance"] / v["peripheral_volume"]
    from_3 = v["second_intercompartmental_clearance"] / v["second_peripheral_volume"]

    def flow(_: float, a: np.ndarray) -> list[float]:
        return [
            -(out + to_2 + to_3) * a[0] + from_2 * a[1] + from_3 * a[2],
            to_2 * a[0] - from_2 * a[1],
            to_3 * a[0] - from_3 * a[2],
        ]

    late = solve_ivp(flow, (0, 700), [1000.0, 0, 0], "LSODA", [600, 700], rtol=1e-10, atol=1e-14).y[0]
    assert half_lives(model, v)[-1] == pytest.approx(
        100 * math.log(2) / math.log(late[0] / late[1]), rel=1e-5
    )
    assert len(half_lives(model, v)) == 3


@pytest.mark.parametrize(("rate", "clearance"), [(4.0, 0.3), (12.0, 0.05), (40.0, 1.0)])
def test_what_leaves_at_the_mean_concentration_is_what_enters(
    library: Library, rate: float, clearance: float
) -> None:
    saturable = library.models["phenytoin-yukawa-1990"]
    mixed = dataclasses.replace(saturable, elimination="mixed")
    values = {"clearance": clearance, "maximum_elimination_rate": 13.5, "michaelis_constant": 2.41}
    level = mean_concentration(mixed, values, rate)
    assert clearance * level + 13.5 * level / (2.41 + level) == pytest.approx(rate)
    assert mean_concentration(saturable, values, 14.0) == math.inf


def test_an_inr_at_steady_state_is_where_the_chains_come_to_rest(library: Library) -> None:
    model = library.models["warfarin-hamberg-2010"]
    v = values_of(library, model.model)
    level = 0.35
    left = 1 / (1 + (level / v["half_effect_concentration"]) ** v["hill"])

    def chains(_: float, f: np.ndarray) -> list[float]:
        rates = [3 / v["response_time"]] * 3 + [3 / v["second_response_time"]] * 3
        inflow = [left, f[0], f[1], left, f[3], f[4]]
        return [rate * (into - own) for rate, into, own in zip(rates, inflow, f, strict=True)]

    rest = solve_ivp(chains, (0, 3000), [1.0] * 6, "LSODA", rtol=1e-10, atol=1e-12).y[:, -1]
    expected = v["response_baseline"] + v["response_scale"] * (1 - (rest[2] + rest[5]) / 2)
    rate_mg_h = level * v["clearance"] / v["bioavailability"]
    found = figures(model, v, Regimen(24 * rate_mg_h, 24.0))
    assert found["mean_concentration"] == pytest.approx(level)
    assert found["second"] == pytest.approx(expected, rel=1e-6)


def test_a_trough_at_steady_state_is_that_of_many_doses_added_up(library: Library) -> None:
    model = library.models["imatinib-widmer-2006"]
    v = values_of(library, model.model)
    out, into = v["clearance"] / v["central_volume"], v["absorption_rate"]
    since = 24.0 * np.arange(1, 400)
    one = 400 * into / (v["central_volume"] * (into - out)) * (np.exp(-out * since) - np.exp(-into * since))
    assert figures(model, v, Regimen(400.0, 24.0))["trough"] == pytest.approx(one.sum())


def test_what_is_older_than_ten_of_the_slowest_half_lives_is_gone_wherever_it_lingers(
    library: Library,
) -> None:
    slowest = {n: slowest_half_life(m, values_of(library, n)) for n, m in library.models.items()}
    assert all(m.keep_h >= 10 * slowest[n] for n, m in library.models.items())
    # Metoprolol lingers in the gut, fluorouracil's leucocytes in the marrow.
    assert slowest["metoprolol-eugene-2016"] == pytest.approx(math.log(2) / 0.235)
    assert slowest["fluorouracil-arshad-2020"] == pytest.approx(281 * math.log(2))


# What a wrong file is told


def case(**changes: object) -> Edit:
    return lambda data: data["checks"][0].update(changes)


@pytest.mark.parametrize(
    ("name", "edit", "wanted"),
    [
        (
            VANCOMYCIN,
            lambda d: d["typical_patient"].update(amount=1, unit="mg"),
            "typical_patient is given 1 mg every 12 h, but then the mean level is 0.0",
        ),
        (
            PHENYTOIN,
            lambda d: d["checks"][0]["expect"].update(mean_concentration=3860),
            "checks[0].expect.mean_concentration is 3860, but the file's parameters give 3.856; one of the two is "
            "mistyped, or a unit is wrong (it is thousand times too small, as when a unit slipped)",
        ),
        (
            PHENYTOIN,
            parameter("maximum_elimination_rate", unit="mg/h"),
            "checks[0].expect.mean_concentration is 3.86, but the file's parameters give 0.06",
        ),
        (
            PHENYTOIN,
            lambda d: d.update(elimination="linear"),
            "parameters.clearance is missing, which does not fit compartments: 1, oral: first_order, elimination: "
            "linear, transits: 0 and second: none; add it",
        ),
        (
            WARFARIN,
            lambda d: d.pop("second"),
            "analyte is inr, observing second, but the model has no second output; add the key second",
        ),
        (
            WARFARIN,
            lambda d: d["second"].pop("second_chain"),
            "second.second_chain is missing, which does not fit kind: coagulation_mean; add it",
        ),
        (
            WARFARIN,
            lambda d: d.update(observes="concentration"),
            "analyte is inr in {INR}, but a model predicts mg/L; name the drug's level",
        ),
        (
            WARFARIN,
            lambda d: d["parameters"]["bioavailability"].update(typical=50),
            "parameters.bioavailability.typical is 50 1, but a fraction is 1 at most; if it is a percentage, write %",
        ),
        (
            WARFARIN,
            lambda d: d["checks"][1]["genotype"].pop("VKORC1"),
            "checks[1].given cannot be computed: warfarin-hamberg-2010 needs the genotype of VKORC1",
        ),
        (
            WARFARIN,
            lambda d: d["parameters"]["clearance"]["scales_with"][0].update(gene="CYP2C99"),
            "parameters.clearance.scales_with[0].gene is CYP2C99, which config/signals.yaml does not list",
        ),
        (
            TACROLIMUS,
            lambda d: d["parameters"]["clearance"]["scales_with"][0]["diplotypes"].update({"1/1": 1.0}),
            "parameters.clearance.scales_with[0].diplotypes is 1/1, but CYP3A5 is written two star alleles, as *1/*3",
        ),
        (
            TACROLIMUS,
            lambda d: d["derived"].pop("lean_body_mass"),
            "parameters.central_volume.scales_with[0].covariate is lean_body_mass, but derived.lean_body_mass does not",
        ),
        (
            TACROLIMUS,
            parameter("peripheral_volume", between_occasion_cv=0.2),
            "parameters.clearance.between_occasion and parameters.peripheral_volume.between_occasion is there, but one "
            "parameter at most",
        ),
        (
            TACROLIMUS,
            lambda d: d.update(
                drift={"parameter": "clearance", "sd_per_sqrt_day": [0, 0.1], "status": "A", "reason": "x"}
            ),
            "parameters.clearance.between_occasion and drift.parameter is there, but one parameter at most",
        ),
        (
            METHOTREXATE,
            lambda d: d["residual"].update(proportional=0.2, status="V"),
            "residual.unknown is true, but then no figure belongs there, and a reason does",
        ),
        (
            METHOTREXATE,
            lambda d: d.update(residual={"proportional": 0.2}),
            "residual.status is missing, but must say how far the source was checked",
        ),
        (
            METHOTREXATE,
            lambda d: d["thresholds"]["level_36_h"].pop("after_hours"),
            "thresholds.level_36_h.after_hours is missing, but level_after, and only it, says how many hours",
        ),
        (
            METHOTREXATE,
            lambda d: d["thresholds"]["level_36_h"].update(unit="mmol/L"),
            "thresholds.level_36_h.toxicity_alarm: 30 has the unit 'mmol/L', which is not read; send one of 'mg/L'",
        ),
        (
            BUSULFAN,
            lambda d: d["thresholds"]["high_auc_total"].update(metric="second"),
            "thresholds.high_auc_total.metric is second, but the file has no second output; add the key second",
        ),
        (
            BUSULFAN,
            lambda d: d["targets"][0].update(low=120),
            "targets[0] is 120 to 99, but low must be below high",
        ),
        (
            BUSULFAN,
            lambda d: d["residual"].update(log_normal=0.1),
            "residual.log_normal is 0.1, beside others, but a log-normal error stands alone",
        ),
        (
            FLUOROURACIL,
            lambda d: d["also_observed"][0].update(analyte="fluorouracil"),
            "also_observed[0].analyte is fluorouracil, which the file reads already",
        ),
    ],
)
def test_a_file_whose_parts_do_not_fit_is_refused_with_the_way_out(
    config: Path, name: str, edit: Edit, wanted: str
) -> None:
    assert refusal(config, name, edit).startswith(wanted)


def test_a_clearance_per_minute_read_per_hour_is_caught_by_the_usual_dose_with_the_value_that_would_do(
    config: Path,
) -> None:
    def edit(data: dict[str, Any]) -> None:
        data["parameters"]["clearance"]["typical"] = 75.0  # mL/min, taken for L/h
        data["checks"] = [{"given": {"weight": 70, "dialysis": False}, "expect": {"central_volume": 58.4}}]
        data["parameters"]["clearance"]["scales_with"] = []

    said = refusal(config, VANCOMYCIN, edit)
    assert (
        "if the paper gives clearance in mL/min, 75 mL/min is 4.5 L/h, and the level would be usual" in said
    )


def test_a_model_without_variability_says_so_or_is_refused(config: Path) -> None:
    name = "drugs/remifentanil-minto-1997.yaml"
    said = refusal(config, name, lambda data: data.pop("variability"))
    assert said.startswith(
        "parameters is without any between_subject_*, so that no level could teach anything; if it"
    )
    both = refusal(
        config,
        name,
        lambda data: (
            data.update(variability={"unknown": True, "reason": "x"}),
            data["parameters"]["clearance"].update(between_subject_cv=0.2),
        ),
    )
    assert both.startswith("variability.unknown is true, but clearance have a between_subject_*")


def test_a_residual_that_was_found_makes_a_model_estimate(config: Path) -> None:
    row = {"proportional": 0.25, "status": "A", "reason": "for a demonstration"}
    model = edited(config, METHOTREXATE, lambda data: data.update(residual=row)).drugs["methotrexate"]
    assert model.estimates
    assert tuple(model.residual) == (0.25, 0.0, False)
    assert model.provenance["residual"].status == "A"
