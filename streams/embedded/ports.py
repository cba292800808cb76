"""Free loopback ports that stay free while their server is down."""

from __future__ import annotations

import random
import socket
from pathlib import Path

LOOPBACK = "127.0.0.1"
EPHEMERAL_RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")
LOWEST = 15_000


def free_ports(count: int) -> list[int]:
    """Find free TCP ports on loopback, below the range the kernel takes for outgoing connections.

    A port from that range is no good for a server that is killed and restarted: a client that keeps trying to reach
    it is given that very port as its own before long, connects to itself, and the server cannot come back.

    Args:
        count: How many, all different.

    Returns:
        The ports, in no order. Another process may still take one before it is bound.

    Raises:
        OSError: Too few are free.
    """
    try:
        below = int(EPHEMERAL_RANGE.read_text().split()[0])
    except (OSError, ValueError, IndexError):
        below = 32_768
    candidates = range(LOWEST, below) if below > LOWEST + 1_000 else range(LOWEST, 60_000)
    found: list[int] = []
    for port in random.SystemRandom().sample(candidates, k=min(len(candidates), 500)):
        with socket.socket() as probe:
            try:
                probe.bind((LOOPBACK, port))
            except OSError:
                continue
        found.append(port)
        if len(found) == count:
            return found
    raise OSError(
        f"fewer than {count} free TCP ports on {LOOPBACK} from {candidates.start} to {candidates.stop - 1}"
    )
