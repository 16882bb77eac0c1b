"""From what the kernel has to what it shall have."""

from dataclasses import replace
from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lvsagent.core.brakes import held_back
from lvsagent.core.diff import (
    AddDestination,
    AddLoopback,
    AddMark,
    AddRefusal,
    AddService,
    Conflict,
    DeleteDestination,
    DeleteLoopback,
    DeleteMark,
    DeleteRefusal,
    DeleteService,
    Difference,
    EditDestination,
    EditService,
    IpvsOp,
    Op,
    Owned,
    ReinsertDestination,
    SetSysctl,
    StartSync,
    StopSync,
    claim,
    diff,
    release,
)
from lvsagent.core.model import apply
from lvsagent.core.state import (
    Destination,
    ForwardMethod,
    KernelState,
    Mark,
    Persistent,
    Refusal,
    Service,
    ServiceKey,
    SyncDaemon,
    SyncRole,
)
from lvsagent.core.sysctl import EXPIRE_NODEST_CONN, SYNC, SYNC_THRESHOLD
from lvsapi.model import Protocol

pytestmark = pytest.mark.unit
VIP = ip_address("10.0.0.200")
KEY = ServiceKey(VIP, Protocol.TCP, 80)
OTHER = ServiceKey(ip_address("10.0.0.201"), Protocol.TCP, 80)
OURS = Owned(services=frozenset({KEY, OTHER}), loopback=frozenset({VIP, OTHER.address}))


def destination(number: int, weight: int = 1, method: ForwardMethod = ForwardMethod.DIRECT_ROUTE) -> Destination:
    return Destination(ip_address(f"10.244.0.{number}"), 8080, method, weight)


def service(*destinations: Destination, scheduler: str = "mh", flags: int = 0x18, key: ServiceKey = KEY) -> Service:
    return Service(key=key, scheduler=scheduler, flags=flags, destinations=destinations)


def state(*services: Service, loopback: bool = True, **sysctls: str) -> KernelState:
    found = {one.key: one for one in services}
    return KernelState(
        services=found, loopback=frozenset(key.address for key in found) if loopback else frozenset(), sysctls=sysctls
    )


EMPTY = KernelState()


def run(have: KernelState, difference: Difference) -> KernelState:
    for op in difference.ops:
        have = apply(have, op)
    return have


def test_a_new_mh_service_gets_its_scheduler_after_its_destinations_and_its_address_last() -> None:
    want = state(service(destination(1), destination(2)), key="1")
    assert diff(want, EMPTY, OURS).ops == (
        SetSysctl("key", "1"),
        AddService(KEY, "none", 0x18),
        AddDestination(KEY, destination(1)),
        AddDestination(KEY, destination(2)),
        EditService(KEY, "mh", 0x18),
        AddLoopback(VIP),
    )


def test_a_new_service_of_another_scheduler_needs_no_second_step() -> None:
    want = state(service(destination(1), scheduler="rr", flags=0))
    assert diff(want, EMPTY, OURS).ops == (
        AddService(KEY, "rr", 0),
        AddDestination(KEY, destination(1)),
        AddLoopback(VIP),
    )


def test_a_destination_that_starts_drained_has_been_at_weight_1() -> None:
    want = state(service(destination(1, weight=0), scheduler="rr", flags=0))
    assert diff(want, EMPTY, OURS).ops[1:3] == (
        AddDestination(KEY, destination(1)),
        EditDestination(KEY, destination(1, weight=0)),
    )


def test_nothing_to_do_is_nothing() -> None:
    want = state(service(destination(1)), arp="1")
    assert diff(want, want, OURS) == Difference(ops=())


def test_destinations_are_added_before_others_are_quiesced_and_these_before_others_are_deleted() -> None:
    have = state(service(destination(1), destination(2)))
    want = state(service(destination(2, weight=0), destination(3)))
    assert diff(want, have, OURS).ops == (
        AddDestination(KEY, destination(3)),
        EditDestination(KEY, destination(2, weight=0)),
        DeleteDestination(KEY, destination(1)),
    )


TABLES = st.lists(
    st.tuples(st.integers(1, 5), st.integers(0, 2), st.sampled_from(ForwardMethod)), unique_by=lambda one: one[0]
)


