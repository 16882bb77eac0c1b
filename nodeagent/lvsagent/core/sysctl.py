"""Which kernel settings a node needs, what counts as satisfied, and how to go back. Pure.

Keys are paths under /proc/sys, e.g. ``net/ipv4/vs/sloppy_tcp``. For ``arp_ignore``, ``arp_announce`` and ``rp_filter``
the kernel uses the maximum of ``all`` and the interface on which the packet arrives (ip-sysctl.rst).
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

CONF = "net/ipv4/conf"
CONF6 = "net/ipv6/conf"
IP_FORWARD = "net/ipv4/ip_forward"
IP6_FORWARD = f"{CONF6}/all/forwarding"
"""Needed where IPv6 packets come back through the node (``core.clients``)."""
REAL_SERVER: Mapping[str, str] = {
    f"{CONF}/all/arp_ignore": "1",
    f"{CONF}/all/arp_announce": "2",
}
"""What a classic real server needs: it must not answer ARP for the VIP on its ``lo``."""
IPVS: Mapping[str, str] = {
    "net/ipv4/vs/sloppy_tcp": "1",
    "net/ipv4/vs/sloppy_sctp": "1",
    "net/ipv4/vs/conntrack": "1",
    "net/ipv4/vs/expire_nodest_conn": "1",
}
REQUIRED: Mapping[str, str] = {IP_FORWARD: "1", **REAL_SERVER, **IPVS}
"""What a node with an agent needs."""
EXPIRE_NODEST_CONN = "net/ipv4/vs/expire_nodest_conn"
SYNC_THRESHOLD = "net/ipv4/vs/sync_threshold"
"""Which packets of a connection the sync daemon tells of."""
SYNC: Mapping[str, str] = {SYNC_THRESHOLD: "2 50"}
"""What the sync daemon needs: the kernel's 3 misses every connection that only had its handshake (*measured*)."""
PERSISTENT: Mapping[str, str] = {"net/ipv4/vs/expire_quiescent_template": "1"}
"""What persistence needs: without it a client stays with a backend that drains, for as long as it comes again."""
OCCASIONAL = frozenset({*SYNC, *PERSISTENT})
"""Set only while something needs it, and then as it was; what it was is in the agent's own record."""
STRICT = "1"

