"""Operations that did not succeed, as values: every refusal has a name. Pure."""

from dataclasses import dataclass
from enum import StrEnum

from lvsagent.core.diff import Op


class Reason(StrEnum):
    """Why an operation failed; the label of ``lvs_programming_errors_total``."""

    ALREADY_EXISTS = "already_exists"
    NO_SUCH_SERVICE = "no_such_service"
    NO_SUCH_DESTINATION = "no_such_destination"
    NO_SUCH_SCHEDULER = "no_such_scheduler"
    NO_SUCH_ADDRESS = "no_such_address"
    NO_SUCH_DAEMON = "no_such_daemon"
    NO_SUCH_INTERFACE = "no_such_interface"
    NO_SUCH_SYSCTL = "no_such_sysctl"
    NO_PERMISSION = "no_permission"
    READ_ONLY = "read_only"
    INVALID = "invalid"
    NO_MEMORY = "no_memory"
    NO_IPVS = "no_ipvs"
    NO_NFTABLES = "no_nftables"
    HELD_BACK = "held_back"
    NOT_VERIFIED = "not_verified"
    OTHER = "other"


@dataclass(frozen=True, slots=True, kw_only=True)
class OperationFailed:
    """An operation that the kernel refused (or that was not tried: ``held_back``)."""

    op: Op
    reason: Reason
    errno: int
    message: str
    """Names the operation, the object and the remedy."""

    @property
    def operation(self) -> str:
        """The operation in snake_case; the metric's label."""
        name = type(self.op).__name__
        return "".join(f"_{c.lower()}" if c.isupper() else c for c in name).lstrip("_")
