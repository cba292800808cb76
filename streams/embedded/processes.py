"""Child processes that never outlive their parent, with a log file each.

Three ways a parent can end, and what stops its children:

- it returns, raises, or gets Ctrl-C, SIGTERM or SIGHUP: `ProcessGroup` stops them, the last started first;
- it is killed with SIGKILL: the kernel kills them at once (`leash.py`);
- it leaves without stopping them: the same, as the thread that started them ends with it.
"""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path
from types import FrameType, TracebackType
from typing import Protocol, Self, TypeVar

LEASH = Path(__file__).with_name("leash.py")
TAIL_LINES = 25


class ProcessError(RuntimeError):
    """A child could not be started or ended by itself; the text holds the end of its log."""


class Process:
    """One child process: started, stopped, killed, paused, and asked for the end of its log.

    Args:
        name: What people call it; used in errors.
        command: Program and arguments.
        log: File that receives standard output and error; appended to over restarts.
        environment: The child's whole environment; None passes the parent's on.
        directory: Where the child runs; None is the parent's.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        log: Path,
        *,
        environment: Mapping[str, str] | None = None,
        directory: Path | None = None,
    ) -> None:
        self.name = name
        self.command = tuple(command)
        self.log = log
        self.environment = environment
        self.directory = directory
        self._child: subprocess.Popen[bytes] | None = None
        self._log_start = 0

    def start(self) -> None:
        """Start the child, if it is not running.

        Raises:
            ProcessError: The program cannot be executed.
        """
        if self.running:
            return
        self.log.parent.mkdir(parents=True, exist_ok=True)
        leashed = [sys.executable, "-I", "-S", str(LEASH), str(os.getpid()), *self.command]
        try:
            with self.log.open("ab") as log:
                self._log_start = log.tell()
                # A session of its own: Ctrl-C reaches the parent alone, which then stops its children in order.
                self._child = _spawner.call(
                    lambda: subprocess.Popen(
                        leashed,
                        stdin=subprocess.DEVNULL,
                        stdout=log,
                        stderr=subprocess.STDOUT,
                        env=self.environment,
                        cwd=self.directory,
                        start_new_session=True,
                    )
                )
        except OSError as error:
            raise ProcessError(f"{self.name}: cannot start {self.command[0]}: {error}") from error

    @property
    def running(self) -> bool:
        """Whether the child has been started and has not ended."""
        return self._child is not None and self._child.poll() is None

    @property
    def pid(self) -> int | None:
        """Process id of the child, None before its first start."""
        return None if self._child is None else self._child.pid

    @property
    def exit_status(self) -> int | None:
        """Exit status, negative for a signal; None while running or before the first start."""
        return None if self._child is None else self._child.poll()

    def wait(self, timeout_s: float | None = None) -> int:
        """Wait for the child to end by itself.

        Returns:
            The exit status, negative for a signal.

        Raises:
            ProcessError: It was never started, or it is still running after `timeout_s` seconds.
        """
        if self._child is None:
            raise ProcessError(f"{self.name} was never started")
        try:
            return self._child.wait(timeout_s)
        except subprocess.TimeoutExpired as error:
            raise ProcessError(f"{self.name} is still running after {timeout_s} s\n{self.tail()}") from error

    def stop(self, timeout_s: float = 10.0) -> None:
        """Ask the child to end (SIGTERM), and kill it when it has not within `timeout_s` seconds."""
        if self._child is None or not self.running:
            return
        self._child.send_signal(signal.SIGTERM)
        # A paused process hears SIGTERM only once it runs again.
        self._child.send_signal(signal.SIGCONT)
        try:
            self._child.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.kill()

    def kill(self) -> None:
        """Kill the child at once (SIGKILL) and wait until it is gone."""
        if self._child is not None:
            self._child.kill()
            self._child.wait()

    def pause(self) -> None:
        """Freeze the child where it stands (SIGSTOP)."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let a frozen child go on (SIGCONT)."""
        self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        if self._child is None or not self.running:
            raise ProcessError(
                f"{self.name} is not running, so it cannot be sent {number.name}\n{self.tail()}"
            )
        self._child.send_signal(number)

    def require_running(self) -> None:
        """Check that the child has not ended by itself.

        Raises:
            ProcessError: It has; the text says how and shows the end of its log.
        """
        if self._child is None:
            raise ProcessError(f"{self.name} was never started")
        status = self.exit_status
        if status is not None:
            how = f"signal {signal.Signals(-status).name}" if status < 0 else f"exit status {status}"
            raise ProcessError(f"{self.name} ended by itself with {how}\n{self.tail()}")

    def wait_until(self, ready: Callable[[], bool], timeout_s: float, poll_s: float = 0.05) -> None:
        """Wait until a check of the protocol succeeds.

        Args:
            ready: Asks the server; True when it answers as it should.
            timeout_s: Seconds to wait at most.
            poll_s: Seconds between two checks.

        Raises:
            ProcessError: The child ended, or was not ready in time; the text shows the end of its log.
        """
        deadline = time.monotonic() + timeout_s
        while not ready():
            self.require_running()
            if time.monotonic() > deadline:
                raise ProcessError(f"{self.name} is not ready after {timeout_s:g} s\n{self.tail()}")
            time.sleep(poll_s)

    def tail(self, lines: int = TAIL_LINES) -> str:
        """Give the end of the log since the last start, with the file's name on top."""
        try:
            with self.log.open("rb") as log:
                size = log.seek(0, os.SEEK_END)
                log.seek(max(self._log_start, size - 256 * lines))
                text = log.read().decode("utf-8", "replace").splitlines()[-lines:]
        except OSError:
            text = []
        return "\n".join([f"end of {self.log}:", *(f"  {line}" for line in text or ["(empty)"])])


