"""scapy's layers, without the warnings of its own use of deprecated ciphers."""

import warnings

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from scapy.layers.inet import GRE, ICMP, IP, TCP, UDP
    from scapy.layers.inet6 import (
        ICMPv6EchoReply,
        ICMPv6EchoRequest,
        ICMPv6ND_NA,
        ICMPv6ND_NS,
        ICMPv6ND_RA,
        ICMPv6NDOptDstLLAddr,
        ICMPv6TimeExceeded,
        IPv6,
    )
    from scapy.layers.l2 import ARP, Ether
    from scapy.layers.vrrp import VRRP, VRRPv3
    from scapy.packet import Packet, Raw

__all__ = [
    "ARP",
    "GRE",
    "ICMP",
    "IP",
    "TCP",
    "UDP",
    "VRRP",
    "Ether",
    "ICMPv6EchoReply",
    "ICMPv6EchoRequest",
    "ICMPv6NDOptDstLLAddr",
    "ICMPv6ND_NA",
    "ICMPv6ND_NS",
    "ICMPv6ND_RA",
    "ICMPv6TimeExceeded",
    "IPv6",
    "Packet",
    "Raw",
    "VRRPv3",
]
