"""The operator's environment."""

import pytest

from lvsoperator.settings import Settings, SettingsError, from_env

pytestmark = pytest.mark.unit


def test_an_empty_environment_gives_the_defaults() -> None:
    assert from_env({}) == Settings()
    assert from_env({"LVS_PORT": " ", "POD_NAMESPACE": ""}) == Settings()


def test_every_variable_reaches_its_field() -> None:
    assert from_env(
        {
            "POD_NAMESPACE": "edge",
            "LVS_OPERATOR_DEPLOYMENT": "op",
            "LVS_AGENT_IMAGE": "registry.example/agent:1",
            "LVS_AGENT_IMAGE_PULL_POLICY": "Never",
            "LVS_BEAT_PORT": "1234",
            "LVS_CLAIMS_PORT": "1235",
            "LVS_LISTEN": "127.0.0.1",
            "LVS_PORT": "0",
            "LVS_FULL_PASS_SECONDS": "30",
            "LVS_DEBOUNCE_SECONDS": "0.05",
            "LVS_LOG_FORMAT": "json",
            "LVS_LOG_LEVEL": "DEBUG",
        }
    ) == Settings(
        namespace="edge",
        deployment="op",
        agent_image="registry.example/agent:1",
        agent_image_pull_policy="Never",
        beat_port=1234,
        claims_port=1235,
        listen="127.0.0.1",
        port=0,
        full_pass_seconds=30,
        debounce_seconds=0.05,
        log_format="json",
        log_level="DEBUG",
    )


@pytest.mark.parametrize(
    ("name", "value", "remedy"),
    [
        ("LVS_PORT", "http", "must be a number from 0 to 65535"),
        ("LVS_PORT", "70000", "must be a number from 0 to 65535"),
        ("LVS_BEAT_PORT", "0", "must be a number from 1 to 65535"),
        ("LVS_CLAIMS_PORT", "65536", "must be a number from 1 to 65535"),
        ("LVS_FULL_PASS_SECONDS", "nan", "must be a number from 1 to 3600"),
        ("LVS_AGENT_IMAGE_PULL_POLICY", "always", "must be one of Always, IfNotPresent, Never"),
        ("LVS_LOG_FORMAT", "xml", "must be one of text, json"),
    ],
)
def test_an_unusable_value_is_named_with_its_remedy(name: str, value: str, remedy: str) -> None:
    with pytest.raises(SettingsError) as caught:
        from_env({name: value})
    assert str(caught.value) == f"{name}: {value!r}: {remedy}"
