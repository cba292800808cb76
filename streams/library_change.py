"""What an activation does at its place in the log: whether another library takes effect, and what is told of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from streams.activation import Activation
from streams.codec import Refusal
from streams.ports import RawRecord
from streams.releases import Releases
from twinstate.library import Library
from twinstate.succession import breaches


@dataclass(frozen=True)
class Change:
    """An activation that holds: the library in effect from its place on; None when it is in effect already."""

    activation: Activation
    library: Library | None


def judge_activation(asked: Activation, library: Library, releases: Releases) -> Change | Refusal:
    """Say what an activation does where `library` is in effect.

    Raises:
        MissingLibraryError: The library it names is not here, so nothing can be said.
    """
    if asked.library == library.fingerprint:
        return Change(asked, None)
    wanted = releases.of_content(asked.library)
    wrong = breaches(library, wanted)
    if wrong:
        return Refusal(
            "unfit_library",
            f"library {asked.library[:12]} cannot follow {library.fingerprint[:12]} in mid-stream: {'; '.join(wrong)}. "
            "Make it the first library and derive the twins again: twin rebuild",
            None,
        )
    return Change(asked, wanted)


def trace_of(raw: RawRecord, change: Change) -> Mapping[str, Any]:
    """A line of the trace about an activation: it names no patient."""
    asked = change.activation
    return {
        "offset": raw.offset,
        "kind": "model.activate",
        "source": asked.source,
        "id": asked.id,
        "outcome": "duplicate" if change.library is None else "activated",
        "reason": f"library {asked.library[:12]}"
        + (" is in effect already" if change.library is None else " is in effect from here on"),
    }
