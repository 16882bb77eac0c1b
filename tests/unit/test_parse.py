"""Our kinds: every error at once, each with its path, value and remedy; nothing but SpecError is ever raised."""

from collections.abc import Callable, Mapping
from ipaddress import ip_address, ip_network
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lvsapi.errors import SpecError
from lvsapi.model import RealServer, Scheduler, ServicePort
from lvsapi.names import is_dns_label, is_dns_subdomain, is_interface
from lvsapi.parse import parse_class, parse_endpoint_slice, parse_node, parse_service, parse_virtual_service
from tests.gen import assignment, raw_class, raw_virtual_service, service_class, virtual_service

pytestmark = pytest.mark.unit


def errors_of(obj: Mapping[str, object]) -> dict[str, str]:
    """Messages by path."""
    with pytest.raises(SpecError) as caught:
        (parse_class if obj.get("kind") == "VirtualServiceClass" else parse_virtual_service)(obj)
    return {error.path: error.message for error in caught.value.errors}


def servers(*found: dict[str, Any], **spec: Any) -> dict[str, Any]:
    return raw_virtual_service(**{"serviceRef": None, "realServers": list(found), **spec})


def test_the_least_object_gets_every_default() -> None:
    assert parse_virtual_service(raw_virtual_service()) == virtual_service()


def test_every_field_is_read() -> None:
    obj = raw_virtual_service(
        addresses=["192.168.139.123", "2001:db8::1"],
        ports=[{"port": 443, "protocol": "UDP", "targetPort": "https"}, {"port": 80, "targetPort": 8080}],
        scheduler="wlc",
        forwarding="Masquerade",
        virtualRouterID=51,
        className="edge",
        status={"virtualRouterID": 51, "directors": [{"node": "n1", "priority": 200}], "more": 1},
    )
    found = parse_virtual_service(obj)
    assert found == virtual_service(
        addresses=["192.168.139.123", "2001:db8::1"],
        ports=found.ports,
        scheduler="wlc",
        forwarding="Masquerade",
        vrid=51,
        class_name="edge",
        assigned=assignment(51, {"n1": 200}),
    )
    assert [(p.port, p.protocol, p.target_port) for p in found.ports] == [(443, "UDP", "https"), (80, "TCP", 8080)]


def test_real_servers_are_read() -> None:
    found = parse_virtual_service(servers({"address": "192.168.139.7"}, {"address": "192.168.139.8", "weight": 0}))
    assert found.service is None
    assert found.real_servers == (
        RealServer(address=ip_address("192.168.139.7")),
        RealServer(address=ip_address("192.168.139.8"), weight=0),
    )


def test_a_manifest_needs_no_namespace_uid_or_generation() -> None:
    obj = {**raw_virtual_service(), "metadata": {"name": "web"}}
    found = parse_virtual_service(obj)
    assert (str(found.key), found.uid, found.created, found.generation) == ("default/web", "", "", 0)


def test_null_is_the_same_as_absent() -> None:
    nulls = dict.fromkeys(("scheduler", "forwarding", "className", "virtualRouterID", "realServers"))
    obj = raw_virtual_service()
    spec = obj["spec"]
    assert isinstance(spec, dict)
    assert parse_virtual_service({**obj, "spec": {**spec, **nulls}}) == virtual_service()


