"""The HTTP API over a real Redis that the pipeline and the store have filled."""

from __future__ import annotations

import asyncio
import datetime as dt
import json
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import redis
from pydantic import BaseModel

from streams.embedded import EmbeddedRedis
from streams.queries.answers import ForecastAnswer, RisksAnswer, TwinAnswer, TwinList
from streams.serve import create_app
from streams.settings import Settings, load_settings
from streams.simulation.wire import DemoRecord, Sender
from streams.web.api import example
from tests.integration.operators import (
    DISCHARGED,
    MONITORED,
    OVERDOSED,
    PENDING,
    SLASHED,
    STALE,
    VOLUNTEER,
    Filler,
    at,
    monitored,
    ward,
)

NOW = at(48)


class Browser:
    """Asks the application in one event loop, as a server would."""

    def __init__(self, settings: Settings) -> None:
        self.runner = asyncio.Runner()
        self.app = create_app(settings, clock=lambda: NOW)
        self.client = httpx.AsyncClient(
            transport=httpx.ASGITransport(self.app, raise_app_exceptions=False), base_url="http://api"
        )
        self.token = settings.web.token_file.read_text().strip()

    def close(self) -> None:
        self.runner.run(self.client.aclose())

        async def end() -> None:
            async with self.app.router.lifespan_context(self.app):
                pass

        self.runner.run(end())
        self.runner.close()

    def get(self, path: str, *, token: str | None = None, **headers: str) -> httpx.Response:
        given = self.token if token is None else token
        if given:
            headers["Authorization"] = f"Bearer {given}"
        names = {name.replace("_", "-"): text for name, text in headers.items()}
        return self.runner.run(self.client.get(path, headers=names))

    def json(self, path: str) -> Any:
        answer = self.get(path)
        assert answer.status_code == 200, answer.text
        return answer.json()


def settings_for(url: str, group: str, directory: Path, **web: Any) -> Settings:
    loaded = load_settings()
    return loaded.model_copy(
        update={
            "redis": loaded.redis.model_copy(update={"url": url}),
            "kafka": loaded.kafka.model_copy(update={"group": group}),
            "web": loaded.web.model_copy(update={"token_file": directory / "token", **web}),
        }
    )


@pytest.fixture(scope="module")
def filled(redis_server: EmbeddedRedis) -> Filler:
    """A ward that no test changes."""
    filler = Filler(redis_server.url, "api-tests")
    filler.apply(ward(), bad=b"not json")
    return filler


@pytest.fixture
def api(filled: Filler, tmp_path: Path) -> Iterator[Browser]:
    browser = Browser(settings_for(filled.url, filled.group, tmp_path))
    yield browser
    browser.close()


@pytest.fixture
def own(redis_server: EmbeddedRedis, group: str, tmp_path: Path) -> Iterator[tuple[Filler, Browser]]:
    """An empty store of the test's own."""
    browser = Browser(settings_for(redis_server.url, group, tmp_path))
    yield Filler(redis_server.url, group), browser
    browser.close()


def problem(answer: httpx.Response) -> tuple[int, str]:
    assert answer.headers["content-type"] == "application/problem+json"
    body = answer.json()
    assert body["status"] == answer.status_code
    assert set(body) >= {"type", "title", "status", "detail"}
    return answer.status_code, body["type"].removeprefix("urn:twin-updater:problem:")


def test_twin_says_what_it_is_and_where_it_is_true(api: Browser) -> None:
    twin = api.json(f"/v1/twins/{OVERDOSED}")
    assert (twin["state"], twin["mode"], twin["recomputed"]) == ("live", "live", False)
    assert twin["watermark"] == twin["as_of"] == "2026-03-02T07:30:00Z"
    assert twin["settled_until"] == "2026-02-27T07:30:00Z"
    assert twin["age_h"] == 24.5
    assert twin["records"] == {"dose": 3, "lab": 2, "patient": 1, "regimen": 1}
    assert twin["position"]["next_offset"] >= 7
    estimate = twin["estimates"][0]
    assert estimate["drug"] == "vancomycin"
    assert estimate["concentration"]["unit"] == "mg/L"
    assert (
        estimate["concentration"]["low"]
        < estimate["concentration"]["median"]
        < estimate["concentration"]["high"]
    )
    assert "planned" in estimate["assumes"]
    assert estimate["risks"][0]["limit"] == 600.0
    assert [e["drug"] for e in twin["standing"]] == ["vancomycin"]


