"""Patients forgotten on a real Kafka and Redis: once, under kill and replay, and gone for whoever asks."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import redis

from streams.adapters.redis_store import PartitionKeys
from streams.codec import partition_of
from streams.embedded import EmbeddedKafka, EmbeddedRedis
from streams.serve import create_app
from streams.settings import load_settings
from tests.integration.acceptance.invariants import require_invariants
from tests.integration.acceptance.records import body_of, disturbed
from tests.integration.acceptance.test_activation import twin
from tests.integration.acceptance.ward import PATIENCE_S, SmallWard, open_ward
from tests.integration.ward import wait_until

FORGOTTEN = "vanc-05"
HALF = len(disturbed().arrival) // 2

pytestmark = [pytest.mark.row("forgetting"), pytest.mark.timeout(900)]


@pytest.fixture
def ward(kafka: EmbeddedKafka, private_redis: EmbeddedRedis, tmp_path: Path) -> Iterator[SmallWard]:
    own = open_ward(kafka.bootstrap, private_redis.url, tmp_path)
    yield own
    own.stop()


def test_forgotten_patient_is_erased_once_whatever_is_killed_and_every_replay_erases_him_again(
    ward: SmallWard, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arrival = disturbed().arrival
    worker = ward.start()
    ward.tell(arrival[:HALF])
    wait_until(ward.at_end, PATIENCE_S, "applied", ward.workers)
    before = twin(ward, "forget", FORGOTTEN)
    assert before["records"]["dose"] > 0
    assert (before["erased"], before["id"]) == (False, "")
    assert twin(ward, "state", FORGOTTEN)["patient"] == FORGOTTEN  # a dry run
    done = twin(ward, "forget", FORGOTTEN, "--send")
    assert done["erased"]
    assert done["trace_batches"] > 0
    worker.kill()
    held = held_of(ward, FORGOTTEN)
    ids = {body_of(one)["id"] for one in arrival[:HALF] if one.patient == FORGOTTEN}
    assert not [name for name in ids if name.encode() in held]
    assert_gone(ward, tmp_path, monkeypatch)
    # What is still under way tells of the time before, and is dropped.
    for place in ("before_apply:1", "after_apply_before_reply:1"):
        ward.tell([one for one in arrival[:HALF] if one.patient == FORGOTTEN][:20])
        dying = ward.start(f"dying-{place[0]}", TWIN_FAIL_POINT=place)
        assert dying.wait(PATIENCE_S) == -9
    worker.start()
    ward.tell(arrival[HALF:])
    wait_until(ward.at_end, PATIENCE_S, "applied", ward.workers)
    stands = ward.outcome()
    with redis.Redis.from_url(ward.redis_url) as client:
        client.flushall()
    after = require_invariants(ward)
    assert (after.twins, after.event_ids) == (stands.twins, stands.event_ids)
    assert after.counts["forgotten"] >= 20
    assert [one["differing"] for one in twin(ward, "ops", "verify")["partitions"]] == [{}] * 4
    assert [one["changed"] for one in twin(ward, "rebuild", "--dry-run")["partitions"]] == [[]] * 4
    assert_gone(ward, tmp_path, monkeypatch)


def test_forgetting_somebody_unknown_is_refused_and_without_a_worker_says_that_it_waits(
    ward: SmallWard, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = ward.start()
    ward.tell(disturbed().arrival[:60])
    wait_until(ward.at_end, PATIENCE_S, "applied", ward.workers)
    assert "there is no twin of nobody" in twin(ward, "forget", "nobody", "--send", status=2)
    worker.kill()
    monkeypatch.setattr("streams.operations.forget.APPLIED_WITHIN_S", 1.0)
    patient = disturbed().arrival[0].patient
    assert not twin(ward, "forget", patient, "--send", status=1)["erased"]
    worker.start()
    wait_until(ward.at_end, PATIENCE_S, "applied", ward.workers)
    assert twin(ward, "forget", patient, "--send")["erased"]


def held_of(ward: SmallWard, patient: str) -> bytes:
    """Everything Redis holds of a patient's partition, as bytes, but for the outboxes already published."""
    keys = PartitionKeys(ward.group, partition_of(patient.encode(), ward.topics.partitions))
    with redis.Redis.from_url(ward.redis_url) as client:
        rows = [client.hget(key, patient) or b"" for key in (keys.twins, keys.standing, keys.index)]
        trace = [value for _, fields in client.xrange(keys.trace) for value in fields.values()]
        named = [lines for lines in trace if patient.encode() in lines]
    return b"\n".join([*rows, *named])


def assert_gone(ward: SmallWard, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ask the API as a client would: 410, as a problem of RFC 9457, and no row in the lists."""
    for name, value in {
        "REDIS_URL": ward.redis_url,
        "TWIN_KAFKA__GROUP": ward.group,
        "TWIN_WEB__TOKEN_FILE": str(tmp_path / "api-token"),
    }.items():
        monkeypatch.setenv(name, value)

    async def ask() -> None:
        app = create_app(load_settings())
        token = (tmp_path / "api-token").read_text().strip()
        async with httpx.AsyncClient(
            transport=httpx.ASGITransport(app),
            base_url="http://api",
            headers={"Authorization": f"Bearer {token}"},
        ) as client:
            answer = await client.get(f"/v1/twins/{FORGOTTEN}")
            assert answer.status_code == 410
            assert answer.headers["content-type"] == "application/problem+json"
            assert answer.json()["type"] == "urn:twin-updater:problem:forgotten"
            assert (await client.get(f"/v1/twins/{FORGOTTEN}/forecast")).status_code == 410
            twins = (await client.get("/v1/twins", params={"limit": 500})).json()["twins"]
            assert twins
            assert FORGOTTEN not in [row["patient"] for row in twins]
            risks = (await client.get("/v1/risks")).json()["partitions"]
            assert FORGOTTEN not in [episode["patient"] for part in risks for episode in part["episodes"]]

    asyncio.run(ask())
