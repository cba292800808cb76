"""The HTTP API over the queries, and beside them the intake of records: answers JSON, knows no store."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable
from typing import Annotated, Any, Literal, TypeVar

from fastapi import APIRouter, Depends, FastAPI, Header, HTTPException, Query, Request, Response
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from streams.ports import StoreUnavailableError
from streams.queries import (
    LARGEST_PAGE,
    LONGEST_HORIZON_H,
    LONGEST_LOOK_BACK_H,
    Page,
    Queries,
    QuestionError,
    Span,
)
from streams.queries.answers import ExportAnswer, ForecastAnswer, RisksAnswer, State, TwinAnswer, TwinList
from streams.queries.export import as_csv
from streams.queries.listing import Sort
from streams.web import metrics
from streams.web.access import AccessLog
from streams.web.intake import Intake
from streams.web.intake_routes import intake_routes
from streams.web.parameters import AsOfText, Patient, read_as_of
from streams.web.problems import MEDIA_TYPE, Problem, ProblemError, handle_problems
from streams.web.risk_stream import RiskStream
from streams.web.shown import example
from streams.web.token import admits

T = TypeVar("T")

BEARER = HTTPBearer(auto_error=False, description="The content of the token file (web.token_file)")
TAG = {"ETag": {"schema": {"type": "string"}, "description": "Writes of the twin, and a hash"}}
UNCHANGED = {"description": "Nothing has changed since the ETag in If-None-Match (but the twin's age)"}
ABOUT = """\
Live pharmacokinetic twins of patients, as a worker keeps them from their records.

