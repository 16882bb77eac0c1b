"""The kernel as the judge of what we program; pyroute2 and ipvsadm as independent readers of it."""

import itertools
import socket
import time
from dataclasses import replace
from ipaddress import ip_address

import pytest
from pyroute2 import IPVS, IPVSService

from lvsagent.adapters.ipvswire import GET_SERVICE
from lvsagent.adapters.kernel import Kernel
from lvsagent.adapters.netlink import Message
from lvsagent.core.diff import (
    AddDestination,
    AddLoopback,
    AddMark,
    AddService,
    DeleteDestination,
    DeleteLoopback,
    DeleteService,
    EditDestination,
    EditService,
    Op,
    Owned,
    SetSysctl,
    diff,
)
from lvsagent.core.failure import Reason
from lvsagent.core.model import apply
from lvsagent.core.plan import MARKS
from lvsagent.core.state import Destination, KernelState, Mark, Persistent, ServiceKey
from lvsapi.ipvs import Tunnel, TunnelChecksum, TunnelType
from lvsapi.model import Protocol
from tests.net.tables import AS_FOUND, KEY, VIP, VIP6, D, M, T, command, make, pod, service, wanted

pytestmark = pytest.mark.net


RANGE = ServiceKey(VIP, Protocol.UDP, 30000, 0x1000)
EVERY = ServiceKey(VIP6, None, 0, 0x1000)
GUE = Tunnel(type=TunnelType.GUE, port=6080, checksum=TunnelChecksum.REMCSUM)
GRE = Tunnel(type=TunnelType.GRE, checksum=TunnelChecksum.CSUM)
EVERYTHING = wanted(
    service(
        replace(pod(1, port=0), upper=100, lower=50),
        replace(pod(2, port=0, method=T), tunnel=GUE),
        replace(pod(3, port=0, method=T), tunnel=GRE),
        key=RANGE,
        scheduler="sh",
        flags=0x1C,
    ),
    replace(
        service(Destination(ip_address("fd00:1::11"), 0, D, 1), key=EVERY, scheduler="wlc", flags=1),
        persistent=Persistent(60, 64),
    ),
    replace(
        service(pod(1), key=replace(KEY, port=443), scheduler="wrr", flags=1),
        persistent=Persistent(300, 24),
    ),
    service(pod(1, method=M), pod(2), pod(3, weight=0), pod(4, weight=7, method=T)),
    service(pod(1), key=replace(KEY, protocol=Protocol.UDP, port=53), scheduler="rr", flags=0),
    service(pod(1), key=replace(KEY, protocol=Protocol.SCTP, port=5060), scheduler="wlc", flags=0),
    service(
        Destination(ip_address("fd00:1::11"), 8080, M, 1),
        Destination(ip_address("fd00:2::11"), 8080, D, 1),
        key=ServiceKey(VIP6, Protocol.TCP, 80),
    ),
    marks=(
        Mark(address=VIP, protocol=Protocol.UDP, first=30000, last=32767, value=0x1000),
        Mark(address=VIP6, protocol=None, first=0, last=65535, value=0x1000),
    ),
)


def test_everything_that_was_programmed_is_read_back_and_a_second_pass_writes_nothing(kernel: Kernel) -> None:
    ops = make(kernel, EVERYTHING)
    now = kernel.read()
    assert now == EVERYTHING
    assert diff(EVERYTHING, now, Owned()).ops == ()
    assert kernel.readback(ops, KernelState()) == EVERYTHING


def test_the_model_of_the_kernel_and_the_kernel_agree_after_every_operation(kernel: Kernel) -> None:
    later = wanted(service(pod(2, weight=0), pod(3), pod(5), pod(9)), service(pod(1), key=replace(KEY, port=81)))
    for want in (EVERYTHING, later, replace(KernelState(), sysctls=AS_FOUND)):
        model = kernel.read()
        for op in diff(want, model, Owned(services=frozenset(model.services), loopback=model.loopback)).ops:
            assert kernel.apply([op]) == ()
            model = apply(model, op)
            assert kernel.read() == model


def judged_by_pyroute2() -> dict[str, tuple[str, int, set[tuple[str, int, int, int]]]]:
    """Scheduler, flags and destinations by service, as pyroute2 reads them."""
    found = {}
    ipvs = IPVS()
    try:
        for message in ipvs.service("dump"):
            attributes = message.get_attr("IPVS_CMD_ATTR_SERVICE")
            get = attributes.get_attr
            if get("IPVS_SVC_ATTR_FWMARK"):
                continue  # it cannot ask for the destinations of these
            key = IPVSService.from_message(message)
            destinations = set()
            for answer in ipvs.dest("dump", service=key):
                one = answer.get_attr("IPVS_CMD_ATTR_DEST").get_attr
                values = (one(f"IPVS_DEST_ATTR_{name}") for name in ("PORT", "FWD_METHOD", "WEIGHT"))
                destinations.add((str(one("IPVS_DEST_ATTR_ADDR")), *values))
            name = f"{get('IPVS_SVC_ATTR_ADDR')} {get('IPVS_SVC_ATTR_PROTOCOL')} {get('IPVS_SVC_ATTR_PORT')}"
            found[name] = (get("IPVS_SVC_ATTR_SCHED_NAME"), get("IPVS_SVC_ATTR_FLAGS")["flags"] & ~2, destinations)
    finally:
        ipvs.close()
    return found


