"""What the drug files hold: the papers' figures, and how far each was checked."""

from __future__ import annotations

import math

import numpy as np
import pytest

from twinstate.library import Library
from twinstate.pk.course import STRUCTURAL_PARAMETERS


def test_nineteen_drugs_have_one_default_model_each(library: Library) -> None:
    assert sorted(library.drugs) == [
        "busulfan",
        "carvedilol",
        "digoxin",
        "fentanyl",
        "fluorouracil",
        "imatinib",
        "lithium",
        "methotrexate",
        "metoprolol",
        "moxifloxacin",
        "phenobarbital",
        "phenytoin",
        "quinidine",
        "remifentanil",
        "tacrolimus",
        "theophylline",
        "tobramycin",
        "vancomycin",
        "warfarin",
    ]
    assert {drug: model.drug for drug, model in library.drugs.items()} == {d: d for d in library.drugs}
    others = {name for name, model in library.models.items() if not model.default}
    assert others == {
        "lithium-eldesoky-2008",
        "lithium-yuan-2021",
        "theophylline-yano-1993",
        "vancomycin-thomson-2009",
    }


# Variances as the transcriptions print them (nlmixr2lib, FDA's opioid model, Pharmpy), or from the paper's CV.
VARIANCES = {
    "vancomycin-goti-2018": {
        "clearance": 0.14705,
        "central_volume": 0.51019,
        "peripheral_volume": 0.28232,
    },
    "vancomycin-thomson-2009": {
        "clearance": 0.0729,
        "central_volume": 0.0225,
        "intercompartmental_clearance": 0.2401,
        "peripheral_volume": 1.69,
    },
    "tobramycin-hennig-2013": {
        "clearance": 0.06492,
        "central_volume": 0.02283,
        "intercompartmental_clearance": 0.16104,
        "peripheral_volume": 0.29443,
    },
    "tacrolimus-andrews-2019": {
        "clearance": math.log(1 + 0.386**2),
        "central_volume": math.log(1 + 0.492**2),
        "intercompartmental_clearance": math.log(1 + 0.787**2),
        "peripheral_volume": math.log(1 + 0.530**2),
    },
    "warfarin-hamberg-2010": {
        "clearance": math.log(1 + 0.298**2),
        "half_effect_concentration": math.log(1 + 0.340**2),
    },
    "phenytoin-yukawa-1990": {
        "maximum_elimination_rate": math.log(1 + 0.193**2),
        "michaelis_constant": math.log(1 + 0.631**2),
    },
    "digoxin-hirai-2022": {"clearance": 0.118336},
    "lithium-jermain-1991": {"clearance": math.log(1 + 0.24**2)},
    "lithium-eldesoky-2008": {"clearance": math.log(1 + 0.127**2)},
    "lithium-yuan-2021": {
        "central_volume": 0.0678689,
        "peripheral_volume": 0.8791989,
        "bioavailability": 0.0878360,
        "transit_rate": 0.3524159,
    },
    "theophylline-pinheiro-bates-2000": {"clearance": 0.167**2, "absorption_rate": 0.64**2},
    "theophylline-yano-1993": {"clearance": 0.1383, "central_volume": 0.01552},
    "methotrexate-taylor-2020": {
        "clearance": 0.08,
        "peripheral_volume": 0.12,
        "second_intercompartmental_clearance": 0.13,
        "second_peripheral_volume": 0.10,
    },
    "busulfan-paci-2012": {"clearance": math.log(1 + 0.23**2), "central_volume": math.log(1 + 0.22**2)},
    "fluorouracil-arshad-2020": {
        "clearance": 0.05155,
        "central_volume": 1.1322,
        "response_baseline": 0.02654,
    },
    "metoprolol-eugene-2016": {
        "clearance": 0.143,
        "central_volume": 2.43,
        "absorption_rate": 0.052,
        "lag": 0.030,
    },
    "carvedilol-hwang-2023": {"clearance": 0.021092, "central_volume": 0.065901, "lag": 0.2796176},
    "moxifloxacin-hong-2015": {"clearance": 0.07037, "central_volume": 0.02983, "absorption_rate": 0.6521},
    "fentanyl-algera-2021": {
        "clearance": 0.087,
        "central_volume": 0.43,
        "intercompartmental_clearance": 0.39,
        "peripheral_volume": 0.52,
        "second_intercompartmental_clearance": 0.098,
        "second_peripheral_volume": 0.060,
    },
    "remifentanil-minto-1997": {},
    "phenobarbital-grasela-donn-1985": {"clearance": 0.0309626, "central_volume": 0.031128},
    "imatinib-widmer-2006": {"clearance": 0.1296, "central_volume": 0.3969},
    "quinidine-fattinger-1991": {
        "clearance": math.log(1 + 0.402**2),
        "central_volume": math.log(1 + 0.756**2),
        "input_duration": math.log(1 + 0.494**2),
    },
}