Every answer says what it is: **live** (up to the patient's watermark, may be revised by late records), **settled**
(72 h behind it) or **forecast** (after it). Times are UTC, units stand beside the numbers, intervals are 90 %.
Not a medical device: estimates support people who decide, they decide nothing.
"""
PROBLEMS: dict[int | str, dict[str, Any]] = {
    status: {"model": Problem, "description": text, "content": {MEDIA_TYPE: {}}}
    for status, text in {
        400: "The question has no answer as asked",
        401: "The bearer token is missing or wrong",
        403: "The token is for sending records",
        404: "No such twin or drug",
        409: "The twin cannot be forecast as it stands",
        422: "A parameter breaks its rule",
        503: "Redis does not answer",
    }.items()
}


def create_api(
    queries: Queries,
    token: str,
    intake: Intake | None,
    *,
    open_metrics: bool,
    answer_within_s: float,
    stream: RiskStream | None = None,
) -> FastAPI:
    """Make the application.

    Args:
        queries: What it answers from.
        token: Every path below /v1 that reads asks for it.
        intake: Takes records, with a token of its own; None for an API that only answers.
        open_metrics: /metrics answers without the token: right on loopback only.
        answer_within_s: Longest time for one answer.
        stream: Risk events as they come; None for an API without.
    """
    # No /docs: its page runs a script from a third party, in the window where a token would be pasted.
    app = FastAPI(title="Twin updater", version="1", description=ABOUT, docs_url=None, redoc_url=None)
    handle_problems(app)

    def admitted(
        request: Request,
        credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(BEARER)],
    ) -> None:
        if not admits(request.headers.get("authorization"), token):
            if intake is not None and admits(request.headers.get("authorization"), intake.token):
                raise ProblemError(
                    "forbidden", "this token sends records; reading needs that of web.token_file"
                )
            raise HTTPException(401, "send the header Authorization: Bearer <the content of the token file>")

    async def within(answer: Awaitable[T]) -> T:
        async with asyncio.timeout(answer_within_s):
            return await answer

    v1 = APIRouter(prefix="/v1", dependencies=[Depends(admitted)], responses=PROBLEMS)

    @v1.get("/twins", summary="List twins", tags=["twins"], responses={200: example("twins")})
    async def list_twins(
        state: Annotated[State | None, Query(description="Only twins in this state")] = None,
        drug: Annotated[str | None, Query(description="Only patients with this drug", max_length=64)] = None,
        sort: Annotated[Sort, Query(description="risk: highest probability first")] = "risk",
        limit: Annotated[int, Query(ge=1, le=LARGEST_PAGE)] = 50,
        cursor: Annotated[str | None, Query(description="`next` of the page before", max_length=512)] = None,
    ) -> TwinList:
        """A page of twins, by default those at highest risk first. Never behind the twins themselves."""
        return await within(queries.twins(Page(state, drug, sort, limit, cursor)))

    # Before the route below: a pseudonym may hold a slash.
    @v1.get(
        "/twins/{patient:path}/forecast",
        summary="One drug over time",
        tags=["twins"],
        response_model=ForecastAnswer,
        responses={200: {**example("forecast"), "headers": TAG}, 304: UNCHANGED},
    )
    async def forecast(
        request: Request,
        patient: Patient,
        drug: Annotated[
            str | None,
            Query(
                description="Needed for a patient with several drugs", max_length=64, examples=["vancomycin"]
            ),
        ] = None,
        horizon_h: Annotated[
            float | None,
            Query(
                gt=0, le=LONGEST_HORIZON_H, description="h; without it the longest of the drug's thresholds"
            ),
        ] = None,
        back_h: Annotated[float, Query(ge=0, le=LONGEST_LOOK_BACK_H)] = 24.0,
        step_h: Annotated[float, Query(ge=0.05, le=24)] = 0.5,
        as_of: AsOfText = "live",
    ) -> Response:
        """The level with its 90 % band, doses given and planned, thresholds and probabilities, and what was assumed."""
        span = Span(horizon_h, back_h, step_h)
        answer = await within(queries.forecast(patient, drug, span, read_as_of(as_of)))
        return _tagged(request, answer, answer.version)

    @v1.get(
        "/twins/{patient:path}/export",
        summary="One drug as rows in the manner of NONMEM",
        tags=["twins"],
        response_model=ExportAnswer,
        responses={200: {"content": {"text/csv": {"schema": {"type": "string"}}}}},
    )
    async def export(
        patient: Patient,
        drug: Annotated[
            str | None, Query(description="Needed for a patient with several drugs", max_length=64)
        ] = None,
        form: Annotated[
            Literal["csv", "json"],
            Query(alias="format", description="json tells the columns' units and meaning as well"),
        ] = "csv",
        as_of: AsOfText = "live",
    ) -> Response:
        """Doses, levels, covariates, typical parameters, PRED, IPRED and etas; time counts from the first row."""
        answer = await within(queries.export(patient, drug, read_as_of(as_of)))
        headers = {"Cache-Control": "private, no-cache"}
        if form == "json":
            return Response(answer.model_dump_json(), media_type="application/json", headers=headers)
        return Response(as_csv(answer), media_type="text/csv; charset=utf-8", headers=headers)

    @v1.get(
        "/twins/{patient:path}",
        summary="One twin",
        tags=["twins"],
        response_model=TwinAnswer,
        responses={200: {**example("twin"), "headers": TAG}, 304: UNCHANGED},
    )
    async def one_twin(request: Request, patient: Patient, as_of: AsOfText = "live") -> Response:
        """The twin's estimates with intervals, its state and age, and where in the log it is true."""
        answer = await within(queries.twin(patient, read_as_of(as_of)))
        return _tagged(request, answer, answer.version)

    @v1.get("/risks", summary="Standing episodes of risk", tags=["risks"], responses={200: example("risks")})
    async def risks() -> RisksAnswer:
        """What a new subscriber needs: per partition the episodes that stand, each with its last revision.

        Read the risk topic on from `risk_topic_offset`, and ignore revisions that are not higher.
        """
        return await within(queries.risks())

    if stream is not None:

        @v1.get(
            "/risks/stream",
            summary="Risk events as they come",
            tags=["risks"],
            response_class=Response,
            responses={200: {"content": {"text/event-stream": {}}, "description": "Server-Sent Events"}},
        )
        async def risk_stream(
            last_event_id: Annotated[
                str | None, Header(description="Of the last event heard: the stream goes on after it")
            ] = None,
        ) -> Response:
            """Server-Sent Events: `standing` (what stands now), then `raised`, `updated`, `cleared`, `retracted`.

            Data as in the risk topic. Who takes nothing for 10 s is cut off, and goes on with `Last-Event-ID`.
            """
            return await within(stream.listen(last_event_id))

    app.include_router(v1)
    app.include_router(intake_routes(intake, token))

    @app.get("/livez", summary="The process answers", tags=["service"])
    async def livez() -> dict[str, str]:
        """Needs no token and touches nothing."""
        return {"status": "alive"}

    @app.get("/readyz", summary="Questions can be answered", tags=["service"], responses={503: PROBLEMS[503]})
    async def readyz() -> dict[str, str]:
        """Redis answers, and a worker has acquired every partition at least once. Needs no token."""
        waiting = await within(queries.never_acquired())
        if waiting:
            told = ", ".join(map(str, waiting))
            raise QuestionError(
                "not-ready", f"no worker has acquired partition {told} yet; start one: twin worker"
            )
        return {"status": "ready"}

    @app.get("/metrics", summary="For Prometheus", tags=["service"], response_class=Response)
    async def prometheus(request: Request) -> Response:
        """Figures without patient labels. Without a token only where the API listens on loopback."""
        if not open_metrics and not admits(request.headers.get("authorization"), token):
            raise HTTPException(
                401, "beyond loopback, metrics need the token: authorization in the scrape's settings"
            )
        try:
            counts = await within(queries.counts())
        except (StoreUnavailableError, TimeoutError):
            counts = None
        more = [one.metrics for one in (intake, stream) if one is not None]
        body = metrics.render_metrics(counts, queries.rules.library.fingerprint, *more)
        return Response(body, media_type=metrics.MEDIA_TYPE)

    app.add_middleware(AccessLog)
    return app


def _tagged(request: Request, answer: TwinAnswer | ForecastAnswer, version: int) -> Response:
    """The answer with its ETag, or 304 when the asker holds it already.

    The tag is weak: age and position move on while the twin stays. It hashes the answer, since a version may come again
    with other content after Redis has lost its last second.
    """
    lasting = answer.model_dump_json(exclude={"age_h", "position"})
    tag = f'W/"{version}-{hashlib.sha256(lasting.encode()).hexdigest()[:16]}"'
    # no-cache: keep it, but ask again each time.
    headers = {"ETag": tag, "Cache-Control": "private, no-cache"}
    held = [given.strip() for given in request.headers.get("if-none-match", "").split(",")]
    if tag in held or "*" in held:
        return Response(status_code=304, headers=headers)
    return Response(answer.model_dump_json(), media_type="application/json", headers=headers)