def test_pyroute2_reads_what_we_wrote(kernel: Kernel) -> None:
    make(kernel, EVERYTHING)
    numbers = {Protocol.TCP: 6, Protocol.UDP: 17, Protocol.SCTP: 132}
    assert judged_by_pyroute2() == {
        f"{key.address} {numbers[key.protocol]} {key.port}": (
            one.scheduler,
            one.flags,
            {(str(d.address), d.port, int(d.method), d.weight) for d in one.destinations},
        )
        for key, one in EVERYTHING.services.items()
        if key.protocol is not None and not key.mark
    }


def test_ipvsadm_reads_what_we_wrote(kernel: Kernel) -> None:
    make(kernel, EVERYTHING)
    lines = command("ipvsadm", "-Sn").splitlines()
    for line in (
        "-A -t 10.0.0.200:80 -s mh -b mh-fallback,mh-port",
        "-a -t 10.0.0.200:80 -r 10.244.0.1:8080 -m -w 1",
        "-a -t 10.0.0.200:80 -r 10.244.0.2:8080 -g -w 1",
        "-a -t 10.0.0.200:80 -r 10.244.0.3:8080 -g -w 0",
        "-A -u 10.0.0.200:53 -s rr",
        "-A -t [fd00::200]:80 -s mh -b mh-fallback,mh-port",
        "-a -t [fd00::200]:80 -r [fd00:1::11]:8080 -m -w 1",
        "-A -t 10.0.0.200:443 -s wrr -p 300 -M 255.255.255.0",
        "-A -f 4096 -s sh -o -b sh-fallback,sh-port",
        "-a -f 4096 -r 10.244.0.1:0 -g -w 1",
        "-a -f 4096 -r 10.244.0.2:0 -i -w 1 --tun-type gue --tun-port 6080 --tun-remcsum",
        "-a -f 4096 -r 10.244.0.3:0 -i -w 1 --tun-type gre --tun-csum",
        "-A -f 4096 -6 -s wlc -p 60 -M 64",
        "-a -f 4096 -6 -r [fd00:1::11]:0 -g -w 1",
    ):
        assert line in [text.strip() for text in lines]
    thresholds = [line.split() for line in command("ipvsadm", "-Ln", "--thresholds").splitlines()]
    assert ["->", "10.244.0.1:0", "100", "50", "0", "0"] in thresholds
    assert any(line.startswith("-a -t 10.0.0.200:80 -r 10.244.0.4:8080 -i -w 7") for line in lines)


def test_nft_reads_what_we_wrote_and_the_table_goes_with_its_last_mark(kernel: Kernel) -> None:
    command("nft", "add", "table", "inet", "theirs")
    make(kernel, EVERYTHING)
    shown = command("nft", "list", "table", "inet", "lvs-dr")
    for line in ("ip daddr 10.0.0.200 udp dport 30000-32767 meta mark set 0x00001000",
                 "ip6 daddr fd00::200 meta mark set 0x00001000"):  # fmt: skip
        assert shown.count(line) == 1, shown
    assert shown.count("jump marks") == 2, shown
    make(kernel, replace(EVERYTHING, marks=frozenset()))
    assert command("nft", "list", "ruleset").split() == ["table", "inet", "theirs", "{", "}"]


@pytest.mark.parametrize(
    "tampering",
    [
        ("flush", "ruleset"),
        ("flush", "chain", "inet", "lvs-dr", "input"),
        ("delete", "chain", "inet", "lvs-dr", "output"),
        ("flush", "chain", "inet", "lvs-dr", "marks"),
        ("insert", "rule", "inet", "lvs-dr", "input", "ip", "daddr", "10.0.0.1", "drop"),
    ],
)
def test_marks_that_somebody_took_away_are_put_back_and_the_services_stay(
    kernel: Kernel, tampering: tuple[str, ...]
) -> None:
    make(kernel, EVERYTHING)
    before = command("ipvsadm", "-Sn")
    command("nft", *tampering)
    now = kernel.read()
    lost = EVERYTHING.marks - now.marks
    assert bool(lost) is (tampering[0] != "insert"), "a rule that is not ours counts as none"
    assert now.services == EVERYTHING.services
    ours = Owned(services=frozenset(EVERYTHING.services), loopback=EVERYTHING.loopback)
    ops = make(kernel, EVERYTHING, ours)
    assert {op.mark for op in ops if isinstance(op, AddMark)} == lost
    assert all(isinstance(op, AddMark) for op in ops)
    assert kernel.read() == EVERYTHING
    assert command("ipvsadm", "-Sn") == before