def test_variability_is_the_papers(library: Library) -> None:
    assert sorted(VARIANCES) == sorted(library.models)
    for name, variances in VARIANCES.items():
        model = library.models[name]
        found = dict(zip(model.etas, np.diag(model.omega).tolist(), strict=True))
        assert found == pytest.approx(variances, abs=2e-4), name


def test_correlations_are_the_papers(library: Library) -> None:
    covariances: dict[str, dict[tuple[str, str], float]] = {}
    for name, model in library.models.items():
        assert (model.omega == model.omega.T).all()
        for i, first in enumerate(model.etas):
            for j, second in enumerate(model.etas[:i]):
                if model.omega[i, j] != 0:
                    covariances.setdefault(name, {})[second, first] = float(model.omega[i, j])
    # Covariances as nlmixr2lib prints them.
    assert covariances == {
        "moxifloxacin-hong-2015": pytest.approx({("clearance", "central_volume"): 0.04215}, abs=1e-5),
        "vancomycin-thomson-2009": pytest.approx({("clearance", "central_volume"): 0.01}, abs=1e-5),
        "tobramycin-hennig-2013": pytest.approx(
            {
                ("clearance", "central_volume"): 0.02534,
                ("clearance", "intercompartmental_clearance"): 0.07270,
                ("central_volume", "intercompartmental_clearance"): 0.02881,
            },
            abs=2e-5,
        ),
    }


def test_tacrolimus_clearance_varies_between_occasions_and_only_quinidines_drifts(library: Library) -> None:
    varying = {name: model.variation for name, model in library.models.items() if model.variation}
    clearance = STRUCTURAL_PARAMETERS.index("clearance")
    assert varying == {
        "tacrolimus-andrews-2019": (clearance, pytest.approx(math.sqrt(math.log(1 + 0.136**2))), ()),
        "quinidine-fattinger-1991": (clearance, 0.0, (0.0, 0.07, 0.15, 0.3)),
    }


def test_each_eta_moves_the_parameter_it_is_named_for(library: Library) -> None:
    for model in library.models.values():
        for position, name in enumerate(model.etas):
            assert model.eta_index[STRUCTURAL_PARAMETERS.index(name)] == position
        assert model.omega.shape == (len(model.etas),) * 2
        assert model.eta_index.shape == (len(STRUCTURAL_PARAMETERS),)


def test_theophyllines_volume_moves_with_its_clearance(library: Library) -> None:
    model = library.drugs["theophylline"]
    assert model.etas == ("clearance", "absorption_rate")
    moved = {
        name: int(eta) for name, eta in zip(STRUCTURAL_PARAMETERS, model.eta_index, strict=True) if eta >= 0
    }
    assert moved == {"clearance": 0, "central_volume": 0, "absorption_rate": 1}


