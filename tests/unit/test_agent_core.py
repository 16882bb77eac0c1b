"""What the agent does next: pure decisions."""

from dataclasses import replace
from ipaddress import ip_address

import pytest

from lvsagent.core.agent import (
    RELEASE_SECONDS,
    Claims,
    addresses_of,
    count,
    offered,
    owning,
    problems_of_pass,
    split,
    standing,
    unfinished,
)
from lvsagent.core.diff import (
    AddDestination,
    AddLoopback,
    AddMark,
    AddService,
    Conflict,
    DeleteDestination,
    DeleteLoopback,
    DeleteMark,
    DeleteService,
    EditDestination,
    Op,
    Owned,
    SetSysctl,
    StartSync,
    StopSync,
)
from lvsagent.core.failure import OperationFailed, Reason
from lvsagent.core.state import (
    Destination,
    ForwardMethod,
    KernelState,
    Mark,
    Service,
    ServiceKey,
    SyncDaemon,
    SyncRole,
)
from lvsagent.ipc import Configure, Configured, RouterConfig, RouterStatistics, StateChanged, Statistics
from lvsapi.model import IPAddress, ObjectKey, Protocol
from lvsapi.resolve import resolve
from tests.gen import assignment, endpoint_slice, port, service_class, snapshot, virtual_service

pytestmark = pytest.mark.unit

A, B = ip_address("10.0.0.1"), ip_address("10.0.0.2")
REAL = Destination(ip_address("10.1.0.1"), 80, ForwardMethod.DIRECT_ROUTE, 1)


def key(address: IPAddress, port: int = 80) -> ServiceKey:
    return ServiceKey(address=address, protocol=Protocol.TCP, port=port)


def state(*addresses: IPAddress, lo: frozenset[IPAddress] | None = None) -> KernelState:
    services = {key(a): Service(key=key(a), scheduler="mh", flags=24, destinations=(REAL,)) for a in addresses}
    return KernelState(services=services, loopback=frozenset(addresses) if lo is None else lo)


def router(*addresses: IPAddress, name: str = "default/200/v4", ready: bool = False) -> RouterConfig:
    return RouterConfig(
        name=name,
        virtual_router_id=200,
        family=4,
        interface="eth0",
        vip_interface="eth0",
        addresses=tuple(f"{a}/32" for a in addresses),
        priority=100,
        ready=ready,
    )


def statistics(state: str = "Active", held: tuple[str, ...] = ()) -> Statistics:
    found = RouterStatistics(
        router="default/200/v4",
        state=state,
        virtual_router_id=200,
        family=4,
        interface="eth0",
        priority=100,
        active_address="",
        addresses_held=held,
        transitions={},
        adverts_sent=0,
        adverts_received=0,
        announcements_sent=0,
        address_errors=0,
    )
    return Statistics(
        started=0.0,
        generation=0,
        routers=(found,),
        dropped={},
        late_timers=0,
        lateness_max_ms=0.0,
        realtime=True,
        memory_locked=True,
    )


ALL = {A, B}
MARK = Mark(address=A, protocol=Protocol.UDP, first=1000, last=2000, value=0x1000)
DAEMON = SyncDaemon(role=SyncRole.BACKUP, interface="eth0", sync_id=51)


@pytest.mark.parametrize(
    ("op", "open_addresses"),
    [
        (AddService(key(A), "none", 24), {A}),
        (AddDestination(key(A), REAL), {A}),
        (EditDestination(key(B), REAL), {B}),
        (AddLoopback(A), {A}),
        (DeleteDestination(key(A), REAL), set()),
        (DeleteService(key(A, 81)), set()),
        (DeleteLoopback(A), set()),
        (SetSysctl("net/ipv4/ip_forward", "1"), set()),
        (AddMark(MARK), {A}),
        (DeleteMark(MARK), set()),
        (StartSync(DAEMON), set()),
        (StopSync(DAEMON), set()),
    ],
)
def test_an_address_is_unfinished_while_something_is_to_be_added_or_changed(
    op: Op, open_addresses: set[object]
) -> None:
    assert unfinished([op], [], state(A, B)) == open_addresses


