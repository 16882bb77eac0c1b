"""The lines between the agent and its health checks."""

import ipaddress
import json
from dataclasses import replace

import pytest

from lvsagent.checks.answer import endpoint, failed, no_answer, port_of
from lvsagent.checks.lines import SLICE, LineError, TargetsReader, TargetsWriter, decode, encode
from lvsagent.checks.messages import LATE_BUCKETS_MS, Statistics, Target, Targets, Verdict
from lvsapi.health import CheckType, HealthCheck
from lvsapi.ipvs import Tunnel, TunnelType
from lvsapi.model import Protocol

pytestmark = pytest.mark.unit

CHECK = HealthCheck(type=CheckType.UDP, payload=b"\x00\xff", expect=b"pong", statuses=((200, 204), (301, 301)))
TARGET = Target(
    name="default/web 10.0.0.200:80 10.0.0.21:80/TCP",
    address=ipaddress.ip_address("10.0.0.21"),
    port=80,
    protocol=Protocol.TCP,
    checks=(CHECK, HealthCheck(type=CheckType.HTTP, path="/healthz", port=8080)),
    virtual_address=ipaddress.ip_address("fd00::1"),
    tunnel=Tunnel(type=TunnelType.IPIP),
)


def read(reader: TargetsReader, line: bytes) -> tuple[int, Targets]:
    """How many slices there were before it, and the wish."""
    *slices, wish = reader.decode(line)
    assert wish
    assert not any(slices)
    return len(slices), wish


def test_a_wish_arrives_as_it_was_sent_in_slices() -> None:
    targets = tuple(replace(TARGET, name=f"t{number}") for number in range(2 * SLICE + 1))
    wish = Targets(generation=7, targets=targets)
    line = TargetsWriter().encode(wish)
    assert line.count(b"\n") == 1
    assert read(TargetsReader(), line) == (2, wish)


def test_a_target_that_is_as_it_was_is_not_written_nor_read_again() -> None:
    writer, reader = TargetsWriter(), TargetsReader()
    _, first = read(reader, writer.encode(Targets(generation=1, targets=(TARGET,))))
    other = replace(TARGET, name="other")
    _, second = read(reader, writer.encode(Targets(generation=2, targets=(other, TARGET))))
    assert second == Targets(generation=2, targets=(other, TARGET))
    assert second.targets[1] is first.targets[0]
    _, third = read(reader, writer.encode(Targets(generation=3, targets=(replace(TARGET, up=True),))))
    assert third.targets[0].up


@pytest.mark.parametrize(
    ("line", "what"),
    [
        (b"nonsense", "Expecting value"),
        (b"[]", "expected an object"),
        (b'{"targets":[]}', "expected generation"),
        (b'{"generation":1,"targets":[7]}', "a target cannot be read: $: expected an object"),
        (b'{"generation":1,"targets":[{"name":"a"}]}', "$.address: missing"),
        (b'{"generation":1,"targets":[{"name":7}]}', "a target cannot be read"),
    ],
)
def test_a_wish_that_is_none_is_refused_with_the_place(line: bytes, what: str) -> None:
    with pytest.raises(LineError) as caught:
        list(TargetsReader().decode(line))
    assert what in str(caught.value)


def test_verdicts_and_statistics_survive_the_trip() -> None:
    verdict = Verdict(generation=1, name="a", up=False, reason="TCP 10.0.0.21:80: connection refused")
    statistics = Statistics(
        targets=1,
        asked={"TCP": 3},
        failed={},
        unasked=0,
        held_back=0,
        late=(0,) * (len(LATE_BUCKETS_MS) + 1),
        late_total_us=12,
    )
    assert decode(encode(verdict)) == verdict
    assert decode(encode(statistics)) == statistics


def test_an_answer_that_is_none_is_refused() -> None:
    with pytest.raises(LineError, match="name"):
        decode(json.dumps({"name": 3, "generation": 1, "up": True}).encode())


@pytest.mark.parametrize(
    ("kind", "address", "said"),
    [
        (CheckType.TCP, "10.0.0.21", "TCP 10.0.0.21:80: x"),
        (CheckType.HTTP, "fd00::21", "HTTP [fd00::21]:80/healthz: x"),
        (CheckType.ICMP, "fd00::21", "ICMP fd00::21: x"),
        (CheckType.UDP, "10.0.0.21", "UDP 10.0.0.21:80: x"),
    ],
)
def test_a_failure_names_check_and_backend(kind: CheckType, address: str, said: str) -> None:
    check = HealthCheck(type=kind, path="/healthz", timeout_ms=1500)
    target = replace(TARGET, address=ipaddress.ip_address(address))
    assert failed(check, target, "x").reason == said
    assert no_answer(check, target).reason.endswith("no complete answer within 1500 ms")


def test_a_check_asks_its_own_port_or_the_backends() -> None:
    assert port_of(CHECK, TARGET) == 80
    assert port_of(replace(CHECK, port=9), TARGET) == 9
    assert endpoint(replace(CHECK, port=9), TARGET) == "10.0.0.21:9"
