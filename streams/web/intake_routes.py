"""`POST /v1/records`: who may send, and what OpenAPI says of it."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, Depends, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from streams.web.intake import JSON, NDJSON, Intake, IntakeAnswer
from streams.web.problems import MEDIA_TYPE, Problem, ProblemError
from streams.web.shown import example, example_value
from streams.web.token import admits

BEARER = HTTPBearer(
    auto_error=False,
    scheme_name="IntakeToken",
    description="The content of the token file of the intake (intake.token_file)",
)
RECORD_SCHEMA: dict[str, Any] = {
    "type": "object",
    "description": "One record, `twin.record/1`: docs/contract.md, and config/schemas/ for its JSON Schema",
    "required": ["schema", "id", "patient", "kind", "event_time", "source"],
}
PROBLEMS: dict[int | str, dict[str, Any]] = {
    status: {"model": Problem, "description": text, "content": {MEDIA_TYPE: {}}}
    for status, text in {
        401: "The bearer token is missing or wrong",
        403: "The token only reads, or the service takes no records",
        408: "The body came too slowly",
        413: "A record, or the whole body, is larger than allowed",
        415: "Neither JSON nor NDJSON, or compressed",
        422: "A record breaks a rule; `errors` has an entry for each; none was sent",
        429: "Too many records wait for the broker; none was sent. See Retry-After",
        503: "Kafka did not acknowledge all in time. See Retry-After; sending all again is harmless",
    }.items()
}


def intake_routes(intake: Intake | None, reading_token: str) -> APIRouter:
    """Make the route; without an intake it says how to turn it on.

    Args:
        intake: None when the service takes no records.
        reading_token: The operators', which does not write.
    """

    def admitted(
        request: Request, credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(BEARER)]
    ) -> None:
        try:
            _admit(request.headers.get("authorization"), intake, reading_token)
        except ProblemError as error:
            if intake is not None:
                intake.metrics.refused[error.slug] += 1
            raise

    router = APIRouter(prefix="/v1", dependencies=[Depends(admitted)], responses=PROBLEMS)

    @router.post(
        "/records",
        summary="Send records",
        tags=["records"],
        status_code=202,
        responses={202: example("acknowledged")},
        openapi_extra={"requestBody": _request_body()},
    )
    async def send_records(request: Request) -> IntakeAnswer:
        """One record or a batch to the input topic; answered when all replicas hold every one of them.

        All or none: when a record is bad, none is sent. A record sent again with the same bytes is a duplicate without
        effect, so whoever is not answered sends again. Whether a twin takes a record (it may be too late, or from the
        future) is decided later: see the dead-letter topic.
        """
        assert intake is not None  # admitted() has refused
        return await intake.take(request)

    return router


def _admit(header: str | None, intake: Intake | None, reading_token: str) -> None:
    if intake is None:
        raise ProblemError(
            "intake-off", "set intake.token_file (TWIN_INTAKE__TOKEN_FILE) and start the service again"
        )
    if admits(header, intake.token):
        return
    if admits(header, reading_token):
        raise ProblemError("forbidden", "this token reads; records need the content of intake.token_file")
    raise ProblemError(
        "unauthorized",
        "send the header Authorization: Bearer <the content of intake.token_file>",
        headers={"WWW-Authenticate": "Bearer"},
    )


def _request_body() -> dict[str, Any]:
    one = example_value("record")
    batch = example_value("batch")
    lines = "".join(msgspec.json.encode(record).decode() + "\n" for record in batch)
    return {
        "required": True,
        "content": {
            JSON: {
                "schema": {
                    "oneOf": [RECORD_SCHEMA, {"type": "array", "items": RECORD_SCHEMA, "minItems": 1}]
                },
                "examples": {
                    "one": {"summary": "One record", "value": one},
                    "batch": {"summary": "A batch", "value": batch},
                },
            },
            NDJSON: {
                "schema": {"type": "string", "description": "One record a line"},
                "examples": {"lines": {"summary": "One record a line", "value": lines}},
            },
        },
    }
