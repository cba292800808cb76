"""A device's clock against append time: what of it is the clock's, and what is a slow or broken network's."""

from __future__ import annotations

from twinstate.clocks import Clocks, doubted
from twinstate.types import NS_PER_HOUR, NS_PER_MINUTE

SECOND = 1_000_000_000
ZERO = 494_000 * NS_PER_HOUR


def heard(*frames: tuple[float, float]) -> Clocks:
    """Frames of one watch: appended so many hours after the start, so many seconds after their last sample."""
    clocks = Clocks()
    for hours, lag_s in frames:
        append = ZERO + round(hours * NS_PER_HOUR)
        clocks.hear("watch", append, append - round(lag_s * SECOND))
    return clocks


def doubt(*frames: tuple[float, float]) -> str:
    (clock,) = heard(*frames).stored()
    return clock.doubt


def test_one_frame_from_ahead_of_the_broker_is_enough_since_no_network_is_that_fast() -> None:
    assert doubt((1.0, -31.0)) == "ahead"
    assert doubt((1.0, -29.0)) == ""


def test_frames_that_are_always_late_are_doubted_once_there_are_enough_of_them() -> None:
    late = [(0.1 * n, 1000.0 + n) for n in range(6)]
    assert doubt(*late[:5]) == ""
    assert doubt(*late) == "behind"
    assert heard(*late).stored()[0].lag == 1000 * SECOND


def test_an_upload_hours_late_is_not_the_clocks_doing_when_its_newest_frame_comes_at_once() -> None:
    buffered = [(5.0, 5 * 3600.0 - 600.0 * n) for n in range(30)]
    assert doubt(*buffered, (5.01, 4.0)) == ""
    assert doubt(*buffered[:20]) == "behind"  # five hours of frames, none of them fresh


def test_history_sent_again_says_nothing_of_a_clock() -> None:
    assert heard(*[(0.1 * n, 13 * 3600.0) for n in range(20)]).stored() == ()


def test_a_clock_set_right_is_believed_after_two_stretches_of_six_hours() -> None:
    wrong = [(0.5 * n, -60.0) for n in range(12)]
    right = [(6.0 + 0.5 * n, 2.0) for n in range(26)]
    assert doubt(*wrong, *[frame for frame in right if frame[0] < 11.9]) == "ahead"
    assert doubt(*wrong, *right) == ""


def test_a_device_not_heard_of_for_a_fortnight_is_forgotten() -> None:
    clocks = heard((0.0, 2.0))
    append = ZERO + 15 * 24 * NS_PER_HOUR
    clocks.hear("ring", append, append)
    assert list(clocks.devices) == ["ring"]


def test_what_is_kept_comes_back_as_it_was_and_only_doubted_clocks_are_told() -> None:
    clocks = heard(*[(0.1 * n, 1000.0) for n in range(8)])
    clocks.hear("ring", ZERO, ZERO - NS_PER_MINUTE)
    again = Clocks.of(clocks.stored())
    assert again == clocks
    assert [clock.device for clock in doubted(again.stored())] == ["watch"]
