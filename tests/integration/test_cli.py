"""The command line against real servers: what it prints, how it ends, what it sends."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml
from confluent_kafka import Consumer, Producer, TopicPartition
from typer.testing import CliRunner

from streams.activation import CONTROL_KEY
from streams.adapters.topics import Topics
from streams.cli import app
from streams.codec import partition_of
from streams.embedded import EmbeddedKafka, EmbeddedRedis
from streams.simulation.wire import DemoRecord, Sender
from tests.integration.operators import (
    OVERDOSED,
    PARTITIONS,
    PENDING,
    STALE,
    VOLUNTEER,
    Filler,
    at,
    overdosed,
    theophylline,
    ward,
)
from tests.streams.releases import theophylline_later

# kafka-python reads its own data files in a way Python 3.11 calls deprecated.
pytestmark = pytest.mark.filterwarnings("ignore:(read|open)_text is deprecated:DeprecationWarning")

GOOD = [r.value.decode() for r in theophylline("p-1")]


class Line:
    """Runs `twin ...` in this process, with the servers of the test in its environment."""

    def __init__(self, environment: dict[str, str]) -> None:
        self.environment = environment
        self.runner = CliRunner()

    def __call__(self, *words: str, given: str = "", status: int = 0) -> str:
        done = self.runner.invoke(app, list(words), input=given, env=self.environment)
        assert done.exit_code == status, f"{done.output}\n{done.stderr}\n{done.exception!r}"
        assert "Traceback" not in done.output
        self.told = done.stderr
        return done.stdout

    def json(self, *words: str, status: int = 0) -> Any:
        return json.loads(self(*words, "--json", status=status))


def environment(tmp_path: Path, topics: Topics | None = None, **more: str) -> dict[str, str]:
    if topics is not None:
        file = tmp_path / "topics.yaml"
        file.write_text(yaml.safe_dump(topics.model_dump()))
        more["TWIN_PATHS__TOPICS"] = str(file)
    return {"TWIN_WEB__TOKEN_FILE": str(tmp_path / "token"), **more}


@pytest.fixture(scope="module")
def filled(redis_server: EmbeddedRedis) -> Filler:
    filler = Filler(redis_server.url, "cli-tests")
    filler.apply(ward(), bad=b'{"schema":"twin.record/1","id":"bad-1"}')
    return filler


@pytest.fixture
def asking(filled: Filler, tmp_path: Path) -> Line:
    """Commands that ask the store only."""
    return Line(environment(tmp_path, REDIS_URL=filled.url, TWIN_KAFKA__GROUP=filled.group))


@pytest.fixture
def line(
    kafka: EmbeddedKafka, redis_server: EmbeddedRedis, topics: Topics, group: str, tmp_path: Path
) -> Line:
    """Commands with topics and a group of their own."""
    return Line(
        environment(
            tmp_path,
            topics,
            KAFKA_BOOTSTRAP_SERVERS=kafka.bootstrap,
            REDIS_URL=redis_server.url,
            TWIN_KAFKA__GROUP=group,
        )
    )


def read_all(connection: dict[str, str], topic: str, count: int) -> Iterator[Any]:
    consumer = Consumer({**connection, "group.id": "test-reader", "auto.offset.reset": "earliest"})
    consumer.assign([TopicPartition(topic, p, 0) for p in range(PARTITIONS)])
    deadline = time.monotonic() + 20
    try:
        while count and time.monotonic() < deadline:
            message = consumer.poll(0.5)
            if message is not None and message.error() is None:
                count -= 1
                yield message
    finally:
        consumer.close()


def test_help_teaches_with_examples(asking: Line) -> None:
    assert "twin demo" in asking("--help")
    for command in ("state", "risks", "publish", "validate", "trace", "doctor", "ticks", "dead-letters"):
        assert "Example" in asking(command, "--help"), command


def test_state_shows_the_twin_and_draws_it(asking: Line, tmp_path: Path) -> None:
    picture = tmp_path / "twin.svg"
    shown = asking("state", OVERDOSED, "--plot", str(picture))
    for text in (
        f"{OVERDOSED}: live",
        "vancomycin-goti-2018",
        "auc24 > 600 mg*h/L",
        "planned doses",
        "standing:",
    ):
        assert text in shown, text
    drawn = picture.read_text()
    assert drawn.startswith("<?xml")
    for text in (OVERDOSED, "vancomycin (mg/L)", "measured level", "time (UTC)"):
        assert text in drawn, text


def test_same_twin_is_drawn_with_the_same_bytes(asking: Line, tmp_path: Path) -> None:
    for name in ("a.svg", "b.svg"):
        asking("state", VOLUNTEER, "--plot", str(tmp_path / name))
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()


def test_export_writes_rows_or_a_sheet_and_changes_nothing(asking: Line, tmp_path: Path) -> None:
    before = asking.json("state", OVERDOSED)["version"]
    rows = asking("export", OVERDOSED, "--drug", "vancomycin").splitlines()
    assert rows[0].startswith("ID,TIME,AMT,RATE,II,ADDL,SS,CMT,EVID,MDV,DV,LLOQ,CENS,TV_CLEARANCE,")
    # A patient record, three doses, two levels.
    assert [line.split(",")[8] for line in rows[1:]] == ["2", "1", "1", "0", "1", "0"]
    told = asking.json("export", OVERDOSED)
    assert [column["name"] for column in told["columns"]] == rows[0].split(",")
    assert len(told["rows"]) == len(rows) - 1
    for name, begins in (("twin.csv", b"ID,TIME,"), ("twin.pdf", b"%PDF-"), ("twin.svg", b"<?xml")):
        asking("export", OVERDOSED, "--out", str(tmp_path / name))
        assert (tmp_path / name).read_bytes().startswith(begins)
    assert (tmp_path / "twin.csv").read_text().splitlines() == rows
    assert asking.json("state", OVERDOSED)["version"] == before


def test_state_as_json_is_the_answer_of_the_api(asking: Line) -> None:
    twin = asking.json("state", STALE)
    assert (twin["state"], twin["mode"]) == ("stale", "live")
    assert asking.json("state", STALE, "--as-of", "settled")["mode"] == "settled"
    assert asking.json("state", STALE, "--as-of", "2026-03-01T15:00:00Z")["estimates"][0]["levels"] == 2


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["state", "nobody"], "no record of this patient"),
        (["state", VOLUNTEER, "--as-of", "yesterday"], "--as-of is 'yesterday'"),
        (["state", VOLUNTEER, "--plot", "twin.pdf"], ".svg or .png"),
        (["state", PENDING, "--plot", "twin.svg"], "nothing to forecast from"),
        (["export", PENDING], "nothing to export"),
        (["export", VOLUNTEER, "--drug", "digoxin"], "this patient has no digoxin"),
        (["export", VOLUNTEER, "--out", "twin.xlsx"], "rows are written as .csv"),
        (["twins", "--state", "asleep"], "there is no state 'asleep'"),
        (["drugs", "show", "aspirin"], "there is no drug or model 'aspirin'"),
        *(
            (
                [*words, "p\udcff"],
                r"the pseudonym 'p\udcff' has the character '\udcff'; it must have 1 to 128",
            )
            for words in (["forget"], ["rebuild"], ["state"], ["ops", "verify"], ["export"])
        ),
        (["trace", "adm-1", "--patient", "p 1"], "the pseudonym 'p 1' has the character ' '"),
        (["state", "p\n"], r"the pseudonym 'p\n' has the character '\n'"),
        (["state", "p" * 129], "the pseudonym has 129 characters; it must have 1 to 128"),
        (["trace", "x\udcff"], r"the id 'x\udcff' has the character '\udcff'"),
        (["forget", ""], "the pseudonym is empty"),
        (["validate", "/nowhere.ndjson"], "/nowhere.ndjson: No such file"),
        (["--settings", "/nowhere.yaml", "risks"], "/nowhere.yaml: cannot be read"),
    ],
)
def test_user_error_is_one_sentence_and_status_2(asking: Line, words: list[str], told: str) -> None:
    asking(*words, status=2)
    assert asking.told.startswith("twin: ")
    assert told in asking.told
    assert asking.told.count("\n") == 1


def test_redis_away_is_one_sentence_and_status_2(tmp_path: Path) -> None:
    line = Line(environment(tmp_path, REDIS_URL="redis://127.0.0.1:1/0"))
    line("risks", status=2)
    assert line.told.startswith("twin: Redis does not take commands now")


def test_risks_and_twins_put_the_highest_first(asking: Line) -> None:
    assert OVERDOSED in asking("risks")
    answer = asking.json("risks")
    assert answer["standing"] == 1
    assert asking.json("twins")["twins"][0]["patient"] == OVERDOSED
    assert OVERDOSED in asking("twins", "--drug", "vancomycin", "--state", "live")


def test_trace_tells_what_became_of_a_record(filled: Filler, asking: Line) -> None:
    order = json.loads(overdosed()[1].value)["id"]
    answer = asking.json("trace", order)
    arrival = answer["arrivals"][0]
    assert (arrival["outcome"], arrival["kind"], arrival["patient"]) == ("applied", "regimen", OVERDOSED)
    assert answer["held"][0]["revision"] == 0
    shown = asking("trace", order, "--patient", OVERDOSED)
    assert "applied" in shown
    assert "What the twin holds" in shown
    assert asking.json("trace", order, "--patient", VOLUNTEER, status=1)["held"] == []
    assert "name the patient" in asking("trace", "never-sent", status=1)


def test_validate_names_line_reason_and_way_out(asking: Line) -> None:
    lines = [
        GOOD[0],
        "",
        "not json",
        GOOD[1].replace("theophylline", "aspirin"),
        GOOD[2].replace("mg/L", "mg"),
    ]
    text = asking("validate", "-", given="\n".join(lines), status=1)
    told = text.splitlines()
    assert told[0].startswith("line 3: not_json: ")
    assert told[1].startswith("line 4: unknown_drug: ")
    assert told[2].startswith("line 5: unknown_unit: ")
    assert asking.told == "1 good, 3 bad\n"
    assert asking("validate", "-", given="\n".join(GOOD)) == ""


def test_publish_reaches_the_partition_the_worker_expects(
    line: Line, topics: Topics, connection: dict[str, str], tmp_path: Path
) -> None:
    patients = [f"p-{n}" for n in range(20)]
    file = tmp_path / "records.ndjson"
    file.write_bytes(b"\n".join(theophylline(p)[0].value for p in patients))
    done = line.json("publish", str(file), "--backfill")
    assert (done["published"], done["bad"], done["not_delivered"]) == (20, {}, 0)
    messages = list(read_all(connection, topics.names.records, 20))
    assert {m.key().decode() for m in messages} == set(patients)
    assert all(m.partition() == partition_of(m.key(), PARTITIONS) for m in messages)
    assert all(dict(m.headers())["twin-backfill"] for m in messages)


def test_publish_keeps_bad_lines_back_unless_told_otherwise(
    line: Line, topics: Topics, connection: dict[str, str]
) -> None:
    bad = GOOD[1].replace("theophylline", "aspirin")
    assert "published 1 (" in line("publish", "-", given=f"{GOOD[0]}\n{bad}\n", status=1)
    assert "line 2: unknown_drug" in line.told
    line("publish", "-", "--unchecked", given=bad, status=1)
    assert len(list(read_all(connection, topics.names.records, 2))) == 2


def test_nobody_is_erased_by_publish_whatever_it_is_told(
    line: Line, topics: Topics, connection: dict[str, str]
) -> None:
    erasing = json.dumps({**json.loads(GOOD[0]), "kind": "forget", "id": "erase-him", "payload": {}})
    line("publish", "-", "--unchecked", given=f"{erasing}\n{GOOD[0]}\n", status=1)
    assert "line 1: wrong_schema: erasure is an operator's act" in line.told
    # Of one patient, so in one partition, in the order sent.
    assert [m.value().decode() for m in read_all(connection, topics.names.records, 1)] == [GOOD[0]]


def test_erasing_that_nobody_has_applied_yet_names_the_record_to_look_for(
    line: Line, redis_server: EmbeddedRedis, group: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    Filler(redis_server.url, group).apply(theophylline(VOLUNTEER))
    monkeypatch.setattr("streams.operations.forget.APPLIED_WITHIN_S", 0.5)
    line("forget", VOLUNTEER, "--send", status=1)
    assert re.search(r"start a worker .*twin trace forget-[0-9a-f]{16} tells .*`future`", line.told)


def test_a_drug_that_only_a_release_knows_can_be_sent_and_sent_again_once_the_log_activates_the_release(
    line: Line, topics: Topics, connection: dict[str, str], tmp_path: Path
) -> None:
    line.environment["TWIN_PATHS__LIBRARY"] = str(theophylline_later(tmp_path / "config"))
    assert line("validate", "-", given=GOOD[1]) == ""
    assert "published 1 (" in line("publish", "-", given=GOOD[1])
    refused = {
        "twin-error-class": "unknown_drug",
        "twin-error-partition": "0",
        "twin-error-offset": "0",
    }
    producer = Producer(connection)
    producer.produce(topics.names.dead_letters, value=GOOD[1], key=b"p-1", headers=list(refused.items()))
    assert producer.flush(10) == 0
    done = line.json("ops", "redrive", "--send")
    assert done["sent"] == 0
    assert "The release later reads it: twin ops activate it first" in done["letters"][0]["why"]
    # The record that activates it waits in the log, before any worker; a record sent now will come after it.
    line("ops", "activate", "later", "--send")
    assert line.json("ops", "redrive", "--send")["sent"] == 1
    sent = [m for m in read_all(connection, topics.names.records, 2 + PARTITIONS) if m.key() != CONTROL_KEY]
    assert [m.value().decode() for m in sent] == [GOOD[1]] * 2


def send(connection: dict[str, str], topic: str, partition: int, value: bytes, **headers: str) -> None:
    """One message in a transaction of its own, as the worker sends."""
    producer = Producer({**connection, "transactional.id": f"{topic}-{partition}"})
    producer.init_transactions(10)
    producer.begin_transaction()
    named = [(name.replace("_", "-"), text.encode()) for name, text in headers.items()]
    producer.produce(topic, value=value, key=b"p", partition=partition, headers=named)
    producer.commit_transaction(10)


def test_dead_letters_say_when_why_and_where(line: Line, topics: Topics, connection: dict[str, str]) -> None:
    for n in range(3):
        send(
            connection,
            topics.names.dead_letters,
            1,
            msgspec.json.encode({"id": f"r-{n}"}),
            twin_error_class="unknown_drug",
            twin_error_message="payload.drug 'aspirin' has [no] model",
            twin_error_partition="1",
            twin_error_offset=str(40 + n),
        )
    shown = line("dead-letters")
    for text in ("unknown_drug", "payload.drug 'aspirin' has [no] model", "1/42", "r-2"):
        assert text in shown, text
    assert [letter["offset"] for letter in line.json("dead-letters", "--last", "50")] == [40, 41, 42]


def test_follow_begins_with_what_stands_and_ignores_known_revisions(
    line: Line, topics: Topics, connection: dict[str, str], redis_server: EmbeddedRedis, group: str
) -> None:  # fmt: skip
    filler = Filler(redis_server.url, group)
    filler.apply(ward())
    known = line.json("risks")
    partition = next(p for p in known["partitions"] if p["episodes"])
    episode = partition["episodes"][0]
    for revision, kind in ((1, "raised"), (2, "updated"), (3, "cleared")):
        event = {**episode, "revision": revision, "type": kind}
        send(
            connection,
            topics.names.risk,
            partition["partition"],
            msgspec.json.encode(event),
            ce_id=f"e-{revision}",
        )
    following = subprocess.Popen(
        [sys.executable, "-m", "streams", "risks", "--follow", "--json"],
        env={**os.environ, **line.environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert following.stdout is not None
    heard = [json.loads(following.stdout.readline()) for _ in range(2)]
    following.send_signal(signal.SIGINT)
    rest, errors = following.communicate(timeout=20)
    assert [(e["type"], e["revision"]) for e in heard] == [("standing", 2), ("cleared", 3)]
    assert (rest, errors, following.returncode) == (b"", b"", 0)


def test_doctor_is_content_with_a_sound_deployment_and_says_what_is_not(
    line: Line, redis_server: EmbeddedRedis, group: str, topics: Topics, connection: dict[str, str]
) -> None:
    findings = line.json("doctor", status=1)
    wrong = {f["check"]: f["found"] for f in findings if not f["ok"]}
    assert set(wrong) == {"partitions"}
    assert "start one: twin worker" in wrong["partitions"]
    filler = Filler(redis_server.url, group)
    filler.apply([])
    assert "All is well" in line("doctor")
    filler.apply([DemoRecord("x", 0, b"{")])
    findings = line.json("doctor", status=1)
    assert [f["check"] for f in findings if not f["ok"]] == ["progress"]  # ahead of an empty topic


def test_doctor_finds_a_strayed_producer_and_another_fingerprint(
    line: Line, redis_server: EmbeddedRedis, group: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    filler = Filler(redis_server.url, group)
    stray = next(p for p in ("a", "b", "c", "d", "e") if partition_of(p.encode(), PARTITIONS) != 0)
    sender = Sender(stray, "ward").tick(at(0), "t")
    filler.apply([], bad=sender.value)  # key nobody, partition 0
    monkeypatch.setattr("streams.releases.fingerprint_of", lambda library: "another")
    wrong = {f["check"]: f["found"] for f in line.json("doctor", status=1) if not f["ok"]}
    assert "twin rebuild" in wrong["fingerprint"]


def test_doctor_with_nothing_running_says_so_without_a_traceback(tmp_path: Path) -> None:
    line = Line(
        environment(tmp_path, KAFKA_BOOTSTRAP_SERVERS="127.0.0.1:1", REDIS_URL="redis://127.0.0.1:1/0")
    )
    wrong = {f["check"] for f in line.json("doctor", status=1) if not f["ok"]}
    assert {"broker", "Redis"} <= wrong


def test_signals_and_drugs_list_what_can_be_sent(asking: Line) -> None:
    names = {row["name"] for row in asking.json("signals")}
    assert {"qtc", "vancomycin", "creatinine", "weight"} <= names
    assert {row["drug"] for row in asking.json("drugs")} >= {"vancomycin", "theophylline"}
    assert "clearance" in asking("drugs", "show", "vancomycin")


def test_ticks_reach_the_topic_for_the_active_only(
    line: Line, topics: Topics, connection: dict[str, str], redis_server: EmbeddedRedis, group: str
) -> None:
    filler = Filler(redis_server.url, group)
    two_hours_ago = (time.time_ns() // 10**9 - 7200) * 10**9
    filler.apply([*ward(), Sender("p-now", "ward").tick(two_hours_ago, "t")], append_time=time.time_ns())
    line("ticks", "--once")
    assert line.told == "1 ticks sent\n"
    (message,) = read_all(connection, topics.names.records, 1)
    assert message.key() == b"p-now"
    assert json.loads(message.value())["kind"] == "tick"
