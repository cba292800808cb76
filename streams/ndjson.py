"""Records in a file, one JSON object a line: each checked as the worker would check it, with the number of its line."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import msgspec

from streams.codec import Decoder, Refusal
from streams.ports import RawRecord
from twinstate.library import Library


class Line(NamedTuple):
    """One line of a file.

    Attributes:
        number: From 1.
        body: The record's bytes.
        patient: Its field `patient`; None where it cannot be read.
        refusal: Why the worker would refuse it; None for a good one.
    """

    number: int
    body: bytes
    patient: str | None
    refusal: Refusal | None


class _Key(msgspec.Struct):
    patient: str


def read_lines(lines: Iterable[bytes], library: Library) -> Iterator[Line]:
    """Check the lines of a file; empty ones are passed over.

    What only the twin can judge (too late, a duplicate, from the future) is not checked.

    Args:
        lines: With or without their ends.
        library: Drugs, analytes, signals and covariates that can be named.
    """
    decoder = Decoder(library, None, 1)
    key = msgspec.json.Decoder(_Key)
    for number, line in enumerate(lines, start=1):
        body = line.strip()
        if not body:
            continue
        patient = _patient(key, body)
        raw = RawRecord(number, 0, None if patient is None else patient.encode(), body, ())
        decoded = decoder.decode(raw)
        yield Line(number, body, patient, decoded if isinstance(decoded, Refusal) else None)


def _patient(key: msgspec.json.Decoder[_Key], body: bytes) -> str | None:
    try:
        return key.decode(body).patient
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
        return None
