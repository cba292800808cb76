"""Bytes from the input topic to entries in canonical units, or to a refusal a person understands."""

from __future__ import annotations

import datetime as dt
import functools
import hashlib
import re
from collections.abc import Iterable
from typing import Any, NamedTuple

import msgspec
import numpy as np
from aiokafka.partitioner import murmur2
from numpy.typing import NDArray

from streams.json_keys import repeated_key
from streams.ports import UNREADABLE_HEADERS, RawRecord
from streams.records import (
    SCHEMA,
    DosePayload,
    DoseRecord,
    ForgetRecord,
    LabPayload,
    LabRecord,
    PatientPayload,
    PatientRecord,
    Quantity,
    RegimenPayload,
    RegimenRecord,
    TickRecord,
    WearablePayload,
    WearableRecord,
    WireRecord,
)
from twinstate.assimilation.windows import fold_frame
from twinstate.catalogue import Bounds
from twinstate.drug import DrugModel
from twinstate.errors import UnitError
from twinstate.history import (
    Content,
    CovariateValue,
    Discharge,
    Dose,
    Entry,
    Forget,
    Frame,
    Lab,
    PatientFacts,
    PlannedDose,
    Regimen,
    Tick,
)
from twinstate.library import Library
from twinstate.types import NS_PER_HOUR
from twinstate.units import AMOUNT, factor_of, to_canonical

LARGEST_RECORD = 64 * 1024
MOST_PLANNED_DOSES = 1000
MOST_OVERLAPPING = 32  # infusions of a steady-state train that may run at once
LARGEST_DOSE_MG = 1e6  # 1 kg: beyond every drug there is; a mistaken unit, or a broken sender
SMALLEST_DOSE_MG = 1e-6  # 1 ng: a thousandth of what the most potent drugs are dosed in
# In every analyte's own unit. In mg/L it is 1 fg/mL: mass spectrometers quantify some 1,000 times as much at best.
SMALLEST_LEVEL = 1e-9
SHORTEST_PERIOD_S = 1e-3  # 1 kHz, faster than an electrocardiograph; below it samples would fall together
BACKFILL_HEADER = "twin-backfill"
MQTT_TOPIC_HEADER = "twin-mqtt-topic"  # the bridge sets it: what carries it was sent by a device
_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_MICROSECOND = dt.timedelta(microseconds=1)
# Stored times are 64-bit nanoseconds (1677 to 2262): a moment outside these years is a clock that is wrong.
_EARLIEST = dt.datetime(1900, 1, 1, tzinfo=dt.UTC)
_LATEST = dt.datetime(2200, 1, 1, tzinfo=dt.UTC)
# Built once, as modules are loaded: msgspec crashes when two threads build the decoder of one type at the same time.
_WIRE = msgspec.json.Decoder(WireRecord)
# A device and its own count; the id is all that tells a frame sent again from a new one.
_FRAME_ID = re.compile(r"[!-~]+:[0-9]{1,18}")
_LONGEST_PLAN_H = 24.0 * 366 * 10


class Accepted(NamedTuple):
    """A well-formed record; whether it comes in time is for the timeline to say."""

    patient: str
    entry: Entry
    backfill: bool


class Refusal(NamedTuple):
    """A record that cannot be used.

    Attributes:
        reason: One word for machines.
        text: One sentence for people: place, value, rule, way out.
        record: Patient, kind, source, id and revision, where they could be read.
    """

    reason: str
    text: str
    record: tuple[Any, ...] | None


class _Refused(Exception):
    def __init__(self, reason: str, text: str) -> None:
        super().__init__(text)
        self.reason = reason
        self.text = text


