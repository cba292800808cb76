"""`GET /v1/risks/stream`: standing episodes, then every risk event as it comes, as Server-Sent Events.

An event's id is the place after it in every partition of the risk topic, so a listener that was cut off goes on where
it stood (`Last-Event-ID`). Who reads too slowly is cut off: the events wait in Kafka, nothing is kept for him here.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Iterator, Mapping
from typing import Protocol

import msgspec
import structlog
from prometheus_client import Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector
from sse_starlette import EventSourceResponse, ServerSentEvent
from sse_starlette.sse import SendTimeoutError
from starlette.types import Receive, Scope, Send

from streams.adapters.risk_feed import FeedAwayError, FeedLostError, Told
from streams.ports import StoreUnavailableError
from streams.queries import Queries
from streams.web.problems import ProblemError

PING_EVERY_S = 15
# A listener that takes nothing of an event for so long is cut off.
CUT_AFTER_S = 10.0
COMES_BACK_AFTER_MS = 2_000
BEGINS_AGAIN_AFTER_S = 2.0
_PLACE = re.compile(r"[0-9]{1,18}(-[0-9]{1,18})*")

log = structlog.get_logger()


class Reader(Protocol):
    """One listener's way through the topic."""

    def read(self) -> AsyncIterator[Told]:
        """Give events as they come, for ever."""

    async def close(self) -> None:
        """Give it up."""


class Feed(Protocol):
    """Where events come from (`streams.adapters.risk_feed`)."""

    async def open(self, positions: Mapping[int, int]) -> Reader:
        """Read on from these offsets, by partition."""


class _Heard(msgspec.Struct):
    type: str
    episode: str
    revision: int


class RiskStream:
    """Listeners to the risk events.

    Args:
        queries: Tells what stands, and from where on the topic goes on.
        feed: The topic.
        most: Listeners at once; further ones are asked to come later.
        cut_after_s: How long a listener may take nothing.
    """

    def __init__(self, queries: Queries, feed: Feed, *, most: int, cut_after_s: float = CUT_AFTER_S) -> None:
        self._queries = queries
        self._feed = feed
        self._most = most
        self._cut_after_s = cut_after_s
        self.metrics = StreamMetrics()

    async def listen(self, last_event_id: str | None) -> EventSourceResponse:
        """Begin a stream: where the listener stood, or with what stands now.

        Raises:
            ProblemError: Too many listen, or Kafka does not answer.
            StoreUnavailableError: Redis does not answer.
        """
        if self.metrics.listening >= self._most:
            raise ProblemError(
                "too-many-streams",
                f"{self._most} listen already; come again later, or read the risk topic (docs/contract.md)",
                headers={"Retry-After": "10"},
            )
        self.metrics.listening += 1
        try:
            place = _place(last_event_id, self._queries.partitions)
            listener = _Listener(self._queries, self._feed)
            first = await (listener.begin() if place is None else listener.go_on(place))
        except FeedAwayError as error:
            self.metrics.listening -= 1
            raise ProblemError(
                "broker-unavailable", f"{error}; come again", headers={"Retry-After": "2"}
            ) from error
        except BaseException:
            self.metrics.listening -= 1
            raise
        return _Stream(listener, first, self.metrics, self._cut_after_s)


class _Listener:
    def __init__(self, queries: Queries, feed: Feed) -> None:
        self._queries = queries
        self._feed = feed
        self._place: dict[int, int] = {}
        self._known: dict[str, int] = {}
        self._reader: Reader | None = None

    async def begin(self) -> ServerSentEvent:
        """Tell what stands, and read on from there."""
        answer = await self._queries.risks()
        episodes = [episode for part in answer.partitions for episode in part.episodes]
        self._known = {str(one["episode"]): int(one["revision"]) for one in episodes}
        await self._open({part.partition: part.risk_topic_offset for part in answer.partitions})
        standing = {
            "episodes": episodes,
            "rolled_back": any(part.rolled_back for part in answer.partitions),
        }
        return self._event("standing", msgspec.json.encode(standing).decode())

    async def go_on(self, place: dict[int, int]) -> ServerSentEvent:
        """Read on from where the listener stood."""
        await self._open(place)
        return ServerSentEvent(comment="goes on", retry=COMES_BACK_AFTER_MS)

    async def events(self, first: ServerSentEvent) -> AsyncIterator[ServerSentEvent]:
        """Give the stream."""
        try:
            yield first
            while True:
                try:
                    async for event in self._heard():
                        yield event
                except FeedLostError:
                    # What stands may point to a place that is gone as well, where nothing was published since.
                    await asyncio.sleep(BEGINS_AGAIN_AFTER_S)
                    yield await self.begin()
        except (FeedAwayError, StoreUnavailableError) as error:
            yield ServerSentEvent(comment=f"{error}; come again")
        finally:
            await self.close()

    async def _heard(self) -> AsyncIterator[ServerSentEvent]:
        assert self._reader is not None
        async for told in self._reader.read():
            self._place[told.partition] = told.next_offset
            heard = msgspec.json.decode(told.value, type=_Heard)
            # What the standing episodes told already.
            if heard.revision > self._known.get(heard.episode, 0):
                yield self._event(heard.type, told.value.decode())

    def _event(self, name: str, data: str) -> ServerSentEvent:
        place = "-".join(str(at) for _, at in sorted(self._place.items()))
        return ServerSentEvent(data, event=name, id=place, retry=COMES_BACK_AFTER_MS)

    async def _open(self, place: dict[int, int]) -> None:
        await self.close()
        self._place = place
        self._reader = await self._feed.open(place)

    async def close(self) -> None:
        """Give up the place in the topic; twice does no harm."""
        reader, self._reader = self._reader, None
        if reader is not None:
            await reader.close()


class _Stream(EventSourceResponse):
    """The response; it notes how it ended."""

    def __init__(
        self, listener: _Listener, first: ServerSentEvent, metrics: StreamMetrics, cut_after_s: float
    ) -> None:
        super().__init__(listener.events(first), ping=PING_EVERY_S, send_timeout=cut_after_s)
        self._listener = listener
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        except SendTimeoutError:
            # The connection is closed without an end; the listener has the id of its last event.
            self._metrics.cut += 1
            log.warning("listener cut off: it takes nothing")
        finally:
            self._metrics.listening -= 1
            await self._listener.close()  # also when the stream ended before its first event


class StreamMetrics(Collector):
    """How many listen, and how many were cut off."""

    def __init__(self) -> None:
        self.listening = 0
        self.cut = 0

    def collect(self) -> Iterator[Metric]:
        """Give the figures."""
        yield GaugeMetricFamily("twin_streams", "Listeners to risk events now", value=self.listening)
        yield CounterMetricFamily(
            "twin_streams_cut", "Listeners cut off since they took nothing, since the start", value=self.cut
        )


def _place(given: str | None, partitions: int) -> dict[int, int] | None:
    """Where a listener stood; None for a newcomer, or for an id that is not ours."""
    if given is None or not _PLACE.fullmatch(given):
        return None
    offsets = [int(number) for number in given.split("-")]
    return dict(enumerate(offsets)) if len(offsets) == partitions else None
