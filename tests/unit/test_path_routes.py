"""Which of a node's own sockets would get a packet to an address and port."""

import sys
from ipaddress import ip_address
from pathlib import Path

import pytest

from lvsagent.checks.path_routes import listening, listens
from lvsapi.model import Protocol

pytestmark = pytest.mark.unit

TCP, UDP = Protocol.TCP, Protocol.UDP
VIP, OWN, VIP6 = ip_address("10.0.0.200"), ip_address("10.0.0.21"), ip_address("fd00::200")
HEAD = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"


def line(address: str, port: int, state: str) -> str:
    """As the kernel shows it on this machine: words of the address in its own order."""
    packed = ip_address(address).packed
    words = (packed[at : at + 4] for at in range(0, len(packed), 4))
    shown = "".join(f"{int.from_bytes(word, sys.byteorder):08X}" for word in words)
    return f"   0: {shown}:{port:04X} {'0' * len(shown)}:0000 {state} 00000000:00000000 00:00000000 00000000 0 0 1\n"


@pytest.fixture
def tables(tmp_path: Path) -> Path:
    tcp = [
        line("0.0.0.0", 80, "0A"),
        line("10.0.0.21", 81, "0A"),
        line("10.0.0.200", 82, "0A"),
        line("0.0.0.0", 83, "01"),
    ]
    (tmp_path / "tcp").write_text(HEAD + "".join(tcp))
    six = [line("::", 90, "0A"), line("fd00::200", 91, "0A"), line("::ffff:10.0.0.200", 92, "0A")]
    (tmp_path / "tcp6").write_text(HEAD + "".join(six))
    (tmp_path / "udp").write_text(HEAD + line("0.0.0.0", 53, "07") + "\n")
    return tmp_path


def test_a_table_is_read_in_the_machines_order(tables: Path) -> None:
    assert listening((tables / "tcp").read_text(), "0A") == [
        (bytes(4), 80),
        (OWN.packed, 81),
        (VIP.packed, 82),
    ]
    assert listening((tables / "tcp6").read_text(), "0A")[2] == (VIP.packed, 92)


@pytest.mark.parametrize(
    ("address", "port", "expected"),
    [
        *((VIP, 80, True), (VIP, 81, False), (OWN, 81, True), (VIP, 82, True), (VIP, 83, False), (VIP, 84, False)),
        *((VIP, 90, True), (VIP, 92, True), (VIP6, 90, True), (VIP6, 91, True), (VIP6, 80, False)),
    ],
)
def test_a_socket_listens_at_the_address_or_at_all(tables: Path, address: object, port: int, expected: bool) -> None:
    assert listens(address, port, TCP, tables) is expected  # type: ignore[arg-type]


def test_udp_has_a_table_of_its_own_and_a_node_without_ipv6_none_for_it(tables: Path) -> None:
    assert listens(VIP, 53, UDP, tables)
    assert not listens(VIP, 80, UDP, tables)
