"""How the service is run: `config/service.yaml`, and above it the environment.

A key's unit is in its name. `kafka.group` is `TWIN_KAFKA__GROUP` in the environment; `KAFKA_BOOTSTRAP_SERVERS` and
`REDIS_URL` are understood as well, below their `TWIN_` names.
"""

from __future__ import annotations

import os
import ssl
from pathlib import Path
from typing import Any, Literal, Self

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic.fields import FieldInfo
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

ROOT = Path(__file__).resolve().parents[1]
SERVICE_FILE = ROOT / "config" / "service.yaml"
PREFIX = "TWIN_"
WELL_KNOWN = {"KAFKA_BOOTSTRAP_SERVERS": ("kafka", "bootstrap_servers"), "REDIS_URL": ("redis", "url")}


class SettingsError(ValueError):
    """A setting breaks a rule; one line for each, with place, key, value and rule."""


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


def _tls_context(ca: Path | None, certificate: Path | None, key: Path | None) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=ca)
    if certificate is not None:
        context.load_cert_chain(certificate, key)
    return context


class KafkaSettings(_Section):
    """Where the broker is, who we are to it, and how much is taken at once."""

    bootstrap_servers: str = Field(min_length=3, pattern=r"^[^,\s:/]+:\d+(,[^,\s:/]+:\d+)*$")
    group: str = Field(pattern=r"^[A-Za-z0-9._-]{1,100}$")
    instance_id: str = Field(pattern=r"^[A-Za-z0-9._-]{1,100}$")
    session_timeout_seconds: float = Field(gt=0)
    heartbeat_interval_seconds: float = Field(gt=0)
    transaction_timeout_seconds: float = Field(gt=0)
    batch_max_records: int = Field(ge=1)
    partition_fetch_max_bytes: int = Field(ge=2 * 1024 * 1024)
    security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"]
    sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] | None = None
    sasl_username: str | None = None
    sasl_password: SecretStr | None = None
    tls_ca_file: Path | None = None
    tls_certificate_file: Path | None = None
    tls_key_file: Path | None = None

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if self.heartbeat_interval_seconds * 3 > self.session_timeout_seconds:
            raise ValueError("heartbeat_interval_seconds must be at most a third of session_timeout_seconds")
        if self.security_protocol.startswith("SASL") and not (
            self.sasl_mechanism and self.sasl_username and self.sasl_password
        ):
            raise ValueError(
                f"{self.security_protocol} needs sasl_mechanism, sasl_username and sasl_password"
            )
        if (self.tls_certificate_file is None) != (self.tls_key_file is None):
            raise ValueError("tls_certificate_file and tls_key_file come together or not at all")
        return self

    def connection(self) -> dict[str, str]:
        """Give the settings that every librdkafka client needs to reach the broker."""
        settings: dict[str, str | Path | None] = {
            "bootstrap.servers": self.bootstrap_servers,
            "security.protocol": self.security_protocol,
            "sasl.mechanism": self.sasl_mechanism,
            "sasl.username": self.sasl_username,
            "sasl.password": None if self.sasl_password is None else self.sasl_password.get_secret_value(),
            "ssl.ca.location": self.tls_ca_file,
            "ssl.certificate.location": self.tls_certificate_file,
            "ssl.key.location": self.tls_key_file,
        }
        return {key: str(value) for key, value in settings.items() if value is not None}

    def python_connection(self) -> dict[str, Any]:
        """Give the same as keyword arguments of aiokafka's and kafka-python's clients."""
        arguments: dict[str, Any] = {
            "bootstrap_servers": self.bootstrap_servers.split(","),
            "security_protocol": self.security_protocol,
        }
        if self.security_protocol.endswith("SSL"):
            arguments["ssl_context"] = self.tls_context()
        if self.security_protocol.startswith("SASL") and self.sasl_password is not None:
            arguments["sasl_mechanism"] = self.sasl_mechanism
            arguments["sasl_plain_username"] = self.sasl_username
            arguments["sasl_plain_password"] = self.sasl_password.get_secret_value()
        return arguments

    def tls_context(self) -> ssl.SSLContext:
        """Trust the CA file, or the system's authorities, and show our certificate when there is one.

        Raises:
            OSError: A file cannot be read or holds no certificate.
        """
        return _tls_context(self.tls_ca_file, self.tls_certificate_file, self.tls_key_file)


