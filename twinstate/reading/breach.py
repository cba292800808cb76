"""Checks a file against its form, and says the first breach so that a person can mend it."""

from __future__ import annotations

import types
import typing
from collections.abc import Sequence
from typing import Annotated, Any, TypeVar, Union

from pydantic import ValidationError

from twinstate.errors import LibraryError
from twinstate.reading.forms import Form

_F = TypeVar("_F", bound=Form)


def read_form(form: type[_F], data: object, file: str) -> _F:
    """Check what a file holds against its form.

    Raises:
        LibraryError: Place, value, rule and way out of the first breach, and how many more there are.
    """
    try:
        return form.model_validate(data)
    except ValidationError as refused:
        breaches = refused.errors(include_url=False)
        first = breaches[0]
        place = tuple(part for part in first["loc"] if part != "[key]")
        text = f"{file}: {_path(place)} {_rule(form, first['type'], first['msg'], place, first['input'])}"
        if len(breaches) > 1:
            text += f" ({len(breaches) - 1} more in this file)"
        raise LibraryError(text) from None


def _path(place: Sequence[int | str]) -> str:
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in place)
    return text.removeprefix(".") or "the file"


def _rule(form: type[Form], kind: str, message: str, place: Sequence[int | str], value: object) -> str:
    if kind == "extra_forbidden":
        known = ", ".join(_keys_at(form, place[:-1]))
        return f"is not a key this file may have; remove it or use one of: {known}"
    if kind == "missing":
        return "is missing; config/drugs/README.md says what belongs there"
    said = f"{value!r:.80}" if not isinstance(value, dict | list) else f"a {type(value).__name__}"
    rule = message[0].lower() + message[1:].replace("should", "must", 1)
    _, found, tail = rule.partition("must be")
    rule = f"it must be{tail}" if found else rule
    return f"is {said}; {rule}"


def _keys_at(form: type[Form], place: Sequence[int | str]) -> list[str]:
    """Keys the form knows at this place."""
    here: Any = form
    for part in place:
        here = here.model_fields[part].annotation if _is_form(here) else typing.get_args(here)[-1]
        here = _unwrapped(here)
    return list(here.model_fields) if _is_form(here) else []


def _is_form(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, Form)


def _unwrapped(annotation: Any) -> Any:
    """What is inside `Annotated[...]` or `... | None`."""
    while typing.get_origin(annotation) in (Annotated, Union, types.UnionType):
        annotation = next(a for a in typing.get_args(annotation) if a is not type(None))
    return annotation
