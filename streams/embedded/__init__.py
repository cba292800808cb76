"""A real Apache Kafka and a real Redis on loopback, without Docker, Java or root.

`server.py` says what a server can be asked, `kafka.py` and `redis.py` hold one each, `kafka_cluster.py` and
`redis_cluster.py` several that belong together; `jars.py` brings Kafka's jars and checks them against
`kafka.lock.toml`, `processes.py` and `leash.py` see to it that no child outlives its parent.
"""

from streams.embedded.kafka import EmbeddedKafka
from streams.embedded.kafka_cluster import EmbeddedKafkaCluster
from streams.embedded.processes import Process, ProcessError, ProcessGroup
from streams.embedded.redis import EmbeddedRedis
from streams.embedded.redis_cluster import EmbeddedRedisCluster
from streams.embedded.server import Server

__all__ = [
    "EmbeddedKafka",
    "EmbeddedKafkaCluster",
    "EmbeddedRedis",
    "EmbeddedRedisCluster",
    "Process",
    "ProcessError",
    "ProcessGroup",
    "Server",
]
