"""One Mosquitto (MQTT broker) on loopback: the one installed, else Debian's package unpacked below `build/`.

`apt-get` fetches the package and those of its libraries that the machine lacks, checks their signatures, and `dpkg -x`
unpacks them: with package lists and a cache of our own, so that neither root nor a change of the machine is needed.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import socket
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from streams.embedded.ports import LOOPBACK, free_ports
from streams.embedded.processes import Process, ProcessError

ROOT = Path(__file__).resolve().parents[2]
UNPACKED = ROOT / "build" / "mosquitto"
# Where Debian puts it, which is not on everybody's PATH.
SYSTEM = Path("/usr/sbin/mosquitto")
READY_WITHIN_S = 20.0
FETCHED_WITHIN_S = 300.0

CONFIGURATION = """\
listener {port} {host}
persistence true
persistence_location {directory}/
# Saved after every change, though a moment after it is acknowledged.
autosave_interval 1
autosave_on_changes true
# A message more than it holds for a bridge that is away is thrown away otherwise.
max_queued_messages 0
log_dest stderr
log_timestamp false
"""


class MissingMosquittoError(ProcessError):
    """None is installed, and this system has none of Debian's tools to fetch it with."""


class Program(NamedTuple):
    """A runnable broker, and where libraries lie that the machine lacks; None when it lacks none."""

    path: Path
    libraries: Path | None

    def environment(self) -> dict[str, str]:
        """The environment it runs in."""
        own = {} if self.libraries is None else {"LD_LIBRARY_PATH": str(self.libraries)}
        return {**os.environ, **own}


class Tls(NamedTuple):
    """PEM files of a listener with TLS; with `client_ca` clients must show a certificate it signed."""

    certificate: Path
    key: Path
    client_ca: Path | None = None


class EmbeddedMosquitto:
    """A Mosquitto with its data in one directory, on the same port over restarts.

    Args:
        directory: Data, configuration and `mosquitto.log`; made when missing, kept afterwards.
        users: Who may connect, with their passwords; None lets everybody in.
        tls: Speak TLS.
    """

    def __init__(
        self, directory: Path, *, users: dict[str, str] | None = None, tls: Tls | None = None
    ) -> None:
        self.directory = directory.resolve()
        self.port = free_ports(1)[0]
        self._users = users
        self._tls = tls
        self._process = Process("Mosquitto", (), self.directory / "mosquitto.log")

    @property
    def process(self) -> Process:
        """The broker's process."""
        return self._process

    def start(self) -> None:
        """Start the broker and return when it listens.

        Raises:
            ProcessError: There is no Mosquitto, or it ends or does not listen within 20 s.
        """
        program = mosquitto()
        data = self.directory / "data"
        data.mkdir(parents=True, exist_ok=True)
        lines = CONFIGURATION.format(host=LOOPBACK, port=self.port, directory=data)
        if os.getuid() == 0:
            lines += "user root\n"  # else it would become a user who cannot read our directory
        if self._users is None:
            lines += "allow_anonymous true\n"
        else:
            passwords = self.directory / "passwords"
            self._write_passwords(program, passwords, self._users)
            lines += f"allow_anonymous false\npassword_file {passwords}\n"
        if self._tls is not None:
            lines += f"certfile {self._tls.certificate}\nkeyfile {self._tls.key}\n"
            if self._tls.client_ca is not None:
                lines += f"cafile {self._tls.client_ca}\nrequire_certificate true\n"
        configuration = self.directory / "mosquitto.conf"
        configuration.write_text(lines)
        self._process.command = (str(program.path), "-c", str(configuration))
        self._process.environment = program.environment()
        self._process.start()
        self._process.wait_until(self._listens, READY_WITHIN_S, poll_s=0.02)

    def _write_passwords(self, program: Program, file: Path, users: dict[str, str]) -> None:
        beside = program.path.parents[1] / "bin" / "mosquitto_passwd"
        command = str(beside) if beside.exists() else "mosquitto_passwd"
        file.unlink(missing_ok=True)
        file.touch(mode=0o600)
        for user, password in users.items():
            _run((command, "-b", str(file), user, password), program.environment())

    def _listens(self) -> bool:
        try:
            with socket.create_connection((LOOPBACK, self.port), timeout=1.0):
                return True
        except OSError:
            return False

    def stop(self) -> None:
        """End the broker in order (SIGTERM: its data are saved)."""
        self._process.stop()

    def kill(self) -> None:
        """End the broker at once (SIGKILL)."""
        self._process.kill()

    def require_running(self) -> None:
        """Raise `ProcessError` when the broker has ended by itself."""
        self._process.require_running()


