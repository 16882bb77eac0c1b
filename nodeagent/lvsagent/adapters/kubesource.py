"""The API server as a source of snapshots: five reflectors and what ties them together."""

import asyncio
import functools
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from lvsagent.adapters.kube import ApiClient
from lvsagent.adapters.reflector import MOST_NAMED, SOON, Health, Reflector, Resource, key_of
from lvsagent.core.brakes import BRAKE_SECONDS, Held
from lvsagent.core.cache import Cache, Malformed
from lvsagent.core.vanished import Vanished
from lvsapi import names
from lvsapi.errors import SpecError
from lvsapi.model import EndpointSlice, ObjectKey, Problem, Snapshot, VirtualService
from lvsapi.parse import parse_class, parse_endpoint_slice, parse_node, parse_service, parse_virtual_service
from lvsapi.status import ConditionType, refused

T = TypeVar("T")
News = tuple[ObjectKey, str, str]
"""Object, reason and message of a warning."""

_log = logging.getLogger(__name__)

OUR_API = f"/apis/{names.API_VERSION}"
MOST_NAMES = 100
"""Longer selectors make URLs that servers refuse; above this all EndpointSlices are listed."""
SERVER = ObjectKey("default", "kubernetes")
"""The API server's own Service, which it makes anew when there is none: with another uid its etcd is another."""
NONE = f"{names.SERVICE_NAME_LABEL},!{names.SERVICE_NAME_LABEL}"
"""A selector that nothing fits; the API server refuses ``in ()`` and impossible label values."""


def slice_selector(services: frozenset[str]) -> str:
    """Label selector for the EndpointSlices of these Services (names, of any namespace); "" is all."""
    if len(services) > MOST_NAMES:
        return ""
    return f"{names.SERVICE_NAME_LABEL} in ({','.join(sorted(services))})" if services else NONE


@dataclass(slots=True)
class Observed:
    """What is kept of a VirtualService besides its parsed spec, for writing its status."""

    metadata: dict[str, Any]
    """name, namespace, uid, generation."""
    conditions: list[Any]
    active_node: str
    active_since: str

    def as_object(self) -> Mapping[str, object]:
        """As ``lvsapi.status`` reads it."""
        return {"metadata": self.metadata, "status": {"conditions": self.conditions}}


@dataclass(slots=True)
class _Covered:
    """VirtualServices as they may be used: with the EndpointSlices of their Service listed."""

    in_force: dict[ObjectKey, VirtualService] = field(default_factory=dict)


