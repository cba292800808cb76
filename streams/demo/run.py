"""`twin demo`: real patients and a virtual ward through a real Kafka, a worker, a real Redis and the HTTP API.

Everything is started on free loopback ports with empty data below `build/`, and ends with this process. The numbers at
the end are read from what the worker stored, and checked against the oracle run over the demo's own topic.
"""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import shutil
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
from confluent_kafka import Producer
from kafka import KafkaConsumer, TopicPartition
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from streams.adapters.topics import Topics, create_topics, read_topics
from streams.demo.ledger import Ledger, read_ledger
from streams.demo.plan import REAL_DRUGS, DemoRecord, demo_records
from streams.embedded import EmbeddedKafka, EmbeddedRedis, Process, ProcessGroup
from streams.embedded.ports import free_ports
from streams.forecasts import score_forecasts
from streams.rounding import chance, span
from twinstate.digest import digest_of

GROUP = "demo"
CONFIG = Path("config")
PATIENCE_S = 300.0
METRIC_WORDS = {
    "auc24": "AUC24",
    "concentration": "peak",
    "effect_rise": "rise",
    "signal_high": "signal",
    "signal_low": "signal",
}


class DemoError(RuntimeError):
    """A step of the demo failed; the text says which and what to look at."""


@dataclass
class Stage:
    """The running servers and how to reach them."""

    directory: Path
    bootstrap: str
    redis_url: str
    topics: Topics
    group: ProcessGroup
    environment: dict[str, str]
    api_url: str

    def child(self, name: str, module: str, *arguments: str) -> Process:
        """Start a module as a process of its own that ends with this one."""
        process = Process(
            name,
            [sys.executable, "-m", module, *arguments],
            self.directory / f"{name}.log",
            environment={**os.environ, **self.environment},
        )
        process.start()
        return self.group.add(process)


def run_demo(seed: int = 1, *, serve: bool = False, as_json: bool = False) -> int:
    """Run the demo once.

    Args:
        seed: Changes the virtual ward; the real patients stay who they are.
        serve: Stay up afterwards, until Ctrl-C.
        as_json: Print the summary as one JSON object instead of tables.

    Returns:
        Exit status: 0, or 1 when the stored twins are not the oracle's.
    """
    console = Console(stderr=as_json, width=None if sys.stdout.isatty() else 160)
    with staged(Path("build") / "demo", console) as stage:
        records = demo_records(seed)
        heard = Subscriber(stage, console)
        heard.start()
        worker = stage.child("worker", "streams", "worker")
        stage.child("api", "streams", "serve")
        publish_and_follow(stage, records, console)
        heard.finish(read_ledger(stage.redis_url, GROUP, stage.topics.partitions))
        console.print(
            "Checking against the oracle: one process, one record at a time, over the same topic ..."
        )
        oracle = ask_oracle(stage)
        ledger = read_ledger(stage.redis_url, GROUP, stage.topics.partitions, with_twins=True)
        worker.require_running()
        summary = summarise(ledger, heard, oracle, len(records), stage, seed)
        if as_json:
            sys.stdout.write(json.dumps(summary, indent=2) + "\n")
        else:
            show(summary, console)
        if serve:
            console.print("Staying up; Ctrl-C ends everything.")
            with contextlib.suppress(KeyboardInterrupt):
                while True:
                    stage.group.require_running()
                    time.sleep(0.5)
        return 0 if summary["digest"]["equal"] and summary["events"]["equal"] else 1


@contextlib.contextmanager
def staged(directory: Path, console: Console, *, keep: bool = False) -> Iterator[Stage]:
    """Start Kafka and Redis below a directory and make the topics.

    Args:
        directory: Data, logs and the token live here.
        console: Progress is told here.
        keep: Keep the data of an earlier run; otherwise the directory begins empty.
    """
    if not keep:
        shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True, exist_ok=True)
    topics = read_topics(CONFIG / "topics.yaml")
    begun = time.monotonic()
    with ProcessGroup() as group:
        redis = EmbeddedRedis(directory / "redis")
        redis.start()
        group.add(redis)
        kafka = EmbeddedKafka(directory / "kafka")
        kafka.start()
        group.add(kafka)
        create_topics({"bootstrap.servers": kafka.bootstrap}, topics)
        console.print(
            f"Apache Kafka on {kafka.bootstrap} and Redis on {redis.url}, up in {time.monotonic() - begun:.1f} s"
        )
        api_port, metrics_port = free_ports(2)
        stage = Stage(
            directory,
            kafka.bootstrap,
            redis.url,
            topics,
            group,
            environment={
                "TWIN_KAFKA__BOOTSTRAP_SERVERS": kafka.bootstrap,
                "TWIN_KAFKA__GROUP": GROUP,
                "TWIN_REDIS__URL": redis.url,
                "TWIN_WEB__PORT": str(api_port),
                "TWIN_WEB__TOKEN_FILE": str((directory / "api-token").resolve()),
                "TWIN_WORKER__METRICS_PORT": str(metrics_port),
            },
            api_url=f"http://127.0.0.1:{api_port}",
        )
        exports = "".join(
            f"export {name}={shlex.quote(value)}\n" for name, value in stage.environment.items()
        )
        (directory / "environment").write_text(exports)
        yield stage


