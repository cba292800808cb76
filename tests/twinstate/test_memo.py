"""The cache of fits: each content is computed once, whether anything came of it or not."""

from __future__ import annotations

import pytest

from twinstate.errors import MathsError
from twinstate.outlook import Memo


def test_what_cannot_be_computed_is_found_out_once() -> None:
    memo, asked = Memo(2), []

    def fail() -> float:
        asked.append(1)
        raise MathsError("no parameters explain the levels")

    for _ in range(3):
        with pytest.raises(MathsError, match="no parameters explain the levels"):
            memo.recall(b"levels", fail)
    assert len(asked) == 1


def test_a_want_of_memory_is_not_remembered() -> None:
    memo = Memo(2)

    def fail() -> float:
        raise MemoryError

    with pytest.raises(MemoryError):
        memo.recall(b"levels", fail)
    assert memo.recall(b"levels", lambda: 4.5) == 4.5


def test_only_the_contents_asked_for_last_are_kept() -> None:
    memo, asked = Memo(2), []

    def compute(content: bytes) -> int:
        asked.append(content)
        return len(asked)

    for content in (b"a", b"b", b"a", b"c", b"a", b"b"):
        memo.recall(content, lambda content=content: compute(content))  # type: ignore[misc]
    assert asked == [b"a", b"b", b"c", b"b"]