_ACCEPTED: Mapping[str, frozenset[str]] = {
    # 2 refuses what 1 refuses and more; 8 would silence the Active too.
    f"{CONF}/all/arp_ignore": frozenset({"1", "2"}),
    IP6_FORWARD: frozenset({"1", "2"}),
}
_WHY: Mapping[str, str] = {
    IP_FORWARD: "replies of this node's pods would not leave it",
    f"{CONF}/all/arp_ignore": "this node would answer ARP for addresses that another node holds",
    f"{CONF}/all/arp_announce": "this node would claim the virtual address in its own ARP requests",
    "net/ipv4/vs/sloppy_tcp": "established connections would be reset after a takeover",
    "net/ipv4/vs/sloppy_sctp": "established associations would be reset after a takeover",
    "net/ipv4/vs/conntrack": "a firewall that drops INVALID (kube-proxy does) would drop the pods' replies",
    EXPIRE_NODEST_CONN: "clients of a deleted pod would hang instead of being reset",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class SysctlProblem:
    """A setting that is not as needed."""

    key: str
    value: str | None
    """None: the key does not exist or cannot be read."""
    message: str
    """Names key, value, consequence and remedy."""
    fatal: bool = True
    """False: a warning."""


def satisfied(key: str, value: str | None, wanted: str) -> bool:
    """Whether a value does what the wanted value would do."""
    return value is not None and value in _ACCEPTED.get(key, frozenset({wanted}))


def dotted(key: str) -> str:
    """As sysctl(8) writes it; interface names keep their dots by slashes, as sysctl(8) does."""
    return key if "." in key else key.replace("/", ".")


def check(values: Mapping[str, str | None], wanted: Mapping[str, str] = REQUIRED) -> tuple[SysctlProblem, ...]:
    """What is wrong with the node's settings. ``values`` may hold per-interface keys too (see ``interface_keys``)."""
    problems = [_missing(key, values.get(key), value) for key, value in wanted.items()
                if not satisfied(key, values.get(key), value)]  # fmt: skip
    return (*problems, *_interface_problems(values))


def interface_keys(interfaces: Iterable[str]) -> tuple[str, ...]:
    """Per-interface settings that can spoil the data path by the maximum rule."""
    names = ("all", *interfaces)
    return tuple(f"{CONF}/{name}/{setting}" for name in names for setting in ("arp_ignore", "rp_filter"))


def effective(values: Mapping[str, str | None], interface: str, setting: str) -> int:
    """max(all, interface) of a setting; what cannot be read counts as 0."""
    texts = (values.get(f"{CONF}/{name}/{setting}") for name in ("all", interface))
    return max(int(text) if text and text.isdecimal() else 0 for text in texts)


def _missing(key: str, value: str | None, wanted: str) -> SysctlProblem:
    if value is None and key in IPVS:
        remedy = "load ip_vs first (modprobe ip_vs)"
    elif value is None:
        remedy = "is /proc/sys mounted here?"
    else:
        remedy = f"set it: sysctl -w {dotted(key)}={wanted}, or run lvs-node-init"
    state = "does not exist" if value is None else f"is {value}, needs {wanted}"
    why = _WHY.get(key, "the virtual address would not be served")
    return SysctlProblem(key=key, value=value, message=f"{dotted(key)} {state}: {why}; {remedy}")


def _interface_problems(values: Mapping[str, str | None]) -> Iterable[SysctlProblem]:
    names = sorted({key.split("/")[3] for key in values if key.startswith(f"{CONF}/")} - {"all", "default", "lo"})
    for name in names:
        if effective(values, name, "rp_filter") == int(STRICT):
            yield SysctlProblem(
                key=f"{CONF}/{name}/rp_filter",
                value=STRICT,
                message=f"{dotted(f'{CONF}/{name}/rp_filter')} is effectively 1 (strict; maximum of all and {name}):"
                " packets of pods on overlays and in-cluster clients are dropped; use all=0 and 2 on the interface",
                fatal=False,
            )
        ignore = effective(values, name, "arp_ignore")
        if ignore > 2:
            yield SysctlProblem(
                key=f"{CONF}/{name}/arp_ignore",
                value=str(ignore),
                message=f"{dotted(f'{CONF}/{name}/arp_ignore')} is effectively {ignore} (maximum of all and {name}):"
                " the Active node may not answer ARP for the virtual address; use 0 on the interface",
                fatal=False,
            )


# -- what was there before, and the way back -------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One key that we changed."""

    original: str
    written: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """What this boot of the node had before us. Survives on the host folder; a reboot makes it void."""

    boot_id: str
    changes: Mapping[str, Change] = field(default_factory=dict)
    loopback: tuple[str, ...] = ()
    """Addresses that we put on ``lo``."""

    def encode(self) -> str:
        """JSON, stable."""
        changes = {key: {"original": c.original, "written": c.written} for key, c in sorted(self.changes.items())}
        return (
            json.dumps({"bootID": self.boot_id, "sysctls": changes, "loopback": list(self.loopback)}, indent=1) + "\n"
        )


class RecordError(ValueError):
    """A record that cannot be read."""


def decode_record(text: str) -> Record:
    """The record of a JSON text. Raises RecordError, never anything else."""
    try:
        fields = json.loads(text)
        changes = {str(k): Change(original=str(v["original"]), written=str(v["written"]))
                   for k, v in fields["sysctls"].items()}  # fmt: skip
        loopback = tuple(str(address) for address in fields["loopback"])
        return Record(boot_id=str(fields["bootID"]), changes=changes, loopback=loopback)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise RecordError(f"not a record of lvs-node-init: {error}") from error


def side_effects(interfaces: Iterable[str]) -> tuple[str, ...]:
    """Keys that the kernel changes by itself when ``ip_forward`` changes (net/ipv4/devinet.c inet_forward_change), or
    its like of IPv6 (net/ipv6/addrconf.c addrconf_fixup_forwarding)."""
    names = ("default", *interfaces)
    changed = (f"{conf}/{name}/forwarding" for conf in (CONF, CONF6) for name in names)
    return (f"{CONF}/all/accept_redirects", *changed)


def remember(
    previous: Record | None, boot_id: str, values: Mapping[str, str | None], wanted: Mapping[str, str]
) -> Record:
    """The record to write before ``wanted`` is written. An original of the same boot is never overwritten.

    ``values`` holds the wanted keys and those of ``side_effects``.
    """
    kept = previous if previous and previous.boot_id == boot_id else Record(boot_id=boot_id)
    fresh = {
        key: Change(original=value, written=new)
        for key, new in wanted.items()
        if key not in kept.changes and (value := values.get(key)) is not None and not satisfied(key, value, new)
    }
    for cause, conf in ((IP_FORWARD, CONF), (IP6_FORWARD, CONF6)):
        if cause in fresh:
            for key, value in values.items():
                if value is not None and key.startswith(conf) and key.endswith(("/forwarding", "/accept_redirects")):
                    fresh[key] = Change(original=value, written="0" if key.endswith("/accept_redirects") else "1")
    return replace(kept, changes={**kept.changes, **fresh})


def undo(record: Record, boot_id: str, values: Mapping[str, str | None]) -> Mapping[str, str]:
    """What to write to go back, in order: only keys that still hold our value, and only in the boot that we changed.

    ``ip_forward`` and its like of IPv6 come first, because writing them changes other keys.
    """
    if record.boot_id != boot_id:
        return {}
    keys = sorted(record.changes, key=lambda key: (key not in (IP_FORWARD, IP6_FORWARD), key))
    return {key: record.changes[key].original for key in keys if values.get(key) == record.changes[key].written}