@given(TABLES, TABLES, st.sampled_from(["mh", "rr"]))
def test_a_table_whose_backends_change_has_somebody_for_a_new_connection_at_every_step(
    before: list[tuple[int, int, ForwardMethod]], after: list[tuple[int, int, ForwardMethod]], scheduler: str
) -> None:
    there, wanted = (
        state(service(*(destination(*one) for one in table), scheduler=scheduler)) for table in (before, after)
    )
    ops = diff(wanted, there, OURS).ops
    for op in ops:
        there = apply(there, op)
        served = any(one.weight for one in there.services[KEY].destinations)
        assert served or not (any(one[1] for one in before) and any(one[1] for one in after)), (op, ops)
    assert {d.key: d for d in there.services[KEY].destinations} == {d.key: d for d in wanted.services[KEY].destinations}
    assert diff(wanted, there, OURS).ops == ()


@pytest.mark.parametrize("scheduler", ["mh", "sh"])
def test_a_destination_that_belongs_before_others_moves_them_behind_it_with_their_connections(scheduler: str) -> None:
    have = state(service(destination(1), destination(3), destination(4), scheduler=scheduler))
    want = state(service(destination(1), destination(2), destination(3), destination(4), scheduler=scheduler))
    difference = diff(want, have, OURS)
    assert difference.ops == (
        AddDestination(KEY, destination(2)),
        SetSysctl(EXPIRE_NODEST_CONN, "0"),
        ReinsertDestination(KEY, destination(3)),
        ReinsertDestination(KEY, destination(4)),
        SetSysctl(EXPIRE_NODEST_CONN, "1"),
    )
    assert run(have, difference).services == want.services


def test_the_order_does_not_matter_to_other_schedulers() -> None:
    have = state(service(destination(1), destination(3), scheduler="rr", flags=0))
    want = state(service(destination(1), destination(2), destination(3), scheduler="rr", flags=0))
    assert diff(want, have, OURS).ops == (AddDestination(KEY, destination(2)),)


def test_a_destination_that_becomes_local_is_edited_in_place() -> None:
    local = destination(1, method=ForwardMethod.MASQUERADE)
    assert diff(state(service(local)), state(service(destination(1))), OURS).ops == (EditDestination(KEY, local),)


def test_our_service_changes_its_scheduler_in_place_after_its_destinations() -> None:
    have = state(service(destination(1), scheduler="none"))
    want = state(service(destination(1), destination(2)))
    assert diff(want, have, OURS).ops == (AddDestination(KEY, destination(2)), EditService(KEY, "mh", 0x18))


def test_a_removal_takes_the_address_first_and_the_service_last() -> None:
    have = state(service(destination(1)), service(destination(1), key=OTHER))
    want = state(service(destination(1), destination(2), key=OTHER))
    assert diff(want, have, OURS).ops == (
        DeleteLoopback(VIP),
        AddDestination(OTHER, destination(2)),
        DeleteService(KEY),
    )


def test_what_is_not_ours_stays() -> None:
    have = state(service(destination(1), scheduler="wlc"), service(destination(9), key=OTHER))
    assert diff(EMPTY, have, Owned()) == Difference(ops=())


def test_a_foreign_service_at_our_place_is_a_conflict_and_its_address_stays_away() -> None:
    foreign = service(destination(9), scheduler="wlc", flags=0)
    want = state(service(destination(1)), service(destination(2), key=OTHER))
    difference = diff(want, state(foreign, loopback=False), Owned())
    assert difference.conflicts == (Conflict(key=KEY, scheduler="wlc", flags=0),)
    assert {op.service for op in difference.ops if isinstance(op, IpvsOp)} == {OTHER}
    assert [op for op in difference.ops if isinstance(op, AddLoopback)] == [AddLoopback(OTHER.address)]
    for word in ("TCP 10.0.0.200:80", "wlc", "not ours", "ipvsadm"):
        assert word in str(difference.conflicts[0])


def test_a_foreign_service_of_our_kind_is_adopted() -> None:
    have = state(service(destination(1)))
    assert diff(state(service(destination(1))), have, Owned()) == Difference(ops=())


