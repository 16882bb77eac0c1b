"""What a checker says of one question, and how its sentence begins. Pure."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from lvsagent.checks.messages import Target
from lvsapi.health import CheckType, HealthCheck


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """Of one question. ``reason`` is for people and never contains what differs from one failure to the next (times,
    ports of ours), because a verdict is sent again when it changes."""

    ok: bool
    reason: str = ""
    percent: int | None = None
    """Of its weight, as the backend says, 0-256. None: it does not say."""
    ours: bool = False
    """The question could not be asked for want of something on this node (sockets, ports, processes). It counts neither
    for the backend nor against it."""


Checker = Callable[[HealthCheck, Target], Awaitable[Answer]]
"""Asks once. The caller ends it (cancels it) at the timeout, and takes an OSError for a failure with its text."""

WELL = Answer(ok=True)


def port_of(check: HealthCheck, target: Target) -> int:
    """Where the question goes."""
    return target.port if check.port is None else check.port


def endpoint(check: HealthCheck, target: Target) -> str:
    """``10.0.0.21:8080``, ``[fd00::21]:8080``; without a port for ICMP."""
    address = f"[{target.address}]" if target.address.version == 6 else str(target.address)
    return str(target.address) if check.type is CheckType.ICMP else f"{address}:{port_of(check, target)}"


def subject(check: HealthCheck, target: Target) -> str:
    """What was asked of whom: ``HTTP 10.0.0.21:8080/healthz``."""
    path = check.path if check.type in (CheckType.HTTP, CheckType.HTTPS) else ""
    return f"{check.type} {endpoint(check, target)}{path}"


def failed(check: HealthCheck, target: Target, what: str) -> Answer:
    """A failure that names check and backend: ``HTTP 10.0.0.21:8080/healthz: status 503, expected 200-299``."""
    return Answer(ok=False, reason=f"{subject(check, target)}: {what}")


def no_answer(check: HealthCheck, target: Target) -> Answer:
    """The timeout passed before the answer was complete."""
    return failed(check, target, f"no complete answer within {check.timeout_ms} ms")
