"""Settings without which answers do not come back, on a real kernel: IPv6 forwarding beside router advertisements."""

import socket
import struct
import threading
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path

import pytest

from lvsagent.adapters.glance import Glance
from tests.net.lan import Lan
from tests.net.test_agent_net import CLASS, Lab, _end_elections

pytestmark = pytest.mark.net

VIP = "fd00::100"
MASQUERADED = f"""
apiVersion: lvsdr.io/v1alpha1
kind: VirtualService
metadata: {{name: web, namespace: default}}
spec:
  addresses: ["{VIP}"]
  ports: [{{port: 80}}]
  forwarding: Masquerade
  realServers: [{{address: "fd00:1::11"}}]
"""
KEY = "net.ipv6.conf.%s"
ADVERTISEMENT = struct.pack("!BBHBBHII", 134, 0, 0, 64, 0, 1800, 0, 0)
"""Of a default router, for half an hour (RFC 4861 section 4.2); the kernel fills in the checksum."""


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    """d1 alone; ``client`` is the IPv6 router of the LAN, too."""
    with Lan() as lan:
        made = Lab(lan, tmp_path)
        (made.manifests / "class.yaml").write_text(CLASS.replace(", {name: d2, priority: 100}", ""))
        (made.manifests / "web.yaml").write_text(MASQUERADED)
        lan.run("d1", ["ip", "address", "add", "fd00::1/64", "dev", "eth0", "nodad"])
        yield made
        _end_elections(tmp_path)


def setting(lab: Lab, name: str) -> str:
    return lab.lan.run("d1", ["sysctl", "-n", KEY % name]).strip()


def advertise(lab: Lab) -> None:
    one = lab.lan.socket("client", socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6)
    one.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"eth0")
    one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, 255)
    one.sendto(ADVERTISEMENT, ("ff02::1", 0))


def default_route(lab: Lab) -> str:
    return lab.lan.run("d1", ["ip", "-6", "route", "show", "default"])


def await_route(lab: Lab) -> None:
    for host in ("d1", "client"):
        shown = ["ip", "-6", "address", "show", "dev", "eth0", "scope", "link", "-tentative"]
        lab.until("it has an address of the link", lambda h=host, s=shown: "fe80" in lab.lan.run(h, s))  # type: ignore[misc]

    def heard() -> bool:
        advertise(lab)
        return "proto ra" in default_route(lab)

    lab.until("d1 has a route by an advertisement", heard)


def test_a_route_by_router_advertisements_is_not_given_for_it_but_named_until_the_node_accepts_both(lab: Lab) -> None:
    await_route(lab)
    lab.start("d1")
    finding = 'lvs_node_finding{finding="IPv6ForwardingOff"}'
    lab.until("it is said", lambda: lab.metric("d1", finding) == 1)
    assert "Set net.ipv6.conf.eth0.accept_ra=2" in lab.log("d1")
    assert setting(lab, "all.forwarding") == "0"
    assert "proto ra" in default_route(lab)
    lab.lan.run("d1", ["sysctl", "-qw", KEY % "eth0.accept_ra=2"])
    lab.until("IPv6 is forwarded", lambda: setting(lab, "all.forwarding") == "1")
    lab.until("it is over", lambda: lab.metric("d1", finding) == 0)
    assert "proto ra" in default_route(lab)


def test_what_is_kept_from_is_real_and_an_interface_that_is_down_for_a_while_is_remembered(
    lab: Lab, tmp_path: Path
) -> None:
    await_route(lab)
    with lab.lan.inside("d1"):
        glance = Glance(Path("/proc/sys"), tmp_path)

    def advertised() -> set[str]:
        found: list[frozenset[str] | None] = []
        work = threading.Thread(target=lambda: found.append(glance.inspect([ip_address("fd00::9")]).advertised))
        with lab.lan.inside("d1"):
            work.start()
            work.join()
        return set(found[0] or ())

    assert advertised() == {"eth0"}
    lab.lan.run("d1", ["ip", "link", "set", "eth0", "down"])
    assert default_route(lab) == ""
    assert advertised() == {"eth0"}
    lab.lan.run("d1", ["ip", "link", "set", "eth0", "up"])
    await_route(lab)
    lab.lan.run("d1", ["sysctl", "-qw", KEY % "all.forwarding=1"])
    assert default_route(lab) == "", "the kernel would have kept it"
    lab.lan.run("d1", ["sysctl", "-qw", KEY % "eth0.accept_ra=0"])
    assert advertised() == set()
    glance.close()