def test_what_is_claimed_before_writing_is_what_will_be_written_and_not_what_was_there() -> None:
    foreign = service(destination(9), scheduler="wlc", flags=0)
    have = replace(state(foreign), loopback=frozenset({OTHER.address}))
    want = state(service(destination(1)), service(destination(2), key=OTHER))
    claimed = claim(want, have, Owned())
    assert claimed == Owned(services=frozenset({OTHER}), loopback=frozenset({VIP}))
    assert release(claimed, EMPTY, EMPTY) == Owned()
    assert release(claimed, want, EMPTY) == claimed


@pytest.mark.parametrize(
    ("op", "failed", "held"),
    [
        (AddLoopback(VIP), AddDestination(KEY, destination(1)), True),
        (AddLoopback(VIP), AddDestination(OTHER, destination(1)), False),
        (AddLoopback(VIP), SetSysctl("arp", "1"), True),
        (AddLoopback(VIP), DeleteLoopback(VIP), False),
        (AddLoopback(VIP), AddMark(Mark(address=VIP, protocol=None, first=0, last=65535, value=1)), True),
        (AddLoopback(VIP), AddMark(Mark(address=OTHER.address, protocol=None, first=0, last=65535, value=1)), False),
        (DeleteService(KEY), DeleteLoopback(VIP), True),
        (DeleteService(OTHER), DeleteLoopback(VIP), False),
        (ReinsertDestination(KEY, destination(1)), SetSysctl(EXPIRE_NODEST_CONN, "0"), True),
        (ReinsertDestination(KEY, destination(1)), SetSysctl("other", "0"), False),
        (AddService(KEY, "mh", 0), SetSysctl("arp", "1"), False),
    ],
)
def test_what_would_break_the_invariant_after_a_failure_is_held_back(op: Op, failed: Op, held: bool) -> None:
    assert held_back(op, [failed]) is held


@pytest.mark.parametrize(
    ("op", "error"),
    [
        (AddLoopback(VIP), ValueError),
        (AddService(KEY, "mh", 0), ValueError),
        (AddDestination(KEY, destination(1)), ValueError),
        (DeleteLoopback(OTHER.address), KeyError),
        (EditService(OTHER, "mh", 0), KeyError),
        (DeleteService(OTHER), KeyError),
        (EditDestination(KEY, destination(2)), KeyError),
        (AddDestination(OTHER, destination(2)), KeyError),
    ],
)
def test_the_model_refuses_what_the_kernel_refuses(op: Op, error: type[Exception]) -> None:
    with pytest.raises(error):
        apply(state(service(destination(1))), op)


# -- firewall marks, sync daemons ------------------------------------------------------------------------------------

MARKED = ServiceKey(VIP, Protocol.UDP, 30000, 0x1000)
MARK = Mark(address=VIP, protocol=Protocol.UDP, first=30000, last=32767, value=0x1000)
MASTER, BACKUP = (SyncDaemon(role=role, interface="eth0", sync_id=51) for role in SyncRole)


def test_a_marked_service_is_complete_before_packets_are_marked_and_marked_before_its_address_comes() -> None:
    want = replace(state(service(destination(1), key=MARKED, scheduler="rr", flags=0)), marks=frozenset({MARK}))
    assert diff(want, EMPTY, OURS).ops == (
        AddService(MARKED, "rr", 0),
        AddDestination(MARKED, destination(1)),
        AddMark(MARK),
        AddLoopback(VIP),
    )
    owned = Owned(services=frozenset({MARKED}), loopback=frozenset({VIP}))
    assert diff(EMPTY, want, owned).ops == (DeleteLoopback(VIP), DeleteMark(MARK), DeleteService(MARKED))


def test_a_marked_service_is_deleted_under_the_address_that_we_recorded() -> None:
    """The kernel knows its mark only."""
    unknown = ServiceKey(ip_address("0.0.0.0"), None, 0, 0x1000)
    assert unknown == MARKED
    have = state(service(key=unknown), loopback=False)
    (op,) = diff(EMPTY, have, Owned(services=frozenset({MARKED}))).ops
    assert isinstance(op, DeleteService)
    assert op.service.address == VIP
    assert ServiceKey(ip_address("::"), None, 0, 0x1000) != MARKED


