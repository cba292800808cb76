"""Records over HTTP, of devices and lab systems that cannot speak Kafka: read, checked and handed on, all or none."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import NamedTuple, Protocol

import msgspec
import structlog
from fastapi import Request
from prometheus_client import Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector
from pydantic import BaseModel, Field
from starlette.requests import ClientDisconnect

from streams.adapters.record_intake import FullError, NotAcknowledgedError, Place
from streams.codec import LARGEST_RECORD
from streams.ndjson import Checker, Line
from streams.web.problems import ProblemError

JSON = "application/json"
NDJSON = "application/x-ndjson"
BODY_WITHIN_S = 30.0
MOST_ERRORS_TOLD = 100
RETRY_FULL = {"Retry-After": "1"}
RETRY_BROKER = {"Retry-After": "5"}


log = structlog.get_logger()


class _Id(msgspec.Struct):
    id: str


# Built once, as the module is loaded: see streams/codec.py. Raw keeps an element's bytes as they came.
_ARRAY = msgspec.json.Decoder(list[msgspec.Raw])
_ID = msgspec.json.Decoder(_Id)


class Acknowledged(BaseModel):
    """One record in the log."""

    id: str = Field(description="Its own, as sent")
    topic: str
    partition: int
    offset: int


class IntakeAnswer(BaseModel):
    """Every record sent, in the order sent."""

    records: list[Acknowledged]


class Sink(Protocol):
    """Where checked records go: `RecordIntake`."""

    @property
    def waiting(self) -> int:
        """Records sent and neither acknowledged nor given up."""

    async def send(self, records: Sequence[tuple[str, bytes]]) -> list[Place]:
        """Send, and wait for every acknowledgement."""

    async def close(self) -> None:
        """Wait for what is on its way, and stop."""


class Limits(NamedTuple):
    """What one request may hold."""

    records: int
    bytes: int


class Intake:
    """Checks the records of a request and hands them on, all or none.

    Args:
        checker: Checks as the worker would.
        sink: Where they go.
        limits: Of one request.
        token: Its bearers may send, and nothing else.
    """

    def __init__(self, checker: Checker, sink: Sink, limits: Limits, token: str) -> None:
        self._checker = checker
        self._sink = sink
        self._limits = limits
        self.token = token
        self.metrics = IntakeMetrics(sink)

    async def take(self, request: Request) -> IntakeAnswer:
        """Read, check and send what a request holds.

        Raises:
            ProblemError: It is not taken; the text has the way out.
        """
        try:
            answer = await self._take(request)
        except ProblemError as error:
            self.metrics.refused[error.slug] += 1
            raise
        self.metrics.accepted += len(answer.records)
        return answer

    async def close(self) -> None:
        """Wait for what is on its way, and stop."""
        await self._sink.close()

    async def _take(self, request: Request) -> IntakeAnswer:
        media_type = _media_type(request)
        body = await self._body(request)
        # In a thread: a thousand records take tens of milliseconds, in which others ask.
        lines = await asyncio.to_thread(self._checked, media_type, body)
        records = [(line.patient, line.body) for line in lines if line.patient is not None]
        try:
            places = await self._sink.send(records)
        except FullError:
            raise ProblemError(
                "too-many-waiting",
                f"{self._sink.waiting} records wait for the broker, and these are {len(records)} more; none of these "
                "was sent: send them again after the seconds in Retry-After",
                headers=RETRY_FULL,
            ) from None
        except NotAcknowledgedError as error:
            log.warning("records not acknowledged", records=len(records), error=str(error))
            raise ProblemError(
                "not-acknowledged",
                f"{error}; some, all or none of the records may stand in the log: send all of them again, unchanged; "
                "what is there already is a duplicate without effect",
                headers=RETRY_BROKER,
            ) from None
        return IntakeAnswer(
            records=[
                Acknowledged(id=_ID.decode(line.body).id, **place._asdict())
                for line, place in zip(lines, places, strict=True)
            ]
        )

    async def _body(self, request: Request) -> bytes:
        most = self._limits.bytes
        whole = bytearray()
        declared = request.headers.get("content-length", "")
        if declared.isdecimal() and int(declared) > most:
            raise self._too_large_body(int(declared))
        try:
            async with asyncio.timeout(BODY_WITHIN_S):
                async for chunk in request.stream():
                    whole += chunk
                    if len(whole) > most:
                        raise self._too_large_body(len(whole))
        except (TimeoutError, ClientDisconnect):
            raise ProblemError(
                "body-too-slow",
                f"the body was not whole within {BODY_WITHIN_S:g} s; send fewer records at once",
            ) from None
        return bytes(whole)

    def _too_large_body(self, size: int) -> ProblemError:
        return ProblemError(
            "too-large",
            f"the body has {size} bytes or more, and {self._limits.bytes} are allowed; send fewer records at once",
        )

    def _checked(self, media_type: str, body: bytes) -> list[Line]:
        pieces, place = _pieces(media_type, body)
        if len(pieces) > self._limits.records:
            raise ProblemError(
                "too-large",
                f"the body holds {len(pieces)} records, and {self._limits.records} are allowed; split the batch",
            )
        for number, piece in pieces:
            if len(piece) > LARGEST_RECORD:
                raise ProblemError(
                    "too-large",
                    f"{place} {number} has {len(piece)} bytes, and {LARGEST_RECORD} are allowed; split the frame",
                )
        lines = [self._checker.check(number, piece) for number, piece in pieces]
        errors = []
        for line in lines:
            if line.refusal is not None:
                self.metrics.bad[line.refusal.reason] += 1
                errors.append(
                    {
                        "place": f"{place} {line.number}",
                        "reason": line.refusal.reason,
                        "text": line.refusal.text,
                    }
                )
        if errors:
            first = errors[0]
            raise ProblemError(
                "bad-records",
                f"{len(errors)} of {len(lines)} records cannot be used, so none was sent; {first['place']}: "
                f"{first['reason']}: {first['text']}",
                errors=errors[:MOST_ERRORS_TOLD],
            )
        return lines


class IntakeMetrics(Collector):
    """What was taken and refused by this process. No label names a patient, a record or a device."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self.accepted = 0
        self.refused: Counter[str] = Counter()
        self.bad: Counter[str] = Counter()

    def collect(self) -> Iterator[Metric]:
        """Give the figures."""
        yield CounterMetricFamily(
            "twin_intake_accepted", "Records acknowledged by Kafka, since the start", value=self.accepted
        )
        refused = CounterMetricFamily(
            "twin_intake_refused", "Requests refused, by problem, since the start", labels=["problem"]
        )
        for slug, n in sorted(self.refused.items()):
            refused.add_metric([slug], n)
        yield refused
        bad = CounterMetricFamily(
            "twin_intake_bad_records", "Records that broke a rule, since the start", labels=["reason"]
        )
        for reason, n in sorted(self.bad.items()):
            bad.add_metric([reason], n)
        yield bad
        yield GaugeMetricFamily(
            "twin_intake_waiting_records", "Sent, and not yet acknowledged", value=self._sink.waiting
        )


