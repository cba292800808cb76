"""How many telemetry records a second does one worker take: `python bench/throughput.py`.

Question answered: with a real Apache Kafka and a real Redis beside it, how fast does one worker process drain a
topic of single-sample wearable records, and of 60-sample frames, into the twins (decode, fold, place in time,
evaluate risk at full hours, freeze, one atomic apply a batch)? And where does the processor's time go, stage by
stage, in one process without servers? The records are QTc of patients on moxifloxacin, so every hour of every patient
is assessed for risk.

Options: `--json`, `--patients N`, `--hours H` of telemetry a patient, `--repeats N`. There is no target here: the
figures are what they are.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime as dt
import os
import shutil
import statistics
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

import msgspec  # noqa: E402
from confluent_kafka import Producer  # noqa: E402

from bench._report import Check, report  # noqa: E402
from streams.adapters.topics import create_topics, read_topics  # noqa: E402
from streams.codec import partition_of  # noqa: E402
from streams.demo.ledger import read_ledger  # noqa: E402
from streams.embedded import EmbeddedKafka, EmbeddedRedis, Process, ProcessGroup  # noqa: E402
from streams.pipeline import create_pipeline  # noqa: E402
from streams.ports import RawRecord, StoredTwin  # noqa: E402

START = dt.datetime(2026, 3, 1, tzinfo=dt.UTC)
LONG_AFTER_NS = 2_000_000_000 * 1_000_000_000
PARTITIONS = 4
PATIENCE_S = 600.0
Message = tuple[bytes, bytes]


def record(patient: str, kind: str, name: str, at: dt.datetime, payload: dict[str, Any]) -> Message:
    """One wire record."""
    body = {
        "schema": "twin.record/1",
        "id": name,
        "patient": patient,
        "kind": kind,
        "event_time": at,
        "source": "bench",
        "payload": payload,
    }
    return patient.encode(), msgspec.json.encode(body)


def telemetry(patients: int, hours: float, samples: int) -> list[Message]:
    """Admission, one dose, then one QTc reading a minute, `samples` of them a record; in event time."""
    messages: list[tuple[dt.datetime, Message]] = []
    for n in range(patients):
        patient = f"bench-{n:04d}"
        facts = {
            "covariates": {
                "age": {"value": 30, "unit": "a"},
                "weight": {"value": 70, "unit": "kg"},
                "sex": "male",
            }
        }
        amount = {"value": 400, "unit": "mg"}
        dose = {"drug": "moxifloxacin", "status": "given", "amount": amount, "route": "oral"}
        messages.append((START, record(patient, "patient", "adm", START, facts)))
        messages.append((START, record(patient, "dose", "d-1", START, dose)))
        for sequence, minute in enumerate(range(samples, int(hours * 60) + 1, samples)):
            at = START + dt.timedelta(minutes=minute)
            values = [400 + (7 * n + 3 * (minute + i)) % 17 for i in range(samples)]
            payload: dict[str, Any] = {"signal": "qtc", "unit": "ms", "values": values}
            if samples > 1:
                payload["period_s"] = 60
            messages.append((at, record(patient, "wearable", f"watch-{n}:{sequence}", at, payload)))
    return [message for _, message in sorted(messages, key=lambda m: m[0])]


def drain(messages: list[Message], directory: Path) -> tuple[float, float]:
    """Fill a topic, then start a worker.

    Returns:
        Seconds from the first record applied to the last, and the worker's processor seconds a record.
    """
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    topics = read_topics(ROOT / "config" / "topics.yaml")
    with ProcessGroup() as group:
        redis = EmbeddedRedis(directory / "redis")
        redis.start()
        group.add(redis)
        kafka = EmbeddedKafka(directory / "kafka")
        kafka.start()
        group.add(kafka)
        create_topics({"bootstrap.servers": kafka.bootstrap}, topics)
        producer = Producer(
            {
                "bootstrap.servers": kafka.bootstrap,
                "partitioner": "murmur2_random",
                "acks": "all",
                "linger.ms": 20,
                "log_level": 0,
            }
        )
        for key, value in messages:
            while True:
                try:
                    producer.produce(topics.names.records, key=key, value=value)
                    break
                except BufferError:
                    producer.poll(0.1)
        producer.flush()
        environment = {
            **os.environ,
            "TWIN_KAFKA__BOOTSTRAP_SERVERS": kafka.bootstrap,
            "TWIN_KAFKA__GROUP": "bench",
            "TWIN_REDIS__URL": redis.url,
            "TWIN_WORKER__METRICS_PORT": "0",
        }
        worker = Process(
            "worker",
            [sys.executable, "-m", "streams", "worker"],
            directory / "worker.log",
            environment=environment,
        )
        worker.start()
        group.add(worker)
        begun: float | None = None
        applied_first = 0
        deadline = time.monotonic() + PATIENCE_S
        while True:
            group.require_running()
            applied = read_ledger(redis.url, "bench", topics.partitions).counts["records"]
            now = time.monotonic()
            if begun is None and applied:
                begun, applied_first, cpu_first = now, applied, _cpu_s(worker.pid)
            if applied >= len(messages) and begun is not None:
                counted = max(applied - applied_first, 1)
                return counted / max(now - begun, 1e-9), (_cpu_s(worker.pid) - cpu_first) / counted
            if now > deadline:
                raise SystemExit(
                    f"{applied} of {len(messages)} records after {PATIENCE_S:.0f} s\n{worker.tail()}"
                )
            time.sleep(0.02)


def stages(messages: list[Message]) -> Iterator[tuple[str, float]]:
    """Processor microseconds a record of each stage, in this process, in batches of 500."""
    spent: dict[str, float] = {"decode": 0.0, "thaw": 0.0, "update": 0.0, "encode": 0.0}

    @contextlib.contextmanager
    def counted(stage: str) -> Iterator[None]:
        begun = time.process_time()
        yield
        spent[stage] += time.process_time() - begun

    for partition in range(PARTITIONS):
        mine = [m for m in messages if partition_of(m[0], PARTITIONS) == partition]
        log = [RawRecord(i, LONG_AFTER_NS, key, value, ()) for i, (key, value) in enumerate(mine)]
        pipeline = create_pipeline(str(ROOT / "config"), partition, PARTITIONS, "bench")
        stored: dict[str, StoredTwin] = {}
        for start in range(0, len(log), 500):
            with counted("decode"):
                batch = pipeline.decode(log[start : start + 500])
            with counted("thaw"):
                for patient in pipeline.missing(batch):
                    pipeline.remember(patient, stored.get(patient))
            with counted("update"):
                outcome = pipeline.update(batch)
            stored.update(outcome.twins)
            with counted("encode"):
                msgspec.msgpack.encode(list(outcome.twins.values()))
    for stage, seconds in spent.items():
        yield stage, 1e6 * seconds / len(messages)


def main() -> int:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--json", action="store_true", help="one JSON object instead of the table")
    parser.add_argument("--patients", type=int, default=100)
    parser.add_argument("--hours", type=float, default=2.0)
    parser.add_argument("--repeats", type=int, default=3)
    asked = parser.parse_args()
    checks: list[Check] = []
    for name, samples in (("single samples", 1), ("60-sample frames", 60)):
        messages = telemetry(asked.patients, asked.hours * (1 if samples == 1 else 12), samples)
        runs = [drain(messages, ROOT / "build" / "bench") for _ in range(asked.repeats)]
        rates = [rate for rate, _ in runs]
        checks += [
            Check(f"{name}: records", len(messages), "records"),
            Check(f"{name}: one worker, median of {asked.repeats}", statistics.median(rates), "records/s"),
            Check(f"{name}: slowest", min(rates), "records/s"),
            Check(f"{name}: fastest", max(rates), "records/s"),
            Check(f"{name}: samples", statistics.median(rates) * samples, "samples/s"),
            Check(f"{name}: worker's CPU", 1e6 * statistics.median([cpu for _, cpu in runs]), "us/record"),
        ]
        checks += [Check(f"{name}: CPU of {stage}", us, "us/record") for stage, us in stages(messages)]
    return report("Throughput", checks, None, as_json=asked.json)


def _cpu_s(pid: int | None) -> float:
    """Processor seconds a process has used so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


if __name__ == "__main__":
    sys.exit(main())