def test_no_packet_is_marked_for_a_service_of_somebody_else() -> None:
    want = replace(state(service(destination(1), key=MARKED)), marks=frozenset({MARK}))
    have = state(service(key=ServiceKey(ip_address("0.0.0.0"), None, 0, 0x1000), scheduler="wlc"), loopback=False)
    difference = diff(want, have, Owned())
    assert difference.ops == ()
    assert "firewall mark 0x1000" in str(difference.conflicts[0])


def test_a_range_that_grows_is_marked_anew_and_its_service_stays() -> None:
    have = replace(state(service(key=MARKED)), marks=frozenset({MARK}))
    more = replace(MARK, last=40000)
    want = replace(have, marks=frozenset({more}))
    assert diff(want, have, Owned(services=frozenset({MARKED}))).ops == (AddMark(more), DeleteMark(MARK))


def test_persistence_changes_in_place() -> None:
    have = state(replace(service(destination(1), flags=0x19), persistent=Persistent(60, 32)))
    want = state(replace(service(destination(1), flags=0x19), persistent=Persistent(60, 24)))
    assert diff(want, have, OURS).ops == (EditService(KEY, "mh", 0x19, Persistent(60, 24)),)


def test_a_daemon_changes_its_role_with_the_node_and_stops_before_it_starts_with_another_interface() -> None:
    have, want = replace(EMPTY, daemons=frozenset({BACKUP})), replace(EMPTY, daemons=frozenset({MASTER}))
    owned = Owned(daemons=frozenset({BACKUP}))
    assert diff(want, have, owned).ops == (StartSync(MASTER), StopSync(BACKUP))
    moved = replace(BACKUP, interface="eth1")
    want = replace(EMPTY, daemons=frozenset({moved}))
    assert diff(want, have, owned).ops == (StopSync(BACKUP), StartSync(moved))


def test_a_daemon_that_died_is_started_again_and_one_of_somebody_else_stays() -> None:
    want = replace(EMPTY, daemons=frozenset({BACKUP}))
    assert diff(want, EMPTY, Owned(daemons=frozenset({BACKUP}))).ops == (StartSync(BACKUP),)
    assert diff(EMPTY, want, Owned()).ops == ()


def test_a_setting_that_only_the_daemon_needs_goes_back_with_it() -> None:
    before = replace(EMPTY, sysctls={SYNC_THRESHOLD: "3 50"})
    want = replace(EMPTY, sysctls=SYNC, daemons=frozenset({BACKUP}))
    owned = claim(want, before, Owned())
    assert owned.sysctls == {SYNC_THRESHOLD: "3 50"}
    there = run(before, diff(want, before, owned))
    assert claim(want, there, owned).sysctls == owned.sysctls, "what was there first is remembered"
    assert diff(EMPTY, there, owned).ops == (StopSync(BACKUP), SetSysctl(SYNC_THRESHOLD, "3 50"))
    assert release(owned, EMPTY, before) == Owned()


@pytest.mark.parametrize(("op", "error"), [(StartSync(MASTER), ValueError), (StopSync(BACKUP), KeyError)])
def test_the_model_has_one_daemon_of_each_role(op: Op, error: type[Exception]) -> None:
    with pytest.raises(error):
        apply(replace(EMPTY, daemons=frozenset({MASTER})), op)


def test_a_port_is_refused_until_its_first_backend_is_there_and_again_when_the_last_is_gone() -> None:
    refusal = Refusal(address=VIP, protocol=Protocol.TCP, first=80, last=80)
    refused, served = replace(state(service()), refusals=frozenset({refusal})), state(service(destination(1)))
    there, back = diff(served, refused, OURS), diff(refused, served, OURS)
    assert there.ops == (AddDestination(KEY, destination(1)), DeleteRefusal(refusal))
    assert back.ops == (DeleteDestination(KEY, destination(1)), AddRefusal(refusal))
    assert run(refused, there) == served
    assert run(served, back) == refused


def test_rules_and_daemons_are_named_by_what_they_do() -> None:
    every = Mark(address=VIP, protocol=None, first=0, last=65535, value=0x1000)
    assert [str(thing) for thing in (MARK, every, BACKUP)] == [
        "firewall mark 0x1000 for 10.0.0.200 UDP 30000-32767",
        "firewall mark 0x1000 for 10.0.0.200 every port",
        "sync daemon backup on eth0, syncid 51",
    ]
