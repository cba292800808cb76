"""What a listener to risk events is told when the topic is gone from under him, or the broker away."""

from __future__ import annotations

import asyncio
import itertools
import json
import re
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, cast

import httpx
import pytest
from fastapi import FastAPI

from streams.adapters.risk_feed import FeedAwayError, FeedLostError, Told
from streams.ports import StoreUnavailableError
from streams.queries import Queries
from streams.web import risk_stream
from streams.web.api import create_api
from streams.web.risk_stream import RiskStream
from twinstate.library import load_library

LIBRARY = load_library(Path(__file__).parents[2] / "config")
TOKEN = "secret"


class Meta(NamedTuple):
    position: int
    fingerprint: str
    risk_topic_position: int


class Standing:
    """A store in which one episode stands, until it is emptied, or away."""

    def __init__(self) -> None:
        self.is_emptied = False
        self.is_away = False

    async def read_index(self, partition: int) -> tuple[Meta | None, dict[str, bytes]]:
        return (None if self.is_emptied else Meta(9, "f", 5)), {}

    async def read_standing(self, partition: int) -> tuple[Meta | None, dict[str, bytes]]:
        if self.is_away:
            raise StoreUnavailableError("Redis does not answer: test")
        if self.is_emptied:
            return None, {}
        rows = [{"episode": "e-1", "revision": 2, "probability": 0.9}] if partition == 0 else []
        return Meta(9, "f", 5 + partition), {"p-1": json.dumps(rows).encode()} if rows else {}


class Script:
    """A feed that plays one list after another, each until it raises."""

    def __init__(self, *plays: list[Told | Exception], then: Callable[[], None] = lambda: None) -> None:
        self.plays = list(plays)
        self.then = then
        self.opened_at: list[float] = []
        self.opened: list[dict[int, int]] = []
        self.closed = 0

    async def open(self, positions: Mapping[int, int]) -> Script:
        self.opened.append(dict(positions))
        self.opened_at.append(asyncio.get_running_loop().time())
        if not self.plays:
            raise FeedAwayError("Kafka does not answer: test")
        return self

    async def read(self) -> AsyncIterator[Told]:
        for one in self.plays.pop(0):
            self.then()
            if isinstance(one, Exception):
                raise one
            yield one

    async def close(self) -> None:
        self.closed += 1


def told(partition: int, offset: int, episode: str, revision: int) -> Told:
    body = {"type": "updated", "episode": episode, "revision": revision}
    return Told(partition, offset + 1, json.dumps(body).encode())


def asking(store: Standing) -> Queries:
    return Queries(cast(Any, store), LIBRARY, 2, "urn:test", lambda: 0)


def listen(
    feed: Script, last: str | None = None, store: Standing | None = None
) -> tuple[int, str, RiskStream]:
    queries = asking(store or Standing())
    stream = RiskStream(queries, cast(Any, feed), most=5)
    app: FastAPI = create_api(queries, TOKEN, None, open_metrics=True, answer_within_s=5.0, stream=stream)

    async def ask() -> httpx.Response:
        headers = {"Authorization": f"Bearer {TOKEN}", **({"Last-Event-ID": last} if last else {})}
        async with httpx.AsyncClient(
            transport=httpx.ASGITransport(app), base_url="http://api", headers=headers
        ) as client:
            return await client.get("/v1/risks/stream")

    answer = asyncio.run(ask())
    return answer.status_code, answer.text, stream


def names_and_ids(text: str) -> list[tuple[str, str]]:
    ids = re.findall(r"^id: (\S+)", text, re.MULTILINE)
    return list(zip(re.findall(r"^event: (\S+)", text, re.MULTILINE), ids, strict=True))


AWAY = FeedAwayError("Kafka does not answer: test")


@pytest.fixture(autouse=True)
def _short_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(risk_stream, "BEGINS_AGAIN_AFTER_S", 0.01)