def test_as_many_marks_as_there_can_be_fit_one_transaction(kernel: Kernel) -> None:
    many = [
        AddMark(Mark(address=vip, protocol=Protocol.TCP, first=100 * n + 1, last=100 * n + 50, value=value))
        for n, value in enumerate(MARKS)
        for vip in (VIP, VIP6)
    ]
    begin = time.monotonic()
    assert kernel.apply(many) == ()
    written = time.monotonic() - begin
    assert kernel.read().marks == {op.mark for op in many}
    begin = time.monotonic()
    kernel.read()
    print(f"{len(many)} ranges of ports: written in {written:.3f} s, read again in {time.monotonic() - begin:.3f} s")
    command("nft", "flush", "ruleset")


def test_what_ipvsadm_wrote_is_read_by_us(kernel: Kernel) -> None:
    command("ipvsadm", "-A", "-t", "10.0.0.9:81", "-s", "wlc", "-p", "60")
    command("ipvsadm", "-a", "-t", "10.0.0.9:81", "-r", "10.0.0.31:81", "-g", "-w", "3")
    command("ipvsadm", "-A", "-f", "119", "-s", "rr")
    foreign = ServiceKey(ip_address("10.0.0.9"), Protocol.TCP, 81)
    marked = ServiceKey(ip_address("0.0.0.0"), None, 0, 119)
    destination = Destination(ip_address("10.0.0.31"), 81, D, 3)
    persistent = service(destination, key=foreign, scheduler="wlc", flags=1)
    assert kernel.read().services == {
        foreign: replace(persistent, persistent=Persistent(60, 32)),
        marked: service(key=marked, scheduler="rr", flags=0),
    }


def test_foreign_services_and_addresses_stay_byte_for_byte(kernel: Kernel) -> None:
    command("ipvsadm", "-A", "-t", "10.0.0.9:81", "-s", "wlc", "-p", "60")
    command("ipvsadm", "-a", "-t", "10.0.0.9:81", "-r", "10.0.0.31:81", "-g", "-w", "3")
    command("ipvsadm", "-A", "-t", "10.0.0.200:80", "-s", "lc")
    command("ip", "address", "add", "10.0.0.9/32", "dev", "lo")
    before = command("ipvsadm", "-Sn"), command("ip", "address", "show", "dev", "lo")
    have = kernel.read()
    difference = diff(wanted(service(pod(1))), have, Owned())
    assert [str(c.key) for c in difference.conflicts] == ["TCP 10.0.0.200:80"]
    mine = wanted(service(pod(1), key=replace(KEY, address=ip_address("10.0.0.201"))))
    make(kernel, mine, Owned())
    make(kernel, KernelState(), Owned(services=frozenset(mine.services), loopback=mine.loopback))
    assert (command("ipvsadm", "-Sn"), command("ip", "address", "show", "dev", "lo")) == before


ABSENT = replace(KEY, port=9)


@pytest.mark.parametrize(
    ("op", "reason", "word"),
    [
        (AddService(KEY, "mh", 0), Reason.ALREADY_EXISTS, "TCP 10.0.0.200:80"),
        (AddService(ABSENT, "nonesuch", 0), Reason.NO_SUCH_SCHEDULER, "modprobe ip_vs_"),
        (EditService(ABSENT, "mh", 0), Reason.NO_SUCH_SERVICE, "EditService"),
        (DeleteService(ABSENT), Reason.NO_SUCH_SERVICE, "10.0.0.200:9"),
        (AddDestination(KEY, pod(1)), Reason.ALREADY_EXISTS, "10.244.0.1:8080"),
        (AddDestination(ABSENT, pod(1)), Reason.NO_SUCH_SERVICE, "10.244.0.1:8080"),
        (EditDestination(KEY, pod(99)), Reason.NO_SUCH_DESTINATION, "10.244.0.99:8080"),
        (DeleteDestination(KEY, pod(99)), Reason.NO_SUCH_DESTINATION, "10.244.0.99:8080"),
        (AddLoopback(VIP), Reason.ALREADY_EXISTS, "10.0.0.200"),
        (DeleteLoopback(VIP6), Reason.NO_SUCH_ADDRESS, "fd00::200"),
        (SetSysctl("net/ipv4/vs/nonesuch", "1"), Reason.NO_SUCH_SYSCTL, "nonesuch"),
    ],
)
def test_every_refusal_has_a_name_and_the_rest_of_the_batch_is_done(
    kernel: Kernel, op: Op, reason: Reason, word: str
) -> None:
    make(kernel, wanted(service(pod(1))))
    others = replace(KEY, address=ip_address("10.0.0.202"))
    (failure,) = kernel.apply([AddService(others, "rr", 0), op, AddDestination(others, pod(7))])
    assert (failure.op, failure.reason) == (op, reason)
    assert word in failure.message
    assert failure.operation.replace("_", "") == type(op).__name__.lower()
    assert kernel.read().services[others].destinations == (pod(7),)