def _media_type(request: Request) -> str:
    given = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if given not in (JSON, NDJSON):
        raise ProblemError(
            "unsupported-media-type",
            f"Content-Type is {given[:100]!r}; send {JSON} (a record, or an array of them) or {NDJSON} (one a line)",
            headers={"Accept": f"{JSON}, {NDJSON}"},
        )
    coding = request.headers.get("content-encoding", "identity").strip().lower()
    if coding != "identity":
        raise ProblemError(
            "unsupported-media-type",
            f"Content-Encoding is {coding[:100]!r}; send the body uncompressed",
            headers={"Accept-Encoding": "identity"},
        )
    return given


def _pieces(media_type: str, body: bytes) -> tuple[list[tuple[int, bytes]], str]:
    """The records of a body, each with its number from 1, and what such a number counts."""
    whole = body.strip()
    place = "line" if media_type == NDJSON else "record"
    if media_type == NDJSON:
        pieces = [(n, line.strip()) for n, line in enumerate(body.split(b"\n"), start=1) if line.strip()]
    elif whole.startswith(b"["):
        try:
            pieces = [(n, bytes(raw)) for n, raw in enumerate(_ARRAY.decode(whole), start=1)]
        except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
            told = f"the array is not JSON: {error}; send records as JSON, or one a line as {NDJSON}"
            raise ProblemError(
                "bad-records", told, errors=[{"place": "body", "reason": "not_json", "text": told}]
            ) from None
    else:
        pieces = [(1, whole)] if whole else []
    if not pieces:
        told = "the body holds no record; send at least one"
        raise ProblemError("bad-records", told, errors=[{"place": "body", "reason": "empty", "text": told}])
    return pieces, place
