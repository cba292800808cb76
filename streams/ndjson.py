"""Records in a file, one JSON object a line: each checked as the worker would check it, with the number of its line."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import msgspec

from streams.codec import Accepted, Refusal, decode_under
from streams.ports import RawRecord
from streams.releases import Releases
from twinstate.library import Library


class Line(NamedTuple):
    """One line of a file.

    Attributes:
        number: From 1.
        body: The record's bytes.
        patient: Its field `patient`; None where it cannot be read.
        refusal: Why the worker would refuse it, or why only `twin forget` may send it; None for a good one.
        erases: It is refused, but the worker would take it, and erase the patient: never send it.
    """

    number: int
    body: bytes
    patient: str | None
    refusal: Refusal | None
    erases: bool = False


class _Key(msgspec.Struct):
    patient: str


# Built once, as the module is loaded: see streams/codec.py.
_KEY = msgspec.json.Decoder(_Key)


class Checker:
    """Checks single records as the worker would.

    What only the twin can judge (too late, a duplicate, from the future) is not checked.

    Args:
        library: Drugs, analytes, signals and covariates that can be named.
        releases: Libraries that may be in effect instead; what one of them reads is passed.
    """

    def __init__(self, library: Library, releases: Releases | None = None) -> None:
        self._releases = releases or Releases(library)

    def check(self, number: int, body: bytes) -> Line:
        """Check one record; `number` is its place among the others, from 1."""
        patient = patient_of(body)
        raw = RawRecord(number, 0, None if patient is None else patient.encode(), body, ())
        decoded = decode_under(self._releases.every(), raw, None, 1)
        if isinstance(decoded, Accepted) and decoded.entry.kind == "forget":
            refusal = Refusal("wrong_schema", "erasure is an operator's act: twin forget PATIENT", None)
            return Line(number, body, patient, refusal, erases=True)
        return Line(number, body, patient, decoded if isinstance(decoded, Refusal) else None)


def read_lines(lines: Iterable[bytes], releases: Releases) -> Iterator[Line]:
    """Check the lines of a file; empty ones are passed over.

    Args:
        lines: With or without their ends.
        releases: Libraries that may be in effect; what one of them reads is good.
    """
    checker = Checker(releases.first, releases)
    for number, line in enumerate(lines, start=1):
        body = line.strip()
        if body:
            yield checker.check(number, body)


def patient_of(body: bytes) -> str | None:
    """A record's field `patient`; None where it cannot be read."""
    try:
        return _KEY.decode(body).patient
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
        return None