def test_an_address_whose_table_failed_is_held_back(kernel: Kernel) -> None:
    ops: list[Op] = [AddService(KEY, "nonesuch", 0), AddLoopback(VIP), AddLoopback(ip_address("10.0.0.203"))]
    assert [f.reason for f in kernel.apply(ops)] == [Reason.NO_SUCH_SCHEDULER, Reason.HELD_BACK]
    assert kernel.read().loopback == {ip_address("10.0.0.203")}


def test_a_service_whose_address_stayed_is_held_back(kernel: Kernel) -> None:
    make(kernel, wanted(service(pod(1))))
    command("ip", "address", "del", f"{VIP}/32", "dev", "lo")
    failures = kernel.apply([DeleteLoopback(VIP), DeleteService(KEY)])
    assert [f.reason for f in failures] == [Reason.NO_SUCH_ADDRESS, Reason.HELD_BACK]
    assert KEY in kernel.read().services


def test_addresses_on_lo_are_host_addresses_with_scope_host(kernel: Kernel) -> None:
    make(kernel, EVERYTHING)
    text = command("ip", "address", "show", "dev", "lo")
    assert "inet 10.0.0.200/32 scope host lo" in text
    assert "inet6 fd00::200/128" in text
    assert "tentative" not in text


def test_facts_are_what_ip_shows(kernel: Kernel) -> None:
    command("ip", "route", "add", "default", "via", "10.0.0.1")
    command(
        "ip", "address", "add", "10.0.0.200/32", "dev", "eth0", "valid_lft", "2", "preferred_lft", "2", "noprefixroute"
    )
    for virtual, own in (((), ["10.0.0.21/24", "10.0.0.200/32"]), ((VIP,), ["10.0.0.21/24"])):
        facts = kernel.facts(virtual)
        eth0 = next(i for i in facts.interfaces if i.name == "eth0")
        assert [str(a) for a in eth0.addresses if a.version == 4] == own
    assert f"link/ether {eth0.mac} " in command("ip", "link", "show", "dev", "eth0")
    assert eth0.up
    assert facts.default_interface[4] == "eth0"
    assert facts.node == "n1"


# -- reading ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lying", [1, 2])
def test_a_dump_that_leaves_out_a_service_is_not_believed(
    kernel: Kernel, monkeypatch: pytest.MonkeyPatch, lying: int
) -> None:
    make(kernel, EVERYTHING)
    truth, dump, asked = kernel.read(), kernel.ipvs._netlink.dump, itertools.count(1)

    def leave_out(message: Message) -> list[bytes]:
        found = dump(message)
        is_list_of_services = message.body[0] == GET_SERVICE
        return found[1:] if is_list_of_services and next(asked) == lying else found

    monkeypatch.setattr(kernel.ipvs._netlink, "dump", leave_out)
    assert kernel.read().services == truth.services
    assert {at[0] for at in kernel.readings} == truth.services.keys()


def test_a_dump_that_leaves_out_a_service_that_is_asked_for_is_not_believed(
    kernel: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(kernel, EVERYTHING)
    named = {key for key in EVERYTHING.services if not key.mark}
    truth, dump = kernel.read(named), kernel.ipvs._netlink.dump
    assert truth.services == EVERYTHING.services
    for place in range(len(truth.services)):

        def leave_out(message: Message, place: int = place) -> list[bytes]:
            found = dump(message)
            return found[:place] + found[place + 1 :] if message.body[0] == GET_SERVICE else found

        monkeypatch.setattr(kernel.ipvs._netlink, "dump", leave_out)
        assert kernel.read(named).services == truth.services
        assert {at[0] for at in kernel.readings} == truth.services.keys()


def test_reading_and_an_unchanged_pass_leave_the_kernel_alone(kernel: Kernel) -> None:
    make(kernel, EVERYTHING)
    before = command("ipvsadm", "-Sn")
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0) as monitor:
        monitor.bind((0, 1 << 4))  # RTMGRP_IPV4_IFADDR
        monitor.setblocking(False)
        assert make(kernel, EVERYTHING) == ()
        with pytest.raises(BlockingIOError):
            monitor.recv(4096)
        kernel.apply([DeleteLoopback(VIP)])
        assert monitor.recv(4096), "the monitor sees nothing at all"
    assert command("ipvsadm", "-Sn") == before
