"""What the codec accepts, and the sentence it refuses everything else with."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from streams.activation import CONTROL_KEY, Activation, read_activation
from streams.codec import Accepted, Decoder, Refusal, partition_of, to_ns
from streams.ports import RawRecord
from streams.records import Moment
from twinstate.history import Dose, Frame, Lab, PatientFacts, Regimen
from twinstate.library import Library, load_library

PATIENT = "p-1"
LIBRARY = load_library(Path(__file__).parents[2] / "config")
PARTITION = partition_of(PATIENT.encode(), 4)


@pytest.fixture(scope="module")
def library() -> Library:
    return LIBRARY


@pytest.fixture(scope="module")
def decoder(library: Library) -> Decoder:
    return Decoder(library, PARTITION, 4)


def record(kind: str, payload: dict[str, Any] | None, **changes: Any) -> dict[str, Any]:
    whole = {
        "schema": "twin.record/1",
        "id": "r-1",
        "patient": PATIENT,
        "kind": kind,
        "event_time": "2026-03-01T08:00:00+01:00",
        "source": "ward",
        "payload": payload,
        **changes,
    }
    return {name: value for name, value in whole.items() if value is not None}


def raw(body: dict[str, Any] | bytes, key: bytes = PATIENT.encode(), **changes: Any) -> RawRecord:
    value = body if isinstance(body, bytes) else json.dumps(body).encode()
    return RawRecord(7, 0, key, value, changes.get("headers", ()))


DOSE = {"drug": "vancomycin", "status": "given", "amount": {"value": 1, "unit": "g"}, "route": "iv"}
LAB = {"analyte": "20578-1", "value": 14.2, "unit": "ug/mL"}
FRAME = {"signal": "qtc", "unit": "ms", "values": [412, None, 9000], "period_s": 60}


def accept(decoder: Decoder, body: dict[str, Any]) -> Accepted:
    decoded = decoder.decode(raw(body))
    assert isinstance(decoded, Accepted), decoded
    return decoded


def refuse(decoder: Decoder, one: RawRecord) -> Refusal:
    decoded = decoder.decode(one)
    assert isinstance(decoded, Refusal), decoded
    return decoded


def test_amounts_and_levels_come_out_in_canonical_units_under_the_projects_names(decoder: Decoder) -> None:
    assert accept(decoder, record("dose", DOSE)).entry.content == Dose(
        "vancomycin", True, 1000.0, "iv", 0.0, 0.0
    )
    assert accept(decoder, record("lab", LAB)).entry.content == Lab("vancomycin", 14.2, False)


def test_event_time_is_utc_to_the_nanosecond(decoder: Decoder) -> None:
    body = record("dose", DOSE, event_time="2026-03-01T08:00:00.000001+01:00")
    assert accept(decoder, body).entry.event_time == 1_772_348_400_000_001_000


def test_covariates_are_numbers_in_canonical_units_words_or_flags(decoder: Decoder) -> None:
    covariates = {"weight": {"value": 3500, "unit": "g"}, "sex": "female", "dialysis": True}
    facts = accept(decoder, record("patient", {"covariates": covariates})).entry.content
    assert facts == PatientFacts({"weight": 3.5, "sex": "female", "dialysis": True}, {})


def test_a_regimen_is_spelled_out_dose_by_dose(decoder: Decoder) -> None:
    line = {
        "amount": {"value": 500, "unit": "mg"},
        "route": "iv",
        "duration_h": 1,
        "first_due": "2026-03-01T09:00:00Z",
        "every_h": 8,
        "count": 3,
    }
    plan = accept(decoder, record("regimen", {"drug": "vancomycin", "lines": [line]})).entry.content
    assert isinstance(plan, Regimen)
    assert [(d.due - plan.doses[0].due) / 3.6e12 for d in plan.doses] == [0, 8, 16]


def test_a_frame_is_folded_artefacts_apart_and_gaps_skipped(decoder: Decoder) -> None:
    frame = accept(decoder, record("wearable", FRAME, id="watch:1")).entry.content
    assert isinstance(frame, Frame)
    assert sum(w.count for w in frame.windows) == 1
    assert sum(w.artefacts for w in frame.windows) == 1


def test_a_cancelled_record_needs_no_payload(decoder: Decoder) -> None:
    entry = accept(decoder, record("lab", None, cancelled=True, revision=1)).entry
    assert entry.cancelled
    assert entry.content is None


def test_backfill_is_read_from_the_header(decoder: Decoder) -> None:
    decoded = decoder.decode(raw(record("lab", LAB), headers=(("twin-backfill", b"1"),)))
    assert isinstance(decoded, Accepted)
    assert decoded.backfill


def changed(payload: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return {name: value for name, value in {**payload, **changes}.items() if value is not None}


def plan(**changes: Any) -> dict[str, Any]:
    amount = {"value": 500, "unit": "mg"}
    line = {"amount": amount, "route": "iv", "first_due": "2026-03-01T09:00:00Z", "every_h": 8, "count": 3}
    return {"drug": "vancomycin", "lines": [{**line, **changes}]}


ELSEWHERE = next(p for p in (f"q-{n}" for n in range(99)) if partition_of(p.encode(), 4) != PARTITION)

BAD = {
    "no body": (raw(b""), "empty", "no body"),
    "not JSON": (raw(b"{oops"), "not_json", "not JSON"),
    "not UTF-8": (raw(b"\xff\xfe"), "not_json", "not JSON"),
    "NaN": (raw(b'{"schema":"twin.record/1","revision":NaN}'), "not_json", "not JSON"),
    "2 MiB": (raw(b"x" * 2**21), "too_large", "2097152 bytes"),
    "nested 10,000 deep": (raw(b'{"a":' * 10_000 + b"1" + b"}" * 10_000), None, None),
    "nested deep in a known field": (
        raw(json.dumps(record("patient", {})).encode()[:-2] + b'"genotype":' + b"[" * 10_000),
        None,
        None,
    ),
    "another schema": (raw(record("lab", LAB, schema="twin.record/9")), "wrong_schema", "$.schema"),
    "no kind we know": (raw(record("meal", {})), "wrong_schema", "$.kind"),
    "a field misspelt": (raw(record("lab", {**LAB, "unti": "x"})), "wrong_schema", "unti"),
    "a time without zone": (
        raw(record("lab", LAB, event_time="2026-03-01T08:00:00")),
        "wrong_schema",
        "event_time",
    ),
    "no payload": (raw(record("lab", None)), "wrong_schema", "no payload"),
    "a level of nothing": (raw(record("lab", changed(LAB, value=0))), "wrong_schema", "value"),
    "an unknown unit": (raw(record("lab", changed(LAB, unit="MG/L"))), "unknown_unit", "'mg/L'"),
    "an unknown analyte": (
        raw(record("lab", changed(LAB, analyte="unobtainium"))),
        "unknown_analyte",
        "twin signals",
    ),
    "an unknown drug": (raw(record("dose", changed(DOSE, drug="unobtainium"))), "unknown_drug", "vancomycin"),
    "a frame without its device": (raw(record("wearable", FRAME)), "bad_frame", "device:sequence"),
    "a frame whose sequence is no number": (
        raw(record("wearable", FRAME, id="watch:one")),
        "bad_frame",
        "device:sequence",
    ),
    "an unknown signal": (
        raw(record("wearable", changed(FRAME, signal="aura"), id="watch:1")),
        "unknown_signal",
        "twin signals",
    ),
    "an unknown covariate": (
        raw(record("patient", {"covariates": {"shoe_size": {"value": 43, "unit": "1"}}})),
        "unknown_covariate",
        "weight",
    ),
    "a word where a number is due": (
        raw(record("patient", {"covariates": {"weight": "heavy"}})),
        "wrong_schema",
        '"unit": "kg"',
    ),
    "a number without its unit": (
        raw(record("patient", {"covariates": {"weight": 70}})),
        "wrong_schema",
        '"weight": {"value": ..., "unit": "kg"}',
    ),
    "a plan of more than a thousand doses": (
        raw(
            record(
                "regimen",
                {
                    "drug": "vancomycin",
                    "lines": [
                        {
                            "amount": {"value": 1, "unit": "g"},
                            "route": "iv",
                            "first_due": "2026-03-01T09:00:00Z",
                            "every_h": 0.01,
                            "count": 600,
                        }
                    ]
                    * 2,
                },
            )
        ),
        "wrong_schema",
        "1200 doses",
    ),
    "samples that end before the frame": (
        raw(record("wearable", changed(FRAME, period_s=None, offsets_s=[-3, -2, -1]), id="watch:1")),
        "bad_frame",
        "last sample",
    ),
    "a word nobody knows": (raw(record("patient", {"covariates": {"sex": "x"}})), "wrong_schema", "female"),
    "a weight nobody has": (
        raw(record("patient", {"covariates": {"weight": {"value": 7000, "unit": "kg"}}})),
        "implausible",
        "7000 kg",
    ),
    "an implausible level": (raw(record("lab", changed(LAB, value=1e6))), "implausible", "check the unit"),
    "a clock before all clocks": (
        raw(record("tick", {}, event_time="0001-01-01T00:00:00Z")),
        "implausible",
        "the sender's clock",
    ),
    "a plan beyond all years": (
        raw(record("regimen", plan(first_due="9999-01-01T00:00:00Z"))),
        "implausible",
        "payload.lines[0]",
    ),
    "a plan without end": (raw(record("regimen", plan(every_h=1e300))), "implausible", "ten years"),
    "a level no laboratory can tell from nothing": (
        raw(record("lab", changed(LAB, value=1e-320))),
        "implausible",
        "payload.value (vancomycin) is 1e-320 ug/mL; below 1e-09 mg/L",
    ),
    "a level just below the least one": (
        raw(record("lab", changed(LAB, value=9.99e-7, unit="ng/mL"))),
        "implausible",
        "9.99e-07 ng/mL",
    ),
    "a dose no syringe holds": (
        raw(record("dose", changed(DOSE, amount={"value": 1e-320, "unit": "mg"}))),
        "implausible",
        "payload.amount is 1e-320 mg; a dose is more than nothing: 1 ng to 1 kg",
    ),
    "a frame in another unit, by its first reading": (
        raw(record("wearable", changed(FRAME, unit="min", values=[None, 0.412, 0.415]), id="watch:1")),
        "unknown_unit",
        "payload.values[1] (qtc): 0.412 has the unit 'min', which is not read; send one of 'ms', 's'",
    ),
    "a frame in another unit, without a reading": (
        raw(record("wearable", changed(FRAME, unit="min", values=[None, None]), id="watch:1")),
        "unknown_unit",
        "payload.unit (qtc): a frame without a reading has the unit 'min'",
    ),
    "samples that fall together": (
        raw(record("wearable", changed(FRAME, period_s=1e-12), id="watch:1")),
        "bad_frame",
        "payload.period_s is 1e-12 s, shorter than 0.001 s",
    ),
    "a dose of nothing": (
        raw(record("dose", changed(DOSE, amount={"value": 0, "unit": "mg"}))),
        "implausible",
        "more than nothing",
    ),
    "a route the model lacks": (
        raw(record("dose", changed(DOSE, route="oral"))),
        "unsupported_route",
        "oral",
    ),
    "a dose given without amount": (
        raw(record("dose", changed(DOSE, amount=None))),
        "wrong_schema",
        "amount",
    ),
    "a frame over two hours": (
        raw(record("wearable", changed(FRAME, values=[400] * 121), id="watch:1")),
        "bad_frame",
        "one hour at most",
    ),
    "samples without times": (
        raw(record("wearable", changed(FRAME, period_s=None), id="watch:1")),
        "bad_frame",
        "period_s",
    ),
    "samples from after the frame": (
        raw(record("wearable", changed(FRAME, period_s=None, offsets_s=[-1, 0, 1]), id="watch:1")),
        "bad_frame",
        "last sample",
    ),
    "a key twice": (
        raw(json.dumps(record("lab", LAB)).replace('"value": 14.2', '"value": 14.2, "value": 142').encode()),
        "wrong_schema",
        "'value' stands twice",
    ),
    "a key twice, once escaped": (
        raw(json.dumps(record("lab", LAB)).replace('"id"', '"id": "r-0", "i\\u0064"').encode()),
        "wrong_schema",
        "'id' stands twice",
    ),
    "a key twice, away from its colon": (
        raw(json.dumps(record("lab", LAB)).replace('"id":', '"id" : "r-0", "id" :').encode()),
        "wrong_schema",
        "'id' stands twice",
    ),
    "another key": (raw(record("lab", LAB), key=b"p-2"), "key_mismatch", "pseudonym"),
    "another partition": (
        raw(record("lab", LAB, patient=ELSEWHERE), key=ELSEWHERE.encode()),
        "wrong_partition",
        "murmur2",
    ),
}


@pytest.mark.parametrize("field", ["id", "patient", "source"])
def test_a_name_that_ends_in_a_line_break_is_refused_by_the_wire_and_by_its_json_schema(
    decoder: Decoder, field: str
) -> None:
    name = f"{PATIENT}\n"
    body = record("tick", None, **{field: name})
    refusal = refuse(decoder, raw(body, key=name.encode() if field == "patient" else PATIENT.encode()))
    assert (refusal.reason, f"$.{field}" in refusal.text) == ("wrong_schema", True)
    schema = json.loads((Path(__file__).parents[2] / "config/schemas/tick.schema.json").read_text())
    pattern = schema["$defs"]["TickRecord"]["properties"][field]["pattern"]
    assert re.search(pattern, PATIENT)
    assert not re.search(pattern, name)


def test_a_frames_id_that_ends_in_a_line_break_is_refused(decoder: Decoder) -> None:
    refusal = refuse(decoder, raw(record("wearable", FRAME, id="watch:1\n")))
    assert refusal.reason in ("wrong_schema", "bad_frame")


def test_a_library_named_with_a_line_break_is_a_dead_letter_and_stops_no_worker() -> None:
    body = {
        "schema": "twin.control/1",
        "kind": "model.activate",
        "id": "a",
        "source": "s",
        "library": "0" * 64,
    }
    for changed_field in ("id", "source", "library"):
        broken = json.dumps({**body, changed_field: f"{body[changed_field]}\n"}).encode()
        refusal = read_activation(RawRecord(0, 0, CONTROL_KEY, broken, ()))
        assert isinstance(refusal, Refusal), changed_field
        assert refusal.reason == "wrong_schema"
    assert isinstance(
        read_activation(RawRecord(0, 0, CONTROL_KEY, json.dumps(body).encode(), ())), Activation
    )


def test_the_least_level_the_least_dose_and_the_shortest_period_are_taken(decoder: Decoder) -> None:
    accept(decoder, record("lab", changed(LAB, value=1e-9)))
    accept(decoder, record("dose", changed(DOSE, amount={"value": 1e-6, "unit": "mg"})))
    accept(decoder, record("wearable", changed(FRAME, period_s=0.001), id="watch:1"))


@pytest.mark.parametrize("name", BAD)
def test_a_bad_record_is_refused_with_a_reason_a_person_understands(decoder: Decoder, name: str) -> None:
    one, reason, words = BAD[name]
    refusal = refuse(decoder, one)
    if reason is not None:
        assert (refusal.reason, words in refusal.text) == (reason, True), refusal
    assert refusal.text


def test_text_that_looks_like_a_key_is_none(decoder: Decoder) -> None:
    for text in ('"id":', ':"id":1', "x:y"):
        accept(decoder, record("tick", None, source=text))
    spaced = json.dumps(record("lab", LAB), separators=(", ", "\t: "), indent=1)
    assert isinstance(decoder.decode(raw(spaced.encode())), Accepted)


def test_a_refusal_names_the_record_when_its_envelope_could_be_read(decoder: Decoder) -> None:
    refusal = refuse(decoder, raw(record("lab", changed(LAB, unit="K/uL"))))
    assert refusal.record == (PATIENT, "lab", "ward", "r-1", 0)


def test_partitions_are_kafkas_own() -> None:
    """Hashes of Kafka's `Utils.murmur2`, from its unit test (UtilsTest.testMurmur2)."""
    published = {"21": -973932308, "foobar": -790332482, "a-little-bit-long-string": -985981536}
    for key, hashed in published.items():
        assert partition_of(key.encode(), 2**31 - 1) == (hashed & 0x7FFFFFFF) % (2**31 - 1)


def test_moments_keep_every_microsecond() -> None:
    import datetime as dt

    late: Moment = dt.datetime(2262, 4, 1, 23, 59, 59, 999_999, tzinfo=dt.UTC)
    assert to_ns(late) % 1_000_000_000 == 999_999_000
