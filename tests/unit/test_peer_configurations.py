"""What the tests write for keepalived and FRR to read."""

import pytest

from tests.net import frr, keepalived

pytestmark = pytest.mark.unit


def test_keepalived_gets_an_instance_with_all_that_was_asked_for() -> None:
    text = keepalived.Instance(
        priority=150,
        virtual_ipaddress=("10.0.0.200/24", "10.0.0.201/24"),
        version=2,
        vip_interface="ens37",
        interface="ens33",
        advert_int=1.0,
        auth_pass="1111",
        unicast_src_ip="10.0.0.1",
        unicast_peer=("10.0.0.2", "10.0.0.3"),
        nopreempt=True,
    ).text()
    words = " ".join(text.split())
    assert words == (
        "vrrp_instance lab { state BACKUP version 2 interface ens33 virtual_router_id 51 priority 150 advert_int 1 "
        "nopreempt authentication { auth_type PASS auth_pass 1111 } unicast_src_ip 10.0.0.1 "
        "unicast_peer { 10.0.0.2 10.0.0.3 } "
        "virtual_ipaddress { 10.0.0.200/24 dev ens37 10.0.0.201/24 dev ens37 } }"
    )


def test_keepalived_speaks_multicast_without_authentication_unless_told_otherwise() -> None:
    text = keepalived.Instance(priority=100, virtual_ipaddress=("fe80::200/128", "fd00::200/128")).text()
    assert "authentication" not in text
    assert "unicast" not in text
    assert "advert_int 0.1\n" in text
    assert text.index("fe80::200/128 dev eth0") < text.index("fd00::200/128 dev eth0")


@pytest.mark.parametrize(
    ("address", "device", "mac", "line"),
    [
        ("10.0.0.200", "vrrp4-51", "00:00:5e:00:01:33", " vrrp 51 ip 10.0.0.200\n"),
        ("fe80::200", "vrrp6-51", "00:00:5e:00:02:33", " vrrp 51 ipv6 fe80::200\n"),
    ],
)
def test_frr_gets_a_router_and_a_device_with_the_virtual_mac(address: str, device: str, mac: str, line: str) -> None:
    instance = frr.Instance(priority=150, addresses=(address,), preempt=False)
    assert (instance.device, instance.mac) == (device, mac)
    assert line in instance.text()
    assert " no vrrp 51 preempt\n" in instance.text()
