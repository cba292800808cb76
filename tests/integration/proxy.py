"""A TCP proxy on loopback that a test makes slow, silent or rude."""

from __future__ import annotations

import random
import socket
import struct
import threading
import time
from contextlib import suppress
from typing import Self

from streams.embedded.ports import LOOPBACK, free_ports

CHUNK = 65_536


class Proxy:
    """Passes bytes between clients and one server.

    Attributes:
        delay_s: Added to every chunk of a reply.
        mute: Requests pass, replies are dropped: what a half-open connection looks like.
        held: How many requests `hold` has held back.

    Args:
        target: Port of the server.
        port: Port to take connections on; None takes a free one.
    """

    def __init__(self, target: int, port: int | None = None) -> None:
        self.delay_s = 0.0
        self.mute = False
        self.held = 0
        self._holding: bytes | None = None
        self._released = threading.Event()
        self.port = port or free_ports(1)[0]
        self._target = target
        self._passing = {"requests": threading.Event(), "replies": threading.Event()}
        self.heal()
        self._listener: socket.socket | None = None
        self._pairs: list[tuple[socket.socket, socket.socket]] = []

    def __enter__(self) -> Self:
        self.listen()
        return self

    def __exit__(self, *failure: object) -> None:
        self.refuse()
        self.heal()  # so that the threads end

    def listen(self) -> None:
        """Take connections."""
        listener = socket.create_server((LOOPBACK, self.port))
        self._listener = listener
        threading.Thread(target=self._accept, args=(listener,), daemon=True).start()

    def refuse(self) -> None:
        """Take no more connections, and reset those there are."""
        if self._listener is not None:
            with suppress(OSError):
                self._listener.shutdown(socket.SHUT_RDWR)
            self._listener.close()
            self._listener = None
        self.reset()

    def cut(self, *directions: str) -> None:
        """Hold back `requests`, `replies` or both until `heal`, as TCP does with what a dead network loses."""
        for direction in directions:
            self._passing[direction].clear()

    def hold(self, words: bytes) -> None:
        """Hold back each request with these words in it, and what follows it on its connection, until `heal`."""
        self._released.clear()
        self._holding = words

    def heal(self) -> None:
        """Let everything through again, what was held back first."""
        self._holding = None
        self._released.set()
        for passing in self._passing.values():
            passing.set()

    def reset(self) -> None:
        """Answer every connection with RST."""
        for pair in self._pairs:
            for end in pair:
                with suppress(OSError):
                    end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    end.shutdown(socket.SHUT_RD)
                end.close()
        self._pairs.clear()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                client, _ = listener.accept()
                server = socket.create_connection((LOOPBACK, self._target))
            except OSError:
                if self._listener is not listener:
                    return
                continue
            self._pairs.append((client, server))
            for source, sink, direction in ((client, server, "requests"), (server, client, "replies")):
                threading.Thread(target=self._pump, args=(source, sink, direction), daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket, direction: str) -> None:
        replies = direction == "replies"
        with suppress(OSError):
            while chunk := source.recv(CHUNK):
                if replies and self.delay_s:
                    time.sleep(self.delay_s)
                if replies and self.mute:
                    continue
                if not replies and self._holding is not None and self._holding in chunk:
                    self.held += 1
                    self._released.wait()
                self._passing[direction].wait()
                sink.sendall(chunk)
        for end in (source, sink):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


REPLIES_LOST = "replies lost"
TROUBLES = ("slow", REPLIES_LOST, "reset", "refused")


def trouble_on(proxy: Proxy, trouble: str, dice: random.Random) -> None:
    """Make a proxy's connections bad for a few seconds, in one of the `TROUBLES`, and sound again at the end."""
    if trouble == "slow":
        proxy.delay_s = 0.05
    for _ in range(5):
        time.sleep(dice.uniform(0.1, 0.5))
        if trouble == "slow":
            time.sleep(1.0)
        elif trouble == REPLIES_LOST:
            proxy.mute = True
            time.sleep(1.5)
            proxy.mute = False
            proxy.reset()
        elif trouble == "reset":
            proxy.reset()
        elif trouble == "refused":
            proxy.refuse()
            time.sleep(0.5)
            proxy.listen()
    proxy.delay_s = 0.0