def test_pseudonym_may_hold_a_slash(api: Browser) -> None:
    assert api.json(f"/v1/twins/{SLASHED}")["patient"] == SLASHED
    assert api.json("/v1/twins/ward%2F3/forecast")["patient"] == SLASHED


def test_stale_is_derived_from_the_watermark_in_the_twin_and_in_the_list(api: Browser) -> None:
    twin = api.json(f"/v1/twins/{STALE}")
    assert twin["state"] == "stale"
    assert "2026-03-01T20:00:00Z" in twin["reasons"][0]
    assert twin["estimates"][0]["state"] == "stale"
    assert [row["patient"] for row in api.json("/v1/twins?state=stale")["twins"]] == [STALE]


def test_states_that_need_no_failure_are_told(api: Browser) -> None:
    assert api.json(f"/v1/twins/{PENDING}")["state"] == "pending"
    assert api.json(f"/v1/twins/{DISCHARGED}")["state"] == "discharged"


def test_settled_is_72_h_behind_the_watermark_and_recomputed(api: Browser) -> None:
    twin = api.json(f"/v1/twins/{STALE}?as_of=settled")
    assert (twin["mode"], twin["recomputed"], twin["as_of"]) == ("settled", True, "2026-03-02T08:00:00Z")
    assert twin["state"] == "live"  # 12 h after the last level


def test_a_past_moment_gives_the_twin_its_records_up_to_then_give(
    own: tuple[Filler, Browser],
) -> None:
    filler, browser = own
    records = [r for r in ward() if r.patient == OVERDOSED]
    filler.apply([r for r in records if r.event_time_ns <= at(15.5)])
    then = browser.json(f"/v1/twins/{OVERDOSED}")
    filler.apply([r for r in records if r.event_time_ns > at(15.5)])
    asked = browser.json(f"/v1/twins/{OVERDOSED}?as_of={then['as_of']}")
    assert asked["recomputed"]
    for key in ("estimates", "standing", "state", "quality"):
        assert asked[key] == then[key], key


def test_signal_is_told_beside_the_drug_that_moves_it_now_and_then(own: tuple[Filler, Browser]) -> None:
    filler, browser = own
    records = monitored()
    filler.apply(records[:6])  # frames up to 4 h
    then = browser.json(f"/v1/twins/{MONITORED}")
    filler.apply(records[6:])
    now = browser.json(f"/v1/twins/{MONITORED}")
    channel = now["estimates"][0]["channel"]
    assert (channel["signal"], channel["baseline"]["unit"]) == ("qtc", "ms")
    assert channel["last_window"] == "2026-03-01T16:00:00Z"
    assert channel["windows"]["taken"] > then["estimates"][0]["channel"]["windows"]["taken"]
    assert now["records"]["wearable (recent)"] == 8
    asked = browser.json(f"/v1/twins/{MONITORED}?as_of={then['as_of']}")
    assert asked["estimates"] == then["estimates"]


@pytest.mark.parametrize(
    ("query", "status", "kind"),
    [
        ("as_of=2026-03-09T08:00:00Z", 400, "as-of-ahead"),
        ("as_of=2020-03-09T08:00:00Z", 400, "as-of-forgotten"),
        ("as_of=yesterday", 422, "invalid-parameter"),
        ("as_of=2026-03-01T08:00:00", 422, "invalid-parameter"),
    ],
)
def test_moment_without_an_answer_is_a_problem(api: Browser, query: str, status: int, kind: str) -> None:
    assert problem(api.get(f"/v1/twins/{VOLUNTEER}?{query}")) == (status, kind)