class Stoppable(Protocol):
    """What a `ProcessGroup` holds: a `Process`, an embedded server, another group."""

    def stop(self) -> None:
        """End it and everything below it; harmless when it has ended already."""

    def require_running(self) -> None:
        """Raise `ProcessError` when it has ended by itself."""


Member = TypeVar("Member", bound=Stoppable)


class ProcessGroup:
    """Processes that are stopped together, the last started first, however the parent ends.

    A context manager. Inside it SIGTERM and SIGHUP raise `SystemExit` in the main thread, as Ctrl-C raises
    `KeyboardInterrupt`, so that the way out is always the same.
    """

    def __init__(self) -> None:
        self._members: list[Stoppable] = []

    def add(self, member: Member) -> Member:
        """Take over a running member; it is stopped when the group is."""
        self._members.append(member)
        return member

    def release(self, member: Stoppable) -> None:
        """Let go of a member whose work is done: that it has ended is no failure."""
        self._members.remove(member)

    def require_running(self) -> None:
        """Check every member.

        Raises:
            ProcessError: One has ended by itself.
        """
        for member in self._members:
            member.require_running()

    def stop(self) -> None:
        """Stop every member, the last added first; one that fails does not keep the others."""
        failures: list[Exception] = []
        while self._members:
            try:
                self._members.pop().stop()
            except Exception as error:
                failures.append(error)
        if failures:
            raise ExceptionGroup("some processes could not be stopped", failures)

    def __enter__(self) -> Self:
        """Turn SIGTERM and SIGHUP into an orderly end."""
        self._signals = contextlib.ExitStack()
        if threading.current_thread() is threading.main_thread():
            self._signals.enter_context(_orderly_end())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop every member."""
        try:
            self.stop()
        finally:
            self._signals.close()


@contextlib.contextmanager
def _orderly_end() -> Iterator[None]:
    def leave(number: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    before = {number: signal.signal(number, leave) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class _Spawner:
    """The one thread that starts children: it lives as long as this process, and so do they.

    The kernel's promise to `leash.py` is tied to the thread that forked, not to its process.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._jobs: queue.SimpleQueue[
            tuple[Callable[[], subprocess.Popen[bytes]], Future[subprocess.Popen[bytes]]]
        ]
        self._owner: int | None = None

    def call(self, start: Callable[[], subprocess.Popen[bytes]]) -> subprocess.Popen[bytes]:
        with self._lock:
            if self._owner != os.getpid():  # first use, or a forked copy, which has no such thread
                self._jobs = queue.SimpleQueue()
                threading.Thread(target=self._run, args=(self._jobs,), name="spawner", daemon=True).start()
                self._owner = os.getpid()
        answer: Future[subprocess.Popen[bytes]] = Future()
        self._jobs.put((start, answer))
        return answer.result()

    @staticmethod
    def _run(
        jobs: queue.SimpleQueue[
            tuple[Callable[[], subprocess.Popen[bytes]], Future[subprocess.Popen[bytes]]]
        ],
    ) -> None:
        while True:
            start, answer = jobs.get()
            try:
                answer.set_result(start())
            except BaseException as error:
                answer.set_exception(error)


_spawner = _Spawner()
