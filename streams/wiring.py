"""Joins the queries to Redis and the library."""

from __future__ import annotations

import time
from collections.abc import Callable

from streams.adapters.redis_reader import RedisReader
from streams.adapters.redis_store import connect
from streams.adapters.topics import read_topics
from streams.messages import EVENT_SOURCE
from streams.queries import Queries
from streams.releases import load_releases
from streams.settings import Settings


def create_queries(
    settings: Settings, clock: Callable[[], int] = time.time_ns
) -> tuple[Queries, RedisReader]:
    """Make the queries over the Redis of the settings; the caller closes the reader.

    Args:
        settings: Of the service.
        clock: Wall clock, UTC ns.

    Raises:
        LibraryError: A file below `config/` breaks a rule.
        TopicError: `config/topics.yaml` breaks a rule.
    """
    client = connect(settings.redis.url, cluster=settings.redis.cluster, **settings.redis.client_arguments())
    reader = RedisReader(client, settings.kafka.group)
    releases = load_releases(settings.paths.library)
    partitions = read_topics(settings.paths.topics).partitions
    return Queries(reader, releases.first, partitions, EVENT_SOURCE, clock, releases), reader