def test_all_errors_come_at_once_and_the_message_names_object_field_value_and_remedy() -> None:
    obj = raw_virtual_service(
        addresses=["10.0.0.300", "10.0.0.1", "10.0.0.1"],
        ports=[{"port": 0}, {"port": "80a", "protocol": "tcp"}, {"port": 80}, {"port": 80}],
        scheduler="mhx",
        colour="red",
    )
    with pytest.raises(SpecError) as caught:
        parse_virtual_service(obj)
    text = str(caught.value)
    assert text.startswith(
        "VirtualService default/web: spec.addresses[0]: '10.0.0.300': must be an IPv4 or IPv6 address"
    )
    for part in (
        "spec.addresses[2]: '10.0.0.1': is there twice",
        "spec.ports[0].port: 0: must be 1-65535",
        "spec.ports[1].port: '80a': must be 1-65535",
        "spec.ports[1].protocol: 'tcp': must be one of TCP, UDP, SCTP",
        "spec.ports[3].port: 80: TCP port 80 is there twice",
        f"spec.scheduler: 'mhx': must be one of {', '.join(Scheduler)}",
        "spec.colour: 'red': is not a field here; known are addresses, allPorts, className,",
    ):
        assert part in text


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("0.0.0.0", "unspecified"),
        ("127.0.0.53", "loopback"),
        ("169.254.0.1", "link-local"),
        ("224.0.0.18", "multicast"),
        ("255.255.255.255", "broadcast"),
        ("::", "unspecified"),
        ("::1", "loopback"),
        ("fe80::1", "link-local"),
        ("ff02::12", "multicast"),
        ("2001:DB8:0::1", "write 2001:db8::1"),
        ("::ffff:10.0.0.1", "write 10.0.0.1"),
        ("fe80::1%eth0", "without prefix length and zone"),
        ("010.0.0.1", "must be an IPv4"),
        (17, "must be an IPv4"),
        (None, "must be an IPv4"),
    ],
)
def test_an_address_that_cannot_be_a_vip_is_refused_with_the_reason(address: object, message: str) -> None:
    assert message in errors_of(raw_virtual_service(addresses=[address]))["spec.addresses[0]"]
    assert message in errors_of(servers({"address": address}))["spec.realServers[0].address"]


@pytest.mark.parametrize(
    ("spec", "path", "message"),
    [
        ({"addresses": []}, "spec.addresses", "is required"),
        ({"addresses": "10.0.0.1"}, "spec.addresses", "must be a list"),
        ({"addresses": [f"10.0.0.{n}" for n in range(1, 66)]}, "spec.addresses", "at most 64"),
        ({"ports": None}, "spec.ports", "is required"),
        ({"ports": [{"port": n} for n in range(1, 67)]}, "spec.ports", "at most 64"),
        ({"ports": [None]}, "spec.ports[0]", "must be an object"),
        ({"ports": [80]}, "spec.ports[0]", "must be an object"),
        ({"ports": [{}]}, "spec.ports[0].port", "is required"),
        ({"ports": [{"port": True}]}, "spec.ports[0].port", "must be 1-65535"),
        ({"ports": [{"port": 80.0}]}, "spec.ports[0].port", "must be 1-65535"),
        ({"ports": [{"port": 80, "targetPort": "80"}]}, "spec.ports[0].targetPort", "without quotes"),
        ({"ports": [{"port": 80, "targetPort": 70000}]}, "spec.ports[0].targetPort", "1-65535"),
        ({"ports": [{"port": 80, "nodePort": 1}]}, "spec.ports[0].nodePort", "is not a field here"),
        ({"forwarding": "DR"}, "spec.forwarding", "DirectRouting, Tunnel, Masquerade"),
        ({"virtualRouterID": 0}, "spec.virtualRouterID", "must be 1-255"),
        ({"className": "A"}, "spec.className", "lower-case"),
        ({"serviceRef": {}}, "spec.serviceRef.name", "is required"),
        ({"serviceRef": None}, "spec", "needs serviceRef or realServers"),
        ({"realServers": [{"address": "10.0.0.1"}]}, "spec", "remove one of them"),
    ],
)
def test_a_field_that_is_wrong_is_named(spec: dict[str, Any], path: str, message: str) -> None:
    assert message in errors_of(raw_virtual_service(**spec))[path]


@pytest.mark.parametrize(
    ("obj", "path", "message"),
    [
        (
            servers({"address": "10.0.0.7", "port": 81}),
            "spec.realServers[0].port",
            "direct routing cannot map ports (80 to 81); leave port out, or use forwarding: Masquerade",
        ),
        (
            servers({"address": "10.0.0.7", "port": 81}, forwarding="Tunnel"),
            "spec.realServers[0].port",
            "tunnelling cannot map ports",
        ),
        (
            servers({"address": "10.0.0.7", "port": 80}, ports=[{"port": 80}, {"port": 443}]),
            "spec.realServers[0].port",
            "cannot map ports (443 to 80)",
        ),
        (servers({"address": "10.0.0.7"}, {"address": "10.0.0.7"}), "spec.realServers[1].address", "twice"),
        (servers({"address": "192.168.139.123"}), "spec.realServers[0].address", "is the virtual address itself"),
        (servers({"address": "2001:db8::7"}), "spec.realServers[0].address", "no address of that family"),
        (servers({"address": "10.0.0.7", "weight": -1}), "spec.realServers[0].weight", "must be 0-65535"),
        (
            servers({"address": "10.0.0.7"}, ports=[{"port": 80, "targetPort": 81}]),
            "spec.ports[0].targetPort",
            "serviceRef",
        ),
        (raw_virtual_service(realServers=[None]), "spec.realServers[0]", "must be an object"),
    ],
)
def test_real_servers_that_cannot_work_are_refused(obj: dict[str, Any], path: str, message: str) -> None:
    assert message in errors_of(obj)[path]