def test_residuals_are_the_papers(library: Library) -> None:
    assert {name: tuple(model.residual) for name, model in library.models.items() if model.estimates} == {
        "vancomycin-goti-2018": (0.227, 3.4, False),
        "vancomycin-thomson-2009": (0.15, 1.6, False),
        "tobramycin-hennig-2013": (0.204, 0.0, False),
        "tacrolimus-andrews-2019": (0.245, 0.0, False),
        "warfarin-hamberg-2010": (0.20, 0.0, True),
        "phenytoin-yukawa-1990": (0.44, 0.0, False),
        "digoxin-hirai-2022": (0.366, 0.0, False),
        "lithium-yuan-2021": (0.091, 0.0, True),
        "theophylline-pinheiro-bates-2000": (0.0, 0.71, False),
        "theophylline-yano-1993": (0.106, 0.0, False),
        "busulfan-paci-2012": (0.11, 0.057, False),
        "fluorouracil-arshad-2020": (pytest.approx(math.sqrt(0.32), abs=1e-6), 0.0, True),
        "metoprolol-eugene-2016": (0.0, pytest.approx(0.0122), False),
        "carvedilol-hwang-2023": (pytest.approx(math.sqrt(0.379), abs=1e-3), 0.0, False),
        "moxifloxacin-hong-2015": (0.140, 0.0, False),
        "phenobarbital-grasela-donn-1985": (pytest.approx(math.sqrt(0.013241), abs=1e-4), 0.0, False),
        "imatinib-widmer-2006": (0.31, 0.0, False),
        "quinidine-fattinger-1991": (0.22, 0.0, False),
    }
    # 10.3 % of the dose rate at the level of 250 mg a day, 8.03 mg/L, with Km 2.41 mg/L.
    assert pytest.approx(0.446, abs=0.001) == 0.103 * (2.41 + 8.03) / 2.41


def test_what_is_unknown_stays_unknown_and_no_level_may_correct_such_a_model(library: Library) -> None:
    unknown = {name: model for name, model in library.models.items() if not model.estimates}
    assert sorted(unknown) == [
        "fentanyl-algera-2021",
        "lithium-eldesoky-2008",
        "lithium-jermain-1991",
        "methotrexate-taylor-2020",
        "remifentanil-minto-1997",
    ]
    for name, model in unknown.items():
        assert tuple(model.residual) == (0.0, 0.0, False)
        assert model.provenance["residual"].status == "U"
        assert f"the residual error of {name} is unknown" in model.unknown[0]
    assert [len(model.unknown) for _, model in sorted(unknown.items())] == [1, 1, 1, 1, 2]
    assert "how patients differ is unknown" in unknown["remifentanil-minto-1997"].unknown[1]


def test_a_level_corrects_warfarin_through_the_inr_and_fluorouracil_also_through_leucocytes(
    library: Library,
) -> None:
    second = {name: m.analyte for name, m in library.models.items() if m.observes == "second"}
    assert second == {"warfarin-hamberg-2010": "inr"}
    [home] = library.drugs["warfarin"].also_observed
    assert (home.analyte, home.output) == ("inr_home_meter", "second")
    # CoaguChek XS Pro beside the laboratory: 0.09 below 1.9, 0.29 at 2 to 3, 0.40 above 3; SD 0.32.
    for reading, excess in ((1.2, 0.09), (2.5, 0.29), (4.6, 0.40), (3.0, 0.345)):
        assert home.corrected(reading) == pytest.approx(reading - excess)
    assert home.residual.additive == 0.32
    [count] = library.drugs["fluorouracil"].also_observed
    assert (count.analyte, count.output) == ("leukocytes", "second")
    assert tuple(count.residual) == (pytest.approx(math.sqrt(0.08), abs=1e-6), 0.0, True)
    outputs = {name: (m.second, m.second_unit, m.chains) for name, m in library.models.items() if m.second}
    assert outputs == {
        "warfarin-hamberg-2010": ("coagulation_mean", "{INR}", (3, 3)),
        "fluorouracil-arshad-2020": ("myelosuppression", "10*3/uL", (3, 0)),
        "fentanyl-algera-2021": ("effect_site", "mg/L", (0, 0)),
        "remifentanil-minto-1997": ("effect_site", "mg/L", (0, 0)),
    }


