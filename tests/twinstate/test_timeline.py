"""The timeline as a specification of semantics §1.4 and §2."""

from __future__ import annotations

import hashlib
import random

import msgspec
import pytest

from twinstate.history import Content, Dose, Entry, Frame, Lab, PatientFacts, Tick, Window
from twinstate.timeline import Outcome, Timeline, TimeRules, hour_end
from twinstate.types import NS_PER_HOUR

HOUR = NS_PER_HOUR
START = 1_770_000_000 * 1_000_000_000 // HOUR * HOUR
RULES = TimeRules(
    late=72 * HOUR,
    late_wearable=12 * HOUR,
    revise=90 * 24 * HOUR,
    revise_wearable=12 * HOUR,
    future=HOUR // 12,
    settled=72 * HOUR,
    keep=30 * 24 * HOUR,
    keep_signal={"qtc": 72 * HOUR},
)
GIVEN = Dose("vancomycin", True, 1000.0, "iv", 1.0, 0.0)
LEVEL = Lab("vancomycin", 14.0, False)


def entry(
    kind: str, name: str, at_h: float, content: Content | None, revision: int = 0, body: str = ""
) -> Entry:
    return Entry(
        kind=kind,
        source="ward",
        id=name,
        revision=revision,
        digest=hashlib.sha256(f"{name}{revision}{body}".encode()).digest(),
        event_time=START + round(at_h * HOUR),
        cancelled=content is None,
        content=content,
    )


def take(timeline: Timeline, one: Entry) -> int | None:
    since = timeline.accept(one)
    timeline.advance(RULES)
    return since


def admitted() -> Timeline:
    timeline = Timeline()
    take(timeline, entry("patient", "adm", 0, PatientFacts({}, {})))
    return timeline


def judge(timeline: Timeline, one: Entry, *, backfill: bool = False, append: int | None = None) -> Outcome:
    return timeline.judge(one, one.event_time if append is None else append, RULES, backfill=backfill).outcome


def test_watermark_is_the_largest_event_time_and_does_not_fall_for_a_late_record() -> None:
    timeline = admitted()
    take(timeline, entry("dose", "d1", 10, GIVEN))
    take(timeline, entry("lab", "l1", 4, LEVEL))
    assert timeline.watermark == START + 10 * HOUR


def test_watermark_falls_when_the_record_that_set_it_is_cancelled() -> None:
    timeline = admitted()
    take(timeline, entry("dose", "d1", 10, GIVEN))
    take(timeline, entry("dose", "d1", 10, None, revision=1))
    assert timeline.watermark == START


def test_the_same_bytes_twice_are_a_duplicate() -> None:
    timeline = admitted()
    take(timeline, entry("lab", "l1", 4, LEVEL))
    assert judge(timeline, entry("lab", "l1", 4, LEVEL)) is Outcome.DUPLICATE


def test_a_lower_revision_is_superseded_and_a_higher_one_wins() -> None:
    timeline = admitted()
    take(timeline, entry("lab", "l1", 4, LEVEL, revision=2))
    assert judge(timeline, entry("lab", "l1", 4, LEVEL, revision=1)) is Outcome.SUPERSEDED
    assert judge(timeline, entry("lab", "l1", 5, LEVEL, revision=3)) is Outcome.APPLIED


def test_of_two_bodies_with_one_revision_the_same_wins_in_either_order() -> None:
    one, other = (entry("lab", "l1", 4, LEVEL, body=b) for b in "ab")
    winners = set()
    for first, second in ((one, other), (other, one)):
        timeline = admitted()
        for record in (first, second):
            if judge(timeline, record) is Outcome.APPLIED:
                take(timeline, record)
        winners.add(timeline.entries[one.identity].digest)
    assert len(winners) == 1


def test_a_cancellation_may_arrive_before_what_it_cancels() -> None:
    timeline = admitted()
    take(timeline, entry("dose", "d1", 3, None, revision=1))
    assert judge(timeline, entry("dose", "d1", 3, GIVEN)) is Outcome.SUPERSEDED
    assert timeline.watermark == START


@pytest.mark.parametrize(
    ("kind", "content", "limit_h"), [("lab", LEVEL, 72), ("wearable", Frame("qtc", ()), 12)]
)
def test_a_first_revision_is_late_just_beyond_its_limit(kind: str, content: Content, limit_h: float) -> None:
    timeline = admitted()
    take(timeline, entry("tick", "t", 200, Tick()))
    assert judge(timeline, entry(kind, "x", 200 - limit_h, content)) is Outcome.APPLIED
    assert judge(timeline, entry(kind, "x", 200 - limit_h - 1e-6, content)) is Outcome.LATE


def test_a_correction_may_come_ninety_days_later_and_backfill_too() -> None:
    timeline = admitted()
    take(timeline, entry("lab", "l1", 4, LEVEL))
    take(timeline, entry("tick", "t", 89 * 24, Tick()))
    assert judge(timeline, entry("lab", "l1", 4, LEVEL, revision=1)) is Outcome.APPLIED
    assert judge(timeline, entry("lab", "l2", 4, LEVEL)) is Outcome.LATE
    assert judge(timeline, entry("lab", "l2", 4, LEVEL), backfill=True) is Outcome.APPLIED


