"""Row 26: listeners of `GET /v1/risks/stream` on a real Kafka, Redis and worker; one of them takes a byte a second."""

from __future__ import annotations

import json
import socket
import statistics
import sys
import threading
import time
from collections.abc import Callable, Iterator
from os import environ
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import psutil
import pytest
import yaml

from streams.embedded import EmbeddedKafka, EmbeddedRedis
from streams.embedded.ports import free_ports
from streams.embedded.processes import Process
from tests.integration.acceptance.records import disturbed
from tests.integration.acceptance.test_recovery import require_within
from tests.integration.acceptance.ward import PATIENCE_S, SmallWard, open_ward
from tests.integration.ward import ROOT, wait_until

Record = Callable[[str, object], None]
HALF = len(disturbed().arrival) // 2
LARGE = 1000  # events of LARGE_BYTES each
LARGE_BYTES = 100_000
# What a listener may cost who takes nothing: less than half of what waits for him.
MOST_GROWN_BYTES = 40 * 1024 * 1024
LATE_S = 1.0  # nobody else may wait for as long as one of his bytes takes
SERVE = "import sys; from streams.serve import serve; from streams.settings import load_settings; " + (
    "serve(load_settings(), lambda url: print(url, flush=True))"
)

pytestmark = [pytest.mark.row("26"), pytest.mark.timeout(600)]


class Api(NamedTuple):
    """`twin serve` in a process of its own."""

    ward: SmallWard
    process: Process
    port: int
    token: str


@pytest.fixture
def api(kafka: EmbeddedKafka, redis_server: EmbeddedRedis, tmp_path: Path) -> Iterator[Api]:
    ward = open_ward(kafka.bootstrap, redis_server.url, tmp_path)
    [port] = free_ports(1)
    topics_file = tmp_path / "topics.yaml"
    topics_file.write_text(yaml.safe_dump(ward.topics.model_dump()))
    own = {
        "KAFKA_BOOTSTRAP_SERVERS": ward.bootstrap,
        "REDIS_URL": ward.redis_url,
        "TWIN_KAFKA__GROUP": ward.group,
        "TWIN_PATHS__TOPICS": str(topics_file),
        "TWIN_WEB__PORT": str(port),
        "TWIN_WEB__TOKEN_FILE": str(tmp_path / "token"),
        "TWIN_WEB__STREAMS_MAX": "3",
    }
    process = Process(
        "twin serve",
        [sys.executable, "-c", SERVE],
        tmp_path / "serve.log",
        environment={**environ, **own},
        directory=ROOT,
    )
    process.start()
    try:
        wait_until(lambda: f":{port}" in process.tail(), PATIENCE_S, "serving")
        yield Api(ward, process, port, (tmp_path / "token").read_text().strip())
    finally:
        process.kill()
        ward.stop()


class Listener(threading.Thread):
    """A browser: parses events as they come, and keeps the last id."""

    def __init__(self, api: Api, last: str | None = None) -> None:
        super().__init__(daemon=True)
        self.events: list[tuple[str, dict[str, Any]]] = []
        self.ids: list[str] = []
        self.delays: list[float] = []
        self.last = last
        self.status = 0
        self._api = api
        self.start()

    def run(self) -> None:
        headers = {"Authorization": f"Bearer {self._api.token}"}
        if self.last is not None:
            headers["Last-Event-ID"] = self.last
        url = f"http://127.0.0.1:{self._api.port}/v1/risks/stream"
        with (
            httpx.Client(timeout=httpx.Timeout(60.0)) as client,
            client.stream("GET", url, headers=headers) as answer,
        ):
            self.status = answer.status_code
            event: dict[str, str] = {}
            try:
                for line in answer.iter_lines():
                    if not line and event:
                        self._take(event)
                        event = {}
                    name, _, value = line.partition(": ")
                    if name in ("id", "event", "data"):
                        event[name] = value
            except httpx.HTTPError:
                return  # the server has ended

    def _take(self, event: dict[str, str]) -> None:
        body = json.loads(event["data"])
        if "sent" in body:
            self.delays.append(time.time() - body["sent"])
        self.ids.append(event["id"])
        self.events.append((event["event"], body))

    def told(self) -> list[tuple[str, int, str]]:
        """Episodes, revisions and types after what stood."""
        return [(b["episode"], b["revision"], name) for name, b in self.events if name != "standing"]


def publish_large(ward: SmallWard) -> None:
    """Events of 100 kB, together 100 MB: they fill every buffer between the API and a listener who takes nothing."""
    producer = ward.producer()
    for number in range(LARGE):
        event = {"type": "raised", "episode": f"large-{number}", "revision": 1, "sent": time.time()}
        value = json.dumps({**event, "padding": "x" * LARGE_BYTES}).encode()
        producer.produce(ward.topics.names.risk, value, partition=number % ward.topics.partitions)
        producer.poll(0)
        time.sleep(0.01)
    assert producer.flush(30) == 0


