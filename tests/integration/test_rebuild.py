"""`twin rebuild` on a real Kafka and Redis: what it restores, what it tells, what it refuses, and that it may die."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import pytest
import redis
import yaml
from confluent_kafka import TopicPartition
from confluent_kafka.admin import AdminClient
from typer.testing import CliRunner

from streams.adapters.redis_store import PartitionKeys, RedisStore, connect
from streams.adapters.topics import Topics
from streams.cli import app
from streams.codec import partition_of
from streams.embedded import EmbeddedKafka, EmbeddedRedis
from streams.fingerprint import fingerprint_of
from streams.ports import Claim, StoredTwin
from streams.rebuild import RebuildError, rebuild
from streams.settings import load_settings
from streams.simulation.wire import DemoRecord, Sender
from tests.integration.operators import (
    CONFIG,
    DISCHARGED,
    OVERDOSED,
    PARTITIONS,
    SLASHED,
    VOLUNTEER,
    at,
    monitored,
    overdosed,
    ward,
)
from tests.integration.ward import ROOT, Ward
from twinstate.library import load_library

T = TypeVar("T")
# Two cores are shared with Kafka, Redis and this test, and the first worker may have to compile the kernels.
SETTLES_WITHIN_S = 150.0
OWNERSHIP = {b"epoch", b"owner", b"instance", b"generation", b"seen_ms"}
FINGERPRINT = fingerprint_of(load_library(CONFIG))
HOME = partition_of(OVERDOSED.encode(), PARTITIONS)

pytestmark = pytest.mark.timeout(400)


class Rebuilder:
    """A ward with real twins, and `twin rebuild` beside it."""

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

    def __call__(self, *words: str, status: int = 0, **environment: str) -> Any:
        """Run `twin rebuild ... --json` in this process; what it printed, or said when it was refused."""
        done = CliRunner().invoke(app, ["rebuild", *words, "--json"], env={**self.environment, **environment})
        assert done.exit_code == status, f"{done.output}\n{done.stderr}\n{done.exception!r}"
        return json.loads(done.stdout) if status == 0 else done.stderr

    def killed(self, place: str, **environment: str) -> None:
        """Run it in a process that kills itself at a fail point."""
        own = {**self.environment, **environment, "TWIN_FAIL_POINT": place, "PYTHONPATH": str(ROOT)}
        done = subprocess.run(
            [sys.executable, "-m", "streams", "rebuild", "--json"],
            env={**os.environ, **own},
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=200,
            check=False,
        )
        assert done.returncode == -9, done.stderr

    def send(self, records: Sequence[DemoRecord], **settings: str) -> None:
        producer = self.ward.producer(**settings)
        if "transactional.id" in settings:
            producer.init_transactions(20)
            producer.begin_transaction()
        for record in records:
            producer.produce(self.ward.topics.names.records, key=record.patient.encode(), value=record.value)
        producer.flush(30)
        if "transactional.id" in settings:
            producer.abort_transaction(20)

    def fill(self, records: Sequence[DemoRecord] = (), **environment: str) -> None:
        """Send records, let a worker apply and publish all of them, and end it."""
        self.send(records)
        worker = self.ward.worker(**environment)
        self.ward.settle(SETTLES_WITHIN_S)
        worker.kill()

    def stand_at(self, position: int, fingerprint: str) -> None:
        """Let the home partition stand where a worker would have left it, without a twin."""
        claim = Claim(1, "w1's nonce", "w1", fingerprint)
        self.store(lambda store: store.acquire(HOME, claim, position))

    def twins(self) -> dict[bytes, bytes]:
        return {
            patient: packed
            for p in range(PARTITIONS)
            for patient, packed in self.client.hgetall(self.keys(p).twins).items()  # type: ignore[union-attr]
        }

    def rows(self) -> dict[str, Any]:
        """Everything the group keeps but who owns it: content by key."""
        found: dict[str, Any] = {}
        for p in range(PARTITIONS):
            keys = self.keys(p)
            meta = self.client.hgetall(keys.meta)
            found[keys.meta] = {k: v for k, v in meta.items() if k not in OWNERSHIP}  # type: ignore[union-attr]
            others = (
                keys.twins,
                keys.versions,
                keys.standing,
                keys.index,
                keys.audit,
                keys.trace,
                keys.counters,
            )
            for key in (*others, *keys.outboxes.values()):
                found[key] = self.client.dump(key)
        return found

    def keys(self, partition: int) -> PartitionKeys:
        return PartitionKeys(self.ward.group, partition)

    def events(self, partition: int = HOME) -> list[dict[str, Any]]:
        """What a read_committed subscriber reads of a partition from its beginning."""
        messages = self.ward.read(self.ward.topics.names.risk, partition)
        return [json.loads(m.value() or b"") for m in messages]

    def store(self, question: Callable[[RedisStore], Awaitable[T]]) -> T:
        async def run() -> T:
            store = RedisStore(connect(self.ward.redis_url), self.ward.group)
            try:
                return await question(store)
            finally:
                await store.close()

        return asyncio.run(run())


@pytest.fixture
def rebuilder(
    kafka: EmbeddedKafka,
    redis_server: EmbeddedRedis,
    redis_client: redis.Redis,
    topics: Topics,
    group: str,
    tmp_path: Path,
) -> Iterator[Rebuilder]:
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
    yield Rebuilder(own, redis_client, tmp_path)
    own.stop()


@pytest.fixture
def higher_limit(tmp_path: Path) -> str:
    """A library whose vancomycin limit nobody reaches, as version 2 of the threshold."""
    directory = tmp_path / "higher"
    shutil.copytree(CONFIG, directory)
    file = directory / "drugs" / "vancomycin-goti-2018.yaml"
    text = file.read_text()
    changed = text.replace("toxicity_alarm: 600", "toxicity_alarm: 6000").replace(
        'version: "1"', 'version: "2"'
    )
    assert changed != text
    file.write_text(changed)
    return str(directory)


def changed_patients(done: Any) -> list[str]:
    return [patient for one in done["partitions"] for patient in one["changed"]]


def events_told(done: Any) -> list[tuple[str, str, int]]:
    return [(e["patient"], e["type"], e["revision"]) for one in done["partitions"] for e in one["events"]]


def test_undisturbed_partitions_keep_every_byte_and_tell_nothing(rebuilder: Rebuilder) -> None:
    rebuilder.send(ward())
    rebuilder.send(overdosed()[:3], **{"transactional.id": f"{rebuilder.ward.group}.aborted"})
    rebuilder.fill(monitored())
    assert [e["type"] for e in rebuilder.events()] == ["raised", "updated"]
    before = rebuilder.rows()
    assert len(rebuilder.twins()) == 7
    for words in ((), ("--partition", str(HOME)), (OVERDOSED,), (SLASHED,), ("--dry-run",)):
        done = rebuilder(*words)
        assert (changed_patients(done), events_told(done)) == ([], []), words
        assert not any(one["written"] for one in done["partitions"])
    told = CliRunner().invoke(app, ["rebuild"], env=rebuilder.environment)
    assert "every twin is as the log makes it: nothing was changed" in told.stderr
    assert "Derived again from the log" in told.stdout
    assert rebuilder.rows() == before
    assert [one["partition"] for one in rebuilder(OVERDOSED)["partitions"]] == [HOME]


def test_damaged_twins_are_restored_to_their_bytes(rebuilder: Rebuilder) -> None:
    rebuilder.fill([*ward(), *monitored()])
    twins, standing = rebuilder.twins(), rebuilder.client.hgetall(rebuilder.keys(HOME).standing)
    other = next(p for p in range(PARTITIONS) if p != HOME)

    def home(patient: str) -> str:
        return rebuilder.keys(partition_of(patient.encode(), PARTITIONS)).twins

    sound = msgspec.msgpack.decode(twins[VOLUNTEER.encode()], type=StoredTwin)
    off = StoredTwin(sound.canonical[:-1] + b"?", sound.rest)
    rebuilder.client.hset(home(OVERDOSED), OVERDOSED, b"\xc1 no twin")
    rebuilder.client.hset(home(VOLUNTEER), VOLUNTEER, msgspec.msgpack.encode(off))
    rebuilder.client.hdel(home(DISCHARGED), DISCHARGED)
    rebuilder.client.hset(rebuilder.keys(other).twins, "p-nobody", b"invented")
    damaged = {OVERDOSED, VOLUNTEER, DISCHARGED, "p-nobody"}

    would = rebuilder("--dry-run")
    assert set(changed_patients(would)) == damaged
    assert rebuilder.twins() != twins

    alone = rebuilder(OVERDOSED)
    assert (changed_patients(alone), events_told(alone)) == ([OVERDOSED], [])
    done = rebuilder()
    assert set(changed_patients(done)) == damaged - {OVERDOSED}
    assert [p for one in done["partitions"] for p in one["gone"]] == ["p-nobody"]
    assert rebuilder.twins() == twins
    assert rebuilder.client.hgetall(rebuilder.keys(HOME).standing) == standing
    assert events_told(done) == []
    assert changed_patients(rebuilder()) == []


def test_worker_of_another_fingerprint_starts_after_the_rebuild_and_goes_on(rebuilder: Rebuilder) -> None:
    rebuilder.fill(overdosed())
    twins = rebuilder.twins()
    for partition in range(PARTITIONS):
        rebuilder.client.hset(rebuilder.keys(partition).meta, "fingerprint", "other")
    worker = rebuilder.ward.worker()
    assert worker.wait(60) == 78
    assert "twin rebuild --partition" in worker.tail()

    refusal = rebuilder(OVERDOSED, status=2)
    assert f"derive the whole partition, twin rebuild --partition {HOME}" in refusal
    done = rebuilder()
    assert {one["fingerprint_before"] for one in done["partitions"]} == {"other"}
    assert all(one["written"] for one in done["partitions"])
    assert (changed_patients(done), rebuilder.twins()) == ([], twins)

    rebuilder.send([Sender(OVERDOSED, "ward-3").tick(at(30), "later")])
    worker = rebuilder.ward.worker()
    rebuilder.ward.settle(SETTLES_WITHIN_S)
    later = rebuilder.twins()
    assert later != twins

    # A worker with nothing to do loses its partition in silence, and finds out with the next batch.
    rebuilder.client.hset(rebuilder.keys(HOME).twins, OVERDOSED, b"damaged")
    assert changed_patients(rebuilder(OVERDOSED)) == [OVERDOSED]
    assert rebuilder.twins() == later
    rebuilder.send([Sender(OVERDOSED, "ward-3").tick(at(31), "latest")])
    rebuilder.ward.settle(SETTLES_WITHIN_S)
    assert worker.running
    assert changed_patients(rebuilder("--dry-run")) == []


@pytest.mark.faults
def test_episode_that_a_new_library_undoes_is_retracted_once_though_the_rebuild_is_killed(
    rebuilder: Rebuilder, higher_limit: str
) -> None:
    library = {"TWIN_PATHS__LIBRARY": higher_limit}
    rebuilder.fill(overdosed())
    raised, updated = rebuilder.events()
    before = rebuilder.rows()

    assert events_told(rebuilder("--dry-run", **library)) == [(OVERDOSED, "retracted", 3)]
    rebuilder.killed("before_rewrite", **library)
    assert rebuilder.rows() == before
    # The first partition that is written; whichever it is, the others follow when it is run again.
    rebuilder.killed(f"after_rewrite_before_reply:{HOME + 1}", **library)
    assert rebuilder.ward.waiting() == 1
    done = rebuilder(**library)
    assert (events_told(done), rebuilder.ward.waiting()) == ([], 1)

    rebuilder.fill([Sender(OVERDOSED, "ward-3").tick(at(25), "later")], **library)
    *told, last = rebuilder.events()
    assert told == [raised, updated]
    assert (last["type"], last["episode"], last["revision"]) == ("retracted", raised["episode"], 3)
    assert (last["limit"], last["threshold_version"]) == (600, "1"), "described as it was told"
    assert rebuilder.client.hgetall(rebuilder.keys(HOME).standing) == {}
    assert changed_patients(rebuilder(**library)) == []

    # Back to the first library: the same episode stands again, and its revisions go on.
    assert events_told(rebuilder()) == [(OVERDOSED, "raised", 4)]
    rebuilder.fill()
    assert [e["revision"] for e in rebuilder.events()] == [1, 2, 3, 4]
    # Twice more without a record in between: all three rebuilds tell at the same offset, before and after publishing.
    assert events_told(rebuilder(**library)) == [(OVERDOSED, "retracted", 5)]
    assert events_told(rebuilder()) == [(OVERDOSED, "raised", 6)]
    rebuilder.fill()
    assert [e["revision"] for e in rebuilder.events()] == [1, 2, 3, 4, 5, 6]
    assert {e["episode"] for e in rebuilder.events()} == {raised["episode"]}
    assert changed_patients(rebuilder()) == []


def test_log_that_no_longer_reaches_back_is_refused_and_nothing_changes(rebuilder: Rebuilder) -> None:
    rebuilder.send(overdosed())
    rebuilder.stand_at(0, FINGERPRINT)
    names = rebuilder.ward.topics.names
    admin = AdminClient({"bootstrap.servers": rebuilder.ward.bootstrap, "log_level": 0})
    for answer in admin.delete_records([TopicPartition(names.records, HOME, 2)]).values():
        answer.result(20)
    before = rebuilder.client.dump(rebuilder.keys(HOME).meta)
    for words in ((), ("--partition", str(HOME)), (OVERDOSED,)):
        refusal = rebuilder(*words, status=2)
        assert f"partition {HOME}: the log begins at offset 2" in refusal
        assert "records 0 to 1" in refusal
    assert rebuilder.client.dump(rebuilder.keys(HOME).meta) == before


def test_log_that_ends_before_the_twins_is_refused(rebuilder: Rebuilder) -> None:
    rebuilder.stand_at(7, FINGERPRINT)
    assert "stand at offset 7, but the log ends at 0" in rebuilder(status=2)


def test_worker_that_takes_its_partition_back_stops_the_rebuild(
    rebuilder: Rebuilder, monkeypatch: pytest.MonkeyPatch
) -> None:
    rebuilder.send(overdosed())
    rebuilder.stand_at(len(overdosed()), FINGERPRINT)
    for name, value in rebuilder.environment.items():
        monkeypatch.setenv(name, value)

    def take_back(partition: int, done: int, total: int) -> None:
        rebuilder.stand_at(0, FINGERPRINT)

    with pytest.raises(RebuildError, match=r"w1 acquired it while .*nothing was changed.*Stop the workers"):
        rebuild(load_settings(), partition=HOME, watch=take_back)
    assert rebuilder.twins() == {}
    assert changed_patients(rebuilder()) == [OVERDOSED]
    assert list(rebuilder.twins()) == [OVERDOSED.encode()]


def test_redis_that_was_set_back_must_catch_up_before_events_are_told(rebuilder: Rebuilder) -> None:
    rebuilder.send(overdosed())
    position = len(overdosed())
    rebuilder.stand_at(position, "other")
    producer = rebuilder.ward.producer()
    for number in range(3):
        headers = {"twin-outbox": f"{position - 2 + number}-1", "twin-group": rebuilder.ward.group}
        producer.produce(rebuilder.ward.topics.names.risk, value=b"{}", partition=HOME, headers=headers)
    producer.flush(20)
    assert events_told(rebuilder("--dry-run")) == [(OVERDOSED, "raised", 1)]
    refusal = rebuilder(status=2)
    assert f"risk up to offset {position} is published: Redis was set back" in refusal
    assert rebuilder.twins() == {}


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("p-1", "--partition", "0"), "give a patient or --partition, not both"),
        (("--partition", "9"), "there is no partition 9; they are 0 to 3"),
        (("p-unknown",), "there is no twin of p-unknown"),
    ],
)
def test_questions_without_an_answer_are_refused_in_one_sentence(
    rebuilder: Rebuilder, words: tuple[str, ...], sentence: str
) -> None:
    assert sentence in rebuilder(*words, status=2)
