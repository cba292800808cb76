"""Patients of whom nearly everything is taken back and leaves memory: worker and oracle keep the same twins."""

from __future__ import annotations

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.streams.logs import Sent, frame, level, logged, send
from tests.streams.test_oracle import ADMITTED, FAR_H, check, foretold, piped, piped_in
from twinstate.twin import TwinDocument

# Hours: around the beginning, and each so much later that what was before has left memory.
HOURS = (0.0, 1.0, 2.0, FAR_H, 2 * FAR_H, 3 * FAR_H)
APPENDED_H = 4 * FAR_H
PAYLOADS = {
    "patient": {"covariates": {"weight": {"value": 70, "unit": "kg"}}},
    "lab": level(1.1, "creatinine", "mg/dL"),
    "wearable": frame([400.0, 401.0]),
    "tick": {},
    "discharge": {},
}


@st.composite
def records(draw: st.DrawFn) -> Sent:
    """A record of one patient, or what takes it back."""
    kind = draw(st.sampled_from([*PAYLOADS, "forget"]))
    name, at_h = draw(st.sampled_from(["watch:1", "watch:2"])), draw(st.sampled_from(HOURS))
    if kind == "forget":
        return send("p-1", kind, name, at_h)
    cancelled = draw(st.booleans())
    return send(
        "p-1", kind, name, at_h, PAYLOADS[kind], revision=int(cancelled), cancelled=cancelled, backfill=True
    )


def document(canonical: bytes) -> TwinDocument:
    return msgspec.msgpack.decode(canonical, type=TwinDocument)


@settings(max_examples=150, deadline=None)
@given(st.lists(records(), min_size=1, max_size=14), st.integers(0, 10_000))
def test_whatever_is_taken_back_and_leaves_memory_the_oracle_keeps_the_twins_a_worker_keeps(
    sent: list[Sent], seed: int
) -> None:
    log = logged(sent, append_h=APPENDED_H)
    account = foretold(log)
    run = piped(log, seed)
    check(run, account)
    assert piped_in([[raw] for raw in log], forgetful=True) == run
    # Once anything was accepted there is a twin: who he is, taken back or not, never leaves memory.
    assert set(account.twins) == ({"p-1"} if account.counts.get("applied") else set())


def test_a_patient_of_whom_all_was_taken_back_is_kept_by_both_as_somebody_who_was_there() -> None:
    log = logged(
        [
            ADMITTED,
            send("p-1", "lab", "l", 1.0, PAYLOADS["lab"]),
            send("p-1", "lab", "l", 1.0, revision=1, cancelled=True),
            send("p-1", "tick", "t", FAR_H),
            # The watermark falls back to the admission, which may then be taken back as well, and has been for long.
            send("p-1", "tick", "t", FAR_H, revision=1, cancelled=True),
            send("p-1", "patient", "adm", 0.0, revision=1, cancelled=True),
            send("p-1", "patient", "adm", 0.0, revision=1, cancelled=True),
        ],
        append_h=APPENDED_H,
    )
    account = foretold(log)
    check(piped_in([log]), account)
    check(piped_in([[raw] for raw in log], forgetful=True), account)
    assert account.counts["duplicate"] == 1
    entries = document(account.twins["p-1"]).entries
    assert [(one.kind, one.cancelled) for one in entries] == [("patient", True), ("tick", True)]