def test_a_foreign_service_makes_its_address_unfinished() -> None:
    assert unfinished([], [Conflict(key=key(A), scheduler="rr", flags=0)], state(A, B)) == {A}


def test_an_address_stands_on_lo_with_all_services_that_ever_stood_there() -> None:
    stood = frozenset({key(A), key(B)})
    assert standing(state(A, B), state(A, B), stood) == ALL
    assert standing(state(A, B), state(A), stood) == {A}
    assert standing(state(A, B), state(A, B, lo=frozenset({B})), stood) == {B}
    assert standing(state(A, B), state(A), frozenset()) == {A}, "an address with nothing behind it does not stand"
    both = replace(state(A), services={**state(A).services, key(A, 443): state(A).services[key(A)]})
    assert standing(both, state(A), stood) == {A}, "what never stood takes nothing away"
    assert standing(both, state(A), stood | {key(A, 443)}) == set()


def test_only_complete_addresses_are_offered() -> None:
    (wish,) = offered([router(A, B)], frozenset({A}), frozenset({A, B}), before=frozenset())
    assert wish.ready
    assert wish.addresses == ("10.0.0.1/32",)


def test_a_router_without_a_complete_address_is_not_ready() -> None:
    (wish,) = offered([router(A)], frozenset(), frozenset(), before=frozenset({A}))
    assert not wish.ready
    assert addresses_of([wish]) == set()


def test_a_failed_edit_withdraws_nothing_that_was_offered_before() -> None:
    (wish,) = offered([router(A)], frozenset(), stands=frozenset({A}), before=frozenset({A}))
    assert wish.ready


def test_what_takes_an_address_down_waits_until_the_election_let_it_go() -> None:
    ops: list[Op] = [DeleteLoopback(A), AddDestination(key(B), REAL), DeleteService(key(A)), DeleteService(key(B, 81))]
    waiting = split(ops, frozenset({A, B}), prune=True)
    assert waiting.now == (AddDestination(key(B), REAL), DeleteService(key(B, 81)))
    assert waiting.later == (DeleteLoopback(A), DeleteService(key(A)))
    assert split(ops, frozenset({B}), prune=True).later == ()


def test_while_it_is_unknown_what_the_election_holds_nothing_is_taken_down() -> None:
    assert split([DeleteLoopback(A), DeleteService(key(A))], None, prune=True).now == ()


def test_before_the_first_sync_nothing_is_removed() -> None:
    ops: list[Op] = [
        DeleteLoopback(A),
        DeleteDestination(key(B), REAL),
        EditDestination(key(B), REAL),
        DeleteService(key(A)),
    ]
    step = split(ops, frozenset(), prune=False)
    assert step.now == (EditDestination(key(B), REAL),)
    assert len(step.later) == 3


def test_the_record_names_what_will_be_ours_before_it_is_written() -> None:
    owned = owning(Owned(), state(A), KernelState(), [])
    assert owned == Owned(services=frozenset({key(A)}), loopback=frozenset({A}))


def test_the_record_keeps_what_is_still_there_and_forgets_what_is_gone() -> None:
    ours = Owned(services=frozenset({key(A), key(B)}), loopback=frozenset({A, B}))
    assert owning(ours, KernelState(), state(A), []) == Owned(services=frozenset({key(A)}), loopback=frozenset({A}))


def test_an_address_that_stood_on_lo_before_us_is_not_ours() -> None:
    have = KernelState(loopback=frozenset({A}))
    assert owning(Owned(), state(A), have, []).loopback == set()
    assert owning(Owned(), state(A), have, [], adopt=True).loopback == {A}


def test_a_foreign_service_is_never_recorded() -> None:
    conflict = Conflict(key=key(A), scheduler="rr", flags=0)
    assert owning(Owned(), state(A, B), state(A), [conflict]) == Owned(
        services=frozenset({key(B)}), loopback=frozenset({B})
    )


