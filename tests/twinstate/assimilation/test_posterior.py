"""Hypotheses about a lab record: one level wrong altogether, a clearance that drifts, occasions that differ."""

from __future__ import annotations

import numpy as np
import pytest

from tests.twinstate.courses import START_H, Given, course, log_parameters
from tests.twinstate.patients import Model, draw_labs, levels_of, posterior_of, vancomycin_like
from twinstate.assimilation.observation import Labs, labs_under
from twinstate.assimilation.occasions import (
    MOST_OCCASIONS,
    drifting,
    independent,
    lay_over,
    occasion_ends,
    trust_less,
    walk_ends,
)
from twinstate.assimilation.posterior import assimilate, carry_forward
from twinstate.assimilation.record import fit_record
from twinstate.assimilation.refine import Proposal, refine
from twinstate.drug import Variation
from twinstate.pk.course import STRUCTURAL_PARAMETERS, Course
from twinstate.pk.propagate import solve, solve_points

CLEARANCE = STRUCTURAL_PARAMETERS.index("clearance")
DRIFT = Variation(CLEARANCE, 0.0, (0.0, 0.07, 0.15, 0.3))


def weeks_of_treatment(days: int) -> Model:
    """Model A, treated for longer."""
    model = vancomycin_like()
    doses = [Given(12.0 * k, 1000, duration=1.0) for k in range(2 * days)]
    row = log_parameters(clearance=4.0, central_volume=50.0)
    return model._replace(course=course(1, doses, [(0.0, row)], (0, 1)))


def daily_levels(model: Model, log_clearance: np.ndarray, random: np.random.Generator) -> Labs:
    """One level at the end of every day of a patient whose clearance is set day by day."""
    days = len(log_clearance)
    rows = [
        (24.0 * day, log_parameters(clearance=float(np.exp(value)), central_volume=50.0))
        for day, value in enumerate(log_clearance)
    ]
    doses = [Given(12.0 * k, 1000, duration=1.0) for k in range(2 * days)]
    true = course(1, doses, rows, (0, 1))
    time_h = START_H + 24.0 * np.arange(days) + 23.5
    f = solve(true, np.zeros(2), time_h)[0]
    value = f * (1.0 + 0.05 * random.normal(size=days))
    return labs_under(model.residual, time_h, value, np.zeros(days, dtype=np.int64))


def test_level_with_a_slip_of_the_decimal_point_is_named_and_hardly_moves_the_estimate() -> None:
    model = vancomycin_like()
    random = np.random.default_rng(4)
    for which in range(4):
        labs = draw_labs(model, random, 4)
        right = posterior_of(model, labs).cloud
        value = labs.value.copy()
        value[which] *= 10.0
        found = posterior_of(model, labs._replace(value=value)).cloud
        assert found.doubt[which] > 0.9
        assert np.delete(found.doubt, which).max() < 0.1
        sd = np.sqrt(np.diag(right.covariance))
        assert (np.abs(found.mean - right.mean) < 1.5 * sd).all()


def test_doubt_is_the_probability_written_longhand() -> None:
    # Odds of "this level is wrong" against "none is", each with the likelihood averaged over the prior.
    model = vancomycin_like()
    labs = levels_of(model, [24.0, 59.5, 71.5], [14.0, 90.0, 12.0])
    found = posterior_of(model, labs).cloud
    random = np.random.default_rng(1)
    draws = random.multivariate_normal(np.zeros(2), model.prior, 400_000)
    f = solve_points(model.course, draws, labs.time_h)[0]
    sd = np.hypot(0.12 * f, 0.6)
    right = np.exp(-0.5 * ((labs.value - f) / sd) ** 2) / sd
    wrong = np.exp(-0.5 * (np.log(labs.value / f) / 1.2) ** 2) / (1.2 * labs.value)
    evidence = [right.prod(axis=1).mean()]
    for level in range(3):
        others = np.delete(right, level, axis=1).prod(axis=1)
        evidence.append(0.03 / 0.97 * (others * wrong[:, level]).mean())
    np.testing.assert_allclose(found.doubt, np.array(evidence[1:]) / sum(evidence), atol=0.02)


def test_one_level_that_surprises_is_doubted_but_believed() -> None:
    # Alone it may as well be of an unusual patient: the doubt is told, the estimate is the one without any.
    model = vancomycin_like()
    typical = solve(model.course, np.zeros(2), START_H + np.array([59.5]))[0]
    labs = levels_of(model, [59.5], (3.2 * typical).tolist())
    fit = fit_record(model.course, labs, model.prior)
    believed = refine(
        model.course,
        labs,
        model.prior,
        Proposal(fit.mean[np.newaxis], fit.covariance[np.newaxis], np.ones(1)),
    )
    found = posterior_of(model, labs).cloud
    assert 0.2 < found.doubt[0] < 0.9
    np.testing.assert_allclose(
        found.mean, believed.mean, atol=0.1 * float(np.sqrt(believed.covariance[0, 0]))
    )


