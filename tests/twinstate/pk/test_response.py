"""Second outputs against closed forms: what stands without drug, and under a concentration that holds still."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.stats import gamma

from tests.twinstate.courses import START_H, Given, course, log_parameters
from twinstate.pk.course import (
    COAGULATION_MEAN,
    COAGULATION_PRODUCT,
    EFFECT_SITE,
    LINEAR,
    METABOLITE,
    MYELOSUPPRESSION,
    STRUCTURAL_UNITS,
    Structure,
    log_row,
)
from twinstate.pk.propagate import solve
from twinstate.pk.response import POWERS, STATE, TIMES, WEIGHTS, set_chain

NO_ETA = np.zeros(6)
NO_ETAS = [-1] * len(STRUCTURAL_UNITS)
RESPONSES = [
    (Structure(1, LINEAR, 0, METABOLITE), 0.0),
    (Structure(2, LINEAR, 0, EFFECT_SITE), 0.0),
    (Structure(1, LINEAR, 0, COAGULATION_PRODUCT, 6, 1), 1.1),
    (Structure(1, LINEAR, 0, COAGULATION_MEAN, 3, 3), 1.1),
    (Structure(1, LINEAR, 0, MYELOSUPPRESSION), 1.1),
]


@pytest.mark.parametrize(("structure", "baseline"), RESPONSES)
def test_response_stands_at_its_baseline_without_any_dose(structure: Structure, baseline: float) -> None:
    times = START_H + np.array([-50.0, 0.0, 30.0])
    concentration, area, second = solve(course(structure, []), NO_ETA, times)
    assert not concentration.any()
    assert not area.any()
    np.testing.assert_allclose(second, baseline, rtol=1e-14)


@pytest.mark.parametrize(("structure", "baseline"), RESPONSES)
def test_response_stands_at_the_baseline_of_its_segment_until_the_first_dose(
    structure: Structure, baseline: float
) -> None:
    segments = [(0.0, log_parameters()), (20.0, log_parameters(response_baseline=2.2))]
    plan = course(structure, [Given(40, 500)], segments)
    _, _, second = solve(plan, NO_ETA, START_H + np.array([-5.0, 10.0, 20.0, 30.0, 40.0, 60.0]))
    np.testing.assert_allclose(second[:2], baseline, rtol=1e-14)
    np.testing.assert_allclose(second[2:5], 2 * baseline, rtol=1e-14)
    assert abs(second[5] - second[4]) > 1e-4


def test_level_that_was_never_dosed_has_no_response_for_a_broken_parameter() -> None:
    plan = course(Structure(1, LINEAR, 0, MYELOSUPPRESSION), [], eta_index=(0, -1, -1, -1, -1, -1, -1, -1))
    _, _, second = solve(plan, np.array([math.nan]), START_H + np.array([1.0]))
    assert np.isnan(second).all()


@pytest.mark.parametrize("length", [1, 2, 3, 6, 8])
@pytest.mark.parametrize("x", [1e-4, 0.03, 0.7, 1.0, 3.9, 4.1, 12.0, 60.0])
def test_chain_answers_every_input_as_an_erlang_time_does(length: int, x: float) -> None:
    response = np.zeros((7, 2, 8))
    set_chain(length, x, 1, response)
    for stage in range(length):
        density = gamma(stage + 1).pdf
        for power in range(TIMES):  # an input (s / step)^power, s from the start of the step
            values = np.linspace(0, 1, TIMES) ** power
            found = sum(response[WEIGHTS + time, 1, stage] * values[time] for time in range(TIMES))
            expected, _ = quad(
                lambda t, power=power, density=density: density(t) * (1 - t / x) ** power,
                0,
                x,
                points=[min(x / 2, float(stage) + 0.1)],
                epsabs=0,
                epsrel=1e-12,
                limit=200,
            )
            assert found == pytest.approx(expected, rel=1e-8, abs=1e-13)
        assert response[POWERS, 1, stage] == pytest.approx(
            math.exp(-x) * x**stage / math.factorial(stage), rel=1e-12
        )
    assert not response[STATE].any()


def test_effect_site_lags_an_infusion_by_its_own_rate() -> None:
    # C = R/CL (1 - e^-kt) gives Ce = R/CL (1 - (ke0 e^-kt - k e^-ke0 t) / (ke0 - k)).
    row = log_row({"clearance": 4.0, "central_volume": 50.0, "effect_rate": 0.35})
    plan = course(Structure(1, LINEAR, 0, EFFECT_SITE), [Given(0, 1000, duration=100)], [(0.0, row)], NO_ETAS)
    hours = np.array([0.2, 2.0, 20.0, 90.0])
    _, _, second = solve(plan, NO_ETA, START_H + hours)
    k, ke0 = 0.08, 0.35
    expected = 10 / 4.0 * (1 - (ke0 * np.exp(-k * hours) - k * np.exp(-ke0 * hours)) / (ke0 - k))
    np.testing.assert_allclose(second, expected, rtol=1e-9)  # times resolve 6e-11 h


@pytest.mark.parametrize("apart", [0.0, 1e-14, 1e-9, 1e-4])
def test_effect_site_as_fast_as_absorption_and_elimination_loses_no_digits(apart: float) -> None:
    row = log_row(
        {
            "clearance": 4.0,
            "central_volume": 50.0,
            "absorption_rate": 0.08 * (1 + apart),
            "effect_rate": 0.08 * (1 - apart),
        }
    )
    plan = course(Structure(1, LINEAR, 0, EFFECT_SITE), [Given(0, 100, 1)], [(0.0, row)], NO_ETAS)
    hours = np.array([0.01, 1.0, 10.0, 100.0])
    _, _, second = solve(plan, NO_ETA, START_H + hours)
    # Three equal rates k: Ce = D/V (kt)^2 / 2 e^-kt.
    kt = 0.08 * hours
    np.testing.assert_allclose(second, 100 / 50 * kt**2 / 2 * np.exp(-kt), rtol=max(1e-8, 10 * apart))


def test_metabolite_leaves_as_it_forms_in_the_end() -> None:
    # At the plateau, fm R = CLm Cm.
    plan = course(Structure(2, LINEAR, 0, METABOLITE), [Given(0, 5000, duration=2000)])
    _, _, second = solve(plan, NO_ETA, START_H + np.array([1900.0]))
    assert second[0] == pytest.approx(0.3 * 2.5 / 3.0, rel=1e-9)


@pytest.mark.parametrize("second", [COAGULATION_PRODUCT, COAGULATION_MEAN])
def test_inr_at_a_plateau_of_concentration_is_its_formula(second: int) -> None:
    plan = course(Structure(1, LINEAR, 0, second, 3, 2), [Given(0, 27000, duration=2000)])
    concentration, _, inr = solve(plan, NO_ETA, START_H + np.array([1990.0]))
    assert concentration[0] == pytest.approx(3.0, rel=1e-9)
    left = 0.5  # at the half-effect concentration
    factor = left * left if second == COAGULATION_PRODUCT else left
    assert inr[0] == pytest.approx(1.1 + 20 * (1 - factor) ** 3.6, rel=1e-6)


def test_warfarin_of_hamberg_2010_settles_where_the_published_model_does() -> None:
    # Facts of Hamberg 2010 for *1/*1, GG: EC50 4.1 mg/L; S-warfarin at 0.30 mg/L gives an INR near 1.9 ...
    values = {
        "clearance": 2.5 / 24 / 0.30,
        "central_volume": 14.3,
        "response_baseline": 1.0,
        "half_effect_concentration": 4.1,
        "hill": 1.0,
        "response_time": 28.6,
        "second_response_time": 118.3,
        "response_scale": 20.0,
        "response_exponent": 1.0,
    }
    plan = course(
        Structure(1, LINEAR, 0, COAGULATION_MEAN, 3, 3),
        [Given(0, 2.5 / 24 * 4000, duration=4000)],
        [(0.0, log_row(values))],
        NO_ETAS,
    )
    hours = START_H + np.array([0.0, 50.0, 3900.0])
    _, _, inr = solve(plan, NO_ETA, hours)
    # ... which is 1 + 20 (1 - EC50 / (EC50 + C)).
    assert inr[2] == pytest.approx(1 + 20 * 0.30 / 4.4, rel=1e-6)
    assert inr[0] == 1.0
    assert 1.0 < inr[1] < inr[2]


def test_marrow_settles_where_feedback_makes_up_for_the_drug() -> None:
    # Dividing cells stand still when (1 - s C) (B / Circ)^gamma = 1 (Friberg 2002, J. Clin. Oncol. 20:4713-4721).
    row = log_parameters(
        clearance=5.0, response_baseline=6.0, response_time=90.0, response_slope=0.05, response_feedback=0.2
    )
    plan = course(
        Structure(1, LINEAR, 0, MYELOSUPPRESSION), [Given(0, 15 * 20000.0, duration=20000)], [(0.0, row)]
    )
    concentration, _, cells = solve(plan, NO_ETA, START_H + np.array([19990.0]))
    assert concentration[0] == pytest.approx(3.0, rel=1e-9)
    assert cells[0] == pytest.approx(6.0 * (1 - 0.05 * 3.0) ** (1 / 0.2), rel=1e-5)


def test_marrow_falls_after_a_course_and_comes_back_above_its_baseline() -> None:
    row = log_parameters(response_baseline=5.0, response_time=125.0, response_slope=1.0)
    plan = course(Structure(1, LINEAR, 0, MYELOSUPPRESSION), [Given(0, 600, duration=1.0)], [(0.0, row)])
    days = np.array([0.0, 7.0, 10.0, 21.0, 28.0, 200.0])
    _, _, cells = solve(plan, NO_ETA, START_H + 24 * days)
    assert cells[0] == pytest.approx(5.0, rel=1e-14)
    assert cells[1:3].min() < 3.5
    assert cells[3:5].max() > 5.0
    assert cells[5] == pytest.approx(5.0, rel=0.01)
