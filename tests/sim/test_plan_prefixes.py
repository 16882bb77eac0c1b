"""Stopping after any operation is safe, and planning again from there arrives."""

from dataclasses import replace
from ipaddress import ip_address

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lvsagent.core.diff import ORDER_MATTERS, Op, Owned, ReinsertDestination, SetSysctl, claim, diff, release
from lvsagent.core.model import apply
from lvsagent.core.state import (
    Destination,
    ForwardMethod,
    KernelState,
    Mark,
    Persistent,
    Service,
    ServiceFlag,
    ServiceKey,
    SyncDaemon,
    SyncRole,
)
from lvsagent.core.sysctl import EXPIRE_NODEST_CONN, REQUIRED, SYNC, SYNC_THRESHOLD, satisfied
from lvsapi.model import Protocol

pytestmark = pytest.mark.sim
ADDRESSES = [ip_address(f"10.0.0.{n}") for n in (1, 2)] + [ip_address("fd00::1")]
MARK = 0x1000
KEYS = [
    *(ServiceKey(address, Protocol.TCP, port) for address in ADDRESSES for port in (80, 443)),
    *(ServiceKey(address, Protocol.UDP, 1000, MARK + n) for n, address in enumerate(ADDRESSES)),
]
DAEMONS = [SyncDaemon(role=role, interface=name, sync_id=51) for role in SyncRole for name in ("eth0", "eth1")]
FOREIGN = ServiceKey(ip_address("10.9.9.9"), Protocol.TCP, 80)


@st.composite
def services(draw: st.DrawFn, key: ServiceKey, *, canonical: bool) -> Service:
    numbers = draw(st.lists(st.integers(1, 6), unique=True, max_size=6))
    destinations = [
        Destination(
            ip_address(f"10.244.0.{number}"),
            8080,
            draw(st.sampled_from((ForwardMethod.MASQUERADE, ForwardMethod.DIRECT_ROUTE))),
            draw(st.integers(0, 2)),
        )
        for number in (sorted(numbers) if canonical else numbers)
    ]
    schedulers = [("mh", 0x18), ("rr", 0)]
    schedulers += [] if canonical else [("none", 0x18), ("wlc", 0), ("mh", 0x08), ("rr", 0x20)]
    scheduler, flags = draw(st.sampled_from(schedulers))
    persistent = draw(st.sampled_from([None, Persistent(60, 24), Persistent(300, 24)]))
    if persistent:
        flags |= ServiceFlag.PERSISTENT
    return Service(key=key, scheduler=scheduler, flags=flags, destinations=tuple(destinations), persistent=persistent)


@st.composite
def marks(draw: st.DrawFn, keys: list[ServiceKey]) -> frozenset[Mark]:
    """One rule for each service that has a mark; the ranges may differ from those before."""
    found = [
        Mark(
            address=key.address,
            protocol=key.protocol,
            first=key.port,
            last=draw(st.integers(1000, 1002)),
            value=key.mark,
        )
        for key in keys
        if key.mark
    ]
    return frozenset(found)


@st.composite
def daemons(draw: st.DrawFn) -> frozenset[SyncDaemon]:
    """At most one of each role, as the kernel has them."""
    return frozenset({daemon.role: daemon for daemon in draw(st.lists(st.sampled_from(DAEMONS)))}.values())


@st.composite
def states(draw: st.DrawFn, *, wanted: bool) -> KernelState:
    keys = draw(st.lists(st.sampled_from(KEYS), unique=True))
    found = {key: draw(services(key, canonical=wanted)) for key in keys}
    if wanted:
        running = draw(daemons())
        return KernelState(
            services=found,
            loopback=frozenset(k.address for k in keys),
            sysctls={**REQUIRED, **SYNC} if running else REQUIRED,
            marks=draw(marks(keys)),
            daemons=running,
        )
    found[FOREIGN] = draw(services(FOREIGN, canonical=False))
    loopback = frozenset(draw(st.lists(st.sampled_from([*ADDRESSES, FOREIGN.address]))))
    sysctls = {key: draw(st.sampled_from("0128")) for key in draw(st.sets(st.sampled_from(sorted(REQUIRED))))}
    sysctls[SYNC_THRESHOLD] = draw(st.sampled_from(["3 50", "2 50"]))
    left = draw(marks(draw(st.lists(st.sampled_from(KEYS), unique=True))))
    return KernelState(services=found, loopback=loopback, sysctls=sysctls, marks=left, daemons=draw(daemons()))


@st.composite
def situations(draw: st.DrawFn) -> tuple[KernelState, KernelState, Owned]:
    have = draw(states(wanted=False))
    owned = Owned(
        services=frozenset(draw(st.lists(st.sampled_from(KEYS)))),
        loopback=frozenset(draw(st.lists(st.sampled_from(ADDRESSES)))),
        # A foreign daemon in our place is a failure that says so; here there is none.
        daemons=have.daemons,
    )
    return draw(states(wanted=True)), have, owned