def test_one_level_ten_times_too_high_is_not_believed() -> None:
    model = vancomycin_like()
    typical = solve(model.course, np.zeros(2), START_H + np.array([59.5]))[0]
    found = posterior_of(model, levels_of(model, [59.5], (10.0 * typical).tolist())).cloud
    assert found.doubt[0] > 0.9
    assert abs(found.mean[0]) < 0.2  # near the typical patient: believed, it would lie below -1


def test_record_without_a_surprise_is_weighed_as_if_no_level_could_be_wrong() -> None:
    model = vancomycin_like()
    typical = solve(model.course, np.zeros(2), START_H + np.array([24.0, 59.5, 71.5]))[0]
    labs = levels_of(model, [24.0, 59.5, 71.5], typical.tolist())
    fit = fit_record(model.course, labs, model.prior)
    alone = Proposal(fit.mean[np.newaxis], fit.covariance[np.newaxis], np.ones(1))
    plain = refine(model.course, labs, model.prior, alone)
    found = posterior_of(model, labs).cloud
    np.testing.assert_array_equal(found.weights, plain.weights)
    assert not found.doubt.any()


def test_without_levels_the_prior_stands() -> None:
    model = vancomycin_like()
    found = posterior_of(model, levels_of(model, [], []))
    assert found.status == "prior"
    assert not found.cloud.mean.any()
    np.testing.assert_array_equal(found.cloud.covariance, model.prior)


def test_drifting_clearance_is_followed_and_its_interval_widens_until_the_next_level() -> None:
    model = weeks_of_treatment(14)
    walk = np.log(4.0) - np.linspace(0.0, 0.9, 14)  # the kidneys fail slowly
    labs = daily_levels(model, walk, np.random.default_rng(2))
    found = assimilate(model.course, labs, model.prior, DRIFT)
    widths = []
    for later_h in (0.0, 24.0, 96.0):
        at_h = float(labs.time_h[-1]) + later_h
        laid, cloud = carry_forward(found, model.course, DRIFT, at_h)
        now = int(laid.occasion_index[-1, CLEARANCE])
        log_clearance = np.log(4.0) + cloud.points[:, 0] + cloud.points[:, now]
        mean = cloud.weights @ log_clearance
        widths.append(np.sqrt(cloud.weights @ (log_clearance - mean) ** 2))
        assert mean == pytest.approx(walk[-1], abs=0.2)
    assert widths[0] < widths[1] < widths[2]
    static = assimilate(model.course, labs, model.prior).cloud
    assert static.mean[0] + np.log(4.0) - walk[-1] > 0.1  # what does not drift lags behind


def test_steady_patient_gets_hardly_any_drift() -> None:
    model = weeks_of_treatment(14)
    labs = daily_levels(model, np.full(14, np.log(4.0)), np.random.default_rng(3))
    found = assimilate(model.course, labs, model.prior, DRIFT)
    weights = {sd: found.cloud.weights[found.drift_sd == sd].sum() for sd in DRIFT.drift_sd}
    assert weights[0.0] + weights[0.07] > 0.9


def test_number_of_occasions_does_not_grow_with_the_months() -> None:
    model = weeks_of_treatment(120)
    labs = daily_levels(model, np.full(120, np.log(4.0)), np.random.default_rng(5))
    assert len(occasion_ends(labs)) == MOST_OCCASIONS
    assert len(walk_ends(labs)) == MOST_OCCASIONS
    found = assimilate(model.course, labs, model.prior, DRIFT)
    assert found.cloud.points.shape[1] == 2 + MOST_OCCASIONS - 1


def test_levels_within_a_day_share_an_occasion() -> None:
    model = vancomycin_like()
    labs = levels_of(model, [10, 20, 30, 60, 61], [10, 10, 10, 10, 10])
    np.testing.assert_allclose(occasion_ends(labs) - START_H, [30, 61])


def test_occasions_of_a_walk_grow_longer_the_further_back_they_lie() -> None:
    model = weeks_of_treatment(60)
    labs = daily_levels(model, np.full(60, np.log(4.0)), np.random.default_rng(5))
    np.testing.assert_allclose(labs.time_h[-1] - walk_ends(labs), [24.0 * n for n in (16, 8, 4, 2, 1, 0)])


def test_level_is_trusted_less_by_what_may_change_until_its_occasion_ends() -> None:
    model = vancomycin_like()
    labs = levels_of(model, [10, 34, 70, 82, 106], [10, 10, 10, 10, 10])
    ends = START_H + np.array([82.0, 106.0])
    trusted = trust_less(labs, ends, 0.04, 0.0)
    expected = np.sqrt(0.12**2 + 0.04 * np.array([3.0, 2.0, 0.0, 0.0, 0.0]))
    np.testing.assert_allclose(trusted.proportional, expected, rtol=1e-12)


