"""`twin ops` on a real Kafka, Redis and worker: what it sees, what it sends again, whom it stops."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest
import redis
import yaml
from typer.testing import CliRunner

from streams.adapters.redis_store import PartitionKeys
from streams.adapters.topics import Topics
from streams.cli import app
from streams.codec import partition_of
from streams.embedded import EmbeddedKafka, EmbeddedRedis
from streams.ports import StoredTwin
from streams.simulation.wire import DemoRecord, Sender
from tests.integration.operators import (
    OVERDOSED,
    PARTITIONS,
    VOLUNTEER,
    Filler,
    at,
    overdosed,
    theophylline,
    ward,
)
from tests.integration.ward import Ward, wait_until
from twinstate.twin import FORMAT

# Two cores are shared with Kafka, Redis and this test, and the first worker may have to compile the kernels.
SETTLES_WITHIN_S = 150.0
HOME = partition_of(OVERDOSED.encode(), PARTITIONS)

pytestmark = pytest.mark.timeout(400)


class Operator:
    """A ward with real twins, and `twin` beside it."""

    def __init__(self, ward: Ward, client: redis.Redis, scratch: Path) -> None:
        self.ward = ward
        self.client = client
        topics_file = scratch / "topics-cli.yaml"
        topics_file.write_text(yaml.safe_dump(ward.topics.model_dump()))
        self.environment = {
            "KAFKA_BOOTSTRAP_SERVERS": ward.bootstrap,
            "REDIS_URL": ward.redis_url,
            "TWIN_KAFKA__GROUP": ward.group,
            "TWIN_PATHS__TOPICS": str(topics_file),
        }

    def __call__(self, *words: str, status: int = 0) -> Any:
        """Run `twin ops ... --json`; what it printed, or said when it was refused."""
        done = CliRunner().invoke(app, ["ops", *words, "--json"], env=self.environment)
        assert done.exit_code == status, f"{done.output}\n{done.stderr}\n{done.exception!r}"
        return json.loads(done.stdout) if status != 2 else done.stderr

    def shown(self, *words: str, status: int = 0) -> str:
        """Run `twin ops ...`; what it shows to people, tables and remarks."""
        done = CliRunner().invoke(app, ["ops", *words], env=self.environment)
        assert done.exit_code == status, f"{done.output}\n{done.stderr}\n{done.exception!r}"
        return done.stdout + done.stderr

    def send(self, records: Sequence[DemoRecord]) -> None:
        producer = self.ward.producer()
        for record in records:
            producer.produce(self.ward.topics.names.records, key=record.patient.encode(), value=record.value)
        assert producer.flush(30) == 0

    def fill(self, records: Sequence[DemoRecord]) -> None:
        """Send records, let a worker apply and publish all of them, and end it."""
        self.send(records)
        worker = self.ward.worker()
        self.ward.settle(SETTLES_WITHIN_S)
        worker.kill()

    def keys(self, partition: int = HOME) -> PartitionKeys:
        return PartitionKeys(self.ward.group, partition)


@pytest.fixture
def operator(
    kafka: EmbeddedKafka,
    redis_server: EmbeddedRedis,
    redis_client: redis.Redis,
    topics: Topics,
    group: str,
    tmp_path: Path,
) -> Iterator[Operator]:
    own = Ward(
        kafka.bootstrap,
        redis_server.url,
        topics,
        group,
        tmp_path,
        settings={
            "TWIN_WORKER__PIPELINE_FACTORY": "streams.pipeline:create_pipeline",
            # The first of all may have to compile the kernels.
            "TWIN_WORKER__STALLED_AFTER_SECONDS": "300",
        },
    )
    yield Operator(own, redis_client, tmp_path)
    own.stop()


def test_a_ward_that_is_well_needs_nobody_and_a_damaged_twin_is_named(operator: Operator) -> None:
    operator.fill(ward())
    seen = operator("status")
    assert seen["needs"] == []
    assert [one["partition"] for one in seen["partitions"]] == list(range(PARTITIONS))
    for one in seen["partitions"]:
        number = one["partition"]
        assert (one["instance"], one["next_offset"], one["lag"]) == ("w1", operator.ward.end(number), 0)
        assert one["waiting"] == {"risk": 0, "dead_letters": 0}
    assert seen["partitions"][HOME]["formats"] == [FORMAT]
    assert "nothing needs a person" in operator.shown("status")

    whole = operator("verify")
    assert sum(one["twins"] for one in whole["partitions"]) == 6
    assert sum(one["records"] for one in whole["partitions"]) == len(ward())
    alone = operator("verify", VOLUNTEER)
    assert [(one["twins"], one["records"]) for one in alone["partitions"]] == [(1, 5)]
    assert "no twin of p-nobody" in operator("verify", "p-nobody", status=2)

    keys = operator.keys()
    sound: Any = operator.client.hget(keys.twins, OVERDOSED)
    twin = msgspec.msgpack.decode(sound, type=StoredTwin)
    changed = StoredTwin(twin.canonical[:-1] + b"?", twin.rest)
    operator.client.hset(keys.twins, OVERDOSED, msgspec.msgpack.encode(changed))
    wrong = operator("verify", "--partition", str(HOME), status=1)
    assert wrong["partitions"][0]["differing"] == {OVERDOSED: "the stored bytes are not the oracle's"}
    shown = operator.shown("verify", OVERDOSED, status=1)
    assert OVERDOSED in shown
    assert "stop the workers, twin rebuild" in shown
    operator.client.hdel(keys.twins, OVERDOSED)
    assert operator("verify", OVERDOSED, status=1)["partitions"][0]["differing"] == {
        OVERDOSED: "the log makes a twin, none is stored"
    }
    operator.client.hset(keys.twins, OVERDOSED, sound)
    assert operator("verify", OVERDOSED)["partitions"][0]["differing"] == {}

    # Records wait, and nobody has written for ten minutes.
    operator.send([Sender(OVERDOSED, "ward-3").tick(at(30), "later")])
    operator.client.hincrby(keys.meta, "seen_ms", -600_000)
    [[partition, text]] = [one.values() for one in operator("status", status=1)["needs"]]
    assert partition == HOME
    assert text.startswith("1 offsets wait")
    assert "twin worker" in text

    operator.client.hset(keys.meta, "fingerprint", "other")
    texts = [one["text"] for one in operator("status", status=1)["needs"]]
    assert any(f"twin rebuild --partition {HOME}" in text for text in texts)
    assert "agree under one fingerprint only" in operator("verify", OVERDOSED, status=2)


def test_unpublished_events_and_twins_ahead_of_the_log_need_a_person(operator: Operator) -> None:
    Filler(operator.ward.redis_url, operator.ward.group).apply(overdosed())
    operator.client.hincrby(operator.keys().meta, "seen_ms", -600_000)
    seen = operator("status", status=1)
    home = seen["partitions"][HOME]
    first: Any = operator.client.xrange(operator.keys().outboxes["risk"], count=1)
    assert home["oldest"] == {"risk": first[0][0].decode(), "dead_letters": None}
    assert home["waiting"]["risk"] == operator.client.xlen(operator.keys().outboxes["risk"])
    texts = [one["text"] for one in seen["needs"] if one["partition"] == HOME]
    assert any("the log ends at 0: the topic was made anew" in text for text in texts)
    assert any("messages wait and nothing was written" in text for text in texts)


@pytest.mark.row("14")
def test_refused_records_are_sent_again_as_they_were_and_only_those_that_may_succeed(
    operator: Operator,
) -> None:
    patient = Sender(VOLUNTEER, "study")
    home = partition_of(VOLUNTEER.encode(), PARTITIONS)
    late = patient.dose(at(1), "forgotten", "theophylline", 100.0, "oral")
    strayed = patient.lab(at(20), "strayed", "theophylline", 2.0, "mg/L")
    operator.send([*theophylline(VOLUNTEER), patient.tick(at(100), "tick")])
    producer = operator.ward.producer()
    topic = operator.ward.topics.names.records
    producer.produce(topic, key=VOLUNTEER, value=late.value, headers=[("sent-by", b"ward-7")])
    producer.produce(topic, key=VOLUNTEER, value=strayed.value, partition=(home + 1) % PARTITIONS)
    producer.produce(topic, key=VOLUNTEER, value=b"{")
    assert producer.flush(30) == 0
    worker = operator.ward.worker()
    operator.ward.settle(SETTLES_WITHIN_S)
    end = operator.ward.end(home)

    would = operator("redrive")
    assert would["sent"] == 0
    fates = {one["reason"]: (one["send"], one["backfill"]) for one in would["letters"]}
    assert fates == {"late": (True, True), "wrong_partition": (True, True), "not_json": (False, False)}
    shown = operator.shown("redrive")
    assert "2 of 3 refused records would be sent" in shown
    assert "nothing was sent: this was a dry run" in shown
    assert operator.ward.end(home) == end, "a dry run sent something"
    assert "give partition/offset" in operator("redrive", "--at", "17", status=2)
    assert [one["reason"] for one in operator("redrive", "--reason", "late")["letters"]] == ["late"]
    [place] = [one for one in would["letters"] if one["reason"] == "late"]
    assert operator("redrive", "--at", f"{place['partition']}/{place['offset']}")["letters"] == [place]
    assert "no dead letter was refused at 0/999" in operator("redrive", "--at", "0/999", status=2)

    assert operator("redrive", "--send")["sent"] == 2
    operator.ward.settle(SETTLES_WITHIN_S)
    again = {m.value(): m.headers() for m in operator.ward.read(topic, home)[-2:]}
    assert again == {
        late.value: [("sent-by", b"ward-7"), ("twin-backfill", b"1")],
        strayed.value: [("twin-backfill", b"1")],
    }
    counters = operator.keys(home).counters
    before = {name: int(n) for name, n in operator.client.hgetall(counters).items()}  # type: ignore[union-attr]
    assert before[b"applied"] == len(theophylline(VOLUNTEER)) + 3

    # Once more: both are known by now, and nothing changes but the count of duplicates.
    assert operator("redrive", "--send")["sent"] == 2
    operator.ward.settle(SETTLES_WITHIN_S)
    after = {name: int(n) for name, n in operator.client.hgetall(counters).items()}  # type: ignore[union-attr]
    assert after[b"duplicate"] == before.get(b"duplicate", 0) + 2
    assert after[b"applied"] == before[b"applied"]
    worker.kill()
    assert all(one["differing"] == {} for one in operator("verify")["partitions"])


def test_a_fenced_owner_takes_its_partition_back_and_a_stopped_one_ends_with_75(operator: Operator) -> None:
    assert "no worker has ever acquired" in operator("fence", str(HOME), status=2)
    operator.send(overdosed())
    worker = operator.ward.worker()
    operator.ward.settle(SETTLES_WITHIN_S)
    done = operator("fence", str(HOME))
    assert (done["instance"], done["epoch"]) == ("w1", done["epoch_before"] + 1)
    assert done["position"] == len(overdosed())
    assert "acquires the partition anew" in done["next"]

    operator.send([Sender(OVERDOSED, "ward-3").tick(at(30), "later")])
    operator.ward.settle(SETTLES_WITHIN_S)
    assert worker.running
    home = operator("status")["partitions"][HOME]
    assert (home["instance"], home["epoch"]) == ("w1", done["epoch"] + 1)

    stopped = operator("fence", str(HOME), "--stop")
    assert "75" in stopped["next"]
    assert worker.wait(30) == 75
    assert "is twin-ops-fence, no worker that could be stopped" in operator(
        "fence", str(HOME), "--stop", status=2
    )
    # The next worker, under the same id, goes on where that one stood.
    operator.send([Sender(OVERDOSED, "ward-3").tick(at(31), "latest")])
    operator.ward.worker()
    wait_until(operator.ward.settled, SETTLES_WITHIN_S, "settled", operator.ward.workers[1:])
    assert operator("verify", OVERDOSED)["partitions"][0]["differing"] == {}


def test_a_worker_refuses_twins_of_another_state_format_before_it_acquires_anything(
    operator: Operator,
) -> None:
    Filler(operator.ward.redis_url, operator.ward.group).apply(overdosed())
    keys = operator.keys()
    packed: Any = operator.client.hget(keys.twins, OVERDOSED)
    twin = msgspec.msgpack.decode(packed, type=StoredTwin)
    document = msgspec.msgpack.decode(twin.canonical)
    old = StoredTwin(msgspec.msgpack.encode([FORMAT - 1, *document[1:]]), twin.rest)
    operator.client.hset(keys.twins, OVERDOSED, msgspec.msgpack.encode(old))
    epoch = operator.client.hget(keys.meta, "epoch")
    worker = operator.ward.worker()
    assert worker.wait(60) == 78
    assert f"holds twins of state format {FORMAT - 1}, this code reads {FORMAT}" in worker.tail()
    assert f"twin rebuild --partition {HOME}" in worker.tail()
    assert operator.client.hget(keys.meta, "epoch") == epoch
    seen = operator("status", status=1)
    assert seen["partitions"][HOME]["formats"] == [FORMAT - 1]
    assert any("state format" in one["text"] for one in seen["needs"])