class RedisSettings(_Section):
    """Where twins live."""

    url: str = Field(pattern=r"^(redis|rediss|unix)://", repr=False)  # it may hold a password
    cluster: bool
    answer_timeout_seconds: float = Field(gt=0)
    tls_ca_file: Path | None = None

    def client_arguments(self) -> dict[str, Any]:
        """Give the keyword arguments of `Redis.from_url` beside the URL; retries are the caller's to choose."""
        arguments: dict[str, Any] = {
            "socket_timeout": self.answer_timeout_seconds,
            "socket_connect_timeout": self.answer_timeout_seconds,
        }
        if self.url.startswith("rediss://") and self.tls_ca_file is not None:
            arguments["ssl_ca_certs"] = str(self.tls_ca_file)
        return arguments


class WorkerSettings(_Section):
    """Limits of one worker, and what it runs."""

    pipeline_factory: str = Field(pattern=r"^[A-Za-z0-9_.]+:[A-Za-z0-9_]+$")
    outbox_max_messages: int = Field(ge=1)
    audit_max_batches: int = Field(ge=1)
    trace_max_batches: int = Field(ge=1)
    stalled_after_seconds: float = Field(gt=0)
    metrics_host: str = Field(min_length=1)
    metrics_port: int = Field(ge=0, le=65_535)
    log_level: Literal["debug", "info", "warning", "error"]


class WebSettings(_Section):
    """Where the API listens and what it asks for."""

    host: str = Field(min_length=1)
    port: int = Field(ge=0, le=65_535)
    token_file: Path
    answer_timeout_seconds: float = Field(gt=0)
    streams_max: int = Field(default=20, ge=0, le=1000)


class IntakeSettings(_Section):
    """Whether the API takes records, and how much at once."""

    token_file: Path | None
    batch_max_records: int = Field(ge=1)
    batch_max_bytes: int = Field(ge=64 * 1024)  # one record of the largest size must fit
    waiting_max_records: int = Field(ge=1, le=50_000)  # librdkafka's own queue holds 100,000
    acknowledge_within_seconds: float = Field(ge=1, le=300)

    @model_validator(mode="after")
    def _admits_a_batch(self) -> Self:
        if self.waiting_max_records < self.batch_max_records:
            raise ValueError(
                "waiting_max_records must be at least batch_max_records, or a full batch would never be taken"
            )
        return self


class MqttSettings(_Section):
    """Which MQTT broker is bridged, and how."""

    host: str = Field(min_length=1)
    port: int = Field(ge=1, le=65_535)
    topic: str = Field(min_length=1, max_length=1000)
    client_id: str = Field(pattern=r"^[A-Za-z0-9._-]{1,100}$")
    username: str | None = None
    password: SecretStr | None = None
    tls: bool
    tls_ca_file: Path | None = None
    tls_certificate_file: Path | None = None
    tls_key_file: Path | None = None
    session_expiry_hours: float = Field(ge=0, le=1_000_000)
    waiting_max_messages: int = Field(
        ge=1, le=50_000
    )  # MQTT counts to 65,535, librdkafka's queue holds 100,000
    keepalive_seconds: int = Field(ge=1, le=65_535)
    reconnect_max_seconds: int = Field(ge=1)
    metrics_host: str = Field(min_length=1)
    metrics_port: int = Field(ge=0, le=65_535)

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if (self.tls_certificate_file is None) != (self.tls_key_file is None):
            raise ValueError("tls_certificate_file and tls_key_file come together or not at all")
        if not self.tls and (self.tls_ca_file or self.tls_key_file):
            raise ValueError("certificates are set but tls is false, so nothing would be encrypted")
        try:
            self.host.encode("idna")
        except UnicodeError as error:
            raise ValueError(f"host {self.host!r} is no host name: {error}") from error
        if self.password is not None and self.username is None:
            raise ValueError("a password is set but no username, so neither would be sent")
        parts = self.topic.split("/")
        if any(len(part) > 1 and set(part) & set("+#") for part in parts) or "#" in parts[:-1]:
            raise ValueError(
                f"topic {self.topic!r} is no MQTT filter: + and # stand for whole parts, # at the end"
            )
        return self

    def tls_context(self) -> ssl.SSLContext:
        """Trust the CA file, or the system's authorities, and show our certificate when there is one.

        Raises:
            OSError: A file cannot be read or holds no certificate.
        """
        return _tls_context(self.tls_ca_file, self.tls_certificate_file, self.tls_key_file)


