"""Wire records of the input topic, exactly as producers send them.

One JSON object a record, key = the patient's pseudonym. `docs/contract.md` tells producers what each field means;
`config/schemas/` holds the same as JSON Schema, generated from the types below.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

SCHEMA = "twin.record/1"

LONGEST_NAME = 128
# `$` alone is content with a line break after it where Python searches; written so, JSON Schema reads it the same.
NAME_PATTERN = r"^[!-~]+$(?!\n)"
Name = Annotated[str, Meta(min_length=1, max_length=LONGEST_NAME, pattern=NAME_PATTERN)]
Slug = Annotated[str, Meta(min_length=1, max_length=64)]
Moment = Annotated[datetime, Meta(tz=True, description="RFC 3339 with an offset")]
Positive = Annotated[float, Meta(gt=0)]
InfusionHours = Annotated[float, Meta(ge=0, le=720)]


class Quantity(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A number and its UCUM unit; the unit is never guessed."""

    value: float
    unit: Slug


class PatientPayload(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Covariates (`weight`, `sex`, ...) and genotype (`{"CYP2C9": "*1/*3"}`) from the event time on."""

    covariates: dict[Slug, Quantity | str | bool | float] = {}
    genotype: dict[Slug, Slug] = {}


class RegimenLine(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`count` doses, the first due at `first_due`, then one every `every_h` hours."""

    amount: Quantity
    route: Literal["iv", "oral"]
    first_due: Moment
    every_h: Positive
    count: Annotated[int, Meta(ge=1, le=1000)]
    duration_h: InfusionHours = 0.0


class RegimenPayload(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The plan for one drug; it replaces what an earlier order planned after this one's event time."""

    drug: Slug
    lines: tuple[RegimenLine, ...]
    grace_h: Annotated[float, Meta(gt=0, le=168)] = 2.0


class DosePayload(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A dose given, or one missed. `duration_h` 0 is a bolus; `steady_state_interval_h` marks NONMEM's SS=1."""

    drug: Slug
    status: Literal["given", "missed"]
    amount: Quantity | None = None
    route: Literal["iv", "oral"] | None = None
    duration_h: InfusionHours = 0.0
    steady_state_interval_h: Annotated[float, Meta(ge=0.25, le=720)] | None = None


class LabPayload(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A value at the time it was drawn; `censored: "below"` makes `value` the limit of quantification."""

    analyte: Slug
    value: Positive
    unit: Slug
    resulted_at: Moment | None = None
    censored: Literal["below"] | None = None


class WearablePayload(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A frame of samples; the last one is at the event time, the others by `period_s` or `offsets_s` (<= 0)."""

    signal: Slug
    unit: Slug
    values: Annotated[tuple[float | None, ...], Meta(min_length=1, max_length=7200)]
    period_s: Positive | None = None
    offsets_s: tuple[float, ...] | None = None


class EmptyPayload(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Nothing more to say."""


class Envelope(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", kw_only=True):
    """What every record says: who, what, when, from where."""

    schema: Literal["twin.record/1"]
    id: Name
    patient: Name
    event_time: Moment
    source: Name
    revision: Annotated[int, Meta(ge=0, le=1_000_000)] = 0
    cancelled: bool = False


class PatientRecord(Envelope, frozen=True, tag="patient", kw_only=True):
    """Who the patient is, as far as the models ask."""

    payload: PatientPayload | None = None


class RegimenRecord(Envelope, frozen=True, tag="regimen", kw_only=True):
    """What was ordered; event time is when it was ordered."""

    payload: RegimenPayload | None = None


class DoseRecord(Envelope, frozen=True, tag="dose", kw_only=True):
    """What was given or missed; event time is when it began, or was due."""

    payload: DosePayload | None = None


class LabRecord(Envelope, frozen=True, tag="lab", kw_only=True):
    """A laboratory result; event time is when the sample was drawn."""

    payload: LabPayload | None = None


class WearableRecord(Envelope, frozen=True, tag="wearable", kw_only=True):
    """A frame from a device; `id` is `device:sequence`, event time its last sample."""

    payload: WearablePayload | None = None


class TickRecord(Envelope, frozen=True, tag="tick", kw_only=True):
    """Time has passed."""

    payload: EmptyPayload | None = None


class DischargeRecord(Envelope, frozen=True, tag="discharge", kw_only=True):
    """The patient has left."""

    payload: EmptyPayload | None = None


class ForgetRecord(Envelope, frozen=True, tag="forget", kw_only=True):
    """Everything known of the patient is to be erased; `twin forget` writes it, nobody else does."""

    payload: EmptyPayload | None = None


WireRecord = (
    PatientRecord
    | RegimenRecord
    | DoseRecord
    | LabRecord
    | WearableRecord
    | TickRecord
    | DischargeRecord
    | ForgetRecord
)