def publish_and_follow(stage: Stage, records: list[DemoRecord], console: Console) -> None:
    """Publish every record, and wait until the store stands at the end of the topic with empty outboxes."""
    producer = Producer(
        {
            "bootstrap.servers": stage.bootstrap,
            "partitioner": "murmur2_random",
            "acks": "all",
            "enable.idempotence": True,
            "linger.ms": 20,
            "log_level": 0,  # what fails is told by delivery reports, in our words
        }
    )
    failures: list[str] = []

    def delivered(error: Any, message: Any) -> None:
        if error is not None:
            failures.append(str(error))

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=not console.is_terminal) as progress:
        sent = progress.add_task("published", total=len(records))
        applied = progress.add_task("in the twins", total=len(records))
        for record in records:
            while True:
                try:
                    producer.produce(
                        stage.topics.names.records,
                        key=record.patient.encode(),
                        value=record.value,
                        on_delivery=delivered,
                    )
                    break
                except BufferError:
                    producer.poll(0.1)
            producer.poll(0)
            progress.advance(sent)
        producer.flush()
        if failures:
            raise DemoError(f"{len(failures)} records could not be published: {failures[0]}")
        deadline = time.monotonic() + PATIENCE_S
        while True:
            stage.group.require_running()
            ledger = read_ledger(stage.redis_url, GROUP, stage.topics.partitions)
            progress.update(applied, completed=ledger.counts["records"])
            if ledger.counts["records"] >= len(records) and ledger.waiting == 0:
                return
            if time.monotonic() > deadline:
                raise DemoError(
                    f"after {PATIENCE_S:.0f} s {ledger.counts['records']} of {len(records)} records are in the twins "
                    f"and {ledger.waiting} messages wait in outboxes; see {stage.directory}/worker.log"
                )
            time.sleep(0.2)


class Subscriber:
    """An independent consumer of the risk topic, as a downstream service would be: kafka-python, read_committed."""

    def __init__(self, stage: Stage, console: Console) -> None:
        """Prepare to read from the beginning of every partition."""
        self.events: dict[int, list[dict[str, Any]]] = {p: [] for p in range(stage.topics.partitions)}
        self._stage = stage
        self._console = console
        self._until: dict[int, int] | None = None
        self._thread = threading.Thread(target=self._run, name="subscriber", daemon=True)

    def start(self) -> None:
        """Begin to listen."""
        self._thread.start()

    def finish(self, ledger: Ledger) -> None:
        """Read up to where the store says risk is published, then stop."""
        self._until = ledger.risk_positions
        self._thread.join(30.0)
        if self._thread.is_alive():
            raise DemoError("the subscriber did not reach the end of the risk topic within 30 s")

    def _run(self) -> None:
        topic = self._stage.topics.names.risk
        consumer = KafkaConsumer(
            bootstrap_servers=self._stage.bootstrap,
            isolation_level="read_committed",
            auto_offset_reset="earliest",
            enable_auto_commit=False,
            group_id=None,
        )
        partitions = [TopicPartition(topic, p) for p in self.events]
        consumer.assign(partitions)
        consumer.seek_to_beginning(*partitions)
        while not self._done(consumer, partitions):
            for partition, messages in consumer.poll(timeout_ms=200).items():
                for message in messages:
                    headers = {name: value.decode() for name, value in message.headers}
                    event = {**msgspec.json.decode(message.value), "ce_id": headers["ce_id"]}
                    self.events[partition.partition].append(event)
                    self._console.print(event_line(event), highlight=False)
        consumer.close()

    def _done(self, consumer: Any, partitions: list[TopicPartition]) -> bool:
        return self._until is not None and all(
            consumer.position(p) >= self._until.get(p.partition, 0) for p in partitions
        )


def event_line(event: dict[str, Any]) -> str:
    """One risk event as one line for people."""
    colour = {"raised": "red", "updated": "yellow", "cleared": "green", "retracted": "cyan"}[event["type"]]
    status = " (limit unverified)" if event["threshold_status"] == "R" else ""
    trust = " (a device behind it is not trusted)" if event["distrusted"] else ""
    # What is a millionth of the limit is nothing to a person.
    median, low, high = (
        value if abs(value) > 1e-6 * event["limit"] else 0.0
        for value in (event["forecast"][name] for name in ("median", "low", "high"))
    )
    probability = chance(event["probability"])
    limit = f"{'<' if event['metric'] == 'signal_low' else '>'} {event['limit']:g} {event['unit']}"
    return (
        f"[{colour}]{event['type']:>9}[/] {event['evaluated'][:16].replace('T', ' ')} {event['patient']}: "
        f"{event['drug']} {METRIC_WORDS.get(event['metric'], event['metric'])} {limit}"
        f"{status}{trust}, {event['severity']}, P {probability if probability[0] in '<>' else f'= {probability}'}, "
        f"expected {span(median, low, high)} within {event['horizon_h']:g} h"
    )


