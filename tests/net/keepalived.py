"""keepalived as the peer: the VRRP that is out there."""

import subprocess
from pathlib import Path

from tests.net.lan import Lan

CONFIGURATION = """
global_defs {{ vrrp_version 3 }}
vrrp_instance lab {{
    interface eth0
    virtual_router_id 51
    priority {priority}
    advert_int {interval}
    virtual_ipaddress {{ {address}/32 dev eth0 }}
}}
"""


def start(
    lan: Lan, host: str, folder: Path, *, priority: int, address: str, interval: float = 0.1
) -> subprocess.Popen[bytes]:
    """Run it in the foreground, VRRP only; its log is ``keepalived.log`` in the folder."""
    configuration = folder / "keepalived.conf"
    configuration.write_text(CONFIGURATION.format(priority=priority, interval=interval, address=address))
    argv = ["keepalived", "--vrrp", "--dont-fork", "--log-console", "--use-file", str(configuration)]
    argv += ["--pid", str(folder / "keepalived.pid"), "--vrrp_pid", str(folder / "vrrp.pid")]
    return lan.popen(host, argv, log=folder / "keepalived.log")
