"""Pods that wait are asked beside the backends, and keep their answers when they become backends."""

from ipaddress import ip_address

import pytest

from lvsagent.checks.messages import Target, Verdict
from lvsagent.core.gates import Gate
from lvsagent.core.state import NodeFacts
from lvsagent.runtime.gates import Gatekeeper
from lvsagent.runtime.health import Keeper
from lvsagent.runtime.view import View
from lvsapi.model import Snapshot
from lvsapi.resolve import resolve
from tests.gen import endpoint, endpoint_slice, snapshot
from tests.statistics import router_statistics
from tests.unit.test_gates import pod, web

pytestmark = pytest.mark.unit

FACTS = NodeFacts(node="node2", interfaces=(), default_interface={})
NAME = "default/web 192.168.139.123:80 10.244.1.9:8080/TCP"


class Rig:
    """The agent of node2, which is Active when told so."""

    def __init__(self) -> None:
        self.wishes: list[tuple[Target, ...]] = []
        self.written: tuple[Gate, ...] = ()
        self.view = View(node="node2", version="0")
        self.keeper = Keeper(view=self.view, wake=lambda: None)
        self.gates = Gatekeeper(view=self.view, keeper=self.keeper, asks=self, writes=_Written(self))
        self.keeper.asks = self.gates

    def want(self, targets: tuple[Target, ...]) -> None:
        """In the place of the checkers."""
        assert len({target.name for target in targets}) == len(targets), "nothing is asked twice"
        self.wishes.append(targets)

    def see(self, given: Snapshot, active: bool = True) -> None:
        """A pass of the loop."""
        self.view.resolved = resolve(given)
        self.view.claims.routers = {
            router.name: router_statistics(router.name, state="Active" if active else "Backup")
            for router in self.view.resolved.routers
        }
        self.keeper.over(self.view.resolved, FACTS, {}, 1.0)
        self.gates.passed(given, FACTS)

    def hear(self, up: bool) -> None:
        self.gates.heard(Verdict(generation=1, name=NAME, up=up, reason="" if up else "mute"))

    def asked(self) -> list[str]:
        return [str(target.address) for target in self.wishes[-1]]


class _Written:
    def __init__(self, rig: Rig) -> None:
        self._rig = rig

    def want(self, gates: tuple[Gate, ...]) -> None:
        self._rig.written = gates


WAITS = snapshot(web(), slices=[endpoint_slice([endpoint(), pod()])])
READY = snapshot(web(), slices=[endpoint_slice([endpoint(), pod(ready=True, serving=True)])])


def test_a_pod_that_waits_is_asked_like_a_backend_and_is_none() -> None:
    rig = Rig()
    rig.see(WAITS)
    assert rig.asked() == ["10.244.1.2", "10.244.1.9"]
    (target,) = [target for target in rig.wishes[-1] if target.name == NAME]
    assert (target.through, target.virtual_address) == ("node1", ip_address("192.168.139.123"))
    rig.hear(True)
    assert rig.view.effective is not None
    weights = {str(b.address): b.weight for b in rig.view.effective.servers[0].backends}
    assert weights.get("10.244.1.9", 0) == 0


def test_what_is_found_out_is_written_at_once_by_the_active_node_only() -> None:
    rig = Rig()
    rig.see(WAITS)
    assert [(gate.status, gate.reason) for gate in rig.written] == [(False, "NotAnswered")]
    rig.hear(False)
    assert [(gate.status, gate.message) for gate in rig.written] == [(False, "default/web: mute")]
    rig.hear(True)
    assert [gate.status for gate in rig.written] == [True]
    rig.see(WAITS, active=False)
    assert not list(rig.written)
    rig.see(WAITS)
    assert [gate.status for gate in rig.written] == [True], "it still knows"


def test_one_that_becomes_ready_is_asked_on_under_the_same_name_and_nothing_is_written_any_more() -> None:
    rig = Rig()
    rig.see(WAITS)
    before = next(target for target in rig.wishes[-1] if target.name == NAME)
    rig.hear(True)
    rig.see(READY)
    assert [target for target in rig.wishes[-1] if target.name == NAME] == [before]
    assert not list(rig.written)
    assert rig.view.effective is not None
    weights = {str(b.address): b.weight for b in rig.view.effective.servers[0].backends}
    assert weights["10.244.1.9"] == 1


def test_one_that_goes_is_forgotten() -> None:
    rig = Rig()
    rig.see(WAITS)
    rig.hear(True)
    rig.see(snapshot(web()))
    assert rig.asked() == ["10.244.1.2"]
    assert not list(rig.written)
    rig.see(WAITS)
    assert [gate.reason for gate in rig.written] == ["NotAnswered"]
