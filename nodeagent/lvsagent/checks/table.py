"""Which checker asks for which type."""

from collections.abc import Mapping
from typing import Final

from lvsagent.checks import agentport, command, grpc, http, icmp, smtp, udp
from lvsagent.checks.answer import Checker
from lvsagent.checks.path import Paths
from lvsapi.health import CheckType

AT_ONCE: Final[Mapping[CheckType, int]] = {CheckType.EXEC: command.AT_ONCE}
"""Of types that take more than a socket: how many at a time. The wait is not part of the timeout."""


def checkers(allow_exec: bool) -> dict[CheckType, Checker]:
    """All but TCP, which needs no task (``tcp.Connector``)."""
    return {
        CheckType.HTTP: http.check,
        CheckType.HTTPS: http.check,
        CheckType.UDP: udp.check,
        CheckType.DNS: udp.check_dns,
        CheckType.SMTP: smtp.check,
        CheckType.GRPC: grpc.check,
        CheckType.ICMP: icmp.check,
        CheckType.EXEC: command.check if allow_exec else command.refuse,
        CheckType.AGENT: agentport.check,
        CheckType.PATH: Paths().check,
    }
