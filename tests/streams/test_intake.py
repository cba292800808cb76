"""Records over HTTP without a broker: what is read, what is refused and in which words, and what is handed on."""

from __future__ import annotations

import asyncio
import gzip
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from streams.adapters.record_intake import FullError, NotAcknowledgedError, Place, RecordIntake
from streams.embedded.ports import free_ports
from streams.ndjson import Checker
from streams.serve import create_app
from streams.settings import SettingsError, load_settings
from streams.web.intake import Intake, IntakeAnswer, Limits
from streams.web.intake_routes import intake_routes
from streams.web.metrics import render_metrics
from streams.web.problems import handle_problems
from streams.web.shown import example_value
from streams.web.token import TokenError
from tests.streams.test_settings import changed
from twinstate.library import load_library

WRITING, READING = "w" * 43, "r" * 43
CONFIG = Path(__file__).parents[2] / "config"
LIBRARY = load_library(CONFIG)


class Log:
    """A sink that acknowledges everything, unless told otherwise."""

    waiting = 7

    def __init__(self) -> None:
        self.sent: list[tuple[str, bytes]] = []
        self.failure: Exception | None = None

    async def send(self, records: Sequence[tuple[str, bytes]]) -> list[Place]:
        if self.failure is not None:
            raise self.failure
        first = len(self.sent)
        self.sent += records
        return [Place("in", 2, first + n) for n in range(len(records))]

    async def close(self) -> None:
        pass


class Device:
    """Sends to an application of its own."""

    def __init__(self, *, on: bool = True, records: int = 3, size: int = 200_000) -> None:
        self.log = Log()
        self.intake = Intake(Checker(LIBRARY), self.log, Limits(records, size), WRITING) if on else None
        self.app = FastAPI()
        handle_problems(self.app)
        self.app.include_router(intake_routes(self.intake, READING))

    def post(
        self, body: bytes, kind: str = "application/json", token: str = WRITING, **headers: str
    ) -> httpx.Response:
        given = {"Content-Type": kind, "Authorization": f"Bearer {token}", **headers}

        async def run() -> httpx.Response:
            transport = httpx.ASGITransport(self.app)
            async with httpx.AsyncClient(transport=transport, base_url="http://api") as client:
                return await client.post("/v1/records", content=body, headers=given)

        return asyncio.run(run())

    def figures(self) -> str:
        assert self.intake is not None
        return render_metrics(None, "0" * 64, self.intake.metrics).decode()


def lab(number: int = 1, **changes: Any) -> bytes:
    record = {**example_value("record"), "id": f"lab-{number}", **changes}
    return json.dumps(record).encode()


def refused(answer: httpx.Response) -> tuple[int, str]:
    assert answer.headers["content-type"] == "application/problem+json"
    return answer.status_code, answer.json()["type"].removeprefix("urn:twin-updater:problem:")


def test_a_record_is_handed_on_byte_for_byte_in_every_form_a_body_may_have() -> None:
    odd = lab().replace(b", ", b" ,  ")  # JSON, though no serializer writes it so
    device = Device()
    for body, kind in [
        (b"\n " + odd + b"\n", "application/json"),
        (b" [ " + odd + b" ]", "application/json; charset=utf-8"),
        (b"\n" + odd + b"\r\n\n", "application/x-ndjson"),
    ]:
        assert device.post(body, kind).status_code == 202
    assert device.log.sent == [("p-3f9a", odd)] * 3


def test_a_batch_is_answered_with_the_place_of_each_record_in_its_order() -> None:
    device = Device()
    answer = device.post(b"\n".join([lab(1), lab(2), lab(3)]), "application/x-ndjson")
    assert answer.status_code == 202
    assert answer.json()["records"] == [
        {"id": f"lab-{n}", "topic": "in", "partition": 2, "offset": n - 1} for n in (1, 2, 3)
    ]
    assert "twin_intake_accepted_total 3.0" in device.figures()


def test_of_a_batch_with_a_bad_record_nothing_is_sent_and_each_fault_is_named() -> None:
    device = Device()
    unit = lab(2, payload={"analyte": "vancomycin", "value": 14.2, "unit": "furlong"})
    answer = device.post(b"[" + b",".join([lab(1), unit, lab(3, kind="lob")]) + b"]")
    assert refused(answer) == (422, "bad-records")
    assert device.log.sent == []
    errors = answer.json()["errors"]
    assert [(e["place"], e["reason"]) for e in errors] == [
        ("record 2", "unknown_unit"),
        ("record 3", "wrong_schema"),
    ]
    assert "furlong" in errors[0]["text"]
    assert "mg/L" in errors[0]["text"]
    figures = device.figures()
    assert 'twin_intake_bad_records_total{reason="unknown_unit"} 1.0' in figures
    assert 'twin_intake_refused_total{problem="bad-records"} 1.0' in figures
    assert "twin_intake_accepted_total 0.0" in figures


@pytest.mark.parametrize(
    ("body", "kind", "place", "reason"),
    [
        (b"", "application/json", "body", "empty"),
        (b"[]", "application/json", "body", "empty"),
        (b"\n\n", "application/x-ndjson", "body", "empty"),
        (b"[1, 2", "application/json", "body", "not_json"),
        (b"[" * 100_000, "application/json", "body", "not_json"),
        (b"{", "application/json", "record 1", "not_json"),
        (b"\xff\xfe", "application/json", "record 1", "not_json"),
        (b"7", "application/json", "record 1", "wrong_schema"),
        (b"\n\n{]", "application/x-ndjson", "line 3", "not_json"),
    ],
)
def test_a_body_that_holds_no_records_says_where_and_why(
    body: bytes, kind: str, place: str, reason: str
) -> None:
    device = Device()
    answer = device.post(body, kind)
    assert refused(answer) == (422, "bad-records")
    assert (answer.json()["errors"][0]["place"], answer.json()["errors"][0]["reason"]) == (place, reason)
    assert device.log.sent == []


