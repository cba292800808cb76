"""Rows of the list of twins: read, chosen, ordered, cut into pages whose cursor survives changes between them."""

from __future__ import annotations

import base64
import datetime as dt
from collections.abc import Iterable, Mapping
from typing import Literal, NamedTuple

import msgspec

from streams.codec import to_ns
from streams.queries import answers
from streams.queries.views import QuestionError, is_stale
from twinstate.drug import DrugModel

LARGEST_PAGE = 500
Sort = Literal["risk", "patient"]
Place = tuple[float, str]


# Places in the order of risk; probabilities lie between them.
STANDING, UNKNOWN = 10.0, -5.0


class IndexRow(msgspec.Struct, frozen=True):
    """A row as `streams.messages.index_row` writes it."""

    patient: str
    state: str
    watermark: dt.datetime
    drugs: tuple[str, ...]
    last_input: dt.datetime
    levels: int
    standing: int
    highest_probability: float | None
    doubted_clocks: tuple[str, ...] = ()


class Page(NamedTuple):
    """Which twins to list.

    Attributes:
        state: Only this state.
        drug: Only patients with this drug.
        sort: `risk` (standing episodes, unknown risk, then by highest probability), or `patient`.
        limit: Rows of a page.
        cursor: Where the page before ended.
    """

    state: answers.State | None = None
    drug: str | None = None
    sort: Sort = "risk"
    limit: int = 50
    cursor: str | None = None


def read_row(content: bytes, drugs: Mapping[str, DrugModel]) -> answers.TwinRow:
    """A stored row as an answer; `stale` is derived here, by the same rule as for one twin."""
    row = msgspec.json.decode(content, type=IndexRow)
    last_input = to_ns(row.last_input)
    stale = row.state == "live" and is_stale(to_ns(row.watermark), last_input, row.drugs, drugs)
    return answers.TwinRow(
        patient=row.patient,
        state=next(s for s in answers.STATES if s == ("stale" if stale else row.state)),
        watermark=row.watermark,
        drugs=row.drugs,
        last_input=row.last_input if last_input else None,
        levels=row.levels,
        standing=row.standing,
        highest_probability=row.highest_probability,
        doubted_clocks=row.doubted_clocks,
    )


def cut(
    rows: Iterable[answers.TwinRow], page: Page, positions: tuple[answers.Position, ...]
) -> answers.TwinList:
    """Choose, order and cut.

    Raises:
        QuestionError: The cursor is not one of ours, or belongs to another order.
    """
    wanted = [
        row
        for row in rows
        if (page.state is None or row.state == page.state) and (page.drug is None or page.drug in row.drugs)
    ]
    wanted.sort(key=lambda row: _place(row, page.sort))
    after = None if page.cursor is None else _read_cursor(page.cursor, page.sort)
    rest = [row for row in wanted if after is None or _place(row, page.sort) > after]
    shown = rest[: page.limit]
    more = len(rest) > len(shown)
    return answers.TwinList(
        twins=tuple(shown),
        matching=len(wanted),
        next=_write_cursor(page.sort, _place(shown[-1], page.sort)) if more else None,
        positions=positions,
    )


def _place(row: answers.TwinRow, sort: Sort) -> Place:
    if sort != "risk":
        return (0.0, row.patient)
    # Whoever stands in an episode first; then those whose risk is not known (quarantined, pending), which is no small
    # risk; then the others.
    if row.highest_probability is None:
        return (UNKNOWN, row.patient)
    return (-row.highest_probability - (STANDING if row.standing else 0.0), row.patient)


def _write_cursor(sort: Sort, place: Place) -> str:
    return base64.urlsafe_b64encode(msgspec.json.encode((sort, *place))).decode().rstrip("=")


def _read_cursor(cursor: str, sort: Sort) -> Place:
    try:
        padded = cursor + "=" * (-len(cursor) % 4)
        order, number, patient = msgspec.json.decode(
            base64.urlsafe_b64decode(padded.encode()), type=tuple[str, float, str]
        )
    except (ValueError, msgspec.MsgspecError):
        raise QuestionError("bad-cursor", "cursor is not one that this API gave; begin without it") from None
    if order != sort:
        raise QuestionError(
            "bad-cursor", f"cursor belongs to sort={order}; keep the sort while paging, or begin anew"
        )
    return (number, patient)
