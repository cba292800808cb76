"""Wire records as a producer writes them: small builders, one a kind, that give the JSON bytes of a record."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import msgspec

from streams.records import SCHEMA
from twinstate.history import KIND_ORDER

_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_NS_PER_SECOND = 1_000_000_000


class DemoRecord(NamedTuple):
    """One record ready to publish.

    Attributes:
        patient: Pseudonym; its UTF-8 bytes are the record's key.
        event_time_ns: UTC ns.
        value: JSON body.
    """

    patient: str
    event_time_ns: int
    value: bytes


class _Place(msgspec.Struct):
    """What of a record decides its place among those of one moment."""

    kind: str
    source: str
    id: str
    revision: int = 0


_PLACE = msgspec.json.Decoder(_Place)


class Sender(NamedTuple):
    """Who speaks about whom: what every record of one patient shares.

    An id is made unique within the source by the pseudonym, as a hospital's order numbers are: a record sent for the
    wrong patient must not meet one of his own. A frame's id is unique by its device.

    Attributes:
        patient: Pseudonym.
        source: Sending system.
    """

    patient: str
    source: str

    def patient_record(self, at: int, id: str, covariates: Mapping[str, Any]) -> DemoRecord:
        """Covariates from `at` (UTC ns) on; numbers as `quantity(...)`."""
        return self._record("patient", at, id, {"covariates": dict(covariates)})

    def regimen(self, at: int, id: str, drug: str, lines: Sequence[Mapping[str, Any]]) -> DemoRecord:
        """A plan ordered at `at` (UTC ns); lines as `regimen_line(...)`."""
        return self._record("regimen", at, id, {"drug": drug, "lines": [dict(line) for line in lines]})

    def dose(
        self,
        at: int,
        id: str,
        drug: str,
        amount_mg: float,
        route: str,
        *,
        duration_h: float = 0.0,
        steady_state_interval_h: float = 0.0,
    ) -> DemoRecord:
        """A dose given at `at` (UTC ns); a steady-state interval above 0 h marks an endless train before it."""
        payload: dict[str, Any] = {
            "drug": drug,
            "status": "given",
            "amount": quantity(amount_mg, "mg"),
            "route": route,
        }
        if duration_h > 0.0:
            payload["duration_h"] = duration_h
        if steady_state_interval_h > 0.0:
            payload["steady_state_interval_h"] = steady_state_interval_h
        return self._record("dose", at, id, payload)

    def missed_dose(self, at: int, id: str, drug: str) -> DemoRecord:
        """A dose that was due at `at` (UTC ns) and was not given."""
        return self._record("dose", at, id, {"drug": drug, "status": "missed"})

    def lab(
        self, at: int, id: str, analyte: str, value: float, unit: str, resulted_at: int | None = None
    ) -> DemoRecord:
        """A value drawn at `at` and known at `resulted_at` (UTC ns)."""
        payload: dict[str, Any] = {"analyte": analyte, "value": value, "unit": unit}
        if resulted_at is not None:
            payload["resulted_at"] = moment(resulted_at)
        return self._record("lab", at, id, payload)

    def frame(
        self,
        at: int,
        id: str,
        signal: str,
        unit: str,
        values: Sequence[float | None],
        period_s: float | None = 60.0,
    ) -> DemoRecord:
        """Samples one period apart, the last one at `at` (UTC ns); None where nothing was measured.

        A single reading needs no period.
        """
        payload: dict[str, Any] = {"signal": signal, "unit": unit, "values": list(values)}
        if period_s is not None:
            payload["period_s"] = period_s
        return self._record("wearable", at, id, payload)

    def tick(self, at: int, id: str) -> DemoRecord:
        """Time has passed up to `at` (UTC ns)."""
        return self._record("tick", at, id, {})

    def discharge(self, at: int, id: str) -> DemoRecord:
        """The patient left at `at` (UTC ns)."""
        return self._record("discharge", at, id, {})

    def _record(self, kind: str, at: int, id: str, payload: Mapping[str, Any]) -> DemoRecord:
        body = {
            "schema": SCHEMA,
            "id": id if kind == "wearable" else f"{self.patient}.{id}",
            "patient": self.patient,
            "kind": kind,
            "event_time": moment(at),
            "source": self.source,
            "payload": payload,
        }
        return DemoRecord(self.patient, at, msgspec.json.encode(body))


def quantity(value: float, unit: str) -> dict[str, Any]:
    """A number and its unit."""
    return {"value": value, "unit": unit}


def regimen_line(
    amount_mg: float, route: str, first_due: int, every_h: float, count: int, duration_h: float = 0.0
) -> dict[str, Any]:
    """`count` doses, the first due at `first_due` (UTC ns)."""
    line: dict[str, Any] = {
        "amount": quantity(amount_mg, "mg"),
        "route": route,
        "first_due": moment(first_due),
        "every_h": every_h,
        "count": count,
    }
    if duration_h > 0.0:
        line["duration_h"] = duration_h
    return line


def ordered(records: list[DemoRecord]) -> list[DemoRecord]:
    """Records by event time, then kind, source and id; revisions of one record in their order."""
    return sorted(records, key=_place)


def _place(record: DemoRecord) -> tuple[int, int, str, str, str, int]:
    body = _PLACE.decode(record.value)
    kind = KIND_ORDER.index(body.kind)
    return (record.event_time_ns, kind, record.patient, body.source, body.id, body.revision)


def moment(at: int) -> str:
    """UTC nanoseconds, a whole number of seconds, as RFC 3339."""
    if at % _NS_PER_SECOND:
        raise ValueError(f"{at} ns is no whole second; the demo's clocks tick in seconds, so round it before")
    return (_EPOCH + dt.timedelta(seconds=at // _NS_PER_SECOND)).strftime("%Y-%m-%dT%H:%M:%SZ")


def from_hours(zero: int, hours: float) -> int:
    """The instant `hours` after `zero` (UTC ns), to the nearest second."""
    return zero + round(hours * 3600.0) * _NS_PER_SECOND


def utc(text: str) -> int:
    """An RFC 3339 time with an offset as UTC nanoseconds."""
    return (dt.datetime.fromisoformat(text) - _EPOCH) // dt.timedelta(seconds=1) * _NS_PER_SECOND