def test_forecast_starts_at_the_watermark_and_says_what_it_assumes(api: Browser) -> None:
    forecast = api.json(f"/v1/twins/{OVERDOSED}/forecast?drug=vancomycin&horizon_h=24&back_h=48&step_h=1")
    modes = {p["time"]: p["mode"] for p in forecast["points"]}
    assert modes["2026-03-02T07:30:00Z"] == "live"
    assert modes["2026-03-02T08:30:00Z"] == "forecast"
    times = [dt.datetime.fromisoformat(p["time"]) for p in forecast["points"]]
    assert times == sorted(times)
    assert forecast["points"][-1]["time"] == "2026-03-03T07:30:00Z"
    assert all(p["low"] <= p["median"] <= p["high"] for p in forecast["points"])
    assert [d["status"] for d in forecast["doses"]] == ["given"] * 3 + ["planned"] * 3
    assert [level["value"] for level in forecast["levels"]] == [38.0, 52.0]
    assert forecast["assumes"].startswith("the 4 planned doses")
    assert forecast["risks"][0]["probability"] > 0.9


def test_forecast_and_twin_agree_on_the_level_now(api: Browser) -> None:
    now = api.json(f"/v1/twins/{OVERDOSED}")["estimates"][0]["concentration"]
    points = api.json(f"/v1/twins/{OVERDOSED}/forecast")["points"]
    there = next(p for p in points if p["time"] == "2026-03-02T07:30:00Z")
    assert there["median"] == pytest.approx(now["median"], rel=1e-9)
    assert there["high"] == pytest.approx(now["high"], rel=1e-9)


@pytest.mark.parametrize(
    ("path", "status", "kind"),
    [
        ("/v1/twins/nobody", 404, "no-such-twin"),
        (f"/v1/twins/{VOLUNTEER}/forecast?drug=vancomycin", 404, "no-such-drug"),
        (f"/v1/twins/{PENDING}/forecast", 409, "no-estimate"),
        (f"/v1/twins/{VOLUNTEER}/forecast?horizon_h=999", 422, "invalid-parameter"),
        ("/v1/twins?limit=0", 422, "invalid-parameter"),
        ("/v1/twins?cursor=nonsense", 400, "bad-cursor"),
        ("/v1/nothing", 404, "no-such-path"),
    ],
)
def test_every_error_is_a_problem_with_a_stable_type(api: Browser, path: str, status: int, kind: str) -> None:
    assert problem(api.get(path)) == (status, kind)


def test_only_get_is_answered(api: Browser) -> None:
    answer = api.runner.run(
        api.client.post(f"/v1/twins/{VOLUNTEER}", headers={"Authorization": f"Bearer {api.token}"})
    )
    assert problem(answer) == (405, "method-not-allowed")


def test_everything_below_v1_needs_the_token(api: Browser) -> None:
    for path in ("/v1/twins", f"/v1/twins/{VOLUNTEER}", f"/v1/twins/{VOLUNTEER}/forecast", "/v1/risks"):
        for token in ("", "wrong", api.token + "x", "ü" * 40):
            answer = api.runner.run(
                api.client.get(path, headers={b"Authorization": b"Bearer " + token.encode()} if token else {})
            )
            assert problem(answer) == (401, "unauthorized")
            assert answer.headers["www-authenticate"] == "Bearer"


def test_probes_need_no_token(api: Browser) -> None:
    assert api.get("/livez", token="").json() == {"status": "alive"}
    assert api.get("/readyz", token="").json() == {"status": "ready"}


def test_metrics_are_open_on_loopback_only(api: Browser, filled: Filler, tmp_path: Path) -> None:
    assert api.get("/metrics", token="").status_code == 200
    exposed = Browser(settings_for(filled.url, filled.group, tmp_path, host="0.0.0.0"))
    try:
        assert problem(exposed.get("/metrics", token="")) == (401, "unauthorized")
        assert exposed.get("/metrics").status_code == 200
    finally:
        exposed.close()


