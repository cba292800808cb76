"""Redis clients that never repeat a command by themselves, and what their errors mean."""

from __future__ import annotations

from typing import Any

from redis.asyncio import Redis
from redis.asyncio.cluster import RedisCluster
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import (
    ClusterDownError,
    ClusterError,
    ConnectionError,
    MasterDownError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisClusterException,
    RedisError,
    ResponseError,
    TimeoutError,
    TryAgainError,
)

from streams.ports import StoreUnavailableError

ANSWER_WITHIN_S = 5.0
CONNECT_WITHIN_S = 2.0

# What a server answers that cannot take a sound command now. Any other error reply is a fault in this project.
PASSING_ERRORS = (
    ConnectionError,  # BusyLoadingError is one
    TimeoutError,
    OutOfMemoryError,
    ReadOnlyError,
    ClusterError,
    ClusterDownError,
    TryAgainError,
    MasterDownError,
    RedisClusterException,
    OSError,
)
PASSING_REPLIES = ("OOM", "MISCONF", "BUSY", "NOREPLICAS", "UNBLOCKED")

# Everything a client raises: what a cluster's client says of the cluster is no RedisError.
CLIENT_ERRORS = (RedisError, RedisClusterException, OSError)

AnyRedis = Redis | RedisCluster


def connect(url: str, *, cluster: bool = False, **arguments: Any) -> AnyRedis:
    """Make a client that never repeats a command by itself: the caller decides what an unknown outcome means.

    Args:
        url: `redis://` or `rediss://` address.
        cluster: Whether it is a node of a Redis Cluster.
        arguments: Timeouts and TLS, as redis-py names them.
    """
    options: dict[str, Any] = {
        "socket_timeout": ANSWER_WITHIN_S,
        "socket_connect_timeout": CONNECT_WITHIN_S,
        "retry": Retry(NoBackoff(), 0),
        **arguments,
    }
    return RedisCluster.from_url(url, **options) if cluster else Redis.from_url(url, **options)


def unavailable(error: Exception) -> Exception:
    """Give StoreUnavailableError for what passes, and the error itself for a fault in this project."""
    reply = isinstance(error, ResponseError) and str(error).startswith(PASSING_REPLIES)
    if reply or isinstance(error, PASSING_ERRORS):
        return StoreUnavailableError(f"Redis does not take commands now: {type(error).__name__}: {error}")
    return error