def complete(want: KernelState, now: KernelState, key: ServiceKey) -> bool:
    """Everything of it that decides where a packet goes: scheduler, flags, persistence, methods and weights, and, where
    the scheduler's table depends on it, the order of the destinations."""
    wanted, there = want.services[key], now.services.get(key)
    if there is not None and wanted.scheduler not in ORDER_MATTERS:
        wanted, there = sorted_by_name(wanted), sorted_by_name(there)
    return there == wanted


def sorted_by_name(service: Service) -> Service:
    return replace(service, destinations=tuple(sorted(service.destinations, key=str)))


def is_safe(want: KernelState, before: KernelState, now: KernelState, owned: Owned) -> bool:
    """An address that came is complete and its sysctls are set; one that was there before kept what it served."""
    for address in now.loopback - before.loopback:
        if not all(satisfied(key, now.sysctls.get(key), value) for key, value in want.sysctls.items()):
            return False
        if not all(complete(want, now, key) for key in want.services if key.address == address):
            return False
        if not {mark for mark in want.marks if mark.address == address} <= now.marks:
            return False
    for key, served in before.services.items():
        going = key.address in owned.loopback - want.loopback
        if key.address in now.loopback and (key in want.services or going):
            there = now.services.get(key)
            if there is None:
                return False
            wanted = {d.key for d in (want.services.get(key) or served).destinations}
            if not {d.key for d in served.destinations} & wanted <= {d.key for d in there.destinations}:
                return False
    return True


def walk(state: KernelState, ops: tuple[Op, ...]) -> list[KernelState]:
    found = [state]
    for op in ops:
        found.append(apply(found[-1], op))
    return found


def every_prefix_is_safe_and_replanning_from_it_arrives(situation: tuple[KernelState, KernelState, Owned]) -> None:
    want, have, before = situation
    owned = claim(want, have, before)
    first = diff(want, have, before)
    prefixes = walk(have, first.ops)
    end = prefixes[-1]
    for now in prefixes:
        assert is_safe(want, have, now, before)
        # The record on disk is older than the kernel, never younger: claim was written first.
        again = diff(want, now, owned)
        assert again.conflicts == first.conflicts
        assert walk(now, again.ops)[-1] == end


def the_end_is_what_was_wanted_and_a_second_diff_is_empty(
    situation: tuple[KernelState, KernelState, Owned],
) -> None:
    want, have, before = situation
    difference = diff(want, have, before)
    end = walk(have, difference.ops)[-1]
    assert diff(want, end, claim(want, have, before)).ops == ()
    refused = {conflict.key for conflict in difference.conflicts}
    strange = {(key.address.version, key.mark) for key in refused}
    assert end.marks == {mark for mark in want.marks if (mark.address.version, mark.value) not in strange}
    assert end.daemons == want.daemons
    assert all(complete(want, end, key) for key in want.services.keys() - refused)


def what_is_foreign_stays_as_it_was(situation: tuple[KernelState, KernelState, Owned]) -> None:
    want, have, owned = situation
    difference = diff(want, have, owned)
    for now in walk(have, difference.ops):
        for key, service in have.services.items():
            if key not in owned.services and (
                key not in want.services or any(c.key == key for c in difference.conflicts)
            ):
                assert now.services[key] == service
        assert have.loopback - owned.loopback <= now.loopback


def connections_are_not_expired_while_destinations_move(situation: tuple[KernelState, KernelState, Owned]) -> None:
    want, have, owned = situation
    ops = diff(want, have, owned).ops
    for op, now in zip(ops, walk(have, ops), strict=False):
        assert not isinstance(op, ReinsertDestination) or now.sysctls[EXPIRE_NODEST_CONN] == "0"
    moves = [op for op in ops if isinstance(op, ReinsertDestination)]
    assert not moves or SetSysctl(EXPIRE_NODEST_CONN, "1") in ops


def the_way_there_and_back_leaves_what_was_there_before(situation: tuple[KernelState, KernelState, Owned]) -> None:
    want, have, _ = situation
    before = replace(have, marks=frozenset(), daemons=frozenset(), sysctls={**REQUIRED, SYNC_THRESHOLD: "3 50"})
    owned = claim(want, before, Owned())
    there = walk(before, diff(want, before, Owned()).ops)[-1]
    nothing = KernelState(sysctls=REQUIRED)
    back = walk(there, diff(nothing, there, owned).ops)[-1]
    ours = owned.services - before.services.keys()
    assert {key: service for key, service in back.services.items() if key in ours} == {}
    assert (back.marks, back.daemons, back.sysctls) == (before.marks, before.daemons, before.sysctls)
    assert back.loopback == before.loopback
    assert release(owned, nothing, back).sysctls == {}


@settings(max_examples=400, deadline=None)
@given(situations())
def test_in_every_situation_the_way_from_what_is_there_to_what_is_wanted_is_safe(
    situation: tuple[KernelState, KernelState, Owned],
) -> None:
    """All of this of each situation, because to draw one takes longer than to judge it."""
    every_prefix_is_safe_and_replanning_from_it_arrives(situation)
    the_end_is_what_was_wanted_and_a_second_diff_is_empty(situation)
    what_is_foreign_stays_as_it_was(situation)
    connections_are_not_expired_while_destinations_move(situation)
    the_way_there_and_back_leaves_what_was_there_before(situation)