def test_alarms_carry_limit_horizon_status_source_and_version(library: Library) -> None:
    alarms = {
        drug: [(t.metric, pytest.approx(t.limit), t.unit, t.horizon_h, t.status) for t in model.thresholds]
        for drug, model in library.drugs.items()
    }
    carbonate = 73.89 / 2  # mg of Li2CO3 that hold one mmol of lithium
    micromole = 0.45444  # mg of methotrexate
    assert alarms == {
        "vancomycin": [("auc24", 600.0, "mg*h/L", 24.0, "V")],
        "tobramycin": [("auc24", 110.0, "mg*h/L", 24.0, "V"), ("auc24", 120.0, "mg*h/L", 24.0, "V")],
        "tacrolimus": [("trough", 0.015, "mg/L", 24.0, "R"), ("trough", 0.020, "mg/L", 24.0, "R")],
        "warfarin": [("second", 4.5, "{INR}", 168.0, "R"), ("second", 5.0, "{INR}", 168.0, "R")],
        "phenytoin": [
            ("concentration", 20.0, "mg/L", 72.0, "R"),
            ("concentration", 30.0, "mg/L", 72.0, "R"),
        ],
        "digoxin": [("trough", 0.0012, "mg/L", 48.0, "V"), ("trough", 0.002, "mg/L", 48.0, "V")],
        "lithium": [
            ("level_after", 1.5 * carbonate, "mg/L", 48.0, "R"),
            ("level_after", 2.0 * carbonate, "mg/L", 48.0, "R"),
        ],
        "phenobarbital": [("concentration", 40.0, "mg/L", 24.0, "V")],
        "theophylline": [("concentration", 20.0, "mg/L", 24.0, "V")],
        "methotrexate": [
            ("level_after", 30 * micromole, "mg/L", 48.0, "V"),
            ("level_after", 10 * micromole, "mg/L", 48.0, "V"),
            ("level_after", 5 * micromole, "mg/L", 48.0, "V"),
        ],
        "busulfan": [("auc_total", 101.0, "mg*h/L", 96.0, "V")],
        "fluorouracil": [("auc24", 15.65, "mg*h/L", 48.0, "R")],
        "metoprolol": [
            ("concentration", 0.080, "mg/L", 24.0, "R"),
            ("signal_low", 50.0, "/min", 4.0, "R"),
            ("signal_low", 40.0, "/min", 4.0, "R"),
        ],
        "carvedilol": [("signal_low", 50.0, "/min", 4.0, "R"), ("signal_low", 40.0, "/min", 4.0, "R")],
        "moxifloxacin": [("effect_rise", 30.0, "ms", 24.0, "R"), ("signal_high", 500.0, "ms", 24.0, "R")],
        "fentanyl": [("signal_low", 10.0, "/min", 4.0, "R"), ("signal_low", 8.0, "/min", 4.0, "R")],
        "remifentanil": [("second", 0.00092, "mg/L", 24.0, "V")],
        "imatinib": [("trough", 2.0, "mg/L", 48.0, "V"), ("trough", 3.0, "mg/L", 48.0, "V")],
        "quinidine": [("concentration", 5.0, "mg/L", 24.0, "R")],
    }
    assert [t.after_h for t in library.drugs["methotrexate"].thresholds] == [36, 42, 48]
    assert library.drugs["lithium"].thresholds[0].as_published == "1.5 mmol/L"
    assert pytest.approx(15.65, abs=0.01) == 30 * 24 / 46  # fluorouracil: 30 over 46 h
    for model in library.models.values():
        assert all(t.source and t.harm and t.version for t in model.thresholds)
        assert len({t.name for t in model.thresholds}) == len(model.thresholds)