class Decoder:
    """Decodes the records of one partition against a library."""

    def __init__(self, library: Library, partition: int | None, partitions: int) -> None:
        """Prepare to decode.

        Args:
            library: Drugs, analytes, signals and covariates that can be named.
            partition: The partition read from; None where there is none (a file), which skips that check.
            partitions: How many the topic has.
        """
        self._library = library
        self._partition = partition
        self._partitions = partitions

    def decode(self, raw: RawRecord) -> Accepted | Refusal:
        """Decode one record; never raises for what a sender can do wrong."""
        record: WireRecord | None = None
        try:
            record = self._parse(raw)
            self._check_place(raw, record.patient)
            if isinstance(record, WearableRecord) and not _FRAME_ID.fullmatch(record.id):
                raise _Refused(
                    "bad_frame",
                    f"id is {record.id!r}; a frame's is device:sequence, such as watch-12:4711",
                )
            # Ahead of the broker's clock is `future`; beyond this no arithmetic of nanoseconds is safe.
            if not _EARLIEST <= record.event_time < _LATEST:
                beyond = "before 1900" if record.event_time < _EARLIEST else "after 2199"
                raise _Refused(
                    "implausible", f"event_time is {record.event_time}, {beyond}; check the sender's clock"
                )
            if isinstance(record, ForgetRecord):
                _check_erasure(raw, record)
            content = None if record.cancelled else self._content(record)
        except _Refused as refused:
            return Refusal(refused.reason, refused.text, None if record is None else _named(record))
        except UnitError as refused:
            return Refusal("unknown_unit", str(refused), None if record is None else _named(record))
        entry = Entry(
            kind=_kind(record),
            source=record.source,
            id=record.id,
            revision=record.revision,
            digest=hashlib.sha256(raw.value or b"").digest(),
            event_time=to_ns(record.event_time),
            cancelled=record.cancelled,
            content=content,
        )
        return Accepted(record.patient, entry, any(name == BACKFILL_HEADER for name, _ in raw.headers))

    def _parse(self, raw: RawRecord) -> WireRecord:
        if raw.headers == UNREADABLE_HEADERS:
            raise _Refused(
                "bad_header",
                "the name of a header is not UTF-8, so no header could be read; name it in UTF-8",
            )
        if not raw.value:
            raise _Refused(
                "empty", "the record has no body; send a JSON object, or cancel with cancelled: true"
            )
        if len(raw.value) > LARGEST_RECORD:
            raise _Refused(
                "too_large",
                f"the body has {len(raw.value)} bytes, more than the {LARGEST_RECORD} allowed; split the frame",
            )
        try:
            record: WireRecord = _WIRE.decode(raw.value)
        except RecursionError:
            raise _Refused(
                "not_json", "the body is nested too deeply to be read; send a plain record"
            ) from None
        except msgspec.ValidationError as error:
            raise _Refused(
                "wrong_schema", f"{error}; see docs/contract.md for the fields of {SCHEMA}"
            ) from None
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise _Refused("not_json", f"the body is not JSON: {error}") from None
        twice = repeated_key(raw.value)
        if twice is not None:
            raise _Refused("wrong_schema", f"the key {twice!r} stands twice in one object; send each once")
        return record

    def _check_place(self, raw: RawRecord, patient: str) -> None:
        if raw.key is None or raw.key != patient.encode():
            raise _Refused(
                "key_mismatch", "the record's key is not its field `patient`; use the pseudonym as the key"
            )
        if self._partition is None:
            return
        right = partition_of(raw.key, self._partitions)
        if right != self._partition:
            raise _Refused(
                "wrong_partition",
                f"this key belongs on partition {right}, not {self._partition}; set the producer's partitioner to "
                "murmur2 (confluent-kafka: partitioner=murmur2_random)",
            )

    def _content(self, record: WireRecord) -> Content:
        payload = record.payload
        if payload is None:
            if isinstance(record, TickRecord):
                return Tick()
            if isinstance(record, ForgetRecord):
                return Forget()
            if _kind(record) == "discharge":
                return Discharge()
            raise _Refused(
                "wrong_schema",
                "the record has no payload; only a record with cancelled: true may leave it out",
            )
        if isinstance(payload, PatientPayload):
            return self._facts(payload)
        if isinstance(payload, RegimenPayload):
            return self._regimen(payload)
        if isinstance(payload, DosePayload):
            return self._dose(payload)
        if isinstance(payload, LabPayload):
            return self._lab(payload)
        if isinstance(payload, WearablePayload):
            return self._frame(payload, to_ns(record.event_time))
        if isinstance(record, ForgetRecord):
            return Forget()
        return Tick() if isinstance(record, TickRecord) else Discharge()

    def _facts(self, payload: PatientPayload) -> PatientFacts:
        values = {name: self._covariate(name, value) for name, value in sorted(payload.covariates.items())}
        for gene, diplotype in payload.genotype.items():
            self._check_diplotype(gene, diplotype)
        return PatientFacts(values, dict(sorted(payload.genotype.items())))

    def _check_diplotype(self, symbol: str, diplotype: str) -> None:
        """A gene nobody reads, or a diplotype nobody understands, must not pass as if it counted."""
        place = f"payload.genotype.{symbol}"
        gene = self._library.genes.get(symbol)
        if gene is None:
            known = ", ".join(self._library.genes)
            raise _Refused("unknown_gene", f"{place}: no such gene; known are {known}")
        if not gene.reads(diplotype):
            words = " or ".join(gene.words) or "two star alleles with a slash, as *1/*3"
            raise _Refused("wrong_schema", f"{place} is {diplotype!r}; {symbol} is written {words}")

    def _covariate(self, name: str, value: Quantity | str | bool | float) -> CovariateValue:
        place = f"payload.covariates.{name}"
        covariate = self._library.covariates.get(name)
        if covariate is None:
            known = ", ".join(sorted(self._library.covariates))
            raise _Refused("unknown_covariate", f"{place}: no such covariate; known are {known}")
        if covariate.kind == "number" and isinstance(value, Quantity):
            number = to_canonical(value.value, value.unit, covariate.units, place)
            return self._bounded(number, covariate.bounds, covariate.unit, place)
        flag = covariate.kind == "flag" and isinstance(value, bool)
        word = covariate.kind == "category" and value in covariate.categories
        if (flag or word) and isinstance(value, bool | str):
            return value
        words = f"; the words are {', '.join(covariate.categories)}" if covariate.categories else ""
        raise _Refused(
            "wrong_schema", f"{place} is {value!r}, not a {covariate.kind}; send {covariate.example}{words}"
        )

    def _regimen(self, payload: RegimenPayload) -> Regimen:
        model = self._drug(payload.drug)
        for i, line in enumerate(payload.lines):
            longest_h = (line.count - 1) * line.every_h
            if not (_EARLIEST <= line.first_due < _LATEST and longest_h <= _LONGEST_PLAN_H):
                raise _Refused(
                    "implausible",
                    f"payload.lines[{i}] plans {line.count} doses, one every {line.every_h:g} h from {line.first_due} "
                    "on; a plan lies between 1900 and 2200 and is ten years long at most",
                )
        planned = sum(line.count for line in payload.lines)
        if planned > MOST_PLANNED_DOSES:
            raise _Refused(
                "wrong_schema",
                f"payload.lines plan {planned} doses, more than the {MOST_PLANNED_DOSES} a regimen may hold; order the "
                "next ones when these are given",
            )
        doses = [
            PlannedDose(
                due=to_ns(line.first_due) + round(n * line.every_h * NS_PER_HOUR),
                amount_mg=self._amount(line.amount, f"payload.lines[{i}].amount"),
                route=self._route(line.route, model, f"payload.lines[{i}].route"),
                duration_h=line.duration_h,
            )
            for i, line in enumerate(payload.lines)
            for n in range(line.count)
        ]
        return Regimen(
            payload.drug, tuple(sorted(doses, key=lambda d: (d.due, d.amount_mg))), payload.grace_h
        )

    def _dose(self, payload: DosePayload) -> Dose:
        model = self._drug(payload.drug)
        if payload.status == "missed":
            return Dose(payload.drug, False, 0.0, "", 0.0, 0.0)
        if payload.amount is None or payload.route is None:
            raise _Refused(
                "wrong_schema", "payload.amount and payload.route are required for a dose that was given"
            )
        interval = payload.steady_state_interval_h
        if interval is not None and payload.duration_h > MOST_OVERLAPPING * interval:
            raise _Refused(
                "implausible",
                f"payload.duration_h {payload.duration_h:g} is more than {MOST_OVERLAPPING} times "
                f"payload.steady_state_interval_h {interval:g}; check both",
            )
        return Dose(
            drug=payload.drug,
            given=True,
            amount_mg=self._amount(payload.amount, "payload.amount"),
            route=self._route(payload.route, model, "payload.route"),
            duration_h=payload.duration_h,
            steady_state_interval_h=payload.steady_state_interval_h or 0.0,
        )

    def _lab(self, payload: LabPayload) -> Lab:
        analyte = self._library.analyte(payload.analyte)
        if analyte is None:
            raise _Refused(
                "unknown_analyte",
                f"payload.analyte {payload.analyte!r} is neither a known slug nor a known LOINC code; "
                "`twin signals` lists what can be sent",
            )
        place = f"payload.value ({analyte.slug})"
        number = to_canonical(payload.value, payload.unit, analyte.units, place)
        if number < SMALLEST_LEVEL:
            raise _Refused(
                "implausible",
                f"{place} is {payload.value!r} {payload.unit}; below {SMALLEST_LEVEL:g} {analyte.unit} no laboratory "
                "measures anything: check the sender's number, or send the limit of quantification with "
                'censored: "below"',
            )
        number = self._bounded(number, analyte.reject, analyte.unit, place)
        return Lab(analyte.slug, number, payload.censored == "below")

    def _frame(self, payload: WearablePayload, event_time: int) -> Frame:
        signal = self._library.signal(payload.signal)
        if signal is None:
            raise _Refused(
                "unknown_signal",
                f"payload.signal {payload.signal!r} is not known; `twin signals` lists what can be sent",
            )
        told = next(
            (f"[{n}] ({signal.slug}): {v:g}" for n, v in enumerate(payload.values) if v is not None), None
        )
        place = (
            f"payload.unit ({signal.slug}): a frame without a reading"
            if told is None
            else f"payload.values{told}"
        )
        values = np.array(payload.values, dtype=np.float64) * factor_of(payload.unit, signal.units, place)
        times = self._sample_times(payload, event_time)
        return Frame(signal.slug, fold_frame(values, times, signal), int(times.min()))

    def _sample_times(self, payload: WearablePayload, event_time: int) -> NDArray[np.int64]:
        n = len(payload.values)
        if payload.offsets_s is not None:
            offsets = np.array(payload.offsets_s, dtype=np.float64)
            if len(offsets) != n:
                raise _Refused("bad_frame", f"payload.offsets_s has {len(offsets)} entries for {n} values")
            if offsets.max() != 0:
                raise _Refused(
                    "bad_frame",
                    f"the last of payload.offsets_s is {offsets.max():g}, not 0: event_time is that of the last sample",
                )
        elif payload.period_s is not None:
            if payload.period_s < SHORTEST_PERIOD_S:
                raise _Refused(
                    "bad_frame",
                    f"payload.period_s is {payload.period_s!r} s, shorter than {SHORTEST_PERIOD_S:g} s; it is the time "
                    "from one sample to the next, in seconds",
                )
            offsets = np.arange(1 - n, 1, dtype=np.float64) * payload.period_s
        elif n == 1:
            offsets = np.zeros(1)
        else:
            raise _Refused("bad_frame", f"{n} values need payload.period_s or payload.offsets_s")
        if offsets.min() < -3600.0:
            raise _Refused(
                "bad_frame",
                f"a sample lies {-offsets.min():.0f} s before event_time; a frame may reach back one hour at most",
            )
        return event_time + np.rint(offsets * 1e9).astype(np.int64)

    def _drug(self, drug: str) -> DrugModel:
        model = self._library.drugs.get(drug)
        if model is None:
            known = ", ".join(sorted(self._library.drugs))
            raise _Refused("unknown_drug", f"payload.drug {drug!r} has no model; known are {known}")
        return model

    def _amount(self, amount: Quantity, place: str) -> float:
        number = to_canonical(amount.value, amount.unit, AMOUNT, place)
        if not SMALLEST_DOSE_MG <= number <= LARGEST_DOSE_MG:
            raise _Refused(
                "implausible",
                f"{place} is {amount.value!r} {amount.unit}; a dose is more than nothing: 1 ng to 1 kg",
            )
        return number

    def _route(self, route: str, model: DrugModel, place: str) -> str:
        if route not in model.routes:
            known = " or ".join(model.routes)
            raise _Refused(
                "unsupported_route", f"{place} is {route}; {model.model} describes {known} doses only"
            )
        return route

    def _bounded(self, number: float, bounds: Bounds | None, unit: str, place: str) -> float:
        if bounds is not None and not bounds.holds(number):
            raise _Refused(
                "implausible",
                f"{place} is {number:g} {unit}, outside {bounds.low:g} to {bounds.high:g}; check the unit, and send "
                "the record again",
            )
        return number


