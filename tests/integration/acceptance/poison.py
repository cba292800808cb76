"""Poison: a corpus of broken records, the same from one seed, each of which must end as a dead letter."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from typing import Any, NamedTuple

from tests.integration.acceptance.records import body_of, kind_of, small_ward

PATIENT = "vanc-07"
NUL = b"\0"
NOT_UTF8 = (
    b"\xff",
    b"\xc0\xaf",  # a slash, longer than it may be
    b"\xed\xa0\x80",  # half a surrogate pair
    b"\xf5\x80\x80\x80",  # after the last code point
    b"\xe2\x82",  # cut short
)
LONE_SURROGATES = (r"\ud800", r"\udfff", r"\ud800\ud800", r"\ud800x")
NO_JSON_NUMBERS = (
    "NaN",
    "Infinity",
    "-Infinity",
    "0x10",
    "01",
    "1.",
    ".5",
    "+1",
    "1e",
    "--1",
    "1_000",
    "1,5",
)
HUGE_NUMBERS = ("1e309", "-1e309", "1e308", "9" * 400, "1" + "0" * 30, "-1e-320", "1e-320", "0.0", "-0.0")
DEPTHS = (100, 1_000, 5_000, 30_000)
WRONG_VALUES: tuple[Any, ...] = (
    None,
    True,
    [],
    {},
    [1],
    {"a": 1},
    "",
    "x" * 200,
    -1,
    1.5,
    "\u0007",
    "p-1\n",
    "Zürich",
)


class Poison(NamedTuple):
    """A broken record.

    Attributes:
        name: What is wrong with it.
        value: Body; the key is the patient's.
    """

    name: str
    value: bytes


def corpus(seed: int) -> list[Poison]:
    """Give every kind of poison, some of it at places that the seed chooses; all about one patient of the ward."""
    dice = random.Random(seed)
    # One of each kind, all made this patient's: he wears no patch.
    samples = {kind_of(record): _json({**body_of(record), "patient": PATIENT}) for record in small_ward()}
    creatinine = next(
        r
        for r in small_ward()
        if r.patient == PATIENT and "creatinine" in r.value.decode() and kind_of(r) == "lab"
    )
    samples["lab"] = _json(body_of(creatinine))
    found = [*_no_json(samples["lab"], dice), *_no_record(samples)]
    for kind, value in samples.items():
        found += [Poison(f"{kind}: {name}", bad) for name, bad in _cut_and_spoilt(value, dice)]
        found += [Poison(f"{kind}: {name}", bad) for name, bad in _wrong_fields(json.loads(value))]
    return found


def _cut_and_spoilt(value: bytes, dice: random.Random) -> Iterator[tuple[str, bytes]]:
    for place in sorted(dice.sample(range(1, len(value) - 1), 3)):
        yield f"cut at byte {place}", value[:place]
    for spoil in (*NOT_UTF8, NUL):
        place = value.index(b'"source":') + len('"source": "') + dice.randrange(2)
        yield f"{spoil!r} within a string", value[:place] + spoil + value[place:]
    yield "twice in one record", value + value
    yield "text behind it", value + b" ,"
    yield "as UTF-16", value.decode().encode("utf-16")
    yield "with a byte order mark", b"\xef\xbb\xbf" + value
    yield "within an array", b"[" + value + b"]"
    yield "as a string", json.dumps(value.decode()).encode()


def _no_json(lab: bytes, dice: random.Random) -> Iterator[Poison]:
    for text in (b"{", b"}", b"[]", b"{}", b"null", b"true", b"0", b'""', b'"', b" ", NUL, NUL * 100, b"\n"):
        yield Poison(f"nothing but {text[:3]!r}", text)
    yield Poison("random bytes", dice.randbytes(500))
    yield Poison("gzip", bytes.fromhex("1f8b0800000000000003") + dice.randbytes(40))
    for depth in DEPTHS:
        yield Poison(f"arrays {depth} deep", lab[:-1] + b', "deep": ' + b"[" * depth + b"]" * depth + b"}")
        yield Poison(
            f"objects {depth} deep", (b'{"a":' * min(depth, 9_000)) + b"0" + b"}" * min(depth, 9_000)
        )
        yield Poison(f"{depth} brackets never closed", b"[" * depth)
    number = json.dumps(json.loads(lab)["payload"]["value"])
    for other in (*NO_JSON_NUMBERS, *HUGE_NUMBERS):
        yield Poison(f"a level of {other[:12]}", _replaced(lab, f'"value": {number}', f'"value": {other}'))
    for escape in LONE_SURROGATES:
        yield Poison(f"{escape} in the source", _replaced(lab, '"source": "', f'"source": "{escape}'))
        yield Poison(f"{escape} in a key", _replaced(lab, '"source"', f'"{escape}": 1, "source"'))
    yield Poison("an escaped NUL", _replaced(lab, '"source": "', r'"source": "\u0000'))
    for name in ("kind", "patient", "id", "payload", "value", "revision"):
        first = _replaced(lab, "{", '{"revision": 0, ')
        key = f'"{name}": '
        place = first.index(key.encode())
        yield Poison(
            f"{name} twice", first[:place] + f'"{name}": {_first_value(name)}, '.encode() + first[place:]
        )


def _no_record(samples: dict[str, bytes]) -> Iterator[Poison]:
    lab = json.loads(samples["lab"])
    for kind in ("order", "LAB", "lab ", "", "wearables", "__class__", "1"):
        yield Poison(f"kind {kind!r}", _json({**lab, "kind": kind}))
    for schema in ("twin.record/0", "twin.record/2", "twin.record", "TWIN.RECORD/1", ""):
        yield Poison(f"schema {schema!r}", _json({**lab, "schema": schema}))
    for moment in (
        *("2026-03-01", "2026-03-01T08:00:00", "2026-02-30T08:00:00Z", "2026-03-01T25:00:00Z", "1740816000"),
        *(
            "now",
            "0000-01-01T00:00:00Z",
            "1899-12-31T23:59:59Z",
            "9999-12-31T23:59:59Z",
            "+2026-03-01T08:00:00Z",
        ),
    ):
        yield Poison(f"event time {moment}", _json({**lab, "event_time": moment}))
    for kind, sample in samples.items():
        for moment in (
            "1899-12-31T23:59:59Z",
            "2200-01-01T00:00:00Z",
            "2262-04-12T00:00:00Z",
            "9999-12-31T23:59:59Z",
        ):
            yield Poison(f"{kind} at {moment}", _json({**json.loads(sample), "event_time": moment}))
    for kind in samples:
        if kind != "lab":
            yield Poison(f"a lab's payload in a {kind}", _json({**lab, "kind": kind, "id": "swap:1"}))
    for revision in (-1, 1_000_001, 2**63, 10**30, 0.5, "0", True):
        yield Poison(f"revision {revision!r}", _json({**lab, "revision": revision}))
    for cancelled in (0, 1, "true", None):
        yield Poison(f"cancelled {cancelled!r}", _json({**lab, "cancelled": cancelled}))


def _wrong_fields(body: dict[str, Any]) -> Iterator[tuple[str, bytes]]:
    """Each field of envelope and payload away, misspelt, and with each wrong value that is wrong there."""
    required = ("schema", "id", "patient", "event_time", "source", "kind")
    for name in required:
        yield f"without {name}", _json({key: value for key, value in body.items() if key != name})
        for value in WRONG_VALUES:
            if not (name == "source" and isinstance(value, str) and value.isprintable() and value.isascii()):
                yield f"{name} {value!r:.20}", _json({**body, name: value})
    yield "an unknown field", _json({**body, "extra": 1})
    payload = body.get("payload")
    if not payload:
        return
    for value in WRONG_VALUES:
        if value != {}:
            yield f"payload {value!r:.20}", _json({**body, "payload": value})
    for name in payload:
        yield f"payload.{name} misspelt", _json({**body, "payload": _misspelt(payload, name)})
        for value in ([[]], "\u0007", {"": None}, -(10**20)):
            yield f"payload.{name} {value!r:.20}", _json({**body, "payload": {**payload, name: value}})


def _misspelt(payload: dict[str, Any], name: str) -> dict[str, Any]:
    return {(key + "s" if key == name else key): value for key, value in payload.items()}


def _first_value(name: str) -> str:
    return {"payload": "{}", "value": "1.0", "revision": "1", "kind": '"lab"'}.get(name, f'"{PATIENT}"')


def _replaced(value: bytes, old: str, new: str) -> bytes:
    assert old.encode() in value, old
    return value.replace(old.encode(), new.encode("utf-8", "surrogatepass"), 1)


def _json(body: dict[str, Any]) -> bytes:
    return json.dumps(body).encode()