def test_a_newcomer_is_told_what_stands_and_no_revision_of_it_again() -> None:
    feed = Script([told(0, 5, "e-1", 2), told(0, 6, "e-1", 3), told(1, 8, "e-9", 1), AWAY])
    status, text, stream = listen(feed)
    assert status == 200
    assert feed.opened == [{0: 5, 1: 6}]
    assert names_and_ids(text) == [("standing", "5-6"), ("updated", "7-6"), ("updated", "7-9")]
    assert ": Kafka does not answer: test; come again" in text
    assert feed.closed >= 1
    assert stream.metrics.listening == 0


def test_who_comes_back_goes_on_at_his_place_and_is_told_everything_after_it() -> None:
    feed = Script([told(0, 7, "e-1", 2), AWAY])
    _, text, _ = listen(feed, "7-9")
    assert feed.opened == [{0: 7, 1: 9}]
    assert names_and_ids(text) == [("updated", "8-9")]


def test_a_place_retention_has_passed_begins_with_what_stands() -> None:
    feed = Script([FeedLostError("gone")], [told(1, 8, "e-9", 1), AWAY])
    _, text, _ = listen(feed, "1-1")
    assert feed.opened == [{0: 1, 1: 1}, {0: 5, 1: 6}]
    assert names_and_ids(text) == [("standing", "5-6"), ("updated", "5-9")]


def test_a_topic_without_its_head_is_not_asked_over_and_over_without_a_pause(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(risk_stream, "BEGINS_AGAIN_AFTER_S", 0.2)
    feed = Script([FeedLostError("gone")], [FeedLostError("gone")], [AWAY])
    listen(feed)
    assert len(feed.opened_at) == 3
    assert all(after - before >= 0.2 for before, after in itertools.pairwise(feed.opened_at))


def test_a_store_that_is_away_when_the_stream_begins_again_ends_it_with_a_word() -> None:
    store = Standing()
    feed = Script([FeedLostError("gone")], then=lambda: setattr(store, "is_away", True))
    status, text, stream = listen(feed, store=store)
    assert status == 200
    assert ": Redis does not answer: test; come again" in text
    assert stream.metrics.listening == 0


def test_what_stands_in_a_store_that_lost_its_newest_writes_says_so() -> None:
    store = Standing()
    feed = Script([FeedLostError("gone")], [AWAY], then=lambda: setattr(store, "is_emptied", True))
    _, text, _ = listen(feed, store=store)
    bodies = [json.loads(line) for line in re.findall(r"^data: (.*)\r?$", text, re.MULTILINE)]
    assert [(len(one["episodes"]), one["rolled_back"]) for one in bodies] == [(1, False), (0, True)]


def test_the_list_of_an_emptied_store_is_empty_and_says_that_it_was_further() -> None:
    async def ask() -> list[list[tuple[int, int, bool]]]:
        store = Standing()
        queries = asking(store)
        answers = []
        for emptied in (True, False, True):
            store.is_emptied = emptied
            _, positions = await queries.rows()
            answers.append([(one.partition, one.next_offset, one.rolled_back) for one in positions])
        return answers

    never, full, lost = asyncio.run(ask())
    assert never == []
    assert full == [(0, 9, False), (1, 9, False)]
    assert lost == [(0, 0, True), (1, 0, True)]


def test_an_id_that_is_not_ours_begins_with_what_stands() -> None:
    for last in ("7", "7-9-1", "latest", "7--9", "9" * 30 + "-1"):
        feed = Script([AWAY])
        _, text, _ = listen(feed, last)
        assert names_and_ids(text) == [("standing", "5-6")], last


def test_a_broker_that_is_away_is_a_problem_and_nobody_counts_as_listening() -> None:
    status, text, stream = listen(Script())
    assert status == 503
    assert json.loads(text)["type"] == "urn:twin-updater:problem:broker-unavailable"
    assert stream.metrics.listening == 0
