"""A small ward in a real Redis, written by the pipeline and the store as a worker writes it, without Kafka."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

from streams.adapters.redis_store import RedisStore, connect
from streams.codec import partition_of
from streams.pipeline import Pipeline, create_pipeline
from streams.ports import Claim, OutboxName, RawRecord, Verdict
from streams.simulation.wire import DemoRecord, Sender, from_hours, quantity, regimen_line, utc

CONFIG = Path(__file__).parents[2] / "config"
PARTITIONS = 4
START = utc("2026-03-01T08:00:00Z")

OVERDOSED = "p-overdosed"
VOLUNTEER = "p-volunteer"
PENDING = "p-pending"
DISCHARGED = "p-discharged"
STALE = "p-stale"
SLASHED = "ward/3"
MONITORED = "p-monitored"


def at(hours: float) -> int:
    return from_hours(START, hours)


def overdosed() -> list[DemoRecord]:
    """Poor kidneys and 1500 mg every 8 h: AUC24 passes 600 mg*h/L; levels at 15.5 and 23.5 h; 4 doses to come."""
    who = Sender(OVERDOSED, "ward-3")
    covariates = {
        "weight": quantity(70, "kg"),
        "age": quantity(68, "a"),
        "sex": "female",
        "creatinine": quantity(2.1, "mg/dL"),
        "dialysis": False,
    }
    line = regimen_line(1500, "iv", at(0), 8.0, 7, duration_h=1.5)
    return [
        who.patient_record(at(-1), "adm-1", covariates),
        who.regimen(at(-1), "order-1", "vancomycin", [line]),
        *(who.dose(at(8 * n), f"dose-{n}", "vancomycin", 1500, "iv", duration_h=1.5) for n in range(3)),
        who.lab(at(15.5), "level-1", "vancomycin", 38.0, "mg/L"),
        who.lab(at(23.5), "level-2", "vancomycin", 52.0, "mg/L"),
    ]


def theophylline(patient: str, amount_mg: float = 320.0) -> list[DemoRecord]:
    """One oral dose and three levels, as in Theoph."""
    who = Sender(patient, "study")
    return [
        who.patient_record(at(0), "enrol", {"weight": quantity(70, "kg")}),
        who.dose(at(0), "dose", "theophylline", amount_mg, "oral"),
        who.lab(at(1), "level-1", "theophylline", 6.6, "mg/L"),
        who.lab(at(5), "level-2", "theophylline", 7.3, "mg/L"),
        who.lab(at(12), "level-3", "theophylline", 4.6, "mg/L"),
    ]


def monitored() -> list[DemoRecord]:
    """400 mg moxifloxacin by mouth at 2 h, and QTc once a minute from 0 to 8 h, rising by about 20 ms."""
    who = Sender(MONITORED, "study")
    covariates = {"weight": quantity(68, "kg"), "age": quantity(25, "a"), "sex": "male"}
    frames = [
        who.frame(
            at(hour),
            f"watch:{hour}",
            "qtc",
            "ms",
            [402.0 + (20.0 if hour > 3 else 0.0) + n % 3 for n in range(60)],
        )
        for hour in range(1, 9)
    ]
    return [
        who.patient_record(at(0), "enrol", covariates),
        who.dose(at(2), "dose", "moxifloxacin", 400.0, "oral"),
        *frames,
    ]


def ward() -> list[DemoRecord]:
    """Six patients, one in each state that needs no failure."""
    return [
        *overdosed(),
        *theophylline(VOLUNTEER),
        *theophylline(SLASHED),
        Sender(PENDING, "ward-1").dose(at(0), "dose", "vancomycin", 1000, "iv", duration_h=1.0),
        *theophylline(DISCHARGED),
        Sender(DISCHARGED, "study").discharge(at(20), "bye"),
        *theophylline(STALE),
        Sender(STALE, "study").tick(at(96), "tick"),
    ]


class Filler:
    """Pipelines and a store, as one worker that owns every partition."""

    def __init__(self, url: str, group: str) -> None:
        self.url = url
        self.group = group
        self.pipelines = [create_pipeline(CONFIG, p, PARTITIONS, group) for p in range(PARTITIONS)]
        self.ends = [0] * PARTITIONS

    def apply(
        self, records: Sequence[DemoRecord], bad: bytes | None = None, append_time: int = at(24 * 30)
    ) -> None:
        """Write records as one batch a partition; `bad` is a body that goes to partition 0 as well."""
        self.append_time = append_time
        asyncio.run(self._apply(records, bad))

    async def _apply(self, records: Sequence[DemoRecord], bad: bytes | None) -> None:
        client = connect(self.url)
        store = RedisStore(client, self.group)
        try:
            for partition, pipeline in enumerate(self.pipelines):
                keyed = [
                    (r.patient.encode(), r.value)
                    for r in records
                    if partition_of(r.patient.encode(), PARTITIONS) == partition
                ]
                if bad is not None and partition == 0:
                    keyed.append((b"nobody", bad))
                await self._batch(store, pipeline, partition, keyed)
        finally:
            await store.close()

    async def _batch(
        self, store: RedisStore, pipeline: Pipeline, partition: int, keyed: list[tuple[bytes, bytes]]
    ) -> None:
        lease = await store.acquire(partition, Claim(1, "filler", "filler", pipeline.fingerprint), 0)
        if not keyed:
            return
        begin = self.ends[partition]
        raw = [RawRecord(begin + i, self.append_time, key, value, ()) for i, (key, value) in enumerate(keyed)]
        batch = pipeline.decode(raw)
        stored = await store.recall(partition, batch.patients)
        for patient in pipeline.missing(batch):
            pipeline.remember(patient, stored[patient].twin)
        outcome = pipeline.update(batch)
        versions = {p: stored[p].version for p in outcome.twins}
        end = begin + len(raw)
        answer = await store.apply(lease, begin, end, outcome, versions)
        assert answer.verdict is Verdict.OK, answer
        self.ends[partition] = end

    def publish(self, partition: int, outbox: OutboxName, topic_position: int) -> None:
        """Mark everything in an outbox as published."""

        async def run() -> None:
            store = RedisStore(connect(self.url), self.group)
            lease = await store.acquire(
                partition, Claim(1, "filler", "filler", self.pipelines[partition].fingerprint), 0
            )
            waiting = await store.pending(partition, outbox, 1000)
            await store.ack(lease, outbox, waiting[-1].id, topic_position)
            await store.close()

        asyncio.run(run())
