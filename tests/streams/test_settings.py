"""Settings: what wins, and what a person reads when one is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from streams.settings import SERVICE_FILE, Settings, SettingsError, load_settings


def changed(tmp_path: Path, section: str, **values: object) -> Path:
    content = yaml.safe_load(SERVICE_FILE.read_text())
    content[section].update(values)
    file = tmp_path / "service.yaml"
    file.write_text(yaml.safe_dump(content))
    return file


def test_the_checked_in_file_has_every_key_without_a_default() -> None:
    settings = load_settings()
    assert settings.kafka.group == "twin"
    assert settings.paths.topics.is_file()
    assert set(yaml.safe_load(SERVICE_FILE.read_text())) == set(Settings.model_fields)


def test_the_environment_wins_over_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TWIN_KAFKA__BATCH_MAX_RECORDS", "17")
    monkeypatch.setenv("TWIN_WORKER__LOG_LEVEL", "debug")
    settings = load_settings()
    assert settings.kafka.batch_max_records == 17
    assert settings.kafka.group == "twin"
    assert settings.worker.log_level == "debug"


def test_names_that_others_use_are_understood_below_our_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KAFKA_BOOTSTRAP_SERVERS", "one:9092,two:9092")
    monkeypatch.setenv("REDIS_URL", "rediss://store:6380/1")
    assert load_settings().kafka.bootstrap_servers == "one:9092,two:9092"
    assert load_settings().redis.url == "rediss://store:6380/1"

    monkeypatch.setenv("TWIN_KAFKA__BOOTSTRAP_SERVERS", "three:9092")
    assert load_settings().kafka.bootstrap_servers == "three:9092"


def test_an_error_names_file_key_value_and_rule(tmp_path: Path) -> None:
    file = changed(tmp_path, "kafka", batch_max_records=0)
    with pytest.raises(SettingsError) as refused:
        load_settings(file)
    assert str(refused.value) == (
        f"{file}: kafka.batch_max_records is 0: Input should be greater than or equal to 1. "
        "Mend it there, or set TWIN_KAFKA__BATCH_MAX_RECORDS"
    )


def test_an_error_from_the_environment_names_the_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REDIS_URL", "localhost")
    with pytest.raises(SettingsError, match=r"^environment REDIS_URL: redis\.url .*redis\|rediss"):
        load_settings()


def test_every_fault_is_told_at_once(tmp_path: Path) -> None:
    file = changed(tmp_path, "web", port=70_000, hots="0.0.0.0")
    with pytest.raises(SettingsError) as refused:
        load_settings(file)
    assert "web.port is 70000" in str(refused.value)
    assert "web.hots is no setting" in str(refused.value)


def test_a_misspelt_section_in_the_environment_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TWIN_KAFAK__GROUP", "ward")
    with pytest.raises(SettingsError, match="TWIN_KAFAK__GROUP names no section"):
        load_settings()


def test_half_a_login_is_refused_without_showing_the_password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TWIN_KAFKA__SECURITY_PROTOCOL", "SASL_SSL")
    monkeypatch.setenv("TWIN_KAFKA__SASL_PASSWORD", "hunter2")
    with pytest.raises(SettingsError, match="SASL_SSL needs sasl_mechanism") as refused:
        load_settings()
    assert "hunter2" not in str(refused.value)


def test_a_login_reaches_both_kinds_of_client_and_no_printout(monkeypatch: pytest.MonkeyPatch) -> None:
    for key, value in {
        "SECURITY_PROTOCOL": "SASL_SSL",
        "SASL_MECHANISM": "SCRAM-SHA-512",
        "SASL_USERNAME": "twin",
        "SASL_PASSWORD": "hunter2",
    }.items():
        monkeypatch.setenv(f"TWIN_KAFKA__{key}", value)
    kafka = load_settings().kafka

    assert kafka.connection()["sasl.password"] == "hunter2"
    assert kafka.connection()["sasl.mechanism"] == "SCRAM-SHA-512"
    assert kafka.python_connection()["sasl_plain_password"] == "hunter2"
    assert kafka.python_connection()["ssl_context"].check_hostname
    assert "hunter2" not in repr(kafka)


def test_a_heartbeat_slower_than_the_session_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="at most a third of session_timeout_seconds"):
        load_settings(changed(tmp_path, "kafka", heartbeat_interval_seconds=5))


def test_a_file_that_is_no_mapping_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "service.yaml"
    file.write_text("kafka")
    with pytest.raises(SettingsError, match="must hold sections"):
        load_settings(file)


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("TOPIC", "twin/#/records", "# at the end"),
        ("TOPIC", "twin/+x/records", "stand for whole parts"),
        ("PASSWORD", "hunter2", "no username"),
        ("HOST", "mqtt..ward", "no host name"),
    ],
)
def test_what_the_mqtt_client_would_trip_over_or_ignore_is_refused(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, says: str
) -> None:
    monkeypatch.setenv(f"TWIN_MQTT__{name}", value)
    with pytest.raises(SettingsError, match=says) as refused:
        load_settings()
    assert "hunter2" not in str(refused.value)
