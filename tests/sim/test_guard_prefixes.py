"""Where every node chooses for itself: a node that holds backends of other nodes beside its own has the guard that
keeps it from sending on what another node has sent. Whenever the agent stops, and wherever it starts again."""

from dataclasses import replace
from ipaddress import ip_address

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lvsagent.core.diff import Owned, diff
from lvsagent.core.loops import LoopGuard, Senders, begun, guarded, loop_guard, ours, steps, widened
from lvsagent.core.model import apply
from lvsagent.core.state import Destination, ForwardMethod, KernelState, Mark, Service, ServiceKey
from lvsagent.core.sysctl import REQUIRED
from lvsapi.model import Protocol

pytestmark = pytest.mark.sim
KEYS = [ServiceKey(ip_address(f"10.0.0.{n}"), Protocol.TCP, 80) for n in (1, 2)]
PEERS = frozenset({ip_address("10.9.0.2")})
M, D = ForwardMethod.MASQUERADE, ForwardMethod.DIRECT_ROUTE

Pass = tuple[dict[ServiceKey, Service], Senders, bool, int]
Kernel = tuple[KernelState, frozenset[Mark]]
"""Tables of both kinds; marks of every packet of other nodes."""


@st.composite
def wholes(draw: st.DrawFn) -> dict[ServiceKey, Service]:
    """Tables with everything in them: backends of this node by masquerading."""
    found = {}
    for key in draw(st.lists(st.sampled_from(KEYS), unique=True)):
        numbers = sorted(draw(st.sets(st.integers(1, 6), max_size=5)))
        backends = (
            Destination(ip_address(f"10.244.0.{n}"), 8080, M if n % 2 else D, draw(st.integers(0, 2))) for n in numbers
        )
        scheduler = draw(st.sampled_from(["rr", "sh"]))
        found[key] = Service(key=key, scheduler=scheduler, flags=0, destinations=tuple(backends))
    return found


@st.composite
def passes(draw: st.DrawFn) -> Pass:
    """Tables; whether senders are told; whether this node is Active; after how many steps the agent dies."""
    return draw(wholes()), draw(st.sampled_from(Senders)), draw(st.booleans()), draw(st.integers(0, 60))


def one_pass(now: Kernel, before: LoopGuard | None, what: Pass) -> tuple[list[Kernel], LoopGuard]:
    """What the kernel has after each step of ``runtime.loop``, and what was wished of the guard."""
    whole, senders, active, _ = what
    found = [now]

    def wished() -> LoopGuard:
        there = found[-1][0].services
        return loop_guard(widened(whole, there, ()), (), PEERS, ours(there.values()).keys(), whole.keys())

    def guard(wish: LoopGuard) -> None:
        for op in steps(wish, ours(found[-1][0].services.values())):
            found.append((apply(found[-1][0], op), found[-1][1]))
        found.append((found[-1][0], wish.every))

    wish = wished()
    guard(begun(wish, ours(now[0].services.values()), before))
    full = guarded(wish, found[-1][0].services, whole.values(), (), senders)
    wanted = {
        key: table
        if active or key in full
        else replace(table, destinations=tuple(d for d in table.destinations if d.method is M))
        for key, table in whole.items()
    }
    ordinary = {key: service for key, service in found[-1][0].services.items() if not key.mark}
    want, have = KernelState(services=wanted, sysctls=REQUIRED), replace(found[-1][0], services=ordinary)
    for op in diff(want, have, Owned(services=frozenset(KEYS))).ops:
        found.append((apply(found[-1][0], op), found[-1][1]))
    wish = wished()
    guard(wish)
    return found, wish


def unsafe(now: Kernel) -> set[ServiceKey]:
    """Services here that may send on what another node has sent to a backend of this one."""
    state, marks = now
    found = set()
    for key, table in state.services.items():
        if key.mark or len({d.method for d in table.destinations}) < 2:
            continue
        mark = next((mark for mark in marks if mark.address == key.address), None)
        taken = state.services.get(replace(key, mark=mark.value)) if mark else None
        chosen = [d for d in taken.destinations if d.weight] if taken else []
        if not chosen or any(d.method is not M for d in chosen):
            found.add(key)
    return found


@settings(max_examples=300, deadline=None)
@given(st.lists(passes(), min_size=1, max_size=4), st.booleans())
def test_no_step_leaves_a_whole_table_without_its_guard(story: list[Pass], lives: bool) -> None:
    """``lives``: the agent, with all of its passes done; else each dies somewhere."""
    now: Kernel = (KernelState(sysctls=REQUIRED), frozenset())
    wish: LoopGuard | None = None
    active_before = False
    gone: set[ServiceKey] = set()
    for what in story:
        found, wish = one_pass(now, wish, what)
        whole, _, active, died = what
        # An agent that starts does not know the marks of an object that went meanwhile, whose address goes first. One
        # that died over that leaves it so to the next, for which the object may be there again.
        watched = set(KEYS if lives else whole)
        for state in found:
            # An Active node holds everything whatever becomes of the guard, and has it for a moment after.
            assert active or unsafe(state) & watched <= (unsafe(now) if active_before else unsafe(now) & gone)
        assert active or not unsafe(found[-1])
        now = found[-1] if lives else found[min(died, len(found) - 1)]
        wish = wish if lives else None
        active_before, gone = active, set(KEYS) - watched
