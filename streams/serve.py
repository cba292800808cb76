"""The process of `twin serve`: the HTTP API on its address."""

from __future__ import annotations

import contextlib
import ipaddress
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator, Callable

import structlog
from fastapi import FastAPI

from streams.adapters.record_intake import RecordIntake
from streams.adapters.risk_feed import RiskFeed
from streams.adapters.topics import read_topics
from streams.ndjson import Checker
from streams.releases import Releases
from streams.settings import Settings
from streams.web.api import create_api
from streams.web.intake import Intake, Limits
from streams.web.risk_stream import RiskStream
from streams.web.token import TokenError, load_token
from streams.wiring import create_queries


class ServeError(RuntimeError):
    """The API cannot be served; the text says what to change."""


def create_app(settings: Settings, clock: Callable[[], int] = time.time_ns) -> FastAPI:
    """Make the application of `twin serve`.

    Args:
        settings: Of the service.
        clock: Wall clock, UTC ns.

    Raises:
        TokenError: A token's file cannot be trusted, or both are one.
        LibraryError: A file below `config/` breaks a rule.
        TopicError: `config/topics.yaml` breaks a rule.
    """
    token = load_token(settings.web.token_file)
    writing = None if settings.intake.token_file is None else load_token(settings.intake.token_file)
    if writing == token:
        raise TokenError(
            f"{settings.intake.token_file}: is the token that reads; set intake.token_file to a file of its own"
        )
    queries, reader = create_queries(settings, clock)
    intake = None if writing is None else _intake(settings, queries.releases, writing)
    topics = read_topics(settings.paths.topics)
    feed = RiskFeed(settings.kafka, topics.names.risk)
    stream = None
    if settings.web.streams_max > 0:
        stream = RiskStream(queries, feed, most=settings.web.streams_max)
    app = create_api(
        queries,
        token,
        intake,
        open_metrics=is_loopback(settings.web.host),
        answer_within_s=settings.web.answer_timeout_seconds,
        stream=stream,
    )

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        if intake is not None:
            await intake.close()
        await reader.close()

    app.router.lifespan_context = lifespan
    return app


def _intake(settings: Settings, releases: Releases, token: str) -> Intake:
    chosen = settings.intake
    sink = RecordIntake(
        settings.kafka.connection(),
        read_topics(settings.paths.topics).names.records,
        most_waiting=chosen.waiting_max_records,
        within_s=chosen.acknowledge_within_seconds,
    )
    limits = Limits(chosen.batch_max_records, chosen.batch_max_bytes)
    return Intake(Checker(releases.first, releases), sink, limits, token)


def serve(settings: Settings, ready: Callable[[str], None]) -> None:
    """Serve until SIGTERM or SIGINT.

    Args:
        settings: Of the service.
        ready: Is given the URL once the port is bound; port 0 takes a free one.

    Raises:
        ServeError: The address cannot be bound.
        TokenError: The token's file cannot be trusted.
    """
    import uvicorn

    _configure_logging()
    app = create_app(settings)
    host = settings.web.host
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind((host, settings.web.port))
        except OSError as error:
            raise ServeError(
                f"{host}:{settings.web.port}: cannot listen there: {error.strerror}; set TWIN_WEB__PORT to a "
                "free port, 0 takes any"
            ) from error
        ready(f"http://{f'[{host}]' if ':' in host else host}:{listening.getsockname()[1]}")
        # uvicorn stops in order, then raises the signal again: asked to stop is an end in good order here.
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: None)
        # Its own access log would write paths, and with them pseudonyms.
        config = uvicorn.Config(app, access_log=False, log_config=None, server_header=False)
        uvicorn.Server(config).run(sockets=[listening])


def _configure_logging() -> None:
    """One JSON line an event on standard error."""
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.JSONRenderer(),
        ],
        logger_factory=structlog.WriteLoggerFactory(file=sys.stderr),
    )


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach an address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
