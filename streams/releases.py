"""The libraries a process has: the one the log begins under, and releases that a record may activate.

A release is a folder of the same form below `config/releases/`, never changed once it was activated: whoever tells
the log again needs every library that was ever in effect.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from streams.fingerprint import fingerprint_of
from twinstate.errors import LibraryError
from twinstate.library import Library, load_library

FOLDER = "releases"


class MissingLibraryError(Exception):
    """The log activates a library that this process does not have; the text says where to put it."""


class Releases:
    """Libraries by fingerprint.

    Args:
        first: The one the log begins under.
        folder: Holds the others, a folder each; None for none.
    """

    def __init__(self, first: Library, folder: Path | None = None) -> None:
        self.first = first
        self._folder = folder
        self._others: dict[str, Library] = {}
        self._broken: list[str] = []
        self._seen: tuple[tuple[str, int], ...] = ()
        self._look()

    @property
    def others(self) -> dict[str, Library]:
        """Releases by the name of their folder."""
        self._look()
        return dict(self._others)

    def every(self) -> Iterator[Library]:
        """The first library, then the others; the folder is looked at only by who goes on to them."""
        yield self.first
        yield from self.others.values()

    @property
    def broken(self) -> tuple[str, ...]:
        """Why folders there are no release, a sentence each."""
        return tuple(self._broken)

    def of_content(self, fingerprint: str) -> Library:
        """The library with this content (`Library.fingerprint`); one put there meanwhile is found too.

        Raises:
            MissingLibraryError: There is none.
        """
        for look_again in (False, True):
            if look_again:
                self._look()
            for library in (self.first, *self._others.values()):
                if library.fingerprint == fingerprint:
                    return library
        broken = f" (not readable: {'; '.join(self._broken)})" if self._broken else ""
        raise MissingLibraryError(
            f"the log activates library {fingerprint}, which is neither the first one nor in {self._folder}{broken}. "
            "Put the release it names there, unchanged, and start again; twin ops status names the libraries here"
        )

    def of_twins(self, fingerprint: str) -> Library | None:
        """The library with which this code on this machine makes twins of this fingerprint; None for none."""
        for look_again in (False, True):
            if look_again:
                self._look()
            for library in (self.first, *self._others.values()):
                if fingerprint_of(library) == fingerprint:
                    return library
        return None

    def fingerprints(self) -> tuple[str, ...]:
        """What twins made here may carry, the first library's before the others'."""
        self._look()
        return tuple(fingerprint_of(library) for library in (self.first, *self._others.values()))

    def _look(self) -> None:
        """Read the folder, if anything in it has changed since."""
        seen = self._signs()
        if seen == self._seen:
            return
        found: dict[str, Library] = {}
        self._broken = []
        paths = [] if self._folder is None or not self._folder.is_dir() else sorted(self._folder.iterdir())
        for path in paths:
            if not path.is_dir():
                continue
            try:
                found[path.name] = load_library(path)
            except LibraryError as error:  # another release may still be the one that is wanted
                self._broken.append(str(error))
        self._others, self._seen = found, seen

    def _signs(self) -> tuple[tuple[str, int], ...]:
        if self._folder is None or not self._folder.is_dir():
            return ()
        return tuple((str(path), path.stat().st_mtime_ns) for path in sorted(self._folder.rglob("*")))


def load_releases(directory: Path) -> Releases:
    """Read the library of a folder and the releases below it.

    Args:
        directory: The folder `config/`.

    Raises:
        LibraryError: The first library breaks a rule; a broken release is only left out.
    """
    return Releases(load_library(directory), directory / FOLDER)
