"""Where we do other than the RFC says, on purpose, and why."""

from typing import Final

from tests.clauses.model import Deviation

DEVIATIONS: Final = (
    Deviation(1, "The interface's own MAC", "7.2, 7.3, 8.1.2, 8.2.2",
        "Adverts, ARP and ND come from the MAC of the interface, as with keepalived without `use_vmac`: a second MAC "
        "on a port is refused by many virtual switches and clouds, and clients follow the gratuitous ARP anyway. "
        "`virtualMAC: true` in a class puts the addresses behind the virtual MAC; adverts and probes keep the other."),
    Deviation(2, "Accept_Mode is on, and nobody is 255", "6.1, 6.4.3",
        "A director serves the address: it must take packets to it. It is not the address owner, for a VIP is no "
        "node's own address and must be able to move from every node."),
    Deviation(3, "A Backup accepts packets to the addresses", "6.4.2",
        "Direct routing: every node that has backends carries the VIP on `lo`, silent in ARP (`arp_ignore=1`), and "
        "takes what the Active's IPVS sends it. Without the Active nobody sends it anything."),
    Deviation(4, "Packets to the addresses are forwarded", "8.3.1",
        "That is what IPVS is for: to a backend, by the table, never by the routing table."),
    Deviation(5, "No Router Advertisements", "6.4.3, 8.2.3", "The directors are nobody's default router."),
    Deviation(6, "The IPv4 checksum has a pseudo-header by default", "5.2.8",
        "keepalived, FRR and most of the field send and demand it so; keepalived refuses the form of RFC 9568. We "
        "accept both; `checksum: Message` in a class sends that of the RFC."),
    Deviation(7, "Addresses first, advert second", "6.4.2",
        "The kernel has the address before the first advert says so: tables are ready by then, and clients that follow "
        "the announcement find somebody."),
    Deviation(8, "A last advert of an Active that gives way", "6.4.3",
        "The better router answers it with one more announcement, after our address is gone: whoever learned our MAC "
        "while both were Active learns the right one."),
    Deviation(9, "Answers to losing adverts are spaced", "6.4.3",
        "At most one per quarter of the interval: two routers that both believe they win, or a forger, must not make a "
        "storm."),
    Deviation(10, "A received interval counts for at most four of ours", "6.4.2, 6.4.3",
        "One forged advert that announces 40.95 s would disable failover for minutes. A sender with a good HMAC is "
        "believed up to 10 s: it announces its restart so."),
    Deviation(11, "A late Active listens first", "6.4.3",
        "The RFC knows no late timers. A process that did not run for longer than its peers wait has been replaced: "
        "it goes to Backup without a word instead of sending what is not true any more."),
    Deviation(12, "An Active that ends serves until it hears its successor", "6.4.3",
        "Priority 0 is said three times, 10 ms apart; the address goes when the successor's advert is heard, one "
        "second later at the latest. Make before break."),
    Deviation(13, "Adverts may come more often than the interval that they announce", "6.4.3",
        "Off by default. Detection in a quarter of a second then survives the loss of a third of the packets."),
    Deviation(14, "A second priority 0 does not put the take-over off", "6.4.2",
        "The earlier of both times counts, so that repeated (D12) or forged farewells delay nothing."),
    Deviation(15, "Settings that the RFC does not have", "6.1, 6.4.1, 6.4.2",
        "All off by default, all as in keepalived: preempt delay, a first wait of one interval (`state MASTER`), sync "
        "groups; ours: standby (priority 1 while a node is drained, which another node replaces whatever Preempt_Mode "
        "says), and graceful restart, in which the new process is Active at once."),
    Deviation(16, "The R flag of NAs says whether the node forwards IPv6", "6.4.3, 8.2.2",
        "As Linux and keepalived do. A host that called itself a router would be put on lists of default routers."),
    Deviation(17, "64 addresses, and not an octet more than they need", "5.2.5, 7.1",
        "More than 64 addresses are refused, so that one packet costs little; so is an advert that is longer than its "
        "addresses, unless what follows is an HMAC trailer that is expected."),
    Deviation(18, "Address lists that differ are reported in VRRPv2 too, not dropped", "3768 7.1",
        "While a wish reaches one node after the other the lists differ for a moment; to drop the Active's adverts "
        "then would make a second Active. The finding `AddressListDiffers` names both lists."),
    Deviation(19, "A router that keeps failing waits before it preempts", "2.5",
        "The RFC asks to log flapping. We log and count every change with its cause, and from the second failure "
        "within ten minutes on, preemption waits 5 s, doubled each time up to 5 min. An address that nobody serves is "
        "taken at once."),
)  # fmt: skip
