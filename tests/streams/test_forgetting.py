"""A patient is forgotten: what the worker does is what the oracle does, and nothing of before comes back."""

from __future__ import annotations

import json
import random

import msgspec
import pytest

from streams.codec import MQTT_TOPIC_HEADER, Decoder, Refusal
from streams.ndjson import Checker
from streams.ports import RawRecord
from tests.streams.logs import ADMISSION, Sent, dose, level, logged, regimen, send, ward
from tests.streams.test_oracle import LIBRARY, check, foretold, kinds_of, piped
from twinstate.twin import TwinDocument


def document(canonical: bytes) -> TwinDocument:
    return msgspec.msgpack.decode(canonical, type=TwinDocument)


def overdosed() -> list[Sent]:
    """Vancomycin in a failing kidney until the alarm stands."""
    return [
        send("p-1", "patient", "adm", 0.0, ADMISSION),
        send("p-1", "regimen", "r", 0.5, regimen(1.0, 2500.0, 8)),
        send("p-1", "dose", "d0", 1.0, dose(2500.0)),
        send("p-1", "lab", "l", 12.5, level(38.0)),
        send("p-1", "dose", "d1", 13.0, dose(2500.0)),
    ]


FORGET = send("p-1", "forget", "f", 20.0)


@pytest.mark.parametrize("seed", range(4))
def test_patients_forgotten_at_any_place_of_a_log_give_the_oracles_bytes(seed: int) -> None:
    dice = random.Random(seed)
    sent = ward(seed)
    for patient in ("p-0", "q-1"):
        place = dice.randrange(len(sent))
        sent.insert(place, send(patient, "forget", f"f-{patient}", dice.uniform(0.0, 90.0)))
    log = logged(sent)
    account = foretold(log)
    run = piped(log, seed)
    check(run, account)
    assert account.counts["forgotten"] > 0
    assert piped(log, seed, forgetful=True) == run


def test_a_forgotten_patient_has_no_record_no_estimate_no_list_row_and_no_episode_that_stands() -> None:
    log = logged([*overdosed(), FORGET])
    account = foretold(log)
    check(piped(log, 1), account)
    assert kinds_of(account) == ["raised", "updated", "cleared"]
    last = json.loads(account.risk[0][-1].value or b"")
    assert (last["reason"], last["revision"]) == ("forgotten", 3)
    twin = document(account.twins["p-1"])
    assert twin.state == "forgotten"
    assert (twin.entries, twin.estimates, twin.standing, twin.windows) == ((), (), (), {})
    for word in (b"vancomycin", b"adm", b"ward"):
        assert word not in account.twins["p-1"]


def test_what_tells_of_the_time_before_is_dropped_and_the_next_record_is_a_newcomers() -> None:
    returned = [
        send("p-1", "dose", "d0", 1.0, dose(2500.0)),  # a queue empties itself
        send("p-1", "lab", "late", 19.0, level(30.0)),
        send("p-1", "tick", "t", 21.0),  # nobody is brought back by time alone
        send("p-1", "patient", "adm", 30.0, ADMISSION),
        send("p-1", "dose", "d0", 31.0, dose(1000.0)),
    ]
    log = logged([*overdosed(), FORGET, FORGET, *returned])
    account = foretold(log)
    check(piped(log, 2), account)
    assert (account.counts["forgotten"], account.counts["duplicate"]) == (3, 1)
    assert "dead_letters.forgotten" not in account.counts  # that would be one more copy of it
    twin = document(account.twins["p-1"])
    # But for the flag that says so, the twin is that of somebody never seen before.
    newcomer = document(foretold(logged(returned[3:])).twins["p-1"])
    assert "history_forgotten" in twin.quality
    assert msgspec.structs.replace(twin, quality=()) == msgspec.structs.replace(newcomer, quality=())


def test_an_alarm_after_forgetting_never_carries_the_id_of_one_before() -> None:
    again = [one._replace(value=later(one, 24.0)) for one in overdosed()]
    log = logged([*overdosed(), FORGET, *again])
    account = foretold(log)
    check(piped(log, 3), account)
    assert kinds_of(account) == ["raised", "updated", "cleared", "raised", "updated"]
    ids = account.event_ids[0]
    assert len(set(ids)) == len(ids)


def later(one: Sent, by_h: float) -> bytes:
    body = json.loads(one.value)
    body["event_time"] = json.loads(send("p-1", "tick", "t", one.at_h + by_h).value)["event_time"]
    return json.dumps(body).encode()


def test_forgetting_cannot_be_cancelled_and_is_no_act_of_a_sender() -> None:
    cancelled = send("p-1", "forget", "f", 20.0, revision=1, cancelled=True)
    log = logged([*overdosed(), FORGET, cancelled])
    assert foretold(log).counts["dead_letters.wrong_schema"] == 1
    line = Checker(LIBRARY).check(1, FORGET.value)
    assert line.refusal is not None
    assert "twin forget" in line.refusal.text


def test_a_device_erases_nobody_worker_and_oracle_refuse_what_came_over_mqtt() -> None:
    *before, erasing = logged([*overdosed(), FORGET])
    erasing = erasing._replace(headers=((MQTT_TOPIC_HEADER, b"twin/records/ward-3/watch"),))
    log = [*before, erasing]
    account = foretold(log)
    check(piped(log, 5), account)
    assert account.counts["dead_letters.wrong_schema"] == 1
    assert document(account.twins["p-1"]).state != "forgotten"
    refused = Decoder(LIBRARY, None, 1).decode(erasing)
    assert isinstance(refused, Refusal)
    assert "erasing is an operator's act, twin forget PATIENT" in refused.text


def test_a_time_ahead_of_the_brokers_clock_erases_nothing() -> None:
    ahead = RawRecord(
        99, logged(overdosed())[0].append_time, b"p-1", send("p-1", "forget", "f", 501.0).value, ()
    )
    log = [*logged(overdosed()), ahead]
    account = foretold(log)
    check(piped(log, 4), account)
    assert account.counts["dead_letters.future"] == 1
    assert document(account.twins["p-1"]).state != "forgotten"
