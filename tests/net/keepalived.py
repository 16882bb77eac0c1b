"""keepalived as the peer: the VRRP that is out there.

Debian's is 2.2.7, without ``v3_checksum_as_v2`` (2.2.8) and ``auth_hmac`` (2.4.0).
"""

import subprocess
from dataclasses import dataclass
from pathlib import Path

from tests.net.lan import Lan


@dataclass(frozen=True, slots=True, kw_only=True)
class Instance:
    """A ``vrrp_instance`` of keepalived.conf(5); the fields have its names and units."""

    priority: int
    virtual_ipaddress: tuple[str, ...]
    """With prefix length, all of one family; of IPv6 the link-local one first (RFC 9568 section 5.2.9)."""
    name: str = "lab"
    version: int = 3
    state: str = "BACKUP"
    """MASTER or BACKUP."""
    interface: str = "eth0"
    vip_interface: str = ""
    """Where the virtual addresses are put; empty: ``interface``."""
    virtual_router_id: int = 51
    advert_int: float = 0.1
    """Seconds, whole ones in version 2."""
    auth_pass: str = ""
    """Authentication PASS, version 2 only; empty: none."""
    unicast_src_ip: str = ""
    unicast_peer: tuple[str, ...] = ()
    """Empty: multicast."""
    nopreempt: bool = False
    """Needs state BACKUP."""

    def text(self) -> str:
        """The block."""
        on = self.vip_interface or self.interface
        lines = [
            f"state {self.state}",
            f"version {self.version}",
            f"interface {self.interface}",
            f"virtual_router_id {self.virtual_router_id}",
            f"priority {self.priority}",
            f"advert_int {self.advert_int:g}",
        ]
        if self.nopreempt:
            lines.append("nopreempt")
        if self.auth_pass:
            lines.append(f"authentication {{\n        auth_type PASS\n        auth_pass {self.auth_pass}\n    }}")
        if self.unicast_src_ip:
            lines.append(f"unicast_src_ip {self.unicast_src_ip}")
        if self.unicast_peer:
            lines.append(_block("unicast_peer", self.unicast_peer))
        lines.append(_block("virtual_ipaddress", tuple(f"{address} dev {on}" for address in self.virtual_ipaddress)))
        return f"vrrp_instance {self.name} {{\n    " + "\n    ".join(lines) + "\n}\n"


def run(lan: Lan, host: str, folder: Path, *instances: Instance, virtual_servers: str = "") -> subprocess.Popen[bytes]:
    """Run it in the foreground, VRRP only unless it has virtual servers; its log is ``keepalived.log`` in the folder.
    SIGTERM ends it in order."""
    folder.mkdir(parents=True, exist_ok=True)
    configuration = folder / "keepalived.conf"
    configuration.write_text("".join(instance.text() for instance in instances) + virtual_servers)
    argv = [
        "keepalived",
        *([] if virtual_servers else ["--vrrp"]),
        "--dont-fork",
        "--log-console",
        "--log-detail",
        "--use-file",
        str(configuration),
    ]
    argv += ["--pid", str(folder / "keepalived.pid"), "--vrrp_pid", str(folder / "vrrp.pid")]
    argv += ["--checkers_pid", str(folder / "checkers.pid")]
    return lan.popen(host, argv, log=folder / "keepalived.log")


def start(
    lan: Lan, host: str, folder: Path, *, priority: int, address: str, interval: float = 0.1
) -> subprocess.Popen[bytes]:
    """One instance of VRRPv3 with one IPv4 address."""
    instance = Instance(priority=priority, virtual_ipaddress=(f"{address}/32",), advert_int=interval)
    return run(lan, host, folder, instance)


def _block(name: str, lines: tuple[str, ...]) -> str:
    return f"{name} {{\n" + "".join(f"        {line}\n" for line in lines) + "    }"