def test_thirteen_metrics_and_no_patient_among_their_labels(api: Browser) -> None:
    text = api.get("/metrics").text
    names = {line.split()[2] for line in text.splitlines() if line.startswith("# TYPE")}
    assert len(names) == 13
    assert all(name.startswith("twin_") for name in names)
    assert 'twin_dead_letters_total{reason="not_json"} 1.0' in text
    assert 'twin_twins{state="stale"} 1.0' in text
    assert 'twin_standing_episodes{severity="high"} 1.0' in text
    assert 'twin_outbox_messages{outbox="dead_letters",partition="0"} 1.0' in text
    assert not any(p in text for p in (OVERDOSED, VOLUNTEER, SLASHED))


def test_etag_changes_with_the_twin_and_not_with_its_age(own: tuple[Filler, Browser]) -> None:
    filler, browser = own
    records = [r for r in ward() if r.patient == VOLUNTEER]
    filler.apply(records[:-1])
    for path in (f"/v1/twins/{VOLUNTEER}", f"/v1/twins/{VOLUNTEER}/forecast"):
        first = browser.get(path)
        tag = first.headers["etag"]
        assert first.headers["cache-control"] == "private, no-cache"
        again = browser.get(path, If_None_Match=f'"other", {tag}')
        assert (again.status_code, again.content) == (304, b"")
    filler.apply(records[-1:])
    changed = browser.get(f"/v1/twins/{VOLUNTEER}", If_None_Match=tag)
    assert changed.status_code == 200
    assert changed.headers["etag"] != tag


def test_list_is_sorted_by_risk_filtered_and_paged_without_loss(api: Browser) -> None:
    everyone = api.json("/v1/twins")["twins"]
    assert everyone[0]["patient"] == OVERDOSED
    probabilities = [row["highest_probability"] for row in everyone if not row["standing"]]
    known = [probability for probability in probabilities if probability is not None]
    unknown = len(probabilities) - len(known)
    assert unknown > 0  # the pending twin: no small risk, so before those whose risk is known to be small
    assert probabilities == [None] * unknown + sorted(known, reverse=True)
    assert {row["patient"] for row in api.json("/v1/twins?drug=vancomycin")["twins"]} == {OVERDOSED, PENDING}
    for sort in ("risk", "patient"):
        seen, cursor = [], ""
        while True:
            page = api.json(f"/v1/twins?limit=2&sort={sort}{cursor}")
            seen += [row["patient"] for row in page["twins"]]
            if page["next"] is None:
                break
            cursor = f"&cursor={page['next']}"
        assert len(seen) == len(set(seen)) == page["matching"] == 6


def test_cursor_of_another_order_is_refused(api: Browser) -> None:
    cursor = api.json("/v1/twins?limit=2&sort=risk")["next"]
    assert problem(api.get(f"/v1/twins?sort=patient&cursor={cursor}")) == (400, "bad-cursor")


def test_risks_name_revision_and_the_offset_to_read_on_from(own: tuple[Filler, Browser]) -> None:
    filler, browser = own
    filler.apply(ward())
    found = browser.json("/v1/risks")
    partition = next(p for p in found["partitions"] if p["episodes"])
    assert found["standing"] == 1
    episode = partition["episodes"][0]
    assert (episode["patient"], episode["revision"], episode["ended"]) == (OVERDOSED, 2, None)
    assert partition["risk_topic_offset"] == 0  # nothing is published yet
    filler.publish(partition["partition"], "risk", 3)
    again = browser.json("/v1/risks")["partitions"][partition["partition"]]
    assert again["risk_topic_offset"] == 3


def test_discharge_takes_the_episode_off_the_list(own: tuple[Filler, Browser]) -> None:
    filler, browser = own
    filler.apply(ward())
    filler.apply([Sender(OVERDOSED, "ward-3").discharge(at(30), "home")])
    assert browser.json("/v1/risks")["standing"] == 0
    assert browser.json(f"/v1/twins/{OVERDOSED}")["standing"] == []


