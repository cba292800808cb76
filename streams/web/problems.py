"""Errors over HTTP: RFC 9457 problem+json, each kind with a type that never changes and a sentence for people."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any, NamedTuple

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException

from streams.ports import StoreUnavailableError
from streams.queries import QuestionError

MEDIA_TYPE = "application/problem+json"
TYPE = "urn:twin-updater:problem:{}"

log = structlog.get_logger()


class Kind(NamedTuple):
    """One kind of problem."""

    status: HTTPStatus
    title: str


KINDS: dict[str, Kind] = {
    "no-such-twin": Kind(HTTPStatus.NOT_FOUND, "There is no twin of this patient"),
    "forgotten": Kind(HTTPStatus.GONE, "The patient was forgotten"),
    "no-such-drug": Kind(HTTPStatus.NOT_FOUND, "The twin has no such drug"),
    "which-drug": Kind(HTTPStatus.BAD_REQUEST, "The twin has several drugs"),
    "no-estimate": Kind(HTTPStatus.CONFLICT, "The twin cannot be forecast as it stands"),
    "as-of-ahead": Kind(HTTPStatus.BAD_REQUEST, "The moment asked about is still to come"),
    "as-of-forgotten": Kind(HTTPStatus.BAD_REQUEST, "The moment asked about is too long ago"),
    "other-version": Kind(HTTPStatus.SERVICE_UNAVAILABLE, "The stored twins belong to another version"),
    "bad-cursor": Kind(HTTPStatus.BAD_REQUEST, "The cursor cannot be read"),
    "invalid-parameter": Kind(HTTPStatus.UNPROCESSABLE_ENTITY, "A parameter breaks its rule"),
    "unauthorized": Kind(HTTPStatus.UNAUTHORIZED, "A bearer token is needed"),
    "no-such-path": Kind(HTTPStatus.NOT_FOUND, "There is nothing at this path"),
    "method-not-allowed": Kind(HTTPStatus.METHOD_NOT_ALLOWED, "This path does not answer to this method"),
    "forbidden": Kind(HTTPStatus.FORBIDDEN, "The token is for something else"),
    "intake-off": Kind(HTTPStatus.FORBIDDEN, "This service takes no records"),
    "body-too-slow": Kind(HTTPStatus.REQUEST_TIMEOUT, "The body came too slowly"),
    "too-large": Kind(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "The body is larger than allowed"),
    "unsupported-media-type": Kind(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "Records come as JSON or NDJSON"),
    "bad-records": Kind(HTTPStatus.UNPROCESSABLE_ENTITY, "A record breaks its rule; none was sent"),
    "too-many-waiting": Kind(HTTPStatus.TOO_MANY_REQUESTS, "Too many records wait for the broker"),
    "too-many-streams": Kind(HTTPStatus.TOO_MANY_REQUESTS, "Too many listen to risk events"),
    "broker-unavailable": Kind(HTTPStatus.SERVICE_UNAVAILABLE, "Kafka does not answer"),
    "not-acknowledged": Kind(HTTPStatus.SERVICE_UNAVAILABLE, "Kafka did not acknowledge in time"),
    "not-ready": Kind(HTTPStatus.SERVICE_UNAVAILABLE, "Not ready to answer"),
    "store-unavailable": Kind(HTTPStatus.SERVICE_UNAVAILABLE, "The store of twins does not answer"),
    "too-slow": Kind(HTTPStatus.GATEWAY_TIMEOUT, "The answer took too long"),
    "fault": Kind(HTTPStatus.INTERNAL_SERVER_ERROR, "A fault of this service"),
}


class ProblemError(Exception):
    """Leaves a route as a problem.

    Args:
        slug: A key of `KINDS`.
        detail: What is wrong here, and the way out.
        headers: Of the response.
        errors: One entry a fault, where there may be several.
    """

    def __init__(
        self,
        slug: str,
        detail: str,
        *,
        headers: dict[str, str] | None = None,
        errors: list[dict[str, str]] | None = None,
    ) -> None:
        super().__init__(detail)
        self.slug = slug
        self.detail = detail
        self.headers = headers
        self.errors = errors


class Problem(BaseModel):
    """RFC 9457."""

    type: str = Field(examples=["urn:twin-updater:problem:no-such-twin"])
    title: str = Field(examples=["There is no twin of this patient"])
    status: int = Field(examples=[404])
    detail: str
    errors: list[dict[str, str]] | None = Field(
        default=None, description="One entry a faulty parameter or record"
    )


def problem(slug: str, detail: str, *, headers: dict[str, str] | None = None, **more: Any) -> JSONResponse:
    """Make the response of a problem.

    Args:
        slug: A key of `KINDS`.
        detail: What is wrong here, and the way out.
        headers: Of the response.
        more: Extension members.
    """
    kind = KINDS[slug]
    return JSONResponse(
        {
            "type": TYPE.format(slug),
            "title": kind.title,
            "status": int(kind.status),
            "detail": detail,
            **more,
        },
        status_code=int(kind.status),
        media_type=MEDIA_TYPE,
        headers={"Cache-Control": "no-store", **(headers or {})},
    )


def handle_problems(app: FastAPI) -> None:
    """Let every error of the application leave as a problem."""

    @app.exception_handler(QuestionError)
    async def question(request: Request, error: QuestionError) -> JSONResponse:
        return problem(error.slug, error.text)

    @app.exception_handler(ProblemError)
    async def told(request: Request, error: ProblemError) -> JSONResponse:
        more = {} if error.errors is None else {"errors": error.errors}
        return problem(error.slug, error.detail, headers=error.headers, **more)

    @app.exception_handler(StoreUnavailableError)
    async def unavailable(request: Request, error: StoreUnavailableError) -> JSONResponse:
        return problem("store-unavailable", f"{error}; try again", headers={"Retry-After": "1"})

    @app.exception_handler(TimeoutError)
    async def slow(request: Request, error: TimeoutError) -> JSONResponse:
        return problem("too-slow", "ask for less (a shorter horizon, a coarser step), or try again")

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        faults = [{"parameter": str(fault["loc"][-1]), "rule": str(fault["msg"])} for fault in error.errors()]
        told = "; ".join(f"{fault['parameter']}: {fault['rule']}" for fault in faults)
        return problem("invalid-parameter", told, errors=faults)

    @app.exception_handler(HTTPException)
    async def http(request: Request, error: HTTPException) -> JSONResponse:
        if error.status_code == HTTPStatus.UNAUTHORIZED:
            return problem("unauthorized", str(error.detail), headers={"WWW-Authenticate": "Bearer"})
        if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
            return problem(
                "method-not-allowed",
                "records are sent with POST /v1/records, all else is read with GET",
                headers=dict(error.headers or {}),
            )
        return problem("no-such-path", "/openapi.json lists the paths there are")

    @app.exception_handler(Exception)
    async def fault(request: Request, error: Exception) -> JSONResponse:
        # The path may name a patient, and so may the error's text: the route and the error's class must do.
        route = getattr(request.scope.get("route"), "path", "none")
        log.error("fault", route=route, error=type(error).__name__, place=_place(error))
        return problem("fault", "the service's log has the place; the same question may fail again")


def _place(error: BaseException) -> str:
    last = error.__traceback__
    while last is not None and last.tb_next is not None:
        last = last.tb_next
    return "unknown" if last is None else f"{last.tb_frame.f_code.co_filename}:{last.tb_lineno}"
