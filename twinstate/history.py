"""What a patient's history is made of: accepted records in canonical units, ordered as semantics demands.

Units are canonical throughout: time in UTC nanoseconds, amounts in mg, concentrations in mg/L, durations in h,
covariates and signals in the unit their row of `config/signals.yaml` names.
"""

from __future__ import annotations

from typing import NamedTuple

import msgspec

# Equal event times are taken in this order.
KIND_ORDER = ("patient", "lab", "dose", "regimen", "wearable", "tick", "discharge", "forget")

CovariateValue = float | str | bool


class Identity(NamedTuple):
    """Which record this is, within one patient."""

    kind: str
    source: str
    id: str


class PatientFacts(msgspec.Struct, frozen=True, array_like=True, tag="patient"):
    """Covariates and genotype that hold from the record's event time on."""

    covariates: dict[str, CovariateValue]
    genotype: dict[str, str]


class PlannedDose(msgspec.Struct, frozen=True, array_like=True):
    """One dose of a regimen."""

    due: int  # UTC ns
    amount_mg: float
    route: str  # "iv" or "oral"
    duration_h: float


class Regimen(msgspec.Struct, frozen=True, array_like=True, tag="regimen"):
    """What is planned for one drug from the order's event time on; it replaces the plan before it."""

    drug: str
    doses: tuple[PlannedDose, ...]
    grace_h: float


class Dose(msgspec.Struct, frozen=True, array_like=True, tag="dose"):
    """A dose that was given, or one that was missed."""

    drug: str
    given: bool
    amount_mg: float
    route: str
    duration_h: float
    steady_state_interval_h: float  # 0: not at steady state


class Lab(msgspec.Struct, frozen=True, array_like=True, tag="lab"):
    """A laboratory value at the time it was drawn; censored: it lies below `value`."""

    analyte: str
    value: float
    censored: bool


class Window(msgspec.Struct, frozen=True, array_like=True):
    """Integer folds of one channel's samples in one 5-minute window: order cannot matter.

    Attributes:
        index: Window number since 1970 (event time // 5 min).
        count: Samples kept.
        total: Sum of samples in steps of the channel's resolution.
        squares: Sum of squared steps.
        histogram: (bin, count) pairs, bins ascending.
        artefacts: Samples outside the reject bounds.
        missing: Samples the device could not read (null on the wire).
    """

    index: int
    count: int
    total: int
    squares: int
    histogram: tuple[tuple[int, int], ...]
    artefacts: int
    missing: int = 0


class Frame(msgspec.Struct, frozen=True, array_like=True, tag="wearable"):
    """One frame of wearable samples, already folded into the windows it touches.

    Attributes:
        signal: Slug.
        windows: One for each window touched, ascending.
        first: Time of its earliest sample, UTC ns; its last is at the record's event time.
    """

    signal: str
    windows: tuple[Window, ...]
    first: int = 0


def device_of(frame_id: str) -> str:
    """The device of a frame: its id is `device:sequence`."""
    return frame_id.rpartition(":")[0]


class Tick(msgspec.Struct, frozen=True, array_like=True, tag="tick"):
    """Time has passed for this patient although nobody else spoke."""


class Discharge(msgspec.Struct, frozen=True, array_like=True, tag="discharge"):
    """The patient has left; episodes end."""


class Forget(msgspec.Struct, frozen=True, array_like=True, tag="forget"):
    """Everything known of the patient up to here is to be erased; it never becomes part of a history."""


Content = PatientFacts | Regimen | Dose | Lab | Frame | Tick | Discharge | Forget


class Entry(msgspec.Struct, frozen=True, array_like=True):
    """One revision of one record.

    `revision` and then `digest` (SHA-256 of the record's bytes) decide which entry of an identity wins.
    A cancelled entry has no content.
    """

    kind: str
    source: str
    id: str
    revision: int
    digest: bytes
    event_time: int  # UTC ns
    cancelled: bool
    content: Content | None

    @property
    def identity(self) -> Identity:
        """Kind, source and id: what a correction shares with what it corrects."""
        return Identity(self.kind, self.source, self.id)

    @property
    def rank(self) -> tuple[int, bytes]:
        """Among entries of one identity the highest rank wins."""
        return (self.revision, self.digest)

    @property
    def place(self) -> tuple[int, int, str, str]:
        """Where the entry stands in the patient's history: event time, then kind, source, id."""
        return (self.event_time, KIND_ORDER.index(self.kind), self.source, self.id)