def test_masquerading_maps_the_port_of_a_real_server() -> None:
    found = parse_virtual_service(servers({"address": "10.0.0.7", "port": 81}, forwarding="Masquerade"))
    assert found.real_servers[0].port == 81
    assert found.ports == (ServicePort(port=80),)


@pytest.mark.parametrize(
    ("change", "path"),
    [
        ({"apiVersion": "lvsdr.io/v2"}, "apiVersion"),
        ({"kind": "Virtualservice"}, "kind"),
        ({"data": {}}, "data"),
        ({"metadata": {}}, "metadata.name"),
        ({"metadata": {"name": "a" * 300}}, "metadata.name"),
        ({"metadata": {"name": "web", "namespace": "A"}}, "metadata.namespace"),
        ({"metadata": []}, "metadata"),
        ({"spec": None}, "spec"),
        ({"spec": "x"}, "spec"),
    ],
)
def test_a_damaged_object_is_refused(change: dict[str, Any], path: str) -> None:
    assert path in errors_of({**raw_virtual_service(), **change})


@pytest.mark.parametrize(
    "status",
    [
        "x",
        {},
        {"virtualRouterID": 0, "directors": []},
        {"virtualRouterID": "200"},
        {"virtualRouterID": 200, "directors": [{"node": "n"}]},
        {"virtualRouterID": 200, "directors": [None]},
        {"virtualRouterID": 200, "directors": "n"},
    ],
)
def test_a_status_that_makes_no_sense_counts_as_none(status: object) -> None:
    assert parse_virtual_service({**raw_virtual_service(), "status": status}).assigned is None


def test_a_class_has_every_default() -> None:
    assert parse_class(raw_class("edge")) == service_class("edge")
    assert parse_class({"metadata": {"name": "edge"}}) == service_class("edge")


def test_every_field_of_a_class_is_read() -> None:
    found = parse_class(
        raw_class(
            directors={
                "nodeSelector": {"matchLabels": {"a": "b"}},
                "nodes": [{"name": "dr1", "priority": 150}, {"name": "dr2", "priority": 150}],
            },
            interface="eth0.1",
            vipInterface="br-lan",
            vipPrefixLength=24,
            addressPools=["192.168.139.120/29", "2001:db8::/64"],
            namespaces=["default", "shop"],
            vrrp={
                "advertisementIntervalMilliseconds": 40950,
                "preempt": False,
                "virtualRouterIDs": {"first": 50, "last": 50},
            },
        )
    )
    assert found == service_class(
        selector={"a": "b"},
        directors={"dr1": 150, "dr2": 150},
        interface="eth0.1",
        vip_interface="br-lan",
        vip_prefix_length=24,
        pools=["192.168.139.120/29", "2001:db8::/64"],
        namespaces=["default", "shop"],
        vrids=(50, 50),
        interval_ms=40950,
        preempt=False,
    )
    assert found.pools[0] == ip_network("192.168.139.120/29")


