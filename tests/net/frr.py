"""FRR's vrrpd as the peer: VRRP as routers speak it, with the virtual router's own MAC address. Debian's is 8.4.

vrrpd sets up nothing by itself: it wants zebra for its view of the interfaces, and a macvlan with the virtual MAC and
the virtual addresses, which it keeps without carrier (``protodown``) while it is Backup.
"""

import ipaddress
import json
import shutil
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.net.lan import Lan

DAEMONS = Path("/usr/lib/frr")


@dataclass(frozen=True, slots=True, kw_only=True)
class Instance:
    """The lines ``vrrp <virtual_router_id> …`` of one interface; one family."""

    priority: int
    addresses: tuple[str, ...]
    """Without prefix length; of IPv6 the link-local one first (vrrpd itself does not ask for one)."""
    version: int = 3
    interface: str = "eth0"
    virtual_router_id: int = 51
    advertisement_interval: int = 100
    """Milliseconds, in steps of 10."""
    preempt: bool = True

    @property
    def family(self) -> int:
        """4 or 6."""
        return ipaddress.ip_address(self.addresses[0]).version

    @property
    def device(self) -> str:
        """The macvlan."""
        return f"vrrp{self.family}-{self.virtual_router_id}"

    @property
    def mac(self) -> str:
        """The virtual router's MAC address (RFC 9568 section 7.3)."""
        return f"00:00:5e:00:{1 if self.family == 4 else 2:02x}:{self.virtual_router_id:02x}"

    def text(self) -> str:
        """The interface's part of vrrpd's configuration."""
        lines = [
            f"version {self.version}",
            f"priority {self.priority}",
            f"advertisement-interval {self.advertisement_interval}",
        ]
        lines += [f"{'ip' if self.family == 4 else 'ipv6'} {address}" for address in self.addresses]
        negated = "" if self.preempt else "no "
        mine = f"vrrp {self.virtual_router_id}"
        body = "".join(f" {mine} {line}\n" for line in lines)
        return f"interface {self.interface}\n {mine}\n{body} {negated}{mine} preempt\n"


class Router:
    """zebra and vrrpd in one host. ``close()`` when done; ``terminate()`` ends vrrpd in order."""

    def __init__(self, lan: Lan, host: str, instance: Instance) -> None:
        """Returns when vrrpd has read its configuration."""
        self.lan = lan
        self.host = host
        self.instance = instance
        # Not among the test's files: the daemons are not root, and a unix socket's path may have 107 octets.
        self.folder = Path(tempfile.mkdtemp(prefix="frr-", dir="/run"))
        shutil.chown(self.folder, "frr", "frr")
        self._zebra: subprocess.Popen[bytes] | None = None
        self._vrrpd: subprocess.Popen[bytes] | None = None
        try:
            self._add_device()
            self._zebra = self._start("zebra", "")
            self._vrrpd = self._start("vrrpd", instance.text())
        except BaseException:
            self.close()
            raise

    @property
    def log(self) -> str:
        """What both daemons said, the older part of it left out."""
        return "\n".join(path.read_text(errors="replace")[-4000:] for path in self.folder.glob("*.log"))

    def show(self) -> dict[str, Any]:
        """``show vrrp json``: our family's part, with ``status`` (Initialize, Backup or Master) and ``stats``."""
        said = self.lan.run(self.host, ["vtysh", "--vty_socket", str(self.folder), "-c", "show vrrp json"], check=False)
        for router in json.loads(said or "[]"):
            if router["vrid"] == self.instance.virtual_router_id:
                found: dict[str, Any] = router[f"v{self.instance.family}"]
                return found
        return {"status": "Initialize", "stats": {}}

    def serves(self) -> bool:
        """The macvlan has carrier: the host answers for the virtual addresses."""
        path = f"/sys/class/net/{self.instance.device}/carrier"
        return self.lan.run(self.host, ["cat", path], check=False).strip() == "1"

    def terminate(self) -> int:
        """SIGTERM to vrrpd, and wait; the exit status."""
        assert self._vrrpd is not None
        self._vrrpd.terminate()
        return self._vrrpd.wait(5)

    def close(self) -> None:
        """Kill what still runs, remove the folder."""
        for process in (self._vrrpd, self._zebra):
            if process is not None and process.poll() is None:
                process.kill()
                process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _add_device(self) -> None:
        one = self.instance
        settings = ["net.ipv6.conf.default.accept_dad=0", "net.ipv6.conf.default.keep_addr_on_down=1"]
        self.lan.run(self.host, ["sysctl", "-qw", *settings])
        link = ["ip", "link", "add", one.device, "link", one.interface, "address", one.mac]
        self.lan.run(self.host, [*link, "type", "macvlan", "mode", "bridge"])
        # no link-local address made from the virtual MAC: every router of the VRID would have the same one
        self.lan.run(self.host, ["ip", "link", "set", one.device, "addrgenmode", "random"])
        for address in one.addresses:
            length = "/32" if one.family == 4 else "/128"
            self.lan.run(self.host, ["ip", "address", "add", address + length, "dev", one.device])
        self.lan.run(self.host, ["ip", "link", "set", one.device, "up"])

    def _start(self, daemon: str, configuration: str) -> subprocess.Popen[bytes]:
        """The daemon, ready to be asked by vtysh."""
        file, socket, log = (self.folder / f"{daemon}.{suffix}" for suffix in ("conf", "vty", "log"))
        file.write_text(configuration)
        file.chmod(0o644)
        argv = [str(DAEMONS / daemon), "--vty_socket", str(self.folder), "-z", str(self.folder / "zserv.api")]
        argv += ["-P", "0", "-i", str(self.folder / f"{daemon}.pid"), "-f", str(file)]
        process = self.lan.popen(self.host, argv, log=log)
        deadline = time.monotonic() + 10
        while not socket.exists():
            assert process.poll() is None, f"{daemon} ended: {self.log}"
            assert time.monotonic() < deadline, f"{daemon} does not start: {self.log}"
            time.sleep(0.02)
        return process
