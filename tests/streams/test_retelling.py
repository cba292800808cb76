"""What a story derived again makes subscribers hear, from hand-made episodes."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from streams.retelling import told_by, told_by_rows
from twinstate.risk.episodes import (
    CLEARED,
    RAISED,
    RETRACTED,
    Announcement,
    Episode,
    PointRisk,
    announce,
    retell,
)
from twinstate.twin import StoredTwin, TwinMemory

HOUR = 3_600_000_000_000


def episode(name: str, crossing_h: int, *, ended_h: int | None = None, severity: str = "high") -> Episode:
    risk = PointRisk("vancomycin", "high_auc24", "1", 0.9, 0.01, 700.0, 500.0, 900.0, False, True, 2)
    return Episode(
        id=name,
        drug="vancomycin",
        threshold="high_auc24",
        crossing=crossing_h * HOUR,
        severity=severity,
        ended=None if ended_h is None else ended_h * HOUR,
        reason="" if ended_h is None else "below",
        latest=crossing_h * HOUR,
        risk=risk,
    )


def told(*known: Announcement) -> dict[str, Announcement]:
    return {a.episode.id: a for a in known}


def heard(known: Mapping[str, Announcement]) -> dict[str, tuple[str, int]]:
    return {i: (a.type, a.revision) for i, a in known.items()}


def row(of: Episode, revision: int) -> bytes:
    """The row of standing episodes, as `pipeline.standing_episodes` writes it."""
    described = {
        "episode": of.id,
        "drug": of.drug,
        "threshold": of.threshold,
        "threshold_version": "1",
        "severity": of.severity,
        "crossing": "1970-01-01T05:00:00Z",
        "evaluated": "1970-01-01T05:00:00Z",
        "probability": 0.9,
        "probability_error": 0.01,
        "forecast": {"median": 700.0, "low": 500.0, "high": 900.0, "unit": "mg*h/L"},
        "levels": 2,
        "assumes": "planned doses given when due",
        "revision": revision,
    }
    return msgspec.json.encode([described])


def test_same_story_tells_nothing_and_remembers_the_same() -> None:
    past, present = episode("past", 1, ended_h=2), episode("present", 5)
    known = told(
        Announcement(past, CLEARED, 2),
        Announcement(present, RAISED, 1),
        Announcement(episode("mistake", 3), RETRACTED, 4),
    )
    transitions, after = retell([past, present], known)
    assert (transitions, after) == ([], known)


def test_moved_crossing_is_raised_anew_before_the_old_one_is_retracted() -> None:
    transitions, after = retell([episode("new", 6)], told(Announcement(episode("old", 5), RAISED, 1)))
    assert [(t.type, t.episode.id, t.revision) for t in transitions] == [
        ("raised", "new", 1),
        ("retracted", "old", 2),
    ]
    assert (transitions[0].replaces, transitions[1].replaced_by) == ("old", "new")
    assert heard(after) == {"new": (RAISED, 1), "old": (RETRACTED, 2)}


def test_history_is_corrected_in_silence_and_the_next_record_does_not_bring_it_up() -> None:
    story = [episode("past-v2", 1, ended_h=2), episode("now-v2", 5)]
    known = told(
        Announcement(episode("past-v1", 1, ended_h=2), CLEARED, 2),
        Announcement(episode("now-v1", 5), RAISED, 1),
    )
    transitions, after = retell(story, known)
    assert [(t.type, t.episode.id) for t in transitions] == [("raised", "now-v2"), ("retracted", "now-v1")]
    assert announce(story, after) == ([], after)


def test_revisions_go_on_through_two_changes_of_library() -> None:
    one, other = [episode("v1", 5)], [episode("v2", 5)]
    _, known = retell(one, {})
    seen = []
    for story in (other, one, other):
        transitions, known = retell(story, known)
        seen += [(t.type, t.episode.id, t.revision) for t in transitions]
    assert seen == [
        ("raised", "v2", 1), ("retracted", "v1", 2),
        ("raised", "v1", 3), ("retracted", "v2", 2),
        ("raised", "v2", 3), ("retracted", "v1", 4),
    ]  # fmt: skip


def test_episode_that_is_over_by_the_new_story_is_cleared_for_who_holds_it_standing() -> None:
    known = told(Announcement(episode("e", 5), RAISED, 1))
    transitions, after = retell([episode("e", 5, ended_h=7)], known)
    assert [(t.type, t.revision) for t in transitions] == [("cleared", 2)]
    assert heard(after) == {"e": (CLEARED, 2)}


def test_announcements_are_read_though_the_rest_of_the_memory_has_another_form() -> None:
    known = Announcement(episode("e", 5), RAISED, 1)
    place = TwinMemory.__struct_fields__.index("announced")
    memory: list[object] = ["of another version"] * 9
    memory[place] = (known,)
    packed = msgspec.msgpack.encode(StoredTwin(b"canonical", msgspec.msgpack.encode(memory)))
    assert told_by(packed) == {"e": known}
    assert told_by(b"\xc1") is None
    assert told_by(msgspec.msgpack.encode(StoredTwin(b"canonical", msgspec.msgpack.encode([])))) is None


def test_lost_memory_is_made_up_from_the_standing_row_and_the_log() -> None:
    past, present = Announcement(episode("past", 1, ended_h=2), CLEARED, 2), episode("present", 5)
    derived = told(past, Announcement(present, RAISED, 1))
    same = told_by_rows(row(present, 1), derived, same_fingerprint=True)
    assert same == derived
    other = told_by_rows(row(episode("before", 5), 3), derived, same_fingerprint=False)
    assert heard(other) == {"past": (CLEARED, 2), "before": (RAISED, 3)}
    transitions, _ = retell([past.episode, present], other)
    assert [(t.type, t.episode.id, t.revision) for t in transitions] == [
        ("raised", "present", 1),
        ("retracted", "before", 4),
    ]