@pytest.mark.parametrize(
    ("spec", "path", "message"),
    [
        ({"interface": "a/b"}, "spec.interface", "name of a network interface"),
        ({"interface": "a b"}, "spec.interface", "name of a network interface"),
        ({"vipInterface": "0123456789abcdef"}, "spec.vipInterface", "at most 15"),
        ({"vipPrefixLength": 0}, "spec.vipPrefixLength", "1-128"),
        ({"addressPools": ["10.0.0.9/24"]}, "spec.addressPools[0]", "write 10.0.0.0/24"),
        ({"addressPools": ["10.0.0.9"]}, "spec.addressPools[0]", "must be a network"),
        ({"addressPools": ["a/b"]}, "spec.addressPools[0]", "must be a network"),
        ({"addressPools": [7]}, "spec.addressPools[0]", "must be a network"),
        ({"namespaces": ["a/b"]}, "spec.namespaces[0]", "lower-case"),
        ({"directors": {"nodes": [{"name": "a", "priority": 0}]}}, "spec.directors.nodes[0].priority", "1-254"),
        ({"directors": {"nodes": [{"priority": 9}]}}, "spec.directors.nodes[0].name", "is required"),
        ({"directors": {"nodes": [{"name": "a", "priority": 9}] * 2}}, "spec.directors.nodes[1].name", "twice"),
        ({"directors": {"selector": {}}}, "spec.directors.selector", "not a field"),
        (
            {"directors": {"nodeSelector": {"matchLabels": {"a": 1}}}},
            "spec.directors.nodeSelector.matchLabels.a",
            "text",
        ),
        (
            {"vrrp": {"advertisementIntervalMilliseconds": 15}},
            "spec.vrrp.advertisementIntervalMilliseconds",
            "steps of 10",
        ),
        (
            {"vrrp": {"advertisementIntervalMilliseconds": 40960}},
            "spec.vrrp.advertisementIntervalMilliseconds",
            "40950",
        ),
        ({"vrrp": {"preempt": "no"}}, "spec.vrrp.preempt", "true or false"),
        (
            {"vrrp": {"virtualRouterIDs": {"first": 216}}},
            "spec.vrrp.virtualRouterIDs.first",
            "above last",
        ),
    ],
)
def test_a_field_of_a_class_that_is_wrong_is_named(spec: dict[str, Any], path: str, message: str) -> None:
    assert message in errors_of(raw_class(**spec))[path]


def test_huge_and_odd_values_are_shown_short() -> None:
    nested: Any = []
    for _ in range(5000):
        nested = [nested]
    obj = raw_virtual_service(scheduler="x" * 10**6, forwarding=nested, virtualRouterID=10**6000, className=b"x")
    with pytest.raises(SpecError) as caught:
        parse_virtual_service(obj)
    assert len(str(caught.value)) < 2000
    assert "a number of" in str(caught.value)
    assert "'bytes'" in str(caught.value)


def test_names() -> None:
    assert is_dns_label("a-1")
    assert not is_dns_label("a.b")
    assert not is_dns_label("a\n")
    assert not is_dns_label("a" * 64)
    assert is_dns_subdomain("a.b-c.1")
    assert not is_dns_subdomain("a..b")
    assert is_interface("eth0.100@x")
    assert not any(map(is_interface, ("", ".", "..", "a:1", "a\tb", "a\0", "é" * 8)))


scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 70000),
    st.floats(),
    st.text(max_size=8),
    st.sampled_from(["192.168.139.123", "2001:db8::1", "10.0.0.0/8", "mh", "TCP", "web", "eth0", "IPv4", "InternalIP"]),
)
NAMES = (
    *("apiVersion", "kind", "metadata", "spec", "status", "name", "namespace", "labels", "addresses", "ports", "port"),
    *("protocol", "targetPort", "serviceRef", "realServers", "address", "weight", "scheduler", "forwarding", "nodes"),
    *("virtualRouterID", "className", "directors", "nodeSelector", "matchLabels", "interface", "addressPools", "vrrp"),
    *("virtualRouterIDs", "first", "last", "endpoints", "conditions", "ready", "addressType", "type", "nodeName"),
    *("health", "checks", "statuses", "command", "payload", "name", "whenEmpty", "sorryServer", "bodyRegex"),
)
keys = st.one_of(st.sampled_from(NAMES), st.text(max_size=4))
values = st.recursive(
    scalars,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(keys, inner, max_size=5)),
    max_leaves=20,
)
PARSERS: list[Callable[[Any], object]] = [
    parse_virtual_service,
    parse_class,
    parse_service,
    parse_endpoint_slice,
    parse_node,
]


@given(st.one_of(st.dictionaries(keys, values, max_size=6), values))
def test_any_json_gives_a_value_or_a_spec_error(obj: Any) -> None:
    for parse in PARSERS:
        try:
            parse(obj)
        except SpecError as error:
            found = error.errors
        else:
            continue
        assert found


@given(st.dictionaries(st.sampled_from(NAMES), values, max_size=6), values)
def test_any_spec_in_a_sound_object_gives_a_value_or_a_spec_error(spec: dict[str, Any], status: Any) -> None:
    for parse in PARSERS:
        obj = {"metadata": {"name": "web"}, "spec": spec, "status": status}
        try:
            parse(obj)
        except SpecError as error:
            found = error.errors
        else:
            continue
        assert all(field.path and field.message for field in found)
