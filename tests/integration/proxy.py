"""A TCP proxy on loopback that a test makes slow, silent or rude."""

from __future__ import annotations

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
    """

    def __init__(self, port: int) -> None:
        self.delay_s = 0.0
        self.mute = False
        self._target = port
        self.port = free_ports(1)[0]
        self._listener: socket.socket | None = None
        self._pairs: list[tuple[socket.socket, socket.socket]] = []

    def __enter__(self) -> Self:
        self.listen()
        return self

    def __exit__(self, *failure: object) -> None:
        self.refuse()

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
            for source, sink, replies in ((client, server, False), (server, client, True)):
                threading.Thread(target=self._pump, args=(source, sink, replies), daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket, replies: bool) -> None:
        with suppress(OSError):
            while chunk := source.recv(CHUNK):
                if replies and self.delay_s:
                    time.sleep(self.delay_s)
                if replies and self.mute:
                    continue
                sink.sendall(chunk)
        for end in (source, sink):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
