"""The bearer token's file: made once, trusted only when nobody else can have read it."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from streams.web.token import TokenError, admits, load_token


def test_first_start_makes_a_long_token_only_its_owner_can_read(tmp_path: Path) -> None:
    path = tmp_path / "new" / "token"
    before = os.umask(0)  # the mode must not hang on the umask
    try:
        token = load_token(path)
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert len(token) >= 40
    assert load_token(path) == token


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o666, 0o601])
def test_looser_mode_is_refused_with_the_way_out(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "token"
    load_token(path)
    path.chmod(mode)
    with pytest.raises(TokenError, match=rf"token: has mode {mode:03o}.*Delete it"):
        load_token(path)


def test_a_link_is_refused(tmp_path: Path) -> None:
    load_token(tmp_path / "real")
    (tmp_path / "token").symlink_to(tmp_path / "real")
    with pytest.raises(TokenError, match="plain file"):
        load_token(tmp_path / "token")


@pytest.mark.parametrize("content", ["", "short", "two words and enough letters"])
def test_a_file_without_a_usable_token_is_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "token"
    path.write_text(content)
    path.chmod(0o600)
    with pytest.raises(TokenError, match="holds no token"):
        load_token(path)


def test_only_the_whole_token_after_bearer_is_admitted() -> None:
    token = "a" * 43
    assert admits(f"Bearer {token}", token)
    assert admits(f"bearer {token}", token)
    for header in (
        None,
        "",
        "Bearer",
        "Bearer ",
        f"Basic {token}",
        token,
        f"Bearer {token}b",
        f"Bearer {'a' * 42}",
        "Bearer ü",
    ):
        assert not admits(header, token)
