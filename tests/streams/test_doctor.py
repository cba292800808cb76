"""What `twin doctor` says of the MQTT broker: nobody needs one, and whoever names one wants it to answer."""

from __future__ import annotations

import pytest

from streams import doctor
from streams.adapters.mqtt_bridge import NO_ANSWER, NOBODY_THERE
from streams.settings import MqttSettings, load_settings


def named(host: str) -> MqttSettings:
    return load_settings().mqtt.model_copy(update={"host": host})


@pytest.mark.parametrize(
    ("host", "said", "ok"),
    [
        ("127.0.0.1", f"{NOBODY_THERE}: Connection refused", True),
        ("127.0.0.1", f"{NO_ANSWER}: certificate verify failed", False),
        ("mqtt.example.org", f"{NOBODY_THERE}: Connection refused", False),
        ("mqtt.example.org", f"{NO_ANSWER}: it is silent", False),
        ("127.0.0.1", "the broker refuses user or password", False),
        ("mqtt.example.org", "", True),
    ],
)
def test_only_a_broker_that_was_named_or_that_refuses_us_needs_a_person(
    monkeypatch: pytest.MonkeyPatch, host: str, said: str, ok: bool
) -> None:
    monkeypatch.setattr(doctor, "ask", lambda where, within_s: said)
    finding = doctor._mqtt(named(host))
    assert (finding.check, finding.ok) == ("MQTT broker", ok)
    assert f"{host}:1883" in finding.found
    assert ok or said in finding.found