class TestClaims:
    def test_the_same_wish_is_told_once(self) -> None:
        claims = Claims()
        assert claims.tell((router(A, ready=True),), 1.0) == Configure(generation=1, routers=(router(A, ready=True),))
        assert claims.tell((router(A, ready=True),), 2.0) is None
        assert claims.tell((), 3.0) == Configure(generation=2, routers=())

    def test_nothing_is_known_until_the_election_confirms(self) -> None:
        claims = Claims()
        assert claims.claimed(0.0) is None
        claims.tell((router(A, ready=True),), 1.0)
        assert claims.claimed(1.0) is None
        assert claims.heard(Configured(generation=1))
        assert claims.claimed(1.0) == frozenset({A})

    def test_an_address_is_claimed_until_the_wish_without_it_is_confirmed(self) -> None:
        claims = Claims()
        claims.tell((router(A, B, ready=True),), 1.0)
        claims.heard(Configured(generation=1))
        claims.tell((router(B, ready=True),), 2.0)
        claims.heard(Configured(generation=1))
        assert claims.claimed(2.5) == frozenset({A, B})
        claims.heard(Configured(generation=2))
        assert claims.claimed(2.5) == frozenset({B})

    def test_an_election_that_does_not_answer_is_dead_after_a_while(self) -> None:
        claims = Claims()
        claims.tell((router(A, ready=True),), 1.0)
        claims.heard(Configured(generation=1))
        claims.tell((), 2.0)
        assert claims.waits_until() == 2.0 + RELEASE_SECONDS
        assert claims.claimed(1.9 + RELEASE_SECONDS) == frozenset({A})
        assert claims.claimed(2.0 + RELEASE_SECONDS) == frozenset()

    def test_nothing_is_waited_for_when_all_is_confirmed(self) -> None:
        claims = Claims()
        assert claims.waits_until() is None
        claims.tell((), 1.0)
        claims.heard(Configured(generation=1))
        assert claims.waits_until() is None

    def test_who_is_active_follows_statistics_and_changes(self) -> None:
        claims = Claims()
        assert claims.heard(statistics("Backup")) is False
        assert claims.active == set()
        changed = StateChanged(
            router="default/200/v4", previous="Backup", state="Active", cause="active_silent", active_address="10.0.0.9"
        )
        assert claims.heard(changed)
        assert claims.active == {"default/200/v4"}
        assert claims.heard(statistics("Active", ("10.0.0.1/32",))) is False
        assert claims.held() == {A}
        claims.lost()
        assert claims.active == set()
        assert claims.held() == set()

    def test_news_of_the_election_are_reported_once_not_at_every_second(self) -> None:
        claims = Claims()
        calm = statistics("Active")
        (router,) = calm.routers
        claims.heard(calm)
        for findings, news in (({"ForeignVRID": "one"}, True), ({"ForeignVRID": "two"}, False), ({}, True)):
            assert claims.heard(replace(calm, routers=(replace(router, findings=findings),))) is news
        assert claims.heard(replace(calm, routers=(replace(router, problem="no interface"),)))

    def test_a_configure_from_the_election_is_ignored(self) -> None:
        assert Claims().heard(Configure(generation=1, routers=())) is False


def failed(op: Op) -> OperationFailed:
    return OperationFailed(op=op, reason=Reason.OTHER, errno=5, message="broken: remedy")


def test_fault_52_a_scheduler_that_the_kernel_lacks_is_what_the_condition_names() -> None:
    resolved = resolve(snapshot(virtual_service(assigned=assignment())))
    (server,) = resolved.servers
    key = ServiceKey(address=server.address, protocol=server.protocol, port=server.port)
    lacking = replace(failed(AddService(key, "mh", 0x18)), reason=Reason.NO_SUCH_SCHEDULER, message="modprobe ip_vs_mh")
    (problem,) = problems_of_pass(resolved, [], [lacking, failed(AddService(key, "mh", 0x18))])
    assert (problem.condition, problem.reason, problem.message) == (
        "Programmed",
        "KernelUnsupported",
        "modprobe ip_vs_mh",
    )


