"""Records over HTTP to a real Kafka, and on to twins in a real Redis."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import redis
import yaml
from confluent_kafka import Consumer, TopicPartition

from streams.adapters.topics import Topics, create_topics, read_topics
from streams.codec import partition_of
from streams.embedded import EmbeddedKafka, EmbeddedRedis
from streams.embedded.ports import free_ports
from streams.serve import create_app
from streams.settings import Settings, load_settings
from streams.simulation.wire import DemoRecord
from tests.integration.conftest import TOPICS_FILE
from tests.integration.operators import theophylline
from tests.integration.ward import Ward, wait_until

JSON, NDJSON = "application/json", "application/x-ndjson"


def settings_for(
    bootstrap: str, redis_url: str, topics: Topics, group: str, directory: Path, **intake: Any
) -> Settings:
    file = directory / "topics-of-the-api.yaml"
    file.write_text(yaml.safe_dump(topics.model_dump()))
    loaded = load_settings()
    own = {"token_file": directory / "intake-token", **intake}
    return loaded.model_copy(
        update={
            "redis": loaded.redis.model_copy(update={"url": redis_url}),
            "kafka": loaded.kafka.model_copy(update={"group": group, "bootstrap_servers": bootstrap}),
            "web": loaded.web.model_copy(update={"token_file": directory / "token"}),
            "intake": loaded.intake.model_copy(update=own),
            "paths": loaded.paths.model_copy(update={"topics": file}),
        }
    )


class Sender:
    """Sends to the application of `twin serve` in one event loop, and asks it."""

    def __init__(self, settings: Settings) -> None:
        assert settings.intake.token_file is not None
        self.runner = asyncio.Runner()
        self.app = create_app(settings)
        self.client = httpx.AsyncClient(transport=httpx.ASGITransport(self.app), base_url="http://api")
        self.writing = settings.intake.token_file.read_text().strip()
        self.reading = settings.web.token_file.read_text().strip()

    def close(self) -> None:
        async def end() -> None:
            await self.client.aclose()
            async with self.app.router.lifespan_context(self.app):
                pass

        self.runner.run(end())
        self.runner.close()

    async def posting(self, body: bytes, kind: str = JSON) -> httpx.Response:
        headers = {"Content-Type": kind, "Authorization": f"Bearer {self.writing}"}
        return await self.client.post("/v1/records", content=body, headers=headers, timeout=60)

    def post(self, body: bytes, kind: str = JSON) -> httpx.Response:
        return self.runner.run(self.posting(body, kind))

    def get(self, path: str, token: str | None = None) -> httpx.Response:
        headers = {"Authorization": f"Bearer {self.reading if token is None else token}"}
        return self.runner.run(self.client.get(path, headers=headers))

    def figures(self) -> dict[str, float]:
        lines = self.get("/metrics").text.splitlines()
        return {
            name: float(value)
            for name, _, value in (line.rpartition(" ") for line in lines if line[:1] not in ("", "#"))
        }


@pytest.fixture
def sender(
    kafka: EmbeddedKafka,
    redis_server: EmbeddedRedis,
    redis_client: redis.Redis,
    topics: Topics,
    group: str,
    tmp_path: Path,
) -> Iterator[Sender]:
    sender = Sender(settings_for(kafka.bootstrap, redis_server.url, topics, group, tmp_path))
    yield sender
    sender.close()


@pytest.fixture
def ward(
    kafka: EmbeddedKafka, redis_server: EmbeddedRedis, topics: Topics, group: str, tmp_path: Path
) -> Iterator[Ward]:
    ward = Ward(kafka.bootstrap, redis_server.url, topics, group, tmp_path)
    yield ward
    ward.stop()


def array(records: list[DemoRecord]) -> bytes:
    return b"[" + b",".join(record.value for record in records) + b"]"


def lines(records: list[DemoRecord]) -> bytes:
    return b"".join(record.value + b"\n" for record in records)


def ends(bootstrap: str, topics: Topics) -> int:
    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": "ends", "log_level": 0})
    try:
        places = [TopicPartition(topics.names.records, p) for p in range(topics.partitions)]
        return sum(consumer.get_watermark_offsets(place, 20)[1] for place in places)
    finally:
        consumer.close()


def test_every_record_stands_where_the_answer_says_with_its_key_and_bytes(sender: Sender, ward: Ward) -> None:
    records = [r for patient in ("p-a", "p-b", "p-c", "ward/3") for r in theophylline(patient)]
    answer = sender.post(array(records))
    assert answer.status_code == 202
    told = answer.json()["records"]
    assert len(told) == len(records) == 20
    log = {
        (p, m.offset()): m
        for p in range(ward.topics.partitions)
        for m in ward.read(ward.topics.names.records, p)
    }
    assert len(log) == 20
    for record, place in zip(records, told, strict=True):
        message = log[place["partition"], place["offset"]]
        assert (message.key(), message.value()) == (record.patient.encode(), record.value)
        assert place["topic"] == ward.topics.names.records
        assert place["partition"] == partition_of(record.patient.encode(), ward.topics.partitions)
        assert place["id"].encode() in record.value


def test_of_a_bad_batch_nothing_reaches_the_log(sender: Sender, kafka: EmbeddedKafka, topics: Topics) -> None:
    bad = theophylline("p-a")[0].value.replace(b'"kg"', b'"stone"')
    answer = sender.post(lines(theophylline("p-b")) + bad, NDJSON)
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["place"] == "line 6"
    assert ends(kafka.bootstrap, topics) == 0


def test_a_resend_in_another_form_is_a_duplicate_that_changes_no_twin(sender: Sender, ward: Ward) -> None:
    records = theophylline("p-again")
    assert sender.post(array(records)).status_code == 202
    worker = ward.worker(TWIN_WORKER__PIPELINE_FACTORY="streams.pipeline:create_pipeline")
    wait_until(lambda: ward.applied() == 5, 150, "applied", [worker])
    before = sender.get("/v1/twins/p-again")
    assert before.status_code == 200
    assert before.json()["records"] == {"dose": 1, "lab": 3, "patient": 1}

    assert sender.post(lines(records), NDJSON).status_code == 202
    for record in records:
        assert sender.post(record.value).status_code == 202
    wait_until(lambda: ward.applied() == 15, 30, "applied", [worker])
    figures = sender.figures()
    assert figures['twin_records_total{outcome="applied"}'] == 5
    assert figures['twin_records_total{outcome="duplicate"}'] == 10
    assert figures["twin_intake_accepted_total"] == 15
    after = sender.get("/v1/twins/p-again").json()
    lasting = {key: value for key, value in after.items() if key not in ("age_h", "position", "version")}
    assert lasting == {key: before.json()[key] for key in lasting}


def test_a_broker_that_is_not_there_is_503_and_nothing_is_claimed(
    topics: Topics, redis_server: EmbeddedRedis, group: str, tmp_path: Path
) -> None:
    nowhere = f"127.0.0.1:{free_ports(1)[0]}"
    settings = settings_for(
        nowhere, redis_server.url, topics, group, tmp_path, acknowledge_within_seconds=1.0
    )
    sender = Sender(settings)
    try:
        answer = sender.post(theophylline("p-a")[0].value)
        assert answer.status_code == 503
        assert answer.json()["type"] == "urn:twin-updater:problem:not-acknowledged"
        assert int(answer.headers["retry-after"]) >= 1
        figures = sender.figures()
        assert figures["twin_intake_accepted_total"] == 0
        assert figures['twin_intake_refused_total{problem="not-acknowledged"}'] == 1
        wait_until(
            lambda: sender.figures()["twin_intake_waiting_records"] == 0, 10, "given up by the producer"
        )
    finally:
        sender.close()


@pytest.mark.faults
def test_while_the_broker_hangs_the_next_is_429_then_503_and_a_resend_is_taken(
    private_kafka: EmbeddedKafka, redis_server: EmbeddedRedis, group: str, tmp_path: Path
) -> None:
    topics = read_topics(TOPICS_FILE).renamed(group)
    create_topics({"bootstrap.servers": private_kafka.bootstrap}, topics)
    limits = {"waiting_max_records": 5, "batch_max_records": 5, "acknowledge_within_seconds": 4.0}
    sender = Sender(
        settings_for(private_kafka.bootstrap, redis_server.url, topics, group, tmp_path, **limits)
    )
    batch = array(theophylline("p-a"))
    try:
        assert sender.post(batch).status_code == 202
        private_kafka.pause()

        async def crowd() -> tuple[httpx.Response, httpx.Response]:
            first = asyncio.create_task(sender.posting(batch))
            await asyncio.sleep(0.5)
            second = await sender.posting(theophylline("p-b")[0].value)
            assert not first.done()
            return await first, second

        hung, turned_away = sender.runner.run(crowd())
        assert hung.status_code == 503
        assert turned_away.status_code == 429
        assert int(turned_away.headers["retry-after"]) >= 1
        private_kafka.resume()
        until = time.monotonic() + 60
        while (answer := sender.post(batch)).status_code != 202:
            assert answer.status_code in (429, 503)
            assert time.monotonic() < until, "the intake does not recover"
            time.sleep(0.5)
        assert len(answer.json()["records"]) == 5
        assert ends(private_kafka.bootstrap, topics) >= 10
    finally:
        private_kafka.resume()
        sender.close()


def test_the_writing_token_reads_nothing(sender: Sender) -> None:
    for path in ("/v1/twins", "/v1/twins/p-a", "/v1/risks"):
        assert sender.get(path, sender.writing).status_code == 403


def test_logs_and_metrics_name_no_patient_and_no_record(
    sender: Sender, capsys: pytest.CaptureFixture[str]
) -> None:
    good, bad = theophylline("p-secret")[:2]
    assert sender.post(good.value).status_code == 202
    assert sender.post(bad.value.replace(b'"mg"', b'"grain"')).status_code == 422
    said = "".join(capsys.readouterr())
    assert said.count("/v1/records") == 2
    for text in (said, sender.get("/metrics").text):
        assert not re.search("p-secret|enrol|grain", text)