def to_ns(moment: dt.datetime) -> int:
    """An aware datetime as UTC nanoseconds, exactly."""
    return (moment - _EPOCH) // _MICROSECOND * 1000


@functools.lru_cache(maxsize=65536)
def partition_of(key: bytes, partitions: int) -> int:
    """Kafka's default partitioner (murmur2), as every producer must use it."""
    return int((murmur2(key) & 0x7FFFFFFF) % partitions)


def _kind(record: WireRecord) -> str:
    return str(record.__struct_config__.tag)


def decode_under(
    libraries: Iterable[Library], raw: RawRecord, partition: int | None, partitions: int
) -> Accepted | Refusal:
    """Decode one record under whichever of several libraries reads it, in their order.

    Args:
        libraries: At least one; any of them may be in effect where the record will stand.
        raw: The record.
        partition: As for `Decoder`.
        partitions: As for `Decoder`.

    Returns:
        The refusal by the first library where none reads it.
    """
    refusal: Refusal | None = None
    for library in libraries:
        decoded = Decoder(library, partition, partitions).decode(raw)
        if isinstance(decoded, Accepted):
            return decoded
        refusal = refusal or decoded
    assert refusal is not None, "no library to decode under"
    return refusal


def _check_erasure(raw: RawRecord, record: ForgetRecord) -> None:
    if any(name == MQTT_TOPIC_HEADER for name, _ in raw.headers):
        raise _Refused(
            "wrong_schema",
            "kind is forget, but this came from an MQTT device: erasing is an operator's act, twin forget PATIENT",
        )
    if record.cancelled:
        raise _Refused("wrong_schema", "cancelled is true, but what was forgotten cannot come back")


def _named(record: WireRecord) -> tuple[Any, ...]:
    return (record.patient, _kind(record), record.source, record.id, record.revision)


__all__ = [
    "Accepted",
    "Decoder",
    "DoseRecord",
    "LabRecord",
    "PatientRecord",
    "RawRecord",
    "Refusal",
    "RegimenRecord",
    "WearableRecord",
    "partition_of",
    "to_ns",
]