def mosquitto(unpacked: Path = UNPACKED) -> Program:
    """Find a Mosquitto, or unpack Debian's.

    Args:
        unpacked: Where it is unpacked, and found the next time.

    Raises:
        MissingMosquittoError: None is installed, and there is no `apt-get`.
        ProcessError: It cannot be fetched.
    """
    installed = shutil.which("mosquitto") or (str(SYSTEM) if SYSTEM.exists() else None)
    if installed is not None:
        return Program(Path(installed), None)
    unpacked.mkdir(parents=True, exist_ok=True)
    # Two first starts at once would unpack into the same place.
    with (unpacked / "lock").open("w") as one_at_a_time:
        fcntl.flock(one_at_a_time, fcntl.LOCK_EX)
        done = unpacked / "complete"
        if not done.exists():
            _fetch(unpacked)
            done.touch()
    return _program(unpacked)


def _program(unpacked: Path) -> Program:
    # Debian's libraries lie in a directory named for the machine's architecture.
    found = sorted((unpacked / "root" / "usr" / "lib").glob("*-linux-gnu"))
    libraries = found[0] if found else unpacked / "root" / "usr" / "lib"
    return Program(unpacked / "root" / "usr" / "sbin" / "mosquitto", libraries)


def _fetch(unpacked: Path) -> None:
    """Unpack the package, then layer by layer what it depends on, until no library is missing."""
    missing = [name for name in ("apt-get", "apt-cache", "dpkg", "dpkg-query") if shutil.which(name) is None]
    if missing:
        raise MissingMosquittoError(
            f"Mosquitto is not installed, and there is no {missing[0]} to fetch it with. Install it (Fedora: dnf "
            "install mosquitto; Arch: pacman -S mosquitto) and run this again"
        )
    root, lists, cache = (unpacked / name for name in ("root", "lists", "cache"))
    for directory in (root, lists / "partial", cache / "archives" / "partial"):
        directory.mkdir(parents=True, exist_ok=True)
    own = (
        "-q",
        "-o",
        f"Dir::State::lists={lists}",
        "-o",
        f"Dir::Cache={cache}",
        "-o",
        "APT::Sandbox::User=root",
    )
    _run(("apt-get", *own, "update"))
    fetched: set[str] = set()
    wanted = ["mosquitto"]
    while wanted:
        _run(("apt-get", *own, "download", *wanted), directory=cache)
        for package in cache.glob("*.deb"):
            _run(("dpkg", "-x", str(package), str(root)))
            package.unlink()
        fetched.update(wanted)
        if not _lacks(_program(unpacked)):
            for directory in (lists, cache):
                shutil.rmtree(directory)
            return
        needs = _run(("apt-cache", *own[1:], "depends", "--important", *sorted(fetched))).splitlines()
        named = {line.split()[-1] for line in needs if line.strip().startswith("Depends: lib")}
        wanted = sorted(name for name in named - fetched if not _installed(name))
    raise ProcessError(f"Mosquitto was unpacked, but lacks {', '.join(_lacks(_program(unpacked)))}")


def _lacks(program: Program) -> list[str]:
    """Libraries that the loader does not find."""
    said = _run(("ldd", str(program.path)), program.environment()).splitlines()
    return [line.split()[0] for line in said if "not found" in line]


def _installed(package: str) -> bool:
    said = subprocess.run(
        ["dpkg-query", "-W", "-f=${Status}", package], capture_output=True, text=True, timeout=30, check=False
    )
    return said.stdout.strip() == "install ok installed"


def _run(
    command: Sequence[str], environment: dict[str, str] | None = None, directory: Path | None = None
) -> str:
    try:
        done = subprocess.run(
            command,
            env=environment,
            cwd=directory,
            capture_output=True,
            text=True,
            timeout=FETCHED_WITHIN_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ProcessError(f"{command[0]} {command[1]}: {error}") from error
    if done.returncode != 0:
        last = (done.stderr.strip() or done.stdout.strip() or "no word").splitlines()[-1]
        what = next(word for word in command[1:] if not word.startswith("-") and "=" not in word)
        raise ProcessError(
            f"{command[0]} {what}: {last}. Mosquitto is fetched once from Debian's packages; install it by hand if "
            "this machine cannot reach them"
        )
    return done.stdout
