"""From a class's words to what the election of one node is told."""

from dataclasses import replace
from ipaddress import ip_address, ip_interface
from typing import Any

import pytest

from lvsagent.core.routers import Refused, router_of
from lvsagent.core.state import Interface, NodeFacts
from lvsagent.ipc import Authentication, AuthenticationMode, RouterConfig
from lvsagent.ipc import TrackedInterface as Tracked
from lvsapi.model import Director, Snapshot, VirtualRouter, VirtualServiceClass
from lvsapi.resolve import resolve
from lvsapi.vrrp import (
    Announcements,
    AuthenticationType,
    Checksum,
    ConditionStatus,
    InitialState,
    TrackedCondition,
    TrackedInterface,
    Transport,
)
from lvsapi.vrrp import AuthenticationMode as Mode
from tests.gen import assignment, node, nodes, service_class, snapshot, virtual_service

pytestmark = pytest.mark.unit
DIRECTORS = {"node1": 250, "node2": 238, "node3": 226}


def facts(name: str = "node1", *networks: str) -> NodeFacts:
    found = networks or ("192.168.139.101/24", "2001:db8::101/64", "fe80::101/64")
    card = Interface(name="eth0", index=2, mac="02:00:00:00:00:01", up=True, addresses=tuple(map(ip_interface, found)))
    return NodeFacts(node=name, interfaces=(card,))


def routers(*, world: Snapshot | None = None, **settings: Any) -> tuple[VirtualRouter, ...]:
    return resolve(world or world_of(service_class(**settings))).routers


def world_of(owner: VirtualServiceClass, **changes: Any) -> Snapshot:
    vips = ["192.168.139.123", "2001:db8::123"]
    return replace(
        snapshot(virtual_service(addresses=vips, assigned=assignment(200, DIRECTORS)), classes=[owner]), **changes
    )


def configured(family: int = 4, where: NodeFacts | None = None, **settings: Any) -> RouterConfig:
    (router,) = (r for r in routers(**settings) if r.family == family)
    config, refused = router_of(router, where or facts(), set())
    assert config is not None
    assert refused == ()
    return config


def test_the_defaults_are_those_of_the_election() -> None:
    assert configured() == RouterConfig(
        name="default/200/v4",
        virtual_router_id=200,
        family=4,
        interface="eth0",
        vip_interface="eth0",
        addresses=("192.168.139.123/32",),
        priority=250,
        ready=False,
        sources=("192.168.139.102", "192.168.139.103"),
        source="192.168.139.101",
    )


def test_every_setting_reaches_the_election() -> None:
    found = configured(
        version=2,
        interval_ms=2000,
        send_interval_ms=1000,
        preempt=False,
        preempt_delay_seconds=7,
        checksum=Checksum.MESSAGE,
        authentication=AuthenticationType.HMAC,
        authentication_mode=Mode.RECEIVE_ONLY,
        sync_group="edge",
        announcements=Announcements(repeat=5, delay_seconds=3, refresh_seconds=0, on_lower_priority=False),
        virtual_mac=True,
        graceful_restart_seconds=9,
        track_interfaces=(TrackedInterface(name="eth1", weight=-20),),
        directors=[Director(node="node1", priority=9, initial_state=InitialState.ACTIVE)],
    )
    assert (found.version, found.advertisement_interval_ms, found.send_interval_ms) == (2, 2000, 1000)
    assert (found.preempt, found.preempt_delay_ms, found.initially_active) == (False, 7000, True)
    assert (found.checksum_without_pseudo_header, found.virtual_mac, found.graceful_restart_ms) == (True, True, 9000)
    assert (found.authentication, found.authentication_mode, found.key) == (
        Authentication.HMAC,
        AuthenticationMode.RECEIVE_ONLY,
        "default",
    )
    assert (found.sync_group, found.track_interfaces) == ("edge", (Tracked(name="eth1", weight=-20),))
    assert (found.announce_repeat, found.announce_delay_ms, found.announce_refresh_ms) == (5, 3000, 0)
    assert not found.announce_on_lower_priority


def test_every_word_of_the_api_is_one_of_the_elections() -> None:
    assert {str(word) for word in AuthenticationType} == {str(word) for word in Authentication}
    assert {str(word) for word in Mode} == {str(word) for word in AuthenticationMode}


def test_unicast_adverts_go_to_the_other_directors() -> None:
    found = configured(transport=Transport.UNICAST)
    assert found.unicast_peers == ("192.168.139.102", "192.168.139.103")
    assert configured(transport=Transport.UNICAST, where=facts("node2")).unicast_peers == (
        "192.168.139.101",
        "192.168.139.103",
    )


def test_the_classes_own_addresses_of_directors_come_before_those_of_the_nodes() -> None:
    named = [Director(node="node2", priority=1, addresses=(ip_address("192.168.139.7"),))]
    found = configured(transport=Transport.UNICAST, directors=named)
    assert found.unicast_peers == ("192.168.139.7", "192.168.139.103")
    assert found.sources == ("192.168.139.7", "192.168.139.103")


def test_an_address_of_another_network_is_no_source_of_adverts() -> None:
    assert configured(where=facts("node1", "10.9.9.1/24", "192.168.139.1/32"), interface="eth0").sources == ()


def test_a_source_that_is_not_known_of_one_director_is_known_of_none() -> None:
    world = world_of(service_class(), nodes=nodes(2))
    (router, _) = routers(world=world)
    config, _ = router_of(router, facts(), set())
    assert config is not None
    assert config.sources == ()


