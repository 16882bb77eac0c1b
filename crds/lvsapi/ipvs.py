"""What a VirtualService says about its IPVS services beyond scheduler and addresses. Pure.

Words are those of ipvsadm(8) and include/uapi/linux/ip_vs.h. What is left out is what ``ipvsadm`` does without the
option, but for ``mh``, whose two flags are on: without them a drained backend's clients fail, and all connections of a
client go to one backend.
"""

from dataclasses import dataclass
from enum import StrEnum


class Scheduler(StrEnum):
    """The kernel's IPVS schedulers, as in ipvsadm(8) ``--scheduler``."""

    RR = "rr"
    WRR = "wrr"
    LC = "lc"
    WLC = "wlc"
    LBLC = "lblc"
    LBLCR = "lblcr"
    SH = "sh"
    DH = "dh"
    MH = "mh"
    SED = "sed"
    NQ = "nq"
    FO = "fo"
    OVF = "ovf"
    TWOS = "twos"


class SchedulerFlag(StrEnum):
    """ipvsadm(8) ``--sched-flags``; the word before the dash is the scheduler that knows the flag."""

    SH_FALLBACK = "sh-fallback"
    SH_PORT = "sh-port"
    MH_FALLBACK = "mh-fallback"
    MH_PORT = "mh-port"

    @property
    def scheduler(self) -> Scheduler:
        """The only scheduler that it goes with."""
        return Scheduler(self.partition("-")[0])


class Forwarding(StrEnum):
    """How a packet reaches its real server, ipvsadm(8) ``-g``, ``-i``, ``-m``."""

    DIRECT_ROUTING = "DirectRouting"
    TUNNEL = "Tunnel"
    MASQUERADE = "Masquerade"


class TrafficPolicy(StrEnum):
    """A Service's ``externalTrafficPolicy``."""

    CLUSTER = "Cluster"
    LOCAL = "Local"
    """The Active node gives connections to its own pods only."""


class TunnelType(StrEnum):
    """ipvsadm(8) ``--tun-type``."""

    IPIP = "ipip"
    GUE = "gue"
    GRE = "gre"


class TunnelChecksum(StrEnum):
    """ipvsadm(8) ``--tun-nocsum``, ``--tun-csum`` (gue, gre), ``--tun-remcsum`` (gue)."""

    NONE = "none"
    CSUM = "csum"
    REMCSUM = "remcsum"


CHECKSUMS = {
    TunnelType.IPIP: (TunnelChecksum.NONE,),
    TunnelType.GUE: (TunnelChecksum.NONE, TunnelChecksum.CSUM, TunnelChecksum.REMCSUM),
    TunnelType.GRE: (TunnelChecksum.NONE, TunnelChecksum.CSUM),
}
"""What each tunnel can do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tunnel:
    """Encapsulation between the director and a real server."""

    type: TunnelType = TunnelType.IPIP
    port: int = 0
    """UDP port of gue; 0 otherwise."""
    checksum: TunnelChecksum = TunnelChecksum.NONE


IPIP = Tunnel()


@dataclass(frozen=True, slots=True, kw_only=True)
class Persistence:
    """ipvsadm(8) ``-p``, ``-M``: a client's connections go where its first one went."""

    timeout_seconds: int = 300
    ipv4_prefix_length: int = 32
    """Clients of one such network count as one."""
    ipv6_prefix_length: int = 128


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectionLimits:
    """ipvsadm(8) ``-x``, ``-y``, for each backend."""

    upper: int = 0
    """No new connections above; 0: no limit."""
    lower: int = 0
    """New ones again below; 0: three quarters of ``upper``."""


UNLIMITED = ConnectionLimits()


def passes_over(scheduler: Scheduler, given: tuple[SchedulerFlag, ...] | None) -> bool:
    """Whether a connection whose place is a destination of weight 0 goes to another one. Else it is refused, as
    ``ip_vs_dh.c`` does, and ``sh`` and ``mh`` without their fallback."""
    match scheduler:
        case Scheduler.DH:
            return False
        case Scheduler.SH | Scheduler.MH:
            return any(
                flag in flags_of(scheduler, given) for flag in (SchedulerFlag.SH_FALLBACK, SchedulerFlag.MH_FALLBACK)
            )
        case _:
            return True


def flags_of(scheduler: Scheduler, given: tuple[SchedulerFlag, ...] | None) -> tuple[SchedulerFlag, ...]:
    """The flags in force, sorted. None: the scheduler's usual ones."""
    if given is None:
        given = (SchedulerFlag.MH_FALLBACK, SchedulerFlag.MH_PORT) if scheduler is Scheduler.MH else ()
    return tuple(sorted(set(given)))