def on_topic(ward: SmallWard, place: str) -> list[tuple[str, int, str]]:
    """What the risk topic holds from a place on, as a read_committed subscriber reads it."""
    begin = [int(offset) for offset in place.split("-")]
    messages = [
        json.loads(message.value() or b"")
        for number, first in enumerate(begin)
        for message in ward.read(ward.topics.names.risk, number)
        if (message.offset() or 0) >= first
    ]
    return sorted((one["episode"], one["revision"], one["type"]) for one in messages)


def metric(api: Api, name: str) -> float:
    """One figure of the API."""
    text = httpx.get(f"http://127.0.0.1:{api.port}/metrics").text
    [value] = [line.split()[1] for line in text.splitlines() if line.startswith(f"{name} ")]
    return float(value)


def test_listeners_hear_what_stands_then_every_event_once_and_go_on_where_they_stood(api: Api) -> None:
    ward = api.ward
    ward.start()
    ward.tell(disturbed().arrival[:HALF])
    wait_until(ward.at_end, PATIENCE_S, "applied", ward.workers)
    first = Listener(api)
    wait_until(lambda: bool(first.events), PATIENCE_S, "listening")
    name, told = first.events[0]
    assert name == "standing"
    assert {one["episode"]: one["revision"] for one in told["episodes"]} == ward.outcome().standing
    ward.tell(disturbed().arrival[HALF:])
    wait_until(ward.at_end, PATIENCE_S, "applied", ward.workers)
    later = on_topic(ward, first.ids[0])
    assert len(later) > 5
    wait_until(lambda: len(first.told()) >= len(later), PATIENCE_S, "told")
    assert sorted(first.told()) == later
    # Whoever heard the half goes on with the other half; an id nobody gave begins with what stands.
    middle = len(first.ids) // 2
    second, third = Listener(api, first.ids[middle]), Listener(api, "not-ours")
    rest = first.told()[middle:]
    wait_until(lambda: len(second.told()) >= len(rest) and bool(third.events), PATIENCE_S, "told")
    assert sorted(second.told()) == sorted(rest)
    assert third.events[0][0] == "standing"
    assert {one["episode"] for one in third.events[0][1]["episodes"]} == set(ward.outcome().standing)
    # The fourth is one too many here; without the token nobody listens.
    fourth = Listener(api)
    wait_until(lambda: fourth.status != 0, PATIENCE_S, "answered")
    assert fourth.status == 429
    assert httpx.get(f"http://127.0.0.1:{api.port}/v1/risks/stream").status_code == 401
    # SIGTERM ends the streams, and the process with them.
    began = time.monotonic()
    api.process.stop(30)
    assert api.process.exit_status == 0
    assert time.monotonic() - began < 10


def test_listener_that_takes_a_byte_a_second_is_cut_off_and_holds_nobody_up(
    api: Api, record_property: Record
) -> None:
    ward = api.ward
    ward.start()
    wait_until(lambda: ward.positions() == 0 and ward.at_end(), PATIENCE_S, "acquired", ward.workers)
    quick = Listener(api)
    wait_until(lambda: bool(quick.events), PATIENCE_S, "listening")
    with socket.socket() as slow:
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        slow.connect(("127.0.0.1", api.port))
        asked = f"GET /v1/risks/stream HTTP/1.1\r\nHost: api\r\nAuthorization: Bearer {api.token}\r\n\r\n"
        slow.sendall(asked.encode())
        wait_until(lambda: metric(api, "twin_streams") == 2, PATIENCE_S, "two listen")
        process = psutil.Process(api.process.pid)
        before = process.memory_info().rss
        publish_large(ward)

        def cut() -> bool:
            slow.recv(1)
            time.sleep(1)
            return metric(api, "twin_streams_cut_total") == 1

        record_property("cut_after_s", round(wait_until(cut, 60, "cut off"), 1))
        grown = process.memory_info().rss - before
    wait_until(lambda: len(quick.told()) >= LARGE, PATIENCE_S, "told")
    assert len(quick.told()) == LARGE
    p99_s = round(statistics.quantiles(quick.delays, n=100)[-1], 3)
    record_property("delay_p99_s", p99_s)
    require_within(LATE_S, [p99_s])
    assert metric(api, "twin_streams") == 1
    # The 100 MB wait in Kafka, not here.
    record_property("grown_bytes", grown)
    assert MOST_GROWN_BYTES < LARGE * LARGE_BYTES / 2
    assert grown < MOST_GROWN_BYTES
    # He comes back with the id of the last event he had, and has missed nothing.
    again = Listener(api, quick.ids[0])
    wait_until(lambda: len(again.told()) >= LARGE, PATIENCE_S, "told")
    assert sorted(again.told()) == sorted(quick.told())
