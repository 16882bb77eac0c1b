"""What a takeover keeps of established connections to pods: every scheduler, both families."""

import itertools
import json
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from lvsapi.model import Resolved
from lvsapi.resolve import resolve
from lvsapi.takeover import kept_of
from tests.gen import assignment, endpoint, endpoint_slice, node, port, service_class, snapshot, virtual_service
from tests.net import matrix_results, matrix_server
from tests.net.lan import Lan
from tests.net.matrix import BY_PACKET, FIRST_PORT, PROTOCOL_NUMBERS, WITH_PODS, Case
from tests.net.matrix_takeover import FIRST_CLIENT_PORT, Held, Services
from tests.net.pods import POD_PORT, await_listening
from tests.net.test_dual_stack_net import VIPS, DualLan

pytestmark = pytest.mark.net
Steps = dict[str, tuple[Counter[tuple[str, str]], Counter[tuple[str, str]]]]
"""By step: held connections to pods that live, by case and pod, and those of them that were lost."""


class Pods(DualLan, Services):
    """n1, n2, n3 with a pod each; every case has a port of its own."""

    def __init__(self, lan: Lan, folder: Path) -> None:
        super().__init__(lan, 3)
        self.cases = WITH_PODS
        self.ports = {case.name: FIRST_PORT + number for number, case in enumerate(self.cases)}
        self.client_ports = itertools.count(FIRST_CLIENT_PORT)
        self.resolved = self._objects()
        self.active = frozenset(router.name for router in self.resolved.routers)
        logs = []
        places = json.dumps([(PROTOCOL_NUMBERS["TCP"], POD_PORT, address) for address in ("0.0.0.0", "::")])
        for number, _ in enumerate(self.nodes, 1):
            name = f"p{number}"
            logs.append(folder / f"{name}.log")
            lan.popen(name, [sys.executable, "-I", "-S", matrix_server.__file__, name, places], log=logs[-1])
        for log in logs:
            await_listening(log)
        self.beat_once()
        for name in self.nodes:
            # ovf refuses many connections at a time.
            lan.run(name, ["sysctl", "-qw", "net.ipv4.icmp_ratelimit=0", "net.ipv6.icmp.ratelimit=0"])
            self.program(name, self.resolved, guarded=True)

    def vip_of(self, case: Case) -> str:
        return VIPS[case.family]

    def _objects(self) -> Resolved:
        items = [
            virtual_service(
                f"case{self.ports[case.name]}",
                addresses=[self.vip_of(case)],
                ports=[port(self.ports[case.name], target=POD_PORT)],
                scheduler=case.scheduler,
                assigned=assignment(200, {"n1": 100, "n2": 50, "n3": 20}),
            )
            for case in self.cases
        ]
        slices = [
            endpoint_slice([endpoint(of_node.format(k), f"n{k}") for k in (1, 2, 3)], name=of_node)
            for of_node in ("10.244.{}.11", "fd00:244:{}::11")
        ]
        nodes = [node(f"n{k}", f"10.0.0.2{k}", f"fd00::2{k}") for k in (1, 2, 3)]
        found = resolve(snapshot(*items, slices=slices, classes=[service_class()], nodes=nodes))
        assert found.problems == ()
        return found

    def move(self, old: str | None, new: str) -> None:
        """The address moves, the tables stand; then the agents hear of it. Without ``old`` it only comes."""
        for vip in VIPS.values():
            self.hold(new, vip)
            if old is not None:
                self.release(old, vip)
        self.program(new, self.resolved, self.active, guarded=True)
        if old is not None:
            self.program(old, self.resolved, guarded=True)


@pytest.fixture(scope="module")
def pods(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pods]:
    with Lan() as lan:
        yield Pods(lan, tmp_path_factory.mktemp("pods"))


@pytest.fixture(scope="module")
def over(pods: Pods) -> Steps:
    """The Active node is n1, then n2, which dies, then n3."""
    pods.move(None, "n1")
    with Held(pods) as held:
        pods.move("n1", "n2")
        planned = Counter(held.names.values()), held.lost()
    with Held(pods) as held:
        pods.lan.unplug("n2")
        pods.move(None, "n3")
        living = Counter({name: number for name, number in Counter(held.names.values()).items() if name[1] != "p2"})
        crash = living, held.lost() & living
    found = {"planned": planned, "crash": crash}
    results: dict[str, dict[str, int]] = {case.name: {} for case in pods.cases}
    for step, (all_held, lost) in found.items():
        for name, numbers in results.items():
            held_here, lost_here = (sum(n for (case, _), n in c.items() if case == name) for c in (all_held, lost))
            numbers |= {f"{step} held": held_here, f"{step} kept": held_here - lost_here}
    matrix_results.write("pods", results)
    return found


@pytest.mark.parametrize(("step", "new"), [("planned", "p2"), ("crash", "p3")])
def test_what_is_promised_is_kept_and_what_the_new_active_node_has_itself(
    pods: Pods, over: Steps, step: str, new: str
) -> None:
    held, lost = over[step]
    promised = {
        case.name: kept_of([server for server in pods.resolved.servers if server.port == port], False, False, "").all
        for case, port in zip(pods.cases, pods.ports.values(), strict=True)
    }
    assert {case for case, _ in held} >= {case for case, yes in promised.items() if yes}
    assert [name for name in lost if promised[name[0]]] == []
    assert [name for name in lost if name[1] == new] == []
    assert {"rr IPv4", "rr IPv6"} <= {case for case, _ in lost}, "the condition says too little, or this sees nothing"


def test_what_a_takeover_keeps_is_what_is_recorded(over: Steps) -> None:
    """Of schedulers that go by packet and table; of the others it is chance."""
    recorded = matrix_results.recorded()["pods"]
    for case in WITH_PODS:
        if case.scheduler in BY_PACKET:
            lost = {step for step, (_, gone) in over.items() if case.name in {name for name, _ in gone}}
            numbers = recorded[case.name]
            assert lost == {step for step in over if numbers[f"{step} kept"] < numbers[f"{step} held"]}, case.name