class KubeSource:
    """Snapshots from the API. ``seed`` first, then ``run`` until cancelled."""

    def __init__(self, client: ApiClient, changed: Callable[[], None], **reflector: Any) -> None:
        self.observed: dict[ObjectKey, Observed] = {}
        self._changed = changed
        self._seeded = False
        self._named: set[Problem] = set()
        self._covered = _Covered()
        self._vanished = Vanished()
        self._timer: asyncio.TimerHandle | None = None
        self._server = ""
        """uid of SERVER while nothing was missing."""
        self._said: set[ObjectKey] = set()
        self.news: list[News] = []
        """To be posted as events; whoever does so empties it."""
        make = functools.partial(_reflector, client, self._wake, reflector)
        self._virtual_services = make(names.PLURAL, f"{OUR_API}/{names.PLURAL}", self._parse, brake=True)
        self._classes = make(
            names.CLASS_PLURAL, f"{OUR_API}/{names.CLASS_PLURAL}", functools.partial(parse_class, pruned=True)
        )
        self._services = make("services", "/api/v1/services", parse_service)
        self._slices = make(
            "endpointslices",
            "/apis/discovery.k8s.io/v1/endpointslices",
            parse_endpoint_slice,
            group=lambda item: ObjectKey(item.key.namespace, item.service),
            wanted=self._is_wanted,
        )
        self._nodes = make("nodes", "/api/v1/nodes", parse_node)
        self.reflectors: tuple[Reflector[Any], ...] = (
            self._virtual_services,
            self._classes,
            self._services,
            self._slices,
            self._nodes,
        )
        self._slices.select(slice_selector(frozenset()))

    @property
    def synced(self) -> bool:
        """Every resource was listed once, the EndpointSlices for all wanted Services."""
        return all(reflector.synced for reflector in self.reflectors) and self._services_wanted() <= self._listed()

    @property
    def health(self) -> Mapping[str, Health]:
        """By resource."""
        return {reflector.resource.name: reflector.health for reflector in self.reflectors}

    @property
    def problems(self) -> tuple[Problem, ...]:
        """Objects that do not parse."""
        return tuple(p for reflector in self.reflectors for p in reflector.cache.problems.values())

    @property
    def held(self) -> Mapping[tuple[str, Held], int]:
        """How many objects are kept that the API does not have, by resource and reason."""
        braking = self._virtual_services.cache.braking(time.monotonic())
        found = {(reflector.resource.name, Held.MISSING): len(reflector.cache.held) for reflector in self.reflectors}
        deleted = len(self._virtual_services.cache.leaving) if braking else 0
        return {
            **found,
            (names.PLURAL, Held.DELETED): deleted,
            ("endpoints", Held.VANISHED): sum(self._vanished.held.values()),
        }

    @property
    def warnings(self) -> tuple[Problem, ...]:
        """About objects whose endpoints are kept."""
        held = self._vanished.held
        return tuple(
            Problem(
                key=item.key,
                condition=ConditionType.NODE_HEALTHY,
                reason=Held.VANISHED,
                message=f"{held[service]} endpoints of Service {service} are gone at once and did not terminate: they"
                f" are kept for {BRAKE_SECONDS:.0f} s, or until it has a new one; look for who emptied its"
                " EndpointSlices",
            )
            for item in self._covered.in_force.values()
            if (service := ObjectKey(item.key.namespace, item.service or "")) in held
        )

    def seed(self, snapshot: Snapshot) -> None:
        """Serve from a saved snapshot until the API answers."""
        self._virtual_services.cache.objects = {item.key: item for item in snapshot.virtual_services}
        self._classes.cache.objects = {ObjectKey("", item.name): item for item in snapshot.classes}
        self._services.cache.objects = {item.key: item for item in snapshot.services}
        self._slices.cache.objects = {item.key: item for item in snapshot.slices}
        self._nodes.cache.objects = {ObjectKey("", item.name): item for item in snapshot.nodes}
        self._covered.in_force = dict(self._virtual_services.cache.objects)
        self._server = self._server_now()
        self._seeded = True
        self._select()

    def snapshot(self) -> Snapshot | None:
        """What is believed now; None when nothing is known yet."""
        if not (self._seeded or self.synced):
            return None
        listed = self._listed()
        usable: dict[ObjectKey, VirtualService] = {}
        for key, item in self._virtual_services.cache.objects.items():
            if item.service is None or item.service in listed or self._known(key, item):
                usable[key] = self._with_assignment(key, item)
            elif key in self._covered.in_force:
                # Its new Service's endpoints are on their way; an address without backends must not be announced.
                usable[key] = self._covered.in_force[key]
        self._covered.in_force = usable
        return Snapshot(
            virtual_services=tuple(sorted(usable.values(), key=lambda item: item.key)),
            classes=_sorted(self._classes.cache),
            services=_sorted(self._services.cache),
            slices=(*_sorted(self._slices.cache), *self._kept(time.monotonic())),
            nodes=_sorted(self._nodes.cache),
        )

    def expire(self) -> None:
        """Let go of what was held back long enough. To be called now and then."""
        now = time.monotonic()
        same = self._is_same_server()
        if any([reflector.cache.expire(now, same) for reflector in self.reflectors]):
            self._wake()
        self._say(now)

    def release(self) -> frozenset[ObjectKey]:
        """Let go of everything that was deleted. Returns what that is."""
        gone = frozenset(self._virtual_services.cache.leaving)
        if self._virtual_services.cache.release(time.monotonic()):
            self._wake()
        return gone

    def lasting(self, snapshot: Snapshot) -> Snapshot:
        """What of it an agent that starts anew shall know: not what was deleted. It would find that missing from a list
        and keep it for ten minutes more, and whoever uninstalls meanwhile leaves it behind."""
        leaving = self._virtual_services.cache.leaving
        stay = tuple(item for item in snapshot.virtual_services if item.key not in leaving)
        return replace(snapshot, virtual_services=stay) if leaving else snapshot

    def _server_now(self) -> str:
        found = self._services.cache.objects.get(SERVER)
        return found.uid if found is not None and SERVER not in self._services.cache.held else ""

    def _is_same_server(self) -> bool:
        """Whether the API server is the one that had what is missing now."""
        now = self._server_now() if self._services.synced else ""
        if now and not any(reflector.cache.held for reflector in self.reflectors):
            self._server = now
        return bool(now) and self._server in ("", now)

    def _say(self, now: float) -> None:
        """That deletions are held, once for each."""
        cache = self._virtual_services.cache
        leaving = set(cache.leaving) if cache.braking(now) else set()
        fresh, self._said = sorted(leaving - self._said), leaving
        if not fresh:
            return
        _log.warning(
            "more than half of the objects were deleted at once: they are served on for %d s; to go on with them apply"
            " them again",
            BRAKE_SECONDS,
            extra={
                "resource": names.PLURAL,
                "reason": Held.DELETED,
                "number": len(fresh),
                "held": ",".join(map(str, fresh[:MOST_NAMED])),
            },
        )
        text = f"Deleted with most of the others: served on for {BRAKE_SECONDS:.0f} s; to go on with it apply it again"
        self.news += [(key, Held.DELETED, text) for key in fresh]

    def _kept(self, now: float) -> tuple[EndpointSlice, ...]:
        """Endpoints that vanished and are kept, and a look again when they are to go."""
        wanted = {
            ObjectKey(item.key.namespace, item.service)
            for item in self._virtual_services.cache.objects.values()
            if item.service is not None
        }
        before = self._vanished.held
        kept = self._vanished.over(self._slices.cache.objects, wanted & self._services.cache.objects.keys(), now)
        for service in sorted(self._vanished.held.keys() - before.keys()):
            _log.warning(
                "most endpoints are gone at once and did not terminate: they are kept for %d s, or until there is a"
                " new one",
                BRAKE_SECONDS,
                extra={"object": service, "reason": Held.VANISHED, "number": self._vanished.held[service]},
            )
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._vanished.until is not None:
            delay = max(0.0, self._vanished.until - now) + SOON
            self._timer = asyncio.get_running_loop().call_later(delay, self._changed)
        return kept

    async def run(self) -> None:
        """Watch for ever."""
        async with asyncio.TaskGroup() as group:
            for reflector in self.reflectors:
                group.create_task(reflector.run())

    def _wake(self) -> None:
        cache = self._virtual_services.cache
        for key in self.observed.keys() - cache.objects.keys() - cache.problems.keys():
            del self.observed[key]
        for problem in set(self.problems) - self._named:
            _log.warning(
                "an object cannot be used; its last good version stays in force",
                extra={"object": problem.key, "reason": problem.reason, "error": problem.message},
            )
        self._named = set(self.problems)
        self._select()
        self._changed()

    def _select(self) -> None:
        self._slices.select(slice_selector(frozenset(self._services_wanted())))

    def _services_wanted(self) -> set[str]:
        return {item.service for item in self._virtual_services.cache.objects.values() if item.service}

    def _listed(self) -> set[str]:
        """Wanted Services whose EndpointSlices are in the last complete list."""
        covered = self._slices.covered
        wanted = self._services_wanted()
        if covered is None or covered == NONE:
            return set()
        if covered == "":
            return wanted
        inside = set(covered[covered.index("(") + 1 : -1].split(","))
        return wanted & inside

    def _with_assignment(self, key: ObjectKey, item: VirtualService) -> VirtualService:
        """An object that was deleted and made anew, or restored, keeps what it had until the operator has looked."""
        before = self._covered.in_force.get(key)
        if item.assigned is not None or item.observed_generation == item.generation or before is None:
            return item
        return replace(item, assigned=before.assigned) if before.addresses == item.addresses else item

    def _known(self, key: ObjectKey, item: VirtualService) -> bool:
        """In force already with the same Service: what is known of its endpoints stays good during a list."""
        before = self._covered.in_force.get(key)
        return before is not None and before.service == item.service

    def _is_wanted(self, item: EndpointSlice) -> bool:
        return any(
            other.service == item.service and other.key.namespace == item.key.namespace
            for other in self._virtual_services.cache.objects.values()
        )

    def _parse(self, item: dict[str, Any]) -> VirtualService:
        metadata, status = item.get("metadata"), item.get("status")
        metadata = metadata if isinstance(metadata, dict) else {}
        status = status if isinstance(status, dict) else {}
        active = status.get("active")
        active = active if isinstance(active, dict) else {}
        conditions = status.get("conditions")
        self.observed[key_of(item)] = Observed(
            metadata={name: metadata[name] for name in ("name", "namespace", "uid", "generation") if name in metadata},
            conditions=conditions if isinstance(conditions, list) else [],
            active_node=str(active.get("node") or ""),
            active_since=str(active.get("since") or ""),
        )
        return parse_virtual_service(item, pruned=True)


def _reflector(
    client: ApiClient,
    changed: Callable[[], None],
    options: Mapping[str, Any],
    name: str,
    path: str,
    parse: Callable[[dict[str, Any]], T],
    group: Callable[[T], Any] = lambda _: None,
    wanted: Callable[[T], bool] = lambda _: True,
    brake: bool = False,
) -> Reflector[T]:
    def read(item: dict[str, Any]) -> T | Malformed:
        try:
            return parse(item)
        except SpecError as error:
            return Malformed(refused(key_of(item), error))

    resource: Resource[T] = Resource(name=name, path=path, parse=read)
    return Reflector(client, resource, Cache(group=group, brake=brake), changed, wanted=wanted, **options)


def _sorted(cache: Cache[T]) -> tuple[T, ...]:
    return tuple(cache.objects[key] for key in sorted(cache.objects))