def test_a_correction_is_late_when_the_time_it_moves_away_from_is() -> None:
    timeline = admitted()
    take(timeline, entry("lab", "l1", 4, LEVEL))
    take(timeline, entry("tick", "t", 91 * 24, Tick()))
    assert judge(timeline, entry("lab", "l1", 91 * 24, LEVEL, revision=1)) is Outcome.LATE


def test_a_pending_twin_takes_records_however_late() -> None:
    timeline = Timeline()
    take(timeline, entry("dose", "d1", 500, GIVEN))
    assert timeline.pending
    assert judge(timeline, entry("patient", "adm", 0, PatientFacts({}, {}))) is Outcome.APPLIED


def test_a_record_from_the_future_is_refused_by_the_brokers_clock() -> None:
    timeline = admitted()
    one = entry("dose", "d1", 1, GIVEN)
    assert judge(timeline, one, append=one.event_time - HOUR // 12) is Outcome.APPLIED
    assert judge(timeline, one, append=one.event_time - HOUR // 12 - 1) is Outcome.FUTURE


def test_accepting_says_from_when_the_view_of_the_patient_changed() -> None:
    timeline = admitted()
    assert take(timeline, entry("lab", "l1", 8, LEVEL)) == START + 8 * HOUR
    assert take(timeline, entry("lab", "l1", 5, LEVEL, revision=1)) == START + 5 * HOUR
    assert take(timeline, entry("lab", "l1", 9, LEVEL, revision=2)) == START + 5 * HOUR
    assert take(timeline, entry("lab", "l1", 9, None, revision=3)) == START + 9 * HOUR
    assert take(timeline, entry("lab", "zzz", 1, None)) is None


def frame(sequence: int, at_h: float, value: int, revision: int = 0, *, cancelled: bool = False) -> Entry:
    at = START + round(at_h * HOUR)
    window = Window(at // (HOUR // 12), 1, value, value * value, ((value, 1),), 0)
    content = None if cancelled else Frame("qtc", (window,))
    return entry("wearable", f"watch:{sequence}", at_h, content, revision)


def test_windows_do_not_depend_on_the_order_of_frames_or_on_what_was_revised() -> None:
    frames = [frame(i, 0.05 * i, 400 + i) for i in range(40)]
    revised = [frame(7, 0.35, 480, revision=1), frame(8, 0.4, 0, revision=1, cancelled=True)]
    seen = set()
    for seed in range(10):
        order = [*frames, *revised]
        random.Random(seed).shuffle(order)
        timeline = admitted()
        for one in order:
            if judge(timeline, one) is Outcome.APPLIED:
                take(timeline, one)
        seen.add(msgspec.msgpack.encode(timeline.telemetry.stored()))
    assert len(seen) == 1


def test_a_frame_counts_at_a_full_hour_only_from_its_own_event_time_on() -> None:
    timeline = admitted()
    straddling = frame(1, 1.02, 410)
    early = Frame("qtc", (Window(START // (HOUR // 12) + 11, 1, 410, 410 * 410, ((410, 1),), 0),))
    take(timeline, entry("wearable", "watch:2", 1.02, early))
    take(timeline, straddling)
    take(timeline, entry("tick", "t", 2, Tick()))
    at_one, at_two = START + HOUR, START + 2 * HOUR
    assert timeline.counted_windows("qtc", at_one, 24 * HOUR, whole=False) == []
    assert len(timeline.counted_windows("qtc", at_two, 24 * HOUR, whole=False)) == 2
    assert timeline.points(RULES) == [START, at_two]


def test_an_event_at_a_full_hour_belongs_to_the_hour_it_ends() -> None:
    assert hour_end(START) == START
    assert hour_end(START + 1) == START + HOUR


def test_what_can_neither_count_nor_be_revised_leaves_memory_but_the_patient_stays() -> None:
    timeline = admitted()
    take(timeline, entry("dose", "d1", 1, GIVEN))
    take(timeline, frame(1, 1.0, 400))
    take(timeline, entry("tick", "t", 200 * 24, Tick()))
    assert [e.kind for e in timeline.in_order()] == ["patient", "tick"]
    assert not timeline.frames
    assert not timeline.telemetry.stored()


def test_what_left_memory_is_late_and_not_new_even_when_the_watermark_falls_again() -> None:
    timeline = admitted()
    take(timeline, frame(1, 1.0, 400))
    take(timeline, entry("tick", "t", 100, Tick()))
    take(timeline, entry("tick", "t", 100, None, revision=1))
    assert timeline.watermark == START + HOUR
    assert judge(timeline, frame(1, 1.0, 400)) is Outcome.LATE


def test_a_pending_twin_forgets_nothing() -> None:
    timeline = Timeline()
    take(timeline, frame(1, 1.0, 400))
    take(timeline, entry("dose", "d1", 5000, GIVEN))
    assert judge(timeline, frame(1, 1.0, 400)) is Outcome.DUPLICATE


def test_windows_stay_while_an_open_point_may_look_back_at_them() -> None:
    timeline = admitted()
    take(timeline, frame(1, 1.0, 400))
    take(timeline, entry("tick", "t", 92 * 24, Tick()))
    assert timeline.telemetry.stored()
    assert timeline.closed(RULES) == START + 2 * 24 * HOUR