def test_not_ready_until_a_worker_has_come(own: tuple[Filler, Browser]) -> None:
    filler, browser = own
    answer = browser.get("/readyz", token="")
    assert problem(answer) == (503, "not-ready")
    assert "twin worker" in answer.json()["detail"]
    filler.apply([])
    assert browser.get("/readyz", token="").status_code == 200


def test_a_store_that_does_not_answer_is_a_problem_and_a_metric(
    private_redis: EmbeddedRedis, tmp_path: Path
) -> None:
    browser = Browser(settings_for(private_redis.url, "gone", tmp_path))
    try:
        private_redis.process.kill()
        answer = browser.get(f"/v1/twins/{VOLUNTEER}")
        assert problem(answer) == (503, "store-unavailable")
        assert "retry-after" in answer.headers
        assert problem(browser.get("/readyz")) == (503, "store-unavailable")
        assert "twin_redis_up 0.0" in browser.get("/metrics").text
        assert browser.get("/livez").status_code == 200
    finally:
        browser.close()


def test_answer_older_than_one_given_before_says_so(own: tuple[Filler, Browser]) -> None:
    filler, browser = own
    records = [r for r in ward() if r.patient == VOLUNTEER]
    filler.apply(records)
    before = browser.json(f"/v1/twins/{VOLUNTEER}")
    assert before["position"]["rolled_back"] is False

    with redis.Redis.from_url(filler.url) as client:
        client.delete(*client.scan_iter(f"tw:{{{filler.group}.*"))
    answer = browser.get(f"/v1/twins/{VOLUNTEER}")
    assert problem(answer) == (503, "store-unavailable")
    assert "read again from the log" in answer.json()["detail"]
    listed = browser.json("/v1/twins")
    assert listed["twins"] == []
    assert [one["rolled_back"] for one in listed["positions"]] == [True]

    again = Filler(filler.url, filler.group)
    again.apply(records[:3])
    behind = browser.json(f"/v1/twins/{VOLUNTEER}")
    assert behind["position"]["rolled_back"] is True
    assert behind["position"]["next_offset"] < before["position"]["next_offset"]
    assert [one["rolled_back"] for one in browser.json("/v1/risks")["partitions"]].count(True) == 1

    again.apply(records[3:])
    caught_up = browser.json(f"/v1/twins/{VOLUNTEER}")
    assert caught_up["position"] == before["position"]
    assert problem(browser.get("/v1/twins/p-nobody")) == (404, "no-such-twin")


def test_patient_whose_every_record_was_cancelled_is_not_known(own: tuple[Filler, Browser]) -> None:
    filler, browser = own
    dose = json.loads(ward()[0].value) | {"patient": "p-moved"}
    cancelled = {k: v for k, v in dose.items() if k != "payload"} | {"revision": 1, "cancelled": True}
    records = [DemoRecord("p-moved", 0, json.dumps(body).encode()) for body in (dose, cancelled)]
    filler.apply(records)
    answer = browser.get("/v1/twins/p-moved")
    assert problem(answer) == (404, "no-such-twin")
    assert "cancelled" in answer.json()["detail"]


def test_twin_of_another_version_says_so(own: tuple[Filler, Browser], redis_server: EmbeddedRedis) -> None:
    filler, browser = own
    filler.apply([r for r in ward() if r.patient == VOLUNTEER])
    with redis.Redis.from_url(redis_server.url) as client:
        key = next(client.scan_iter(f"tw:{{{filler.group}.*:twins"))
        client.hset(key, VOLUNTEER, b"\x92\xc4\x01\x90\xc4\x01\x90")  # two empty arrays
    answer = browser.get(f"/v1/twins/{VOLUNTEER}")
    assert problem(answer) == (503, "other-version")
    assert "twin rebuild" in answer.json()["detail"]