def test_a_body_above_a_limit_is_413_and_names_the_limit() -> None:
    device = Device()
    padded = lab().replace(b"{", b"{" + b" " * 65_536, 1)
    for body, limit in [
        (padded, "65536"),
        (b"[" + b",".join(lab(n) for n in range(4)) + b"]", "3 are allowed"),
        (b" " * 200_001, "200000"),
    ]:
        answer = device.post(body)
        assert refused(answer) == (413, "too-large")
        assert limit in answer.json()["detail"]
    assert device.log.sent == []


def test_a_record_of_exactly_64_kib_is_taken() -> None:
    device = Device()
    body = lab()
    assert device.post(body.replace(b"{", b"{" + b" " * (65_536 - len(body)), 1)).status_code == 202


def test_a_body_without_a_declared_length_is_cut_off_at_the_limit() -> None:
    device = Device()
    read = 0

    async def endless() -> Any:
        nonlocal read
        while True:
            read += 1
            yield b" " * 1000

    async def run() -> httpx.Response:
        async with httpx.AsyncClient(
            transport=httpx.ASGITransport(device.app), base_url="http://api"
        ) as client:
            headers = {"Content-Type": "application/json", "Authorization": f"Bearer {WRITING}"}
            return await client.post("/v1/records", content=endless(), headers=headers)

    assert refused(asyncio.run(run())) == (413, "too-large")
    assert read <= 202


def test_another_media_type_or_a_compressed_body_is_415_and_says_what_is_read() -> None:
    device = Device()
    plain = device.post(lab(), "text/plain")
    assert refused(plain) == (415, "unsupported-media-type")
    assert plain.headers["accept"] == "application/json, application/x-ndjson"
    packed = device.post(gzip.compress(lab()), **{"Content-Encoding": "gzip"})
    assert refused(packed) == (415, "unsupported-media-type")
    assert packed.headers["accept-encoding"] == "identity"


def test_only_the_writing_token_writes() -> None:
    device = Device()
    assert refused(device.post(lab(), token=READING)) == (403, "forbidden")
    assert refused(device.post(lab(), token="x" * 43)) == (401, "unauthorized")
    assert device.log.sent == []
    assert refused(Device(on=False).post(lab(), token=READING)) == (403, "intake-off")


def test_a_full_queue_and_a_silent_broker_say_when_to_come_again() -> None:
    device = Device()
    device.log.failure = FullError()
    full = device.post(lab())
    assert refused(full) == (429, "too-many-waiting")
    assert int(full.headers["retry-after"]) >= 1
    device.log.failure = NotAcknowledgedError("no answer within 10 s")
    silent = device.post(lab())
    assert refused(silent) == (503, "not-acknowledged")
    assert int(silent.headers["retry-after"]) >= 1
    assert "records" not in silent.json()
    assert "twin_intake_accepted_total 0.0" in device.figures()


def test_a_batch_the_client_cannot_queue_claims_nothing_and_gives_its_places_back() -> None:
    nowhere = {"bootstrap.servers": f"127.0.0.1:{free_ports(1)[0]}", "queue.buffering.max.messages": "1"}

    async def run() -> None:
        sink = RecordIntake(nowhere, "in", most_waiting=10, within_s=1.0)
        with pytest.raises(NotAcknowledgedError, match="Queue full"):
            await sink.send([("p-a", b"1"), ("p-a", b"2"), ("p-a", b"3")])
        assert sink.waiting == 1
        async with asyncio.timeout(10):
            while sink.waiting:
                await asyncio.sleep(0.05)
        await sink.close()

    asyncio.run(run())


def test_more_records_than_may_wait_are_not_sent_at_all() -> None:
    async def run() -> None:
        nowhere = {"bootstrap.servers": f"127.0.0.1:{free_ports(1)[0]}"}
        sink = RecordIntake(nowhere, "in", most_waiting=2, within_s=1.0)
        with pytest.raises(FullError):
            await sink.send([("p-a", b"1")] * 3)
        assert sink.waiting == 0
        await sink.close()

    asyncio.run(run())


def test_the_examples_of_openapi_are_good_records_and_a_true_answer() -> None:
    checker = Checker(LIBRARY)
    for record in [example_value("record"), *example_value("batch")]:
        assert checker.check(1, json.dumps(record).encode()).refusal is None
    IntakeAnswer.model_validate(example_value("acknowledged"))
    operation = Device().app.openapi()["paths"]["/v1/records"]["post"]
    shown = operation["requestBody"]["content"]
    assert shown["application/json"]["examples"]["one"]["value"] == example_value("record")
    lines = shown["application/x-ndjson"]["examples"]["lines"]["value"].splitlines()
    assert [json.loads(line) for line in lines] == example_value("batch")
    assert {"202", "401", "403", "408", "413", "415", "422", "429", "503"} == set(operation["responses"])


def test_the_service_takes_no_records_unless_configured() -> None:
    assert load_settings().intake.token_file is None


def test_one_token_for_reading_and_writing_is_refused(tmp_path: Path) -> None:
    loaded = load_settings()
    same = loaded.model_copy(
        update={
            "web": loaded.web.model_copy(update={"token_file": tmp_path / "token"}),
            "intake": loaded.intake.model_copy(update={"token_file": tmp_path / "token"}),
        }
    )
    with pytest.raises(TokenError, match=r"set intake\.token_file to a file"):
        create_app(same)


def test_a_queue_shorter_than_a_batch_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="at least batch_max_records"):
        load_settings(changed(tmp_path, "intake", waiting_max_records=999))