def test_ipv6_sources_are_link_local_addresses_that_the_class_names() -> None:
    assert configured(6).sources == ()
    named = [Director(node=f"node{n}", priority=n, addresses=(ip_address(f"fe80::{n}"),)) for n in (2, 3)]
    found = configured(6, transport=Transport.UNICAST, directors=named)
    assert found.sources == ("fe80::2", "fe80::3")
    assert found.unicast_peers == ("fe80::2", "fe80::3")


def test_adverts_leave_from_the_address_that_the_others_expect() -> None:
    two = facts("node1", "192.168.139.90/24", "192.168.139.101/24", "2001:db8::101/64", "fe80::101/64")
    assert configured(where=two).source == "192.168.139.101"
    assert configured(6, two).source == "", "a Node names no link-local address"
    named = [
        Director(node=f"node{n}", priority=n, addresses=(ip_address(f"2001:db8::10{n}"), ip_address(f"fe80::10{n}")))
        for n in (1, 2, 3)
    ]
    assert configured(6, two, directors=named).source == "fe80::101"
    routed = [replace(item, addresses=item.addresses[:1]) for item in named]
    found = configured(6, two, directors=routed, transport=Transport.UNICAST)
    assert (found.source, found.unicast_peers) == ("2001:db8::101", ("2001:db8::102", "2001:db8::103"))
    assert configured(where=facts("node1", "10.9.9.1/24"), interface="eth0").source == ""


def test_unicast_without_any_known_peer_is_refused_and_the_remedy_named() -> None:
    (_, router) = routers(transport=Transport.UNICAST)
    config, refused = router_of(router, facts(), set())
    assert config is None
    (why,) = refused
    assert isinstance(why, Refused)
    assert why.reason == "PeersNotKnown"
    for word in ("VirtualServiceClass default", "IPv6", "node2, node3", "spec.directors.nodes[].addresses"):
        assert word in why.message


def test_unicast_goes_to_those_that_are_known_and_the_others_are_named() -> None:
    (router, _) = routers(world=world_of(service_class(transport=Transport.UNICAST), nodes=nodes(2)))
    config, refused = router_of(router, facts(), set())
    assert config is not None
    assert config.unicast_peers == ("192.168.139.102",)
    assert [("node3" in why.message, "node2" in why.message) for why in refused] == [(True, False)]


def test_a_director_without_others_serves_with_unicast_too() -> None:
    alone = virtual_service(assigned=assignment(200, {"node1": 9}))
    (router,) = resolve(snapshot(alone, classes=[service_class(transport=Transport.UNICAST)])).routers
    config, refused = router_of(router, facts(), set())
    assert config is not None
    assert (config.unicast_peers, refused) == (None, ())


# -- who stands by -------------------------------------------------------------------------------------------------


def standing_by(*found: Any, service: Any = None, **settings: Any) -> dict[str, str]:
    item = service or virtual_service(assigned=assignment(200, DIRECTORS))
    (router,) = resolve(snapshot(item, classes=[service_class(**settings)], nodes=found)).routers
    return dict(router.standby)


def test_a_node_that_is_taken_out_of_service_stands_by() -> None:
    assert standing_by(node("node1", standby="cordoned"), node("node2")) == {"node1": "cordoned"}


def test_an_annotation_moves_the_whole_virtual_router_away_from_a_node() -> None:
    item = virtual_service(assigned=assignment(200, DIRECTORS), failover_from="node2")
    assert standing_by(service=item) == {"node2": "annotation lvsdr.io/failover-from of default/web"}
    config, _ = router_of(resolve(snapshot(item)).routers[0], facts("node2"), set())
    assert config is not None
    assert (config.standby, config.priority) == (True, 238)


def test_a_node_that_is_no_director_cannot_stand_by() -> None:
    item = virtual_service(assigned=assignment(200, DIRECTORS), failover_from="elsewhere")
    assert standing_by(node("other", standby="cordoned"), service=item) == {}


def test_a_tracked_condition_without_weight_makes_its_node_stand_by() -> None:
    tracked = (TrackedCondition(type="Ready"), TrackedCondition(type="Bad", status=ConditionStatus.FALSE))
    found = standing_by(
        node("node1", conditions={"Ready": "True", "Bad": "False"}),
        node("node2", conditions={"Ready": "False"}),
        node("node3", conditions={"Bad": "True"}),
        track_conditions=tracked,
    )
    assert found == {"node2": "condition Ready is False", "node3": "condition Bad is True"}


def test_what_is_not_known_of_a_node_moves_nothing() -> None:
    tracked = (TrackedCondition(type="Ready"), TrackedCondition(type="Disk", weight=-50))
    assert standing_by(node("node1"), track_conditions=tracked) == {}
    (router,) = resolve(
        snapshot(
            virtual_service(assigned=assignment(200, DIRECTORS)),
            classes=[service_class(track_conditions=tracked)],
            nodes=[],
        )
    ).routers
    assert router.weights == {}


@pytest.mark.parametrize(
    ("weight", "status", "priority"),
    [
        (-50, "True", 250),
        (-50, "False", 200),
        (4, "True", 254),
        (-253, "False", 1),
        (3, "True", 253),
        (3, "False", 250),
    ],
)
def test_weights_change_the_priority_as_in_keepalived(weight: int, status: str, priority: int) -> None:
    owner = service_class(track_conditions=(TrackedCondition(type="Uplink", weight=weight),))
    world = snapshot(
        virtual_service(assigned=assignment(200, DIRECTORS)),
        classes=[owner],
        nodes=[node("node1", conditions={"Uplink": status})],
    )
    config, _ = router_of(resolve(world).routers[0], facts(), set())
    assert config is not None
    assert (config.priority, config.standby) == (priority, False)
