"""Episodes: raised, stepped, cleared and retracted from decisions fixed in event time."""

from __future__ import annotations

import pytest

from twinstate.policy import Policy
from twinstate.risk.episodes import Announcement, Decision, PointRisk, announce, event_id, tell_story

POLICY = Policy(
    raise_probability=0.5,
    clear_probability=0.3,
    high_probability=0.8,
    high_until_probability=0.7,
    out_of_domain_cap="moderate",
    late_h=72,
    late_wearable_h=12,
    revise_h=2160,
    revise_wearable_h=12,
    future_h=1 / 12,
    settled_h=72,
)


def points(*probabilities: float, capped: bool = False) -> list[Decision]:
    return [
        Decision(at, (PointRisk("vancomycin", "auc24", "1", p, 0.01, 600, 500, 700, capped, True, 1),))
        for at, p in enumerate(probabilities, start=1)
    ]


def story(decisions: list[Decision]) -> list[tuple[int, str, int | None]]:
    return [(e.crossing, e.severity, e.ended) for e in tell_story(decisions, POLICY, "urn:x", "p-1")]


def heard(*tellings: list[Decision]) -> list[tuple[str, int, int]]:
    """Type, crossing and revision of every event, as the decisions change from one telling to the next."""
    announced: dict[str, Announcement] = {}
    events: list[tuple[str, int, int]] = []
    for decisions in tellings:
        transitions, announced = announce(tell_story(decisions, POLICY, "urn:x", "p-1"), announced)
        events += [(t.type, t.episode.crossing, t.revision) for t in transitions]
    return events


@pytest.mark.parametrize(
    ("probabilities", "expected"),
    [
        ((0.4, 0.49), []),
        ((0.4, 0.5, 0.4), [(2, "moderate", None)]),
        ((0.6, 0.29), [(1, "moderate", 2)]),
        ((0.6, 0.9, 0.75), [(1, "high", None)]),
        ((0.6, 0.9, 0.69), [(1, "moderate", None)]),
        ((0.6, 0.1, 0.6), [(1, "moderate", 2), (3, "moderate", None)]),
    ],
)
def test_hysteresis_decides_when_an_episode_begins_steps_and_ends(
    probabilities: tuple[float, ...], expected: list[tuple[int, str, int | None]]
) -> None:
    assert story(points(*probabilities)) == expected


def test_input_outside_the_models_domain_caps_the_severity() -> None:
    assert story(points(0.99, capped=True)) == [(1, "moderate", None)]


def test_a_discharge_ends_what_stands() -> None:
    told = tell_story([*points(0.9), Decision(7, (), discharged=True)], POLICY, "urn:x", "p-1")
    assert [(e.ended, e.reason) for e in told] == [(7, "discharged")]


def test_a_point_without_a_decision_keeps_what_stands() -> None:
    assert story([*points(0.9), Decision(5, (), failure="not finite")]) == [(1, "high", None)]


def test_records_one_at_a_time_raise_update_and_clear_once_each() -> None:
    assert heard(points(0.6), points(0.6, 0.9), points(0.6, 0.9, 0.85), points(0.6, 0.9, 0.85, 0.1)) == [
        ("raised", 1, 1),
        ("updated", 1, 2),
        ("cleared", 1, 3),
    ]


def test_a_crossing_that_moves_is_raised_anew_before_the_old_one_is_retracted() -> None:
    announced: dict[str, Announcement] = {}
    _, announced = announce(tell_story(points(0.1, 0.6), POLICY, "urn:x", "p-1"), announced)
    transitions, _ = announce(tell_story(points(0.6, 0.6), POLICY, "urn:x", "p-1"), announced)
    raised, retracted = transitions
    assert (raised.type, retracted.type) == ("raised", "retracted")
    assert raised.replaces == retracted.episode.id
    assert retracted.replaced_by == raised.episode.id


def test_an_episode_that_returns_goes_on_counting_its_revisions() -> None:
    with_risk, without = points(0.6), points(0.1)
    assert heard(with_risk, without, with_risk, without) == [
        ("raised", 1, 1),
        ("retracted", 1, 2),
        ("raised", 1, 3),
        ("retracted", 1, 4),
    ]


def test_a_cleared_episode_that_stands_again_is_raised_again() -> None:
    assert heard(points(0.6, 0.1), points(0.6, 0.4)) == [
        ("raised", 1, 1),
        ("cleared", 1, 2),
        ("raised", 1, 3),
    ]


def test_event_ids_come_from_content_alone() -> None:
    first, _ = announce(tell_story(points(0.6), POLICY, "urn:x", "p-1"), {})
    again, _ = announce(tell_story(points(0.6), POLICY, "urn:x", "p-1"), {})
    other, _ = announce(tell_story(points(0.6), POLICY, "urn:x", "p-2"), {})
    assert event_id(first[0]) == event_id(again[0])
    assert event_id(first[0]) != event_id(other[0])
