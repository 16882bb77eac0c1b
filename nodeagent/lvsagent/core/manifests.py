"""Documents of manifests to objects, and files to one snapshot. Pure."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial

from lvsapi import names
from lvsapi.model import (
    EndpointSlice,
    KubeService,
    Node,
    ObjectKey,
    Snapshot,
    VirtualService,
    VirtualServiceClass,
)
from lvsapi.parse import parse_class, parse_endpoint_slice, parse_node, parse_service, parse_virtual_service

Document = VirtualService | VirtualServiceClass | KubeService | EndpointSlice | Node

_PARSERS: Mapping[tuple[str, str], Callable[[Mapping[str, object]], Document]] = {
    (names.API_VERSION, names.KIND): partial(parse_virtual_service, standalone=True),
    (names.API_VERSION, names.CLASS_KIND): parse_class,
    ("v1", "Service"): parse_service,
    ("v1", "Node"): parse_node,
    ("discovery.k8s.io/v1", "EndpointSlice"): parse_endpoint_slice,
}


def read_document(data: object) -> Document | None:
    """The object of a document; None for a kind that does not concern us.

    Raises SpecError, or ValueError for what is no object or one of our group that does not exist.
    """
    if not isinstance(data, Mapping):
        raise ValueError(f"expected an object with apiVersion and kind, got {str(data)[:40]!r}")
    version, kind = data.get("apiVersion"), data.get("kind")
    if not isinstance(version, str) or not isinstance(kind, str):
        raise ValueError("apiVersion and kind are missing: write both")
    parser = _PARSERS.get((version, kind))
    if parser is None:
        if version.startswith(f"{names.GROUP}/"):
            raise ValueError(
                f"{version} {kind} is unknown: {names.API_VERSION} has {names.KIND} and {names.CLASS_KIND}"
            )
        return None
    return parser(data)


@dataclass(frozen=True, slots=True)
class Objects:
    """The objects of one file."""

    by_key: Mapping[tuple[str, ObjectKey], Document] = field(default_factory=dict)

    @classmethod
    def of(cls, documents: Iterable[Document]) -> "Objects":
        """Raises ValueError when one object stands there twice."""
        found: dict[tuple[str, ObjectKey], Document] = {}
        for document in documents:
            name = key_of(document)
            if name in found:
                raise ValueError(f"{name[0]} {name[1]} stands there twice: remove one")
            found[name] = document
        return cls(found)

    @classmethod
    def of_snapshot(cls, snapshot: Snapshot) -> "Objects":
        """All of it, but for nodes that no manifest said anything about (``Folder.with_node``)."""
        said = (node for node in snapshot.nodes if node != Node(name=node.name, labels={}, addresses=()))
        parts: tuple[Iterable[Document], ...] = (
            snapshot.virtual_services,
            snapshot.classes,
            snapshot.services,
            snapshot.slices,
            said,
        )
        return cls({key_of(document): document for part in parts for document in part})

    def without(self, others: "Objects") -> "Objects":
        """Those that are not among the others."""
        if not self.by_key:
            return self
        return Objects({name: document for name, document in self.by_key.items() if name not in others.by_key})


@dataclass(frozen=True, slots=True)
class Folder:
    """The snapshot of all files."""

    snapshot: Snapshot

    def with_node(self, node: str) -> Snapshot:
        """Without any Node manifest and without named directors this node is the only one it knows of."""
        if self.snapshot.nodes:
            return self.snapshot
        known = {director.node for item in self.snapshot.classes for director in item.directors} | {node}
        nodes = tuple(Node(name=name, labels={}, addresses=()) for name in sorted(known))
        return replace(self.snapshot, nodes=nodes)


def key_of(document: Document) -> tuple[str, ObjectKey]:
    """Kind and name."""
    if isinstance(document, VirtualServiceClass | Node):
        return type(document).__name__, ObjectKey("", document.name)
    return type(document).__name__, document.key


def assemble(files: Iterable[tuple[str, Objects]]) -> Folder:
    """One snapshot of the files in the order given; of an object in two files the first counts."""
    merged: dict[tuple[str, ObjectKey], Document] = {}
    for _, objects in files:
        for name, document in objects.by_key.items():
            merged.setdefault(name, document)
    items = [merged[name] for name in sorted(merged)]
    return Folder(
        Snapshot(
            virtual_services=tuple(_identified(item) for item in items if isinstance(item, VirtualService)),
            classes=tuple(item for item in items if isinstance(item, VirtualServiceClass)),
            services=tuple(item for item in items if isinstance(item, KubeService)),
            slices=tuple(item for item in items if isinstance(item, EndpointSlice)),
            nodes=tuple(item for item in items if isinstance(item, Node)),
        )
    )


def _identified(item: VirtualService) -> VirtualService:
    """A manifest has no uid: its name decides conflicts, the same on every node."""
    return replace(item, uid=item.uid or str(item.key), assigned=None)
