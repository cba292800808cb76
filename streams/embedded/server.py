"""What an embedded Kafka and an embedded Redis have in common: one process, one directory, one port over restarts."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, Generic, TypeVar

from streams.embedded.processes import Process, ProcessGroup


class Server(ABC):
    """A server with its data in one directory, on the same port over restarts.

    Args:
        name: What people call it; used in errors and for its log file.
        directory: Data, configuration and log; made when missing, kept afterwards.
        port: Loopback port for clients.
    """

    READY_WITHIN_S: ClassVar[float]
    STOPS_WITHIN_S: ClassVar[float]
    POLL_S: ClassVar[float]

    def __init__(self, name: str, directory: Path, port: int) -> None:
        self.directory = directory.resolve()
        self.port = port
        self._process = Process(name, (), self.directory / f"{name.split()[0].lower()}.log")

    @property
    def process(self) -> Process:
        """The server's process."""
        return self._process

    @abstractmethod
    def prepare(self) -> Sequence[str]:
        """Write the configuration, and give the command that starts the server."""

    @abstractmethod
    def answers(self) -> bool:
        """Say whether the server does what it is for; asked again and again until it does."""

    def start(self) -> None:
        """Start the server and return when it answers.

        Raises:
            ProcessError: It cannot be started, ends, or does not answer in time; the text shows the end of its log.
        """
        self.launch()
        self.wait_ready()

    def launch(self) -> None:
        """Start the server without waiting for it: for one that answers only when its fellows are there."""
        self.directory.mkdir(parents=True, exist_ok=True)
        self._process.command = tuple(self.prepare())
        self._process.start()

    def wait_ready(self) -> None:
        """Return when the server answers; errors as of `start`."""
        self._process.wait_until(self.answers, self.READY_WITHIN_S, poll_s=self.POLL_S)

    def stop(self) -> None:
        """End the server in order (SIGTERM), or by SIGKILL when that takes too long."""
        self._process.stop(self.STOPS_WITHIN_S)

    def kill(self) -> None:
        """End the server at once (SIGKILL)."""
        self._process.kill()

    def restart(self) -> None:
        """Start again on the same data and port, after `stop`, `kill`, or from running."""
        self.stop()
        self.start()

    def pause(self) -> None:
        """Freeze the server (SIGSTOP): connections stay open and nobody answers."""
        self._process.pause()

    def resume(self) -> None:
        """Let a frozen server go on (SIGCONT)."""
        self._process.resume()

    def require_running(self) -> None:
        """Raise `ProcessError` when the server has ended by itself."""
        self._process.require_running()


Node = TypeVar("Node", bound=Server)


class Cluster(Generic[Node]):
    """Servers that belong together.

    Attributes:
        nodes: Every one of them.
    """

    nodes: tuple[Node, ...]

    def stop(self) -> None:
        """End every node in order, the last first."""
        group = ProcessGroup()
        for node in self.nodes:
            group.add(node)
        group.stop()

    def kill(self) -> None:
        """End every node at once (SIGKILL)."""
        for node in self.nodes:
            node.kill()

    def require_running(self) -> None:
        """Raise `ProcessError` when a node has ended by itself."""
        for node in self.nodes:
            node.require_running()