def ask_oracle(stage: Stage) -> dict[str, Any]:
    """Run the oracle over the topic in a process of its own."""
    answer = stage.directory / "oracle.json"
    oracle = stage.child("oracle", "streams.demo.replay", str(answer))
    if oracle.wait(PATIENCE_S) != 0:
        raise DemoError(f"the oracle failed\n{oracle.tail()}")
    stage.group.release(oracle)
    return dict(json.loads(answer.read_text()))


def summarise(
    ledger: Ledger, heard: Subscriber, oracle: dict[str, Any], published: int, stage: Stage, seed: int
) -> dict[str, Any]:
    """Everything the end of the demo tells, as plain data."""
    events = [event for partition in heard.events.values() for event in partition]
    ids = {str(p): [e["ce_id"] for e in partition] for p, partition in heard.events.items()}
    stored = digest_of({p: t.canonical for p, t in ledger.twins.items()})
    dead = {
        name.partition(".")[2]: n for name, n in ledger.counts.items() if name.startswith("dead_letters.")
    }
    late = dead.pop("late", 0)
    return {
        "seed": seed,
        "records": {
            "published": published,
            "applied": ledger.counts["applied"],
            "duplicate": ledger.counts["duplicate"],
            "superseded": ledger.counts["superseded"],
            "late": late,
            "dead_lettered": sum(dead.values()),
        },
        "twins": dict(Counter(d.state for d in ledger.documents())),
        "events": {
            "by_drug_and_severity": {
                " ".join(key): n
                for key, n in sorted(Counter((e["drug"], e["type"], e["severity"]) for e in events).items())
            },
            "ids": ids,
            "equal": ids == oracle["events"],
        },
        "forecasts": [
            {
                "drug": s.drug,
                "levels": s.levels,
                "median_absolute_error": s.median_error,
                "coverage_90": s.coverage,
                "population_median_absolute_error": s.population_median_error,
                "population_coverage_90": s.population_coverage,
            }
            for s in score_forecasts(ledger.documents(), REAL_DRUGS)
        ],
        "digest": {"stored": stored, "oracle": oracle["digest"], "equal": stored == oracle["digest"]},
        "api": stage.api_url,
        "logs": str(stage.directory),
    }


def show(summary: dict[str, Any], console: Console) -> None:
    """The summary for people."""
    records = Table("records", "", show_header=False)
    for name, n in summary["records"].items():
        records.add_row(name.replace("_", "-"), str(n))
    for state, n in summary["twins"].items():
        records.add_row(f"twins {state}", str(n))
    console.print(records)
    events = Table("drug, event, severity", "events")
    for name, n in summary["events"]["by_drug_and_severity"].items():
        events.add_row(name, str(n))
    console.print(events)
    forecasts = Table(
        "real patients",
        "levels forecast",
        "median error",
        "in 90 % interval",
        "population: error",
        "in interval",
        title="Each level forecast from what was known the instant before its draw",
    )
    for row in summary["forecasts"]:
        forecasts.add_row(
            row["drug"],
            str(row["levels"]),
            f"{100 * row['median_absolute_error']:.1f} %",
            f"{100 * row['coverage_90']:.0f} %",
            f"{100 * row['population_median_absolute_error']:.1f} %",
            f"{100 * row['population_coverage_90']:.0f} %",
        )
    console.print(forecasts)
    digest = summary["digest"]
    console.print(f"digest of the stored twins  {digest['stored']}")
    console.print(f"digest of the oracle        {digest['oracle']}")
    if not digest["equal"]:
        console.print("[red]The stored twins are not the oracle's.[/]")
    if not summary["events"]["equal"]:
        console.print("[red]The events on the risk topic are not the oracle's.[/]")
    console.print(
        f"\nAPI: {summary['api']} (described by /openapi.json; bearer token in {summary['logs']}/api-token)\n"
        f"To ask it yourself: make demo ARGS=--serve, and in another terminal\n"
        f"  . {summary['logs']}/environment\n"
        "  .venv/bin/twin risks                                  who is at risk now\n"
        "  .venv/bin/twin state quin-113 --plot quin-113.svg     one twin, and its picture\n"
        "  .venv/bin/twin doctor                                 is all of it well",
        highlight=False,
    )


def run_up(directory: Path) -> int:
    """Start everything embedded, keep its data in `directory`, and stay until Ctrl-C."""
    console = Console()
    with staged(directory, console, keep=True) as stage:
        stage.child("worker", "streams", "worker")
        stage.child("api", "streams", "serve")
        console.print(
            f"Up: API {stage.api_url}. In another terminal: . {directory}/environment, then twin publish, twin state\n"
            f"Ctrl-C ends everything; the data stays in {directory}.",
            highlight=False,
        )
        with contextlib.suppress(KeyboardInterrupt):
            while True:
                stage.group.require_running()
                time.sleep(0.5)
    return 0
