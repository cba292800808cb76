"""What needs a person, and which refused records may be sent again."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec
import pytest

from streams.adapters.redis_store import state_format
from streams.codec import partition_of
from streams.operations.redrive import Letter, judge_letter
from streams.operations.status import Expected, Stands, needs
from streams.operations.verify import compare_twins
from streams.ports import RawRecord, StoredTwin
from streams.releases import Releases, load_releases
from streams.simulation.wire import DemoRecord, Sender, utc
from tests.streams.releases import theophylline_later
from twinstate.library import Library
from twinstate.types import NS_PER_HOUR

RELEASES = load_releases(Path(__file__).parents[2] / "config")
PARTITIONS = 4
NOW = utc("2026-03-10T08:00:00Z")
SENDER = Sender("p-1", "ward-3")
DOSE = SENDER.dose(NOW - 100 * NS_PER_HOUR, "dose-1", "vancomycin", 1000, "iv", duration_h=1.0)
FRAME = SENDER.frame(NOW - 100 * NS_PER_HOUR, "watch:1", "qtc", "ms", [400.0])

WELL = Stands(
    partition=2,
    instance="w1",
    epoch=3,
    next_offset=40,
    first_offset=0,
    end_offset=40,
    lag=0,
    seen_s=900.0,
    waiting={"risk": 0, "dead_letters": 0},
    oldest={"risk": None, "dead_letters": None},
    fingerprint="f",
    formats=(2,),
)
EXPECTED = Expected(("f",), 2, 100)


def letter(
    record: DemoRecord,
    reason: str,
    releases: Releases = RELEASES,
    under: Library | None = None,
    **headers: bytes,
) -> Letter:
    added = {
        "twin-error-class": reason.encode(),
        "twin-error-message": b"a sentence",
        "twin-error-partition": b"3",
        "twin-error-offset": b"17",
        "twin-outbox": b"17-1",
        "twin-group": b"twin",
    }
    own = tuple((name.replace("_", "-"), content) for name, content in headers.items())
    raw = RawRecord(5, NOW, record.patient.encode(), record.value, (*own, *added.items()))
    return judge_letter(raw, [under or releases.first] * PARTITIONS, releases, NOW)


def test_an_idle_partition_with_nothing_to_do_needs_nobody() -> None:
    assert list(needs(WELL, EXPECTED)) == []


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"instance": None}, "start one, twin worker"),
        ({"next_offset": 41}, "the topic was made anew"),
        ({"first_offset": 50, "end_offset": 60, "lag": 20, "seen_s": 1.0}, "records 40 to 49 are gone"),
        ({"formats": (1, 2)}, "twins of state format 1, this code reads 2.*twin rebuild --partition 2"),
        ({"fingerprint": "g"}, "under fingerprint g.*twin rebuild --partition 2"),
        ({"waiting": {"risk": 100, "dead_letters": 0}, "seen_s": 1.0}, r"outbox risk is full \(100 of 100\)"),
        ({"end_offset": 47, "lag": 7}, "7 offsets wait and nothing was written for 900 s"),
        ({"waiting": {"risk": 1, "dead_letters": 2}}, "3 messages wait"),
    ],
)
def test_what_does_not_mend_itself_is_said_once_with_the_way_out(
    change: dict[str, object], words: str
) -> None:
    [text] = needs(WELL._replace(**change), EXPECTED)  # type: ignore[arg-type]
    assert re.search(words, text)


def test_lag_of_a_worker_that_writes_needs_nobody() -> None:
    assert list(needs(WELL._replace(end_offset=4000, lag=3960, seen_s=2.0), EXPECTED)) == []


def test_a_late_first_revision_goes_as_history_with_the_senders_own_headers_only() -> None:
    found = letter(DOSE, "late", sent_by=b"ward-7")
    assert (found.send, found.backfill) == (True, True)
    assert (found.partition, found.offset) == (3, 17)
    assert found.headers == (("sent-by", b"ward-7"),)
    assert (found.key, found.value) == (b"p-1", DOSE.value)


def test_what_would_be_refused_again_is_not_sent_and_says_so() -> None:
    ahead = SENDER.dose(NOW + NS_PER_HOUR, "dose-2", "vancomycin", 1000, "iv", duration_h=1.0)
    corrected = DemoRecord("p-1", DOSE.event_time_ns, DOSE.value.replace(b'"revision":0', b'"revision":1'))
    if corrected.value == DOSE.value:  # the sender leaves revision 0 out
        corrected = corrected._replace(value=DOSE.value.replace(b"{", b'{"revision":1,', 1))
    unknown = DemoRecord("p-1", 0, DOSE.value.replace(b'"vancomycin"', b'"vancomycine"'))
    for found, why in (
        (letter(ahead, "future"), "still lies ahead"),
        (letter(FRAME, "late"), "12 h is the limit for wearables"),
        (letter(corrected, "late"), "beyond the 90 days"),
        (letter(DOSE, "late", twin_backfill=b"1"), "beyond the 90 days"),
        (letter(unknown, "unknown_drug"), "unknown_drug"),
    ):
        assert not found.send
        assert not found.backfill
        assert why in found.why


def test_what_only_a_release_reads_is_sent_again_once_that_is_in_effect_and_names_it_before(
    tmp_path: Path,
) -> None:
    releases = load_releases(theophylline_later(tmp_path / "config"))
    dose = SENDER.dose(NOW - 100 * NS_PER_HOUR, "dose-3", "theophylline", 320, "oral")
    early = letter(dose, "unknown_drug", releases)
    assert not early.send
    assert "The release later reads it: twin ops activate it first" in early.why
    assert letter(dose, "unknown_drug", releases, releases.others["later"]).send
    unknown = DemoRecord("p-1", 0, dose.value.replace(b'"theophylline"', b'"theophyline"'))
    never = letter(unknown, "unknown_drug", releases)
    assert "unknown_drug" in never.why
    assert "activate" not in never.why


def test_a_future_record_whose_time_has_come_is_sent_and_a_wearable_never_as_history() -> None:
    assert letter(DOSE, "future").send
    strayed = letter(FRAME, "wrong_partition")
    assert (strayed.send, strayed.backfill) == (True, False)
    assert 0 <= partition_of(strayed.key, PARTITIONS) < PARTITIONS


def test_each_way_a_twin_can_differ_has_its_words() -> None:
    def packed(canonical: bytes) -> bytes:
        return msgspec.msgpack.encode(StoredTwin(canonical, b"rest"))

    stored = {"same": packed(b"a"), "other": packed(b"b"), "extra": packed(b"c"), "broken": b"\xc1"}
    expected = {"same": b"a", "other": b"a", "broken": b"a", "missing": b"a"}
    assert compare_twins(stored, expected) == {
        "broken": "the stored twin cannot be read",
        "extra": "a twin is stored, the log makes none",
        "missing": "the log makes a twin, none is stored",
        "other": "the stored bytes are not the oracle's",
    }


def test_the_state_format_is_the_first_word_of_a_canonical_twin_and_unknown_for_other_bytes() -> None:
    document = msgspec.msgpack.encode([7, "p-1", "live"])
    assert state_format(msgspec.msgpack.encode(StoredTwin(document, b""))) == 7
    for foreign in (b"\xc1", msgspec.msgpack.encode(StoredTwin(b'{"total":3}', b""))):
        assert state_format(foreign) is None
