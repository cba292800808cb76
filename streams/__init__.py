"""Everything that touches the world: Kafka, Redis, HTTP and the command line."""
