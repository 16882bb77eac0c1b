"""What the agent believes of the API as a whole: what is kept that the API does not have, and how that is said."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import Any

import pytest

from lvsagent.adapters import kubesource, reflector
from lvsagent.adapters.kube import ApiClient
from lvsagent.adapters.kubeconfig import KubeConfig
from lvsagent.adapters.kubesource import SERVER, KubeSource
from lvsagent.core.brakes import BRAKE_SECONDS, GATHER_SECONDS, Held
from lvsagent.core.cache import HOLD_SECONDS
from lvsapi import names
from lvsapi.model import ObjectKey
from tests.fakes.clock import run
from tests.gen import (
    raw_endpoint_slice,
    raw_metadata,
    raw_node,
    raw_service,
    raw_virtual_service,
)

pytestmark = pytest.mark.unit

COUNT = 6


@pytest.fixture(autouse=True)
def _one_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = SimpleNamespace(monotonic=lambda: asyncio.get_running_loop().time())
    monkeypatch.setattr(kubesource, "time", clock)
    monkeypatch.setattr(reflector, "time", clock)


class Rig:
    """A source that was told everything once; nothing is asked of an API."""

    def __init__(self) -> None:
        self.wakes = 0
        self.source = KubeSource(ApiClient(KubeConfig(server="http://127.0.0.1:1")), self._wake)
        self.names = [f"web{n}" for n in range(COUNT)]
        self.by_name = {each.resource.name: each for each in self.source.reflectors}
        self.listed(names.PLURAL, *(raw_virtual_service(n, serviceRef={"name": n}) for n in self.names))
        self.listed("services", self.server("one"), *(raw_service(n) for n in self.names))
        self.listed("nodes", raw_node())
        self.listed(names.CLASS_PLURAL)
        self.listed("endpointslices", *(self.slice(n) for n in self.names))
        self.source.expire()

    def _wake(self) -> None:
        self.wakes += 1

    @staticmethod
    def server(uid: str) -> dict[str, Any]:
        return {**raw_service(SERVER.name), "metadata": raw_metadata(SERVER.name, uid=uid)}

    @staticmethod
    def slice(service: str, *more: str) -> dict[str, Any]:
        return raw_endpoint_slice(["10.244.1.2", "10.244.1.3", *more], service=service)

    def listed(self, resource: str, *raw: dict[str, Any]) -> None:
        it = self.by_name[resource]
        parsed = {reflector.key_of(one): it.resource.parse(one) for one in raw}
        it.cache.replace(parsed, asyncio.get_running_loop().time(), lambda _: True)
        it.synced, it.covered = True, ""

    def watch(self, resource: str, kind: str, raw: dict[str, Any]) -> None:
        self.by_name[resource]._take(kind, raw)

    @property
    def served(self) -> list[str]:
        found = self.source.snapshot()
        assert found is not None
        return [item.key.name for item in found.virtual_services]

    async def after(self, seconds: float) -> "Rig":
        await asyncio.sleep(seconds)
        self.source.expire()
        return self


def story(act: Callable[[Rig], Awaitable[None]]) -> None:
    async def whole() -> None:
        await act(Rig())

    run(whole())


def test_an_empty_list_of_the_same_server_is_believed_after_ten_minutes() -> None:
    """Who was away while the objects were deleted must not bring them back to life for ever."""

    async def act(rig: Rig) -> None:
        rig.listed(names.PLURAL)
        assert (await rig.after(HOLD_SECONDS - 1.0)).served == rig.names
        assert rig.source.held[names.PLURAL, Held.MISSING] == COUNT
        assert (await rig.after(2.0)).served == []

    story(act)


@pytest.mark.parametrize("services", ["another", "none"])
def test_an_empty_list_of_another_server_is_not_believed_until_half_of_it_is_back(services: str) -> None:
    async def act(rig: Rig) -> None:
        rig.listed(names.PLURAL)
        rig.listed("services", *([rig.server("two")] if services == "another" else []))
        assert (await rig.after(3 * HOLD_SECONDS)).served == rig.names, "and its Services with it"
        assert rig.source.held["services", Held.MISSING] >= COUNT
        for name in rig.names[:3]:
            rig.watch(names.PLURAL, "ADDED", raw_virtual_service(name, serviceRef={"name": name}))
        assert (await rig.after(1.0)).served == rig.names[:3]

    story(act)


def test_a_source_that_begins_from_the_last_good_state_knows_its_server() -> None:
    async def act(rig: Rig) -> None:
        saved = rig.source.snapshot()
        assert saved is not None
        later = KubeSource(ApiClient(KubeConfig(server="http://127.0.0.1:1")), lambda: None)
        later.seed(saved)
        rig.source, rig.by_name = later, {each.resource.name: each for each in later.reflectors}
        rig.listed(names.PLURAL)
        assert (await rig.after(HOLD_SECONDS + 1.0)).served == rig.names, "Services are not listed yet"
        rig.listed("services", rig.server("two"))
        assert (await rig.after(HOLD_SECONDS + 1.0)).served == rig.names

    story(act)


def test_deleting_all_objects_is_held_and_said_once_and_obeyed_after_a_minute(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def act(rig: Rig) -> None:
        for name in rig.names:
            rig.watch(names.PLURAL, "DELETED", raw_virtual_service(name))
        before = rig.wakes
        assert (await rig.after(GATHER_SECONDS + 2 * reflector.SOON)).served == rig.names
        assert rig.wakes > before, "somebody looks when it is known how many there are"
        await rig.after(1.0)
        assert rig.source.held[names.PLURAL, Held.DELETED] == COUNT
        assert [(key.name, reason) for key, reason, _ in rig.source.news] == [
            (name, "DeletedTogether") for name in rig.names
        ]
        assert (await rig.after(BRAKE_SECONDS)).served == []
        assert rig.source.held[names.PLURAL, Held.DELETED] == 0
        assert not rig.source.observed

    with caplog.at_level(logging.WARNING):
        story(act)
    (said,) = [record for record in caplog.records if "were deleted at once" in record.getMessage()]
    assert (vars(said)["reason"], vars(said)["number"]) == ("DeletedTogether", COUNT)


def test_an_agent_that_goes_lets_go_of_what_was_deleted() -> None:
    async def act(rig: Rig) -> None:
        for name in rig.names:
            rig.watch(names.PLURAL, "DELETED", raw_virtual_service(name))
        await rig.after(5.0)
        assert rig.source.release() == {ObjectKey("default", name) for name in rig.names}
        assert rig.served == []
        assert rig.source.release() == frozenset()

    story(act)


def test_an_agent_that_starts_anew_does_not_know_what_was_deleted() -> None:
    async def act(rig: Rig) -> None:
        whole = rig.source.snapshot()
        assert whole is not None
        assert rig.source.lasting(whole) == whole
        for name in rig.names[1:]:
            rig.watch(names.PLURAL, "DELETED", raw_virtual_service(name))
        await rig.after(5.0)
        held = rig.source.snapshot()
        assert held is not None
        assert len(held.virtual_services) == COUNT
        assert [item.key.name for item in rig.source.lasting(held).virtual_services] == rig.names[:1]

    story(act)


def test_an_object_that_is_made_anew_keeps_its_assignment_until_the_operator_has_looked() -> None:
    """``kubectl replace --force``, or objects applied again after a restore: the status is gone, its clients not."""
    status = {"virtualRouterID": 200, "directors": [{"node": "node1", "priority": 250}], "observedGeneration": 1}

    async def act(rig: Rig) -> None:
        def assigned() -> int | None:
            found = rig.source.snapshot()
            assert found is not None
            (web,) = [item for item in found.virtual_services if item.key.name == "web0"]
            return web.assigned.virtual_router_id if web.assigned is not None else None

        def put(**more: Any) -> int | None:
            rig.watch(names.PLURAL, "ADDED", raw_virtual_service("web0", **{"serviceRef": {"name": "web0"}, **more}))
            return assigned()

        assert put(status=status) == 200
        rig.watch(names.PLURAL, "DELETED", raw_virtual_service("web0"))
        await rig.after(0.1)
        assert put() == 200
        await rig.after(60.0)
        assert assigned() == 200, "as long as the operator is away"
        assert put(addresses=["10.9.9.9"]) is None, "what nobody has judged"
        assert put(status=status) == 200
        assert put(status={"observedGeneration": 1}) is None, "refused"

    story(act)


def test_slices_that_somebody_empties_keep_their_endpoints_and_the_objects_say_so(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def act(rig: Rig) -> None:
        assert not rig.source.warnings
        assert len(rig.served) == COUNT
        for name in rig.names:
            raw = rig.slice(name)
            raw["endpoints"] = []
            rig.watch("endpointslices", "MODIFIED", raw)
        found = rig.source.snapshot()
        assert found is not None
        assert sum(len(part.endpoints) for part in found.slices) == 2 * COUNT
        assert rig.source.held["endpoints", Held.VANISHED] == 2 * COUNT
        assert {(problem.key.name, problem.reason) for problem in rig.source.warnings} == {
            (name, "EndpointsVanished") for name in rig.names
        }
        assert "of Service default/web0 are gone at once" in rig.source.warnings[0].message
        before = rig.wakes
        await rig.after(BRAKE_SECONDS + 0.1)
        assert rig.wakes > before
        found = rig.source.snapshot()
        assert found is not None
        assert sum(len(part.endpoints) for part in found.slices) == 0
        assert not rig.source.warnings

    with caplog.at_level(logging.WARNING):
        story(act)
    said = [vars(record)["object"] for record in caplog.records if "gone at once" in record.getMessage()]
    assert len(said) == COUNT
