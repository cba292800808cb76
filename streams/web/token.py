"""The bearer token: made at the first start, kept in a file only its owner can read."""

from __future__ import annotations

import hmac
import os
import secrets
import stat
from pathlib import Path

SHORTEST = 20


class TokenError(RuntimeError):
    """The token's file cannot be trusted or read; the text says what to do."""


def load_token(path: Path) -> str:
    """Read the token, making the file (mode 600) when there is none.

    Args:
        path: Usually `build/api-token`.

    Raises:
        TokenError: The file is no plain file of ours with mode 600, or holds no usable token.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        made = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    except FileExistsError:
        return _read(path)
    except OSError as error:
        raise TokenError(
            f"{path}: the token cannot be written: {error.strerror}; set web.token_file"
        ) from error
    token = secrets.token_urlsafe(32)
    with os.fdopen(made, "w", encoding="ascii") as file:
        file.write(token + "\n")
    return token


def _read(path: Path) -> str:
    try:
        opened = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    except OSError as error:
        raise TokenError(
            f"{path}: the token cannot be read: {error.strerror}; it must be a plain file of this user"
        ) from error
    with os.fdopen(opened, encoding="ascii", errors="replace") as file:
        about = os.fstat(file.fileno())
        mode = stat.S_IMODE(about.st_mode)
        if about.st_uid != os.geteuid():
            raise TokenError(
                f"{path}: belongs to another user; delete it, and a new one is made at the next start"
            )
        if mode & 0o077:
            raise TokenError(
                f"{path}: has mode {mode:03o}, so others on this machine may have read the token. Delete it: a new one "
                "with mode 600 is made at the next start"
            )
        token = file.read(4096).strip()
    if len(token) < SHORTEST or not token.isascii() or any(c.isspace() for c in token):
        raise TokenError(
            f"{path}: holds no token of {SHORTEST} or more characters in one line; delete it, and one is made"
        )
    return token


def admits(header: str | None, token: str) -> bool:
    """Whether an `Authorization` header carries the token; takes the same time for any wrong one."""
    scheme, _, given = (header or "").partition(" ")
    # compare_digest first: a wrong scheme must not answer faster than a wrong token.
    right = hmac.compare_digest(given.strip().encode(), token.encode())
    return right and scheme.lower() == "bearer"