def test_moxifloxacins_channel_is_the_papers_and_says_what_it_assumes(library: Library) -> None:
    channel = library.drugs["moxifloxacin"].channel
    assert channel is not None
    assert (channel.signal, channel.baseline_typical, channel.emax, channel.ec50_mg_L) == (
        "qtc",
        406.0,
        34.7,
        3.92,
    )
    assert channel.emax * 3 / (channel.ec50_mg_L + 3) == pytest.approx(15.0, abs=0.05)
    assert [(r.period_h, r.amplitude) for r in channel.rhythms] == [(24.0, 0.009), (6.0, 0.0045)]
    # 08:00 + 1.11 h; 08:00 + 4.65 h is 12.65 h, which a period of 6 h brings to 0.65 h.
    assert [r.acrophase_h for r in channel.rhythms] == pytest.approx([9.11, 0.65])
    assumed = {name for name, provenance in channel.provenance.items() if provenance.status == "A"}
    assert assumed == {"clock_zero", "noise_time_constant", "baseline_drift_per_sqrt_hour"}
    assert channel.keep_h == 72.0


def test_channels_of_heart_rate_and_breathing_are_the_papers_and_say_what_nobody_published(
    library: Library,
) -> None:
    heart, breath = library.drugs["carvedilol"].channel, library.drugs["fentanyl"].channel
    assert heart is not None
    assert breath is not None
    assert (heart.signal, heart.baseline_typical, heart.emax, heart.ec50_mg_L) == (
        "heart_rate",
        60.4,
        30.7,
        0.0165,
    )
    assert (heart.baseline_cv, heart.emax_cv, heart.follows) == (0.135, 0.654, "concentration")
    # The paper's own equation with a drive D, less its value without drug, is Emax s C / (IC50 / (1 - s) + C),
    # s = D / (ED50 + D): for a little drive, IC50, and an unknown part s of Emax.
    drive, level = 1e-6, 0.02
    part = drive / (0.685 + drive)
    fall = 30.7 * part - 30.7 * drive / (0.685 * (1.0 + level / 0.0165) + drive)
    assert fall == pytest.approx(heart.emax * part * level / (heart.ec50_mg_L + level), rel=1e-4)
    # kon C^n = koff at half occupancy, in pmol/L, of 336.5 g/mol.
    assert 3.081e-5 * (breath.ec50_mg_L * 1e9 / 336.5) ** breath.hill == pytest.approx(0.004331, rel=0.005)
    assert (breath.signal, breath.follows, breath.emax, breath.exponent) == (
        "respiratory_rate",
        "second",
        1.0,
        0.9,
    )
    for channel in (heart, breath):
        assert channel.falls
        assert channel.part == (0.0, 1.0)
        assert channel.provenance["part_of_effect"].status == "A"
    assert breath.relative
    assert not heart.relative
    metoprolol = library.drugs["metoprolol"].channel
    assert metoprolol is not None
    # 28.3 % at most, half of it at 89 nmol/L of 267.4 g/mol; in patients without a baseline of their own yet.
    assert (metoprolol.emax, metoprolol.relative, metoprolol.falls) == (0.283, True, True)
    assert metoprolol.ec50_mg_L == pytest.approx(89e-9 * 267.4 * 1e3, rel=0.001)
    assert metoprolol.provenance["baseline"].status == "A"


def test_every_number_has_a_status_and_a_source(library: Library) -> None:
    for model in library.models.values():
        assert {p.status for p in model.provenance.values()} <= {"V", "R", "C", "A", "U"}
        assert all(p.source for p in model.provenance.values())
        assert set(model.parameters) <= {key.removeprefix("parameters.") for key in model.provenance}


def test_doses_are_kept_ten_half_lives_and_never_under_thirty_days(library: Library) -> None:
    keeps = {drug: model.keep_h for drug, model in library.drugs.items()}
    assert keeps["phenobarbital"] == keeps["vancomycin"] == 2160
    assert min(keeps.values()) == 720


def test_the_models_arrays_cannot_be_changed(library: Library) -> None:
    with pytest.raises(ValueError, match="read-only"):
        library.drugs["vancomycin"].omega[0, 0] = 0.0
