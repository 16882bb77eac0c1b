"""Tables to be programmed, and one pass of the agent over a kernel."""

import subprocess
from collections.abc import Iterable
from ipaddress import ip_address

from lvsagent.adapters.kernel import Kernel
from lvsagent.core.diff import Op, Owned, diff
from lvsagent.core.state import Destination, ForwardMethod, KernelState, Mark, Service, ServiceKey
from lvsagent.core.sysctl import PERSISTENT, REQUIRED, SYNC_THRESHOLD
from lvsapi.model import Protocol

VIP, VIP6 = ip_address("10.0.0.200"), ip_address("fd00::200")
KEY = ServiceKey(VIP, Protocol.TCP, 80)
M, T, D = ForwardMethod.MASQUERADE, ForwardMethod.TUNNEL, ForwardMethod.DIRECT_ROUTE


def pod(number: int, weight: int = 1, method: ForwardMethod = D, port: int = 8080) -> Destination:
    return Destination(ip_address(f"10.244.0.{number}"), port, method, weight)


def service(*destinations: Destination, key: ServiceKey = KEY, scheduler: str = "mh", flags: int = 0x18) -> Service:
    return Service(key=key, scheduler=scheduler, flags=flags, destinations=destinations)


AS_FOUND = {**REQUIRED, SYNC_THRESHOLD: "3 50", **dict.fromkeys(PERSISTENT, "0")}
"""With the settings that only some need, as the kernel begins."""


def wanted(*services: Service, marks: Iterable[Mark] = ()) -> KernelState:
    found = {one.key: one for one in services}
    loopback = frozenset(key.address for key in found)
    return KernelState(services=found, loopback=loopback, sysctls=AS_FOUND, marks=frozenset(marks))


def make(kernel: Kernel, want: KernelState, owned: Owned | None = None) -> tuple[Op, ...]:
    """One pass; nothing may fail."""
    have = kernel.read()
    ours = Owned(services=frozenset(have.services), loopback=have.loopback) if owned is None else owned
    difference = diff(want, have, ours)
    assert kernel.apply(difference.ops) == ()
    return difference.ops


def command(*argv: str) -> str:
    return subprocess.run(argv, check=True, capture_output=True, text=True).stdout
