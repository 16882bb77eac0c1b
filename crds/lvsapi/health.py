"""What is asked of a backend before it gets clients, as values. Pure.

Words are those of keepalived.conf(5) where Kubernetes has none of its own: ``fall`` is its ``retry`` + 1.
"""

from dataclasses import dataclass
from enum import StrEnum


class CheckType(StrEnum):
    """How a backend is asked."""

    TCP = "TCP"
    """A connection is accepted."""
    HTTP = "HTTP"
    HTTPS = "HTTPS"
    UDP = "UDP"
    """The payload is answered, or, without an expected answer, is not refused by ICMP."""
    DNS = "DNS"
    """A query is answered with NOERROR, or NXDOMAIN where that is allowed."""
    SMTP = "SMTP"
    """Greeting 220, HELO 250."""
    GRPC = "GRPC"
    """grpc.health.v1.Health/Check says SERVING."""
    ICMP = "ICMP"
    """An echo request is answered."""
    EXEC = "Exec"
    """A command ends with status 0; standalone only (keepalived: MISC_CHECK)."""
    AGENT = "Agent"
    """A port of the backend serves a number 0-256 as a line of text: its weight in percent. ``drain`` and ``down``
    are understood, too (HAProxy: agent-check)."""
    PATH = "Path"
    """A request to the virtual address, by the forwarding method, to this very backend: it accepts the address and
    does not answer ARP for it."""


class OnFailure(StrEnum):
    """What becomes of a backend that fails."""

    INHIBIT = "Inhibit"
    """Weight 0: held connections go on (keepalived: inhibit_on_failure)."""
    REMOVE = "Remove"


class WhenEmpty(StrEnum):
    """What clients get when no backend is left."""

    REJECT = "Reject"
    """TCP reset, ICMP port unreachable otherwise."""
    DROP = "Drop"
    SORRY = "Sorry"
    """The sorry server."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HealthCheck:
    """One question to every backend. All checks of a backend must hold."""

    type: CheckType
    port: int | None = None
    """None: the backend's own port."""
    interval_ms: int = 3000
    """keepalived: delay_loop. From the begin of one question to the begin of the next."""
    timeout_ms: int = 3000
    """For the whole question, connecting included."""
    rise: int = 1
    """Answers in a row that bring a backend back."""
    fall: int = 1
    """Failures in a row that take it out."""
    retry_ms: int | None = None
    """Between a failure and the next question while it counts towards ``fall``. None: the interval."""
    method: str = "GET"
    path: str = "/"
    host: str = ""
    """Host header, SNI and the name that the certificate must bear. Empty: the backend's address, no SNI."""
    statuses: tuple[tuple[int, int], ...] = ((200, 299),)
    """Ranges, ends included."""
    body_regex: str = ""
    """Searched in the first MAX_BODY bytes. Empty: any body."""
    body_sha256: str = ""
    """Digest of the whole body, hexadecimal (of MAX_BODY bytes at most)."""
    tls: bool = False
    """GRPC: over TLS. HTTPS always is."""
    verify_tls: bool = True
    ca_pem: str = ""
    """Empty: the image's certificates."""
    payload: bytes = b""
    """UDP: what is sent."""
    expect: bytes = b""
    """UDP: what the answer must begin with. Empty: any."""
    name: str = ""
    """DNS: the name asked for. SMTP: what HELO says. GRPC: the service."""
    record_type: str = "A"
    """DNS."""
    allow_nxdomain: bool = False
    command: tuple[str, ...] = ()
    """Exec. LVS_ADDRESS, LVS_PORT, LVS_PROTOCOL are in its environment."""


MAX_BODY = 1 << 20
"""Bytes of an answer that are read at most; more is a failure when a digest is asked for, otherwise ignored."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """What an object says of its backends' health. The default asks nothing."""

    checks: tuple[HealthCheck, ...] = ()
    pods: bool = False
    """Checks are for the Service's endpoints, too, whose readiness is the kubelet's to know."""
    on_failure: OnFailure = OnFailure.INHIBIT
    initially_up: bool = False
    """Until the first answer a backend is down (keepalived: alpha), unless this is set. What an agent that restarts
    finds in the kernel stays in either case until the first answer."""
    quorum: int = 1
    """Weight of living backends below which the service is down."""
    hysteresis: int = 0
    """Above quorum + hysteresis it is up again, below quorum - hysteresis down."""
    slow_start_seconds: int = 0
    """A returning backend's weight grows from a tenth to its whole over this time."""
    when_empty: WhenEmpty = WhenEmpty.REJECT


NO_HEALTH = Health()
