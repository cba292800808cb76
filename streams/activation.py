"""`model.activate`: the record by which another library takes effect at one place of a partition.

It is about no patient, so its key is none: it holds a space, which no pseudonym may. `twin ops activate` writes one to
every partition, in one transaction.
"""

from __future__ import annotations

from typing import Annotated, Literal, NamedTuple

import msgspec
from msgspec import Meta

from streams.codec import LARGEST_RECORD, Refusal
from streams.ports import RawRecord
from streams.records import Name

CONTROL_KEY = b"twin control"


class ActivateRecord(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="model.activate"
):
    """From here on records are read, and twins derived, under the library with this fingerprint."""

    schema: Literal["twin.control/1"]
    id: Name
    source: Name
    library: Annotated[
        str, Meta(pattern=r"^[0-9a-f]{64}$(?!\n)", description="SHA-256 of the library's content")
    ]


class Activation(NamedTuple):
    """What an accepted record asks for.

    Attributes:
        id: Of the record.
        source: Of the record.
        library: Fingerprint of the library's content, hex.
    """

    id: str
    source: str
    library: str


# Built once, as the module is loaded: see streams/codec.py.
_RECORD = msgspec.json.Decoder(ActivateRecord)


def read_activation(raw: RawRecord) -> Activation | Refusal | None:
    """Read a control record; None for one about a patient."""
    if raw.key != CONTROL_KEY:
        return None
    if not raw.value or len(raw.value) > LARGEST_RECORD:
        return Refusal("wrong_schema", "a control record has a body of 64 KiB at most; send it anew", None)
    try:
        record = _RECORD.decode(raw.value)
    except msgspec.ValidationError as error:
        return Refusal(
            "wrong_schema", f"{error}; `twin ops activate` writes control records (twin.control/1)", None
        )
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        return Refusal("not_json", f"the body is not JSON: {error}", None)
    return Activation(record.id, record.source, record.library)


def activation(identifier: str, source: str, library: str) -> bytes:
    """The body of a control record that activates a library."""
    return msgspec.json.encode(ActivateRecord("twin.control/1", identifier, source, library))