def test_logs_name_routes_and_never_patients(api: Browser, capsys: pytest.CaptureFixture[str]) -> None:
    api.get(f"/v1/twins/{OVERDOSED}")
    api.get("/v1/twins/p-secret/forecast")
    said = capsys.readouterr()
    assert "/v1/twins/{patient:path}" in said.out + said.err
    assert OVERDOSED not in said.out + said.err
    assert "p-secret" not in said.out + said.err


def test_openapi_describes_every_path(api: Browser) -> None:
    document = api.get("/openapi.json", token="").json()
    assert set(document["paths"]) >= {
        "/v1/twins",
        "/v1/twins/{patient}",
        "/v1/risks",
        "/livez",
        "/readyz",
        "/metrics",
    }
    assert "Problem" in document["components"]["schemas"]


@pytest.mark.parametrize("patient", [OVERDOSED, SLASHED])
def test_export_is_csv_and_as_json_tells_its_columns(api: Browser, patient: str) -> None:
    answer = api.get(f"/v1/twins/{patient}/export")
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/csv; charset=utf-8"
    assert answer.headers["cache-control"] == "private, no-cache"
    header, *rows = answer.text.splitlines()
    told = api.json(f"/v1/twins/{patient}/export?format=json")
    assert [column["name"] for column in told["columns"]] == header.split(",")
    assert len(told["rows"]) == len(rows) > 3
    assert told["patient"] == patient


def test_export_refuses_what_it_cannot_give_as_a_problem(api: Browser) -> None:
    assert problem(api.get(f"/v1/twins/{PENDING}/export")) == (409, "no-estimate")
    assert problem(api.get("/v1/twins/nobody/export")) == (404, "no-such-twin")
    assert problem(api.get(f"/v1/twins/{OVERDOSED}/export?format=xlsx")) == (422, "invalid-parameter")
    assert problem(api.get(f"/v1/twins/{OVERDOSED}/export", token="")) == (401, "unauthorized")


def test_every_estimate_tells_what_its_levels_taught_and_how_finely_it_was_computed(api: Browser) -> None:
    [estimate] = api.json(f"/v1/twins/{OVERDOSED}")["estimates"]
    assert {eta["name"] for eta in estimate["etas"]} >= {"clearance", "central_volume"}
    for eta in estimate["etas"]:
        assert eta["shrinkage"] == pytest.approx((eta["sd"] / eta["omega"]) ** 2)
        assert eta["monte_carlo_error"] == pytest.approx(eta["sd"] / estimate["effective_points"] ** 0.5)
    for shown in (estimate["concentration"], estimate["auc24"], estimate["parameters"][0]["estimate"]):
        assert 0.0 < shown["monte_carlo_error"] < 0.2 * (shown["high"] - shown["low"])


@pytest.mark.parametrize(
    ("name", "path", "answer"),
    [
        ("twin", "/v1/twins/{patient}", TwinAnswer),
        ("forecast", "/v1/twins/{patient}/forecast", ForecastAnswer),
        ("twins", "/v1/twins", TwinList),
        ("risks", "/v1/risks", RisksAnswer),
    ],
)
def test_openapi_shows_examples_that_are_answers(
    api: Browser, name: str, path: str, answer: type[BaseModel]
) -> None:
    operation = api.get("/openapi.json").json()["paths"][path]["get"]
    shown = operation["responses"]["200"]["content"]["application/json"]
    assert "$ref" in shown["schema"]
    assert shown["example"]
    # FastAPI drops nulls from examples: the file has them.
    answer.model_validate(example(name)["content"]["application/json"]["example"])


def test_token_is_made_with_mode_600_and_kept(filled: Filler, tmp_path: Path) -> None:
    settings = settings_for(filled.url, filled.group, tmp_path)
    create_app(settings)
    made = settings.web.token_file.read_text()
    assert stat.S_IMODE(settings.web.token_file.stat().st_mode) == 0o600
    create_app(settings)
    assert settings.web.token_file.read_text() == made