class TickSettings(_Section):
    """When time passes for patients of whom nobody sends."""

    interval_seconds: float = Field(gt=0)
    active_within_hours: float = Field(gt=0)


class PathSettings(_Section):
    """Where the library and the topics file are; relative paths start at the folder that holds `config/`."""

    library: Path
    topics: Path

    @field_validator("library", "topics")
    @classmethod
    def _from_root(cls, path: Path) -> Path:
        return ROOT / path


class Settings(BaseSettings):
    """Everything `config/service.yaml` and the environment say."""

    model_config = SettingsConfigDict(
        extra="forbid", frozen=True, env_prefix=PREFIX, env_nested_delimiter="__", env_ignore_empty=True
    )

    kafka: KafkaSettings
    redis: RedisSettings
    worker: WorkerSettings
    web: WebSettings
    intake: IntakeSettings
    mqtt: MqttSettings
    ticks: TickSettings
    paths: PathSettings

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Put the environment above the names others use, and both above the file (the `init` values)."""
        return env_settings, _WellKnown(settings_cls), init_settings


class _WellKnown(PydanticBaseSettingsSource):
    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        return None, field_name, False

    def __call__(self) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for variable, (section, key) in WELL_KNOWN.items():
            if os.environ.get(variable):
                found[section] = {key: os.environ[variable]}
        return found


def load_settings(file: Path = SERVICE_FILE) -> Settings:
    """Read the settings once, at the edge of a process.

    Args:
        file: A YAML file with every section; usually `config/service.yaml`.

    Returns:
        Checked settings, the environment above the file.

    Raises:
        SettingsError: The file cannot be read, or a key is unknown, missing or breaks its rule.
    """
    try:
        content = yaml.safe_load(file.read_text())
    except (OSError, yaml.YAMLError) as error:
        raise SettingsError(f"{file}: cannot be read: {error}") from error
    if not isinstance(content, dict):
        raise SettingsError(
            f"{file}: must hold sections ({', '.join(Settings.model_fields)}), not {content!r}"
        )
    unknown = [
        name for name in os.environ if name.startswith(PREFIX) and "__" in name and not _section_of(name)
    ]
    if unknown:
        raise SettingsError(
            f"environment: {', '.join(sorted(unknown))} names no section; they are "
            + ", ".join(f"{PREFIX}{section.upper()}__..." for section in Settings.model_fields)
        )
    try:
        return Settings(**content)
    except ValidationError as error:
        raise SettingsError("\n".join(_say(file, fault) for fault in error.errors())) from error


def _section_of(variable: str) -> str | None:
    section = variable.removeprefix(PREFIX).split("__")[0].lower()
    return section if section in Settings.model_fields else None


def _say(file: Path, fault: Any) -> str:
    """Name place, key, value and rule of one fault; a value that may be a secret is not shown."""
    path = [str(part) for part in fault["loc"]]
    key, variable = ".".join(path), PREFIX + "__".join(path).upper()
    well_known = next((name for name, target in WELL_KNOWN.items() if list(target) == path), variable)
    place = next(
        (f"environment {name}" for name in (variable, well_known) if os.environ.get(name)), str(file)
    )
    rule = fault["msg"].removeprefix("Value error, ")
    if fault["type"] == "missing":
        return f"{place}: {key} is missing: add it, or set {variable}"
    if fault["type"] == "extra_forbidden":
        return f"{place}: {key} is no setting: see config/service.yaml for those there are"
    # A whole section, or an address, may hold a password.
    shown = (
        "" if isinstance(fault["input"], dict) or "password" in key or key == "redis.url" else fault["input"]
    )
    return (
        f"{place}: {key} {f'is {shown!r}: ' if shown != '' else ''}{rule}. Mend it there, or set {variable}"
    )
