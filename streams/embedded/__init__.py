"""A real Apache Kafka and a real Redis on loopback, without Docker, Java or root.

`kafka.py` and `redis.py` hold one server each, `jars.py` brings Kafka's jars and checks them against
`kafka.lock.toml`, `processes.py` and `leash.py` see to it that no child outlives its parent.
"""

from streams.embedded.kafka import EmbeddedKafka
from streams.embedded.processes import Process, ProcessError, ProcessGroup
from streams.embedded.redis import EmbeddedRedis

__all__ = ["EmbeddedKafka", "EmbeddedRedis", "Process", "ProcessError", "ProcessGroup"]
