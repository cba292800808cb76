"""The topics of `config/topics.yaml` on a broker: made when missing, compared when there.

`python -m streams.adapters.topics` does so for the broker of the settings.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import yaml
from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import (
    AdminClient,
    ConfigEntry,
    ConfigResource,
    NewTopic,
    ResourceType,
    TopicMetadata,
)
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from streams.settings import load_settings

ANSWER_WITHIN_S = 10.0


class TopicError(RuntimeError):
    """The broker's topics are not those of `config/topics.yaml`; the text has one line for each difference."""


class TopicNames(BaseModel):
    """What the three topics are called on the broker."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    records: str
    risk: str
    dead_letters: str


class Topics(BaseModel):
    """The topics a deployment needs, all with the same partitions and settings."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    partitions: int = Field(ge=1, le=1024)
    replication_factor: int = Field(ge=1)
    names: TopicNames
    settings: dict[str, str]

    def renamed(self, prefix: str) -> Topics:
        """Give the same topics under other names, `prefix.records` and so on: a test's or a tenant's own set."""
        names = TopicNames(**{key: f"{prefix}.{key}" for key in TopicNames.model_fields})
        return self.model_copy(update={"names": names})


def read_topics(path: Path) -> Topics:
    """Read and check a topics file.

    Args:
        path: Usually `config/topics.yaml`.

    Returns:
        The topics, with every setting as Kafka writes it.

    Raises:
        TopicError: The file cannot be read or breaks a rule; the text names file, key, value and rule.
    """
    try:
        content = yaml.safe_load(path.read_text())
        if isinstance(content, dict) and isinstance(content.get("settings"), dict):
            content["settings"] = {key: _as_kafka_writes(value) for key, value in content["settings"].items()}
        return Topics.model_validate(content)
    except (OSError, yaml.YAMLError) as error:
        raise TopicError(f"{path}: cannot be read: {error}") from error
    except ValidationError as error:
        lines = [
            f"{path}: {'.'.join(map(str, fault['loc']))} is {fault['input']!r}: {fault['msg']}"
            for fault in error.errors()
        ]
        raise TopicError("\n".join(lines)) from error


def _as_kafka_writes(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def create_topics(connection: Mapping[str, str], topics: Topics) -> list[str]:
    """Make the topics that are missing, then compare all of them with the plan; safe to call again.

    Args:
        connection: librdkafka settings that reach the broker: `bootstrap.servers`, and TLS or SASL if it wants them.
        topics: The plan.

    Returns:
        Names of the topics made by this call.

    Raises:
        TopicError: The broker does not answer, refuses, or has one of them with other partitions or settings.
    """
    admin = AdminClient({"log_level": 0, **connection})
    present = _topics_on(admin, connection)
    wanted = [
        NewTopic(
            name,
            num_partitions=topics.partitions,
            replication_factor=topics.replication_factor,
            config=dict(topics.settings),
        )
        for name in topics.names.model_dump().values()
        if name not in present
    ]
    made: list[str] = []
    answers = admin.create_topics(wanted, request_timeout=ANSWER_WITHIN_S) if wanted else {}
    for name, answer in answers.items():
        try:
            answer.result(ANSWER_WITHIN_S)
            made.append(name)
        except KafkaException as error:
            if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:  # another start made it just now
                raise TopicError(f"{name}: the broker does not make it: {error.args[0].str()}") from error
    if made:
        _wait_for_leaders(admin, connection, made)
    # In a cluster the next answer may come from a node that has not heard of them yet.
    deadline = time.monotonic() + (ANSWER_WITHIN_S if made else 0.0)
    while True:
        try:
            differences = compare_topics(connection, topics)
        except TopicError as error:
            differences = str(error).splitlines()
        if not differences:
            return made
        if time.monotonic() >= deadline:
            raise TopicError("\n".join(differences))
        time.sleep(0.1)


def compare_topics(connection: Mapping[str, str], topics: Topics) -> list[str]:
    """Say how the broker's topics differ from the plan.

    Args:
        connection: librdkafka settings that reach the broker.
        topics: The plan.

    Returns:
        One sentence for each difference, with the way out; empty when all is as planned.

    Raises:
        TopicError: The broker does not answer.
    """
    admin = AdminClient({"log_level": 0, **connection})
    on_broker = _topics_on(admin, connection)
    names = list(topics.names.model_dump().values())
    present = [name for name in names if name in on_broker]
    settings = _settings_of(admin, present)
    differences: list[str] = [
        f"{name}: not on the broker. Make it: twin up, or kafka-topics --create with config/topics.yaml's settings"
        for name in names
        if name not in present
    ]
    for name in present:
        partitions = len(on_broker[name].partitions)
        if partitions != topics.partitions:
            differences.append(
                f"{name}: {partitions} partitions on the broker, {topics.partitions} in config/topics.yaml. Partitions "
                "cannot be changed under stored twins: write the broker's number into the file, or use new topics"
            )
        for key, value in topics.settings.items():
            entry = settings[name].get(key)
            found = None if entry is None else entry.value
            if found != value:
                differences.append(
                    f"{name}: {key} is {found} on the broker, {value} in config/topics.yaml. "
                    f"Change it: kafka-configs --alter --topic {name} --add-config {key}={value}"
                )
    return differences


def _topics_on(admin: AdminClient, connection: Mapping[str, str]) -> dict[str, TopicMetadata]:
    try:
        found: dict[str, TopicMetadata] = admin.list_topics(timeout=ANSWER_WITHIN_S).topics
    except KafkaException as error:
        where = connection.get("bootstrap.servers", "the broker")
        raise TopicError(
            f"{where} does not answer within {ANSWER_WITHIN_S:g} s: {error.args[0].str()}. Is Kafka running there?"
        ) from error
    return found


def _wait_for_leaders(admin: AdminClient, connection: Mapping[str, str], names: Sequence[str]) -> None:
    """Wait until the broker itself knows what its controller has agreed to make."""
    deadline = time.monotonic() + ANSWER_WITHIN_S
    while time.monotonic() < deadline:
        on_broker = _topics_on(admin, connection)
        partitions = [
            part for name in names if name in on_broker for part in on_broker[name].partitions.values()
        ]
        if all(name in on_broker for name in names) and all(part.leader >= 0 for part in partitions):
            return
        time.sleep(0.05)
    raise TopicError(
        f"{', '.join(names)}: made, but without a leader after {ANSWER_WITHIN_S:g} s. See the broker's log"
    )


def _settings_of(admin: AdminClient, names: Sequence[str]) -> dict[str, dict[str, ConfigEntry]]:
    resources = [ConfigResource(ResourceType.TOPIC, name) for name in names]
    if not resources:
        return {}
    try:
        answers = admin.describe_configs(resources, request_timeout=ANSWER_WITHIN_S)
        return {resource.name: answer.result(ANSWER_WITHIN_S) for resource, answer in answers.items()}
    except KafkaException as error:
        raise TopicError(f"{', '.join(names)}: settings cannot be read: {error.args[0].str()}") from error


def main() -> int:
    """Make and compare the topics of the settings; the exit status is 1 when they differ."""
    settings = load_settings()
    try:
        made = create_topics(settings.kafka.connection(), read_topics(settings.paths.topics))
    except TopicError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    sys.stdout.write(
        f"made: {', '.join(made)}\n" if made else "all topics are as config/topics.yaml wants them\n"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
