"""A dose at steady state is the newest of an endless train: here the train is long and written out."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.twinstate.courses import START_H, Given, course, log_parameters
from twinstate.pk.course import (
    COAGULATION_MEAN,
    COAGULATION_PRODUCT,
    EFFECT_SITE,
    INTO_CENTRAL,
    INTO_DEPOT,
    LINEAR,
    METABOLITE,
    MIXED,
    MYELOSUPPRESSION,
    PARALLEL_ORAL,
    SATURABLE,
    ZERO_ORDER_ORAL,
    Structure,
    log_row,
)
from twinstate.pk.propagate import solve

NO_ETA = np.zeros(6)
LONG = 400  # intervals; what is older has decayed below 1e-15


def train(mg: float, route: int, duration: float, interval: float) -> list[Given]:
    return [Given(-interval * back, mg, route, duration) for back in range(LONG, -1, -1)]


@pytest.mark.parametrize("compartments", [1, 2, 3])
@pytest.mark.parametrize(
    ("route", "duration", "row"),
    [
        (INTO_CENTRAL, 0.0, log_parameters()),
        (INTO_CENTRAL, 1.5, log_parameters()),
        (INTO_CENTRAL, 8.0, log_parameters()),  # ends as the next begins
        (INTO_CENTRAL, 21.0, log_parameters()),  # three overlap
        (INTO_DEPOT, 0.0, log_parameters(lag=0.0)),
        (INTO_DEPOT, 0.0, log_parameters(lag=0.7)),
        (INTO_DEPOT, 0.0, log_parameters(lag=8.0)),
        (INTO_DEPOT, 0.0, log_parameters(lag=19.0)),  # longer than two intervals: two doses still wait
        (INTO_DEPOT, 0.0, log_parameters(absorption_rate=4.5 / 58.0)),
        (ZERO_ORDER_ORAL, 0.0, log_parameters(lag=0.7, input_duration=2.0)),
        (ZERO_ORDER_ORAL, 0.0, log_parameters(lag=9.0, input_duration=18.0)),
        (PARALLEL_ORAL, 0.0, log_parameters(lag=0.7, input_duration=2.0)),
        (PARALLEL_ORAL, 0.0, log_parameters(lag=9.0, input_duration=18.0)),
        (PARALLEL_ORAL, 0.0, log_parameters(first_order_fraction=0.0)),
        (PARALLEL_ORAL, 0.0, log_parameters(first_order_fraction=1.0)),
    ],
)
def test_steady_state_agrees_with_a_long_train(
    compartments: int, route: int, duration: float, row: np.ndarray
) -> None:
    interval = 8.0
    hours = START_H + np.array([1e-6, 0.5, 1.0, 3.0, 5.9, 8.0, 11.0, 20.0, 40.0, 100.0])
    steady = course(compartments, [Given(0, 400, route, duration, interval)], [(-5000.0, row)])
    explicit = course(compartments, train(400, route, duration, interval), [(-5000.0, row)])
    concentration, area, _ = solve(steady, NO_ETA, hours)
    expected, expected_area, _ = solve(explicit, NO_ETA, hours)
    np.testing.assert_allclose(concentration, expected, rtol=1e-8)
    # The AUC counts what is seen: a steady state has no past of its own.
    np.testing.assert_allclose(area - area[0], expected_area - expected_area[0], rtol=1e-8)


def test_steady_state_dose_forgets_everything_before_it() -> None:
    before = [
        Given(-6, 5000, INTO_CENTRAL, 12.0),  # still running
        Given(-0.1, 900, INTO_DEPOT),  # still waiting for its lag
        Given(-2, 700, INTO_DEPOT),  # still in the depot
    ]
    steady = Given(0, 400, INTO_CENTRAL, 1.0, 12.0)
    after = Given(12, 400, INTO_CENTRAL, 1.0)
    hours = START_H + np.array([1e-6, 0.5, 4.0, 12.0, 13.0, 30.0])
    alone, _, _ = solve(course(2, [steady, after]), NO_ETA, hours)
    together, _, _ = solve(course(2, [*sorted(before), steady, after]), NO_ETA, hours)
    np.testing.assert_allclose(together, alone, rtol=1e-12)


@pytest.mark.parametrize(
    ("route", "duration", "lag"),
    [
        (INTO_CENTRAL, 0.0, 0.0),
        (INTO_CENTRAL, 21.0, 0.0),
        (INTO_DEPOT, 0.0, 0.7),
        (INTO_DEPOT, 0.0, 16.0),  # two intervals: a dose of the train enters at that very moment
        (ZERO_ORDER_ORAL, 0.0, 9.0),
    ],
)
def test_level_drawn_as_a_steady_state_dose_is_given_is_the_trough_of_that_steady_state(
    route: int, duration: float, lag: float
) -> None:
    row = log_parameters(lag=lag, input_duration=18.0)
    before = Given(-3, 7000)  # forgotten
    steady = course(2, [before, Given(0, 400, route, duration, 8.0)], [(-5000.0, row)])
    explicit = course(2, train(400, route, duration, 8.0), [(-5000.0, row)])
    level, area, _ = solve(steady, NO_ETA, START_H + np.array([0.0]))
    expected, _, _ = solve(explicit, NO_ETA, START_H + np.array([0.0]))
    assert level[0] == pytest.approx(expected[0], rel=1e-8)
    # Declared, not lived through: the trough adds nothing to the area.
    alone, until_then, _ = solve(course(2, [before], [(-5000.0, row)]), NO_ETA, START_H + np.array([0.0]))
    assert alone[0] != pytest.approx(level[0], rel=0.1)
    assert area[0] == pytest.approx(until_then[0], rel=1e-12)


TRAINS = [
    Given(0, 400, INTO_CENTRAL, 1.5, 8.0),
    Given(0, 250, INTO_DEPOT, 0.0, 12.0),
    Given(0, 300, PARALLEL_ORAL, 0.0, 24.0),
    Given(0, 90, INTO_CENTRAL, 21.0, 8.0),
]
PLAIN = Given(0, 1000, INTO_CENTRAL, 2.0)


@pytest.mark.parametrize(
    "structure",
    [
        Structure(1),
        Structure(3),
        Structure(2, LINEAR, 3),
        Structure(2, LINEAR, 0, METABOLITE),
        Structure(2, LINEAR, 2, EFFECT_SITE),
    ],
    ids=str,
)
def test_trains_and_doses_of_one_moment_add_up_in_any_order(structure: Structure) -> None:
    hours = START_H + np.array([0.0, 1e-6, 0.5, 3.0, 5.9, 8.0, 11.0, 20.0, 40.0])
    row = log_parameters(lag=9.0, input_duration=13.0)

    def together(doses: list[Given]) -> tuple[np.ndarray, ...]:
        return solve(course(structure, [Given(-3, 7000), *doses], [(-5000.0, row)]), NO_ETA, hours)

    alone = [together([dose]) for dose in TRAINS]
    plain = solve(course(structure, [PLAIN], [(-5000.0, row)]), NO_ETA, hours)
    before = together([TRAINS[0]])[1][0]
    for doses in ([PLAIN, *TRAINS], [*reversed(TRAINS), PLAIN], [*TRAINS[:2], PLAIN, *TRAINS[2:]]):
        found = together(doses)
        for output in (0, 2):
            expected = sum(one[output] for one in alone) + plain[output]
            np.testing.assert_allclose(found[output], expected, rtol=1e-6, atol=1e-12)
        expected_area = sum(one[1] - before for one in alone) + plain[1]
        np.testing.assert_allclose(found[1] - before, expected_area, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize(
    "structure", [Structure(1, SATURABLE), Structure(1, LINEAR, 0, COAGULATION_PRODUCT, 6, 1)], ids=str
)
def test_doses_of_one_train_told_by_two_records_are_one_dose_of_their_sum_where_nothing_adds_up(
    structure: Structure,
) -> None:
    hours = START_H + np.array([0.0, 0.5, 5.9, 8.0, 20.0])
    row = log_parameters(maximum_elimination_rate=80.0)
    both = [Given(0, 150, INTO_DEPOT, 0.0, 8.0), Given(0, 250, INTO_DEPOT, 0.0, 8.0)]
    found = solve(course(structure, both, [(-5000.0, row)]), NO_ETA, hours)
    expected = solve(
        course(structure, [Given(0, 400, INTO_DEPOT, 0.0, 8.0)], [(-5000.0, row)]), NO_ETA, hours
    )
    for output in range(3):
        np.testing.assert_allclose(found[output], expected[output], rtol=1e-9)
    # Two trains of different intervals have no common steady state there.
    other = [both[0], Given(0, 250, INTO_DEPOT, 0.0, 12.0)]
    assert np.isnan(solve(course(structure, other, [(-5000.0, row)]), NO_ETA, hours)[0]).all()


def test_mean_concentration_at_steady_state_is_dose_rate_over_clearance() -> None:
    # C_mean = F D / (CL tau), whatever the structure (Gibaldi, Perrier 1982, ch. 3).
    plan = course(2, [Given(0, 400, INTO_DEPOT, 0.0, 8.0), Given(8, 400, INTO_DEPOT)])
    _, area, _ = solve(plan, NO_ETA, START_H + np.array([0.0, 8.0]))
    assert area[1] == pytest.approx(0.8 * 400 / 4.5, rel=1e-9)


@given(
    interval=st.floats(4.0, 48.0),
    duration=st.floats(0.0, 60.0),
    compartments=st.sampled_from([1, 2, 3]),
)
def test_concentration_repeats_itself_every_interval(
    interval: float, duration: float, compartments: int
) -> None:
    doses = [Given(0, 500, INTO_CENTRAL, duration, interval)]
    doses += [Given(interval * k, 500, INTO_CENTRAL, duration) for k in range(1, 4)]
    hours = START_H + interval * np.array([0.3, 0.9, 1.3, 1.9, 2.3, 2.9])
    concentration, _, _ = solve(course(compartments, doses), NO_ETA, hours)
    np.testing.assert_allclose(concentration[2:4], concentration[:2], rtol=1e-8)
    np.testing.assert_allclose(concentration[4:], concentration[:2], rtol=1e-8)


@pytest.mark.parametrize("structure", [Structure(2), Structure(1, MIXED)], ids=str)
@pytest.mark.parametrize(
    ("route", "duration", "row"),
    [
        (INTO_CENTRAL, 40.0, {}),
        (INTO_DEPOT, 0.0, {"lag": 20.3}),
        (ZERO_ORDER_ORAL, 0.0, {"lag": 33.0, "input_duration": 25.2}),
        (PARALLEL_ORAL, 0.0, {"lag": 17.0, "input_duration": 18.0}),
    ],
)
def test_lag_and_input_may_be_longer_than_many_intervals(
    structure: Structure, route: int, duration: float, row: dict[str, float]
) -> None:
    interval = 0.5
    doses = [Given(-interval * back, 25, route, duration) for back in range(1500, -1, -1)]
    hours = START_H + np.array([0.0, 1e-6, 0.6, 3.0, 17.0, 20.0, 33.1, 50.0, 80.0])
    told = log_parameters(**row)
    steady = course(structure, [Given(0, 25, route, duration, interval)], [(-5000.0, told)])
    explicit = course(structure, doses, [(-5000.0, told)])
    found, expected = solve(steady, NO_ETA, hours), solve(explicit, NO_ETA, hours)
    np.testing.assert_allclose(found[0], expected[0], rtol=1e-6)
    np.testing.assert_allclose(found[1] - found[1][0], expected[1] - expected[1][0], rtol=1e-6)


def test_lag_beyond_what_a_train_may_reach_back_gives_nan_and_returns() -> None:
    plan = course(1, [Given(0, 400, INTO_DEPOT, 0.0, 1e-6)], [(0.0, log_parameters(lag=1.0))])
    concentration, _, _ = solve(plan, NO_ETA, START_H + np.array([1.0]))
    assert np.isnan(concentration).all()


STEPPED = [
    Structure(1, SATURABLE),
    Structure(3, SATURABLE),
    Structure(2, MIXED),
    Structure(2, LINEAR, 3),
    Structure(1, MIXED, 2),
    Structure(2, LINEAR, 0, METABOLITE),
    Structure(2, LINEAR, 0, EFFECT_SITE),
    Structure(1, MIXED, 0, EFFECT_SITE),
    Structure(1, LINEAR, 0, COAGULATION_PRODUCT, 6, 1),
    Structure(2, MIXED, 0, COAGULATION_MEAN, 3, 3),
    Structure(1, LINEAR, 0, MYELOSUPPRESSION),
]


@pytest.mark.parametrize("structure", STEPPED, ids=str)
@pytest.mark.parametrize(
    ("route", "duration", "changed"),
    [
        (INTO_CENTRAL, 0.0, {}),
        (INTO_CENTRAL, 21.0, {}),  # three overlap
        (INTO_DEPOT, 0.0, {"lag": 0.7}),
        (INTO_DEPOT, 0.0, {"lag": 19.0}),  # two doses still wait
        (PARALLEL_ORAL, 0.0, {"lag": 8.0, "input_duration": 13.0}),
    ],
)
def test_stepped_steady_state_agrees_with_a_long_train(
    structure: Structure, route: int, duration: float, changed: dict[str, float]
) -> None:
    interval = 8.0
    row = log_parameters(
        **changed, maximum_elimination_rate=80.0, response_time=20.0, second_response_time=30.0
    )
    hours = START_H + np.array([1e-6, 0.5, 3.0, 5.9, 8.0, 11.0, 20.0, 40.0])
    steady = course(structure, [Given(0, 400, route, duration, interval)], [(-5000.0, row)])
    explicit = course(structure, train(400, route, duration, interval), [(-5000.0, row)])
    found, expected = solve(steady, NO_ETA, hours), solve(explicit, NO_ETA, hours)
    # Both take the solver's steps, so they differ by less than its error.
    np.testing.assert_allclose(found[0], expected[0], rtol=1e-5)
    np.testing.assert_allclose(found[1] - found[1][0], expected[1] - expected[1][0], rtol=1e-5, atol=1e-9)
    np.testing.assert_allclose(found[2], expected[2], rtol=1e-5)


def test_saturable_elimination_balances_its_input_at_steady_state() -> None:
    # Yukawa 1990, 60 kg: Vmax 325 mg/day, Km 2.41 mg/L give 3.9, 8.0 and 28.9 mg/L at 200, 250 and 300 mg/day.
    row = log_row({"maximum_elimination_rate": 325 / 24, "michaelis_constant": 2.41, "central_volume": 36.0})
    for daily, mean in ((200, 3.9), (250, 8.0), (300, 28.9)):
        # In doses so small and frequent that the level hardly moves.
        plan = course(
            Structure(1, SATURABLE), [Given(0, daily / 96, interval=0.25)], [(0.0, row)], [-1] * len(row)
        )
        level, _, _ = solve(plan, NO_ETA, START_H + np.array([0.01]))
        assert level[0] == pytest.approx(2.41 * daily / (325 - daily), rel=0.01)
        assert level[0] == pytest.approx(mean, abs=0.1)


def test_more_than_saturable_elimination_can_take_has_no_steady_state() -> None:
    row = log_row({"maximum_elimination_rate": 10.0, "michaelis_constant": 2.0, "central_volume": 36.0})
    plan = course(Structure(1, SATURABLE), [Given(0, 250, interval=24.0)], [(0.0, row)], [-1] * len(row))
    concentration, area, _ = solve(plan, NO_ETA, START_H + np.array([1.0, 5.0]))
    assert np.isnan(concentration).all()
    assert np.isnan(area).all()


@pytest.mark.parametrize("second", [EFFECT_SITE, METABOLITE])
@pytest.mark.parametrize(
    "later",
    [
        [Given(12.0, 100.0, INTO_CENTRAL, 12.0, 12.0)],
        [Given(12.0, 100.0, INTO_CENTRAL, 12.0, 24.0)],
        [Given(12.0, 100.0, INTO_DEPOT, 0.0, 12.0), Given(24.0, 100.0, INTO_DEPOT)],
    ],
    ids=["infusion without end", "every second infusion", "by mouth"],
)
def test_what_follows_a_steady_state_does_not_depend_on_the_other_times_asked(
    second: int, later: list[Given]
) -> None:
    # The step before the train is as long as one of the train's own.
    row = log_parameters(clearance=5.0, central_volume=50.0, effect_rate=0.5, lag=0.0)
    plan = course(Structure(1, LINEAR, 0, second), [Given(0.0, 100.0), *later], [(-5000.0, row)])
    alone = solve(plan, NO_ETA, START_H + np.array([24.0]))[2]
    among_others = solve(plan, NO_ETA, START_H + np.array([5.0, 17.0, 24.0]))[2]
    assert alone[0] == pytest.approx(among_others[-1], rel=1e-12)
    if second == EFFECT_SITE and later[0].interval == 12.0 and later[0].route == INTO_CENTRAL:
        assert alone[0] == pytest.approx(100.0 / 12.0 / 5.0, rel=1e-9)  # rate over clearance