def test_what_the_kernel_refuses_is_a_problem_of_the_object() -> None:
    resolved = resolve(
        snapshot(virtual_service(assigned=assignment(), addresses=["10.0.0.1"]), slices=[endpoint_slice()])
    )
    web = ObjectKey("default", "web")
    for op in (AddDestination(key(A), REAL), AddLoopback(A), DeleteLoopback(A), SetSysctl("net/ipv4/ip_forward", "1")):
        (problem,) = problems_of_pass(resolved, [], [failed(op)])
        assert (problem.key, problem.reason, problem.message) == (web, "ProgrammingFailed", "broken: remedy")
    (problem,) = problems_of_pass(resolved, [Conflict(key=key(A), scheduler="rr", flags=0)], [])
    assert problem.reason == "ServiceConflict"
    assert "ipvsadm" in problem.message
    foreign = Conflict(key=key(B), scheduler="rr", flags=0)
    assert problems_of_pass(resolved, [foreign], [failed(AddLoopback(B))]) == ()


def test_the_log_counts_operations() -> None:
    ops: list[Op] = [AddLoopback(A), AddLoopback(B), DeleteService(key(A))]
    assert count(ops) == {"AddLoopback": 2, "DeleteService": 1}


# -- firewall marks, sync daemons ------------------------------------------------------------------------------------

MARKED = ServiceKey(A, Protocol.UDP, 1000, 0x1000)


@pytest.mark.parametrize(("claimed", "goes"), [(frozenset({A}), False), (frozenset(), True), (None, False)])
def test_packets_are_marked_as_long_as_their_address_may_be_held(
    claimed: frozenset[IPAddress] | None, goes: bool
) -> None:
    ops: list[Op] = [DeleteLoopback(A), DeleteMark(MARK), DeleteService(MARKED)]
    step = split(ops, claimed, prune=True)
    assert (step.now, step.later) == ((tuple(ops), ()) if goes else ((), tuple(ops)))
    assert split([DeleteMark(MARK)], frozenset({A}), prune=True).now == (DeleteMark(MARK),)
    assert split([DeleteMark(MARK)], frozenset(), prune=False).now == ()


def test_the_record_keeps_addresses_of_marked_services_that_the_kernel_does_not_know() -> None:
    unknown = ServiceKey(ip_address("0.0.0.0"), None, 0, 0x1000)
    have = KernelState(services={unknown: Service(key=unknown, scheduler="rr", flags=0, destinations=())})
    kept = owning(Owned(services=frozenset({MARKED})), KernelState(), have, [])
    assert [(one.address, one.port) for one in kept.services] == [(A, 1000)]


def test_daemons_are_recorded_before_they_start_and_forgotten_when_they_are_gone() -> None:
    want = KernelState(daemons=frozenset({DAEMON}))
    assert owning(Owned(), want, KernelState(), []).daemons == {DAEMON}
    assert owning(Owned(daemons=frozenset({DAEMON})), KernelState(), want, []).daemons == {DAEMON}
    assert owning(Owned(daemons=frozenset({DAEMON})), KernelState(), KernelState(), []).daemons == frozenset()


def test_what_the_kernel_refuses_of_marks_and_daemons_is_told_to_whom_it_concerns() -> None:
    sync = service_class("sync", connection_sync=True)
    outside = virtual_service("lab", addresses=[str(B)], real_servers=["10.0.0.9"], class_name="sync")
    wide = virtual_service("wide", addresses=[str(A)], ports=[port(1000, "UDP", end=2000)])
    objects = [replace(item, assigned=assignment(vrid)) for vrid, item in ((1, wide), (2, outside))]
    resolved = resolve(snapshot(*objects, classes=[sync]))
    for op, name in ((AddMark(MARK), "wide"), (AddService(MARKED, "rr", 0), "wide"), (StartSync(DAEMON), "lab")):
        failure = OperationFailed(op=op, reason=Reason.OTHER, errno=1, message="refused")
        assert [problem.key.name for problem in problems_of_pass(resolved, [], [failure])] == [name]
    conflict = Conflict(key=MARKED, scheduler="rr", flags=0)
    assert [problem.key.name for problem in problems_of_pass(resolved, [conflict], [])] == ["wide"]
