"""Ports met by real things: Redis, Kafka, Faust."""
