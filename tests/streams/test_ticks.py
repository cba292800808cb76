"""Who gets a tick, and which."""

from __future__ import annotations

import datetime as dt

import pytest

from streams.codec import Accepted, Decoder
from streams.ports import RawRecord
from streams.queries.answers import State, TwinRow
from streams.ticks import due
from tests.streams.test_codec import LIBRARY

NOW = dt.datetime(2026, 3, 2, 8, 25, tzinfo=dt.UTC)


def row(hours_ago: float, state: State = "live", standing: int = 0) -> TwinRow:
    watermark = NOW - dt.timedelta(hours=hours_ago)
    return TwinRow(
        patient="p-1",
        state=state,
        watermark=watermark,
        drugs=("vancomycin",),
        last_input=watermark,
        levels=0,
        standing=standing,
        highest_probability=0.0,
    )


@pytest.mark.parametrize(
    ("twin", "gets_one"),
    [
        (row(1.0), True),
        (row(0.2), False),  # 08:13, after the last full hour
        (row(0.5), True),  # 07:55
        (row(23.9), True),
        (row(24.1), False),
        (row(5.0, "discharged"), False),
        (row(5.0, "stale"), False),
        (row(5.0, "stale", standing=1), True),  # time may still clear the episode
        (row(5.0, "pending"), True),
    ],
)
def test_tick_is_due_for_the_active_whose_watermark_is_before_the_last_full_hour(
    twin: TwinRow, gets_one: bool
) -> None:
    assert bool(list(due([twin], NOW, 24.0))) == gets_one


def test_two_senders_within_an_hour_send_the_same_bytes() -> None:
    later = NOW + dt.timedelta(minutes=20)
    assert list(due([row(3.0)], NOW, 24.0)) == list(due([row(3.0)], later, 24.0))


def test_a_tick_is_a_record_the_worker_takes() -> None:
    tick = next(due([row(3.0)], NOW, 24.0))
    decoded = Decoder(LIBRARY, None, 4).decode(RawRecord(0, 0, tick.patient.encode(), tick.value, ()))
    assert isinstance(decoded, Accepted)
    assert decoded.entry.event_time == int(dt.datetime(2026, 3, 2, 8, tzinfo=dt.UTC).timestamp()) * 10**9
