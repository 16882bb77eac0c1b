"""A kernel with thousands of services of somebody else: what ours cost, and what wakes the agent."""

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest

from lvsagent.adapters.glance import FEW, Glance
from lvsagent.adapters.kernel import Kernel
from lvsagent.adapters.netlink import Netlink
from lvsagent.adapters.statefile import StateFiles
from lvsagent.core.diff import AddDestination, AddService, DeleteService, EditService, Op
from lvsagent.core.loops import MARKS
from lvsagent.core.state import ServiceKey
from lvsagent.runtime.worker import Worker
from lvsapi.model import Protocol
from tests.net.tables import KEY, VIP, make, pod, service, wanted

pytestmark = pytest.mark.net

FOREIGN = 3000
PODS = [pod(number) for number in range(1, 11)]
SOMEBODYS = ServiceKey(ip_address("10.99.0.1"), Protocol.TCP, 80)


def keys_of(number: int) -> frozenset[ServiceKey]:
    return frozenset(replace(KEY, port=port) for port in range(1000, 1000 + number))


def foreign() -> Iterator[Op]:
    """As kube-proxy has them."""
    for number in range(FOREIGN):
        key = ServiceKey(ip_address(f"10.{99 + number // 60000}.{number // 250}.{number % 250 + 1}"), Protocol.TCP, 80)
        yield AddService(key, "rr", 0)
        yield from (AddDestination(key, pod(place)) for place in range(1, 5))


class Counted:
    """Messages of netlink that were received."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.seen: Counter[str] = Counter()
        receive = Netlink._receive

        def counted(netlink: Netlink) -> Iterator[tuple[int, int, int, bytes]]:
            for message in receive(netlink):
                self.seen["messages"] += 1
                yield message

        monkeypatch.setattr(Netlink, "_receive", counted)

    def of(self, work: Callable[[], Any]) -> tuple[int, float, Any]:
        """Messages and seconds, of the quickest of three, and what came of it."""
        best = 1e9
        for _ in range(3):
            before, begin = self.seen["messages"], time.perf_counter()
            found = work()
            best = min(best, time.perf_counter() - begin)
            messages = self.seen["messages"] - before
        return messages, best, found


def test_the_services_of_others_are_listed_and_no_more_and_a_look_at_a_few_of_ours_sees_none_of_them(
    kernel: Kernel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = keys_of(10)
    make(kernel, wanted(*(service(*PODS, key=key) for key in mine)))
    counted, glance = Counted(monkeypatch), Glance(Path("/proc/sys"), tmp_path)
    alone = {"read": counted.of(lambda: kernel.read(mine)), "look": counted.of(lambda: glance.look(mine))}
    assert kernel.apply(tuple(foreign())) == ()
    among = {"read": counted.of(lambda: kernel.read(mine)), "look": counted.of(lambda: glance.look(mine))}
    everything = counted.of(kernel.read)
    for what, (messages, seconds, _) in among.items():
        before = f"{alone[what][0]} messages, {alone[what][1] * 1000:.1f} ms"
        print(f"{what}: {messages} messages, {seconds * 1000:.1f} ms; alone {before}")
    print(f"everything: {everything[0]} messages, {everything[1] * 1000:.1f} ms")
    assert among["read"][0] == alone["read"][0] + FOREIGN
    assert among["look"][0] == alone["look"][0] < 50
    assert everything[0] > 5 * FOREIGN
    assert among["read"][1] < everything[1] / 4
    assert among["look"][1] < everything[1] / 20
    assert among["read"][2] == alone["read"][2]
    assert among["read"][2].services.keys() == mine
    assert len(everything[2].services) == FOREIGN + len(mine)
    glance.close()


@pytest.mark.parametrize("number", [10, FEW + 10])
def test_what_others_do_to_their_services_wakes_nobody_and_what_they_do_to_ours_does(
    kernel: Kernel, tmp_path: Path, number: int
) -> None:
    """With few, and with so many that the list is read for them."""
    mine, guarding = keys_of(number), ServiceKey(VIP, None, 0, MARKS[7])
    first = min(mine, key=lambda key: key.port)
    make(kernel, wanted(*(service(*PODS[:1], key=key) for key in mine)))
    asked_for_later = replace(KEY, port=99)

    async def story() -> None:
        worker = Worker(lambda: kernel, StateFiles(tmp_path), lambda: Glance(Path("/proc/sys"), tmp_path))

        async def moved(*ops: Op) -> bool:
            assert kernel.apply(ops) == ()
            return await worker.moved()

        state, _ = await worker.read(mine)
        assert state.services.keys() == mine
        assert not await moved()
        assert not await moved(AddService(SOMEBODYS, "rr", 0), AddDestination(SOMEBODYS, PODS[0]))
        assert not await moved(EditService(SOMEBODYS, "wlc", 0))
        assert not await moved(DeleteService(SOMEBODYS))
        for ops in (
            [EditService(first, "rr", 0)],
            [DeleteService(first)],
            [AddService(first, "mh", 0x18)],
        ):
            assert await moved(*ops)
            await worker.read(mine)
            assert not await moved()

        # Somebody's service where one of ours is wanted from now on.
        assert not await moved(AddService(asked_for_later, "rr", 0), AddDestination(asked_for_later, PODS[0]))
        state = await worker.ask(mine | {asked_for_later}, state)
        assert state.services[asked_for_later] == service(PODS[0], key=asked_for_later, scheduler="rr", flags=0)
        assert not await moved()
        assert await moved(DeleteService(asked_for_later))
        assert await worker.ask(mine | {asked_for_later}, state) is state
        state = await worker.ask(mine | {asked_for_later, SOMEBODYS}, state)
        assert await moved(), "what moved before it was asked is noticed all the same"

        # What an agent before this one left with a firewall mark of ours is found without being asked for.
        assert not (await worker.read(mine))[0].services.keys() - mine
        assert kernel.apply([AddService(guarding, "mh", 0x18)]) == ()
        state, _ = await worker.read(mine)
        assert state.services.keys() - mine == {guarding}
        assert not await moved()
        assert await moved(DeleteService(guarding))
        kernel_stays, worker._kernel = worker._kernel, None
        assert kernel_stays is kernel
        await worker.close()

    asyncio.run(story())
