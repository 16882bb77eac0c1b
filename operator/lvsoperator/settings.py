"""What the environment says, as one value. Pure: the mapping is an argument."""

from collections.abc import Mapping
from dataclasses import dataclass


class SettingsError(ValueError):
    """A variable that cannot be used: names it, its value and the remedy."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Settings of the operator, from its environment."""

    namespace: str = "lvs-system"
    """POD_NAMESPACE: where the agents' DaemonSet is kept."""
    deployment: str = "lvs-operator"
    """LVS_OPERATOR_DEPLOYMENT: the Deployment that owns the DaemonSet, so that both are removed together."""
    agent_image: str = "lvs-dr-agent:dev"
    """LVS_AGENT_IMAGE: the image of election, agent and node-init."""
    agent_image_pull_policy: str = "IfNotPresent"
    """LVS_AGENT_IMAGE_PULL_POLICY: Always, IfNotPresent or Never."""
    beat_port: int = 9480
    """LVS_BEAT_PORT: UDP port of the heartbeats between the nodes, 1-65535."""
    claims_port: int = 9481
    """LVS_CLAIMS_PORT: UDP port on which the agents tell each other of connections, 1-65535."""
    listen: str = ""
    """LVS_LISTEN: address of /metrics, /healthz and /readyz; empty: every one, of IPv4 and IPv6."""
    port: int = 8080
    """LVS_PORT; 0 takes any free port."""
    full_pass_seconds: float = 300.0
    """LVS_FULL_PASS_SECONDS: without any event everything is looked at again after so long."""
    debounce_seconds: float = 0.1
    """LVS_DEBOUNCE_SECONDS: events within this time share one pass."""
    log_format: str = "text"
    """LVS_LOG_FORMAT: text or json."""
    log_level: str = "INFO"
    """LVS_LOG_LEVEL: DEBUG, INFO, WARNING or ERROR."""


CHOICES = {
    "LVS_AGENT_IMAGE_PULL_POLICY": ("Always", "IfNotPresent", "Never"),
    "LVS_LOG_FORMAT": ("text", "json"),
    "LVS_LOG_LEVEL": ("DEBUG", "INFO", "WARNING", "ERROR"),
}


def from_env(env: Mapping[str, str]) -> Settings:
    """Settings from the environment's variables; empty counts as unset. Raises SettingsError for an unusable value."""
    default = Settings()

    def text(name: str, fallback: str) -> str:
        value = env.get(name, "").strip() or fallback
        if name in CHOICES and value not in CHOICES[name]:
            raise SettingsError(f"{name}: {value!r}: must be one of {', '.join(CHOICES[name])}")
        return value

    def number(name: str, fallback: float, least: float, most: float) -> float:
        value = env.get(name, "").strip()
        try:
            parsed = float(value) if value else fallback
        except ValueError:
            parsed = float("nan")
        if not least <= parsed <= most:
            raise SettingsError(f"{name}: {value!r}: must be a number from {least:g} to {most:g}")
        return parsed

    return Settings(
        namespace=text("POD_NAMESPACE", default.namespace),
        deployment=text("LVS_OPERATOR_DEPLOYMENT", default.deployment),
        agent_image=text("LVS_AGENT_IMAGE", default.agent_image),
        agent_image_pull_policy=text("LVS_AGENT_IMAGE_PULL_POLICY", default.agent_image_pull_policy),
        beat_port=int(number("LVS_BEAT_PORT", default.beat_port, 1, 65535)),
        claims_port=int(number("LVS_CLAIMS_PORT", default.claims_port, 1, 65535)),
        listen=text("LVS_LISTEN", default.listen),
        port=int(number("LVS_PORT", default.port, 0, 65535)),
        full_pass_seconds=number("LVS_FULL_PASS_SECONDS", default.full_pass_seconds, 1, 3600),
        debounce_seconds=number("LVS_DEBOUNCE_SECONDS", default.debounce_seconds, 0, 10),
        log_format=text("LVS_LOG_FORMAT", default.log_format),
        log_level=text("LVS_LOG_LEVEL", default.log_level),
    )