def test_occasions_of_nought_change_nothing() -> None:
    model = weeks_of_treatment(5)
    ends = START_H + np.array([20.0, 50.0, 80.0])
    times = START_H + np.arange(1.0, 119.0, 3.3)
    eta = np.array([0.2, -0.1])
    plain = solve(model.course, eta, times)
    for occasions in (drifting(ends, 0.1), independent(ends, 0.2)):
        further = len(occasions.covariance)
        laid = lay_over(model.course, occasions, CLEARANCE, 2, 2 + further)
        for one, other in zip(solve(laid, np.append(eta, np.zeros(further + 1)), times), plain, strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-12, atol=1e-12)


def test_each_occasion_rules_from_the_end_of_the_one_before_to_its_own() -> None:
    model = weeks_of_treatment(5)
    ends = START_H + np.array([20.0, 50.0])
    laid = lay_over(model.course, independent(ends, 0.2), CLEARANCE, 2, 4)
    changed = {"first": (0.3, 0.0, 0.0), "second": (0.0, 0.3, 0.0), "now": (0.0, 0.0, 0.3)}
    rows = {
        "first": [(0.0, 0.3), (20.0, 0.0)],
        "second": [(0.0, 0.0), (20.0, 0.3), (50.0, 0.0)],
        "now": [(0.0, 0.0), (50.0, 0.3)],
    }
    times = START_H + np.arange(1.0, 119.0, 3.3)
    for name, values in changed.items():
        segments = [
            (start, log_parameters(clearance=4.0 * float(np.exp(shift)), central_volume=50.0))
            for start, shift in rows[name]
        ]
        doses = [Given(12.0 * k, 1000, duration=1.0) for k in range(10)]
        wanted = solve(course(1, doses, segments, (0, 1)), np.zeros(2), times)[0]
        found = solve(laid, np.array([0.0, 0.0, *values]), times)[0]
        np.testing.assert_allclose(found, wanted, rtol=1e-12, atol=1e-12)


def test_random_walk_starts_with_the_end_of_the_first_occasion() -> None:
    model = weeks_of_treatment(5)
    ends = START_H + np.array([20.0, 50.0])
    laid = lay_over(model.course, drifting(ends, 0.2), CLEARANCE, 2, 3)
    times = START_H + np.arange(1.0, 119.0, 3.3)
    plain = solve(model.course, np.zeros(2), times)[0]
    for step, begins, ends_again in ((2, 20.0, 50.0), (3, 50.0, 200.0)):
        eta = np.zeros(4)
        eta[step] = 0.3
        rows = [(0.0, 0.0), (begins, 0.3), (ends_again, 0.0)]
        segments = [
            (start, log_parameters(clearance=4.0 * float(np.exp(shift)), central_volume=50.0))
            for start, shift in rows
        ]
        doses = [Given(12.0 * k, 1000, duration=1.0) for k in range(10)]
        found = solve(laid, eta, times)[0]
        np.testing.assert_allclose(
            found, solve(course(1, doses, segments, (0, 1)), np.zeros(2), times)[0], rtol=1e-12, atol=1e-12
        )
        before = times <= START_H + begins
        np.testing.assert_allclose(found[before], plain[before], rtol=1e-12, atol=1e-12)


def test_variation_between_occasions_makes_the_next_day_less_certain_than_this_one() -> None:
    model = weeks_of_treatment(5)
    variation = Variation(CLEARANCE, 0.3, ())
    labs = levels_of(model, [59.5, 71.5], [14.0, 12.0])
    found = assimilate(model.course, labs, model.prior, variation)

    def spread(at_h: float) -> float:
        laid: Course
        laid, cloud = carry_forward(found, model.course, variation, START_H + at_h)
        values = cloud.points[:, 0] + cloud.points[:, int(laid.occasion_index[-1, CLEARANCE])]
        return float(np.sqrt(cloud.weights @ (values - cloud.weights @ values) ** 2))

    assert spread(72.0) < 0.75 * spread(100.0)


def test_estimate_with_a_bank_of_hypotheses_is_the_same_every_time() -> None:
    model = weeks_of_treatment(14)
    labs = daily_levels(model, np.full(14, np.log(4.0)), np.random.default_rng(6))
    value = labs.value.copy()
    value[4] *= 5.0
    labs = labs._replace(value=value)
    first, again = (assimilate(model.course, labs, model.prior, DRIFT) for _ in range(2))
    assert first.cloud.points.tobytes() == again.cloud.points.tobytes()
    assert first.cloud.weights.tobytes() == again.cloud.weights.tobytes()
    assert first.cloud.doubt[4] > 0.9
