"""Which checker answers for which type."""

from collections.abc import Mapping
from typing import Final

from lvsagent.checks import http
from lvsagent.checks.answer import Checker
from lvsagent.checks.path import Paths
from lvsapi.health import CheckType

AT_ONCE: Final[Mapping[CheckType, int]] = {}
"""Of types that take more than a socket: how many at a time. The wait is not part of the timeout."""


def checkers(allow_exec: bool) -> dict[CheckType, Checker]:
    """All but TCP, which needs no task (``tcp.Connector``)."""
    return {CheckType.HTTP: http.check, CheckType.HTTPS: http.check, CheckType.PATH: Paths().check}
