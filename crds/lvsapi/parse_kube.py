"""What is used of Kubernetes' own kinds, from plain dicts. Pure.

The API server has validated these objects, and newer ones may hold more than is known here: unknown fields, nulls and
parts that make no sense are passed over. Only an object without a usable name raises SpecError.
"""

from collections.abc import Mapping

from lvsapi import names
from lvsapi.errors import FieldError, SpecError
from lvsapi.fields import Fields, is_integer, lenient_address
from lvsapi.ipvs import TrafficPolicy
from lvsapi.model import (
    Endpoint,
    EndpointSlice,
    IPAddress,
    KubeService,
    KubeServicePort,
    Node,
    ObjectKey,
    Protocol,
    SlicePort,
)

_MAX_PORT = 65535
_PROTOCOLS: Mapping[str, Protocol] = {str(protocol): protocol for protocol in Protocol}


def parse_service(obj: Mapping[str, object]) -> KubeService:
    """A v1 Service. Raises SpecError only without a name."""
    key = _key(obj, "Service")
    ports = []
    for item in _objects(_object(obj.get("spec")).get("ports")):
        number, protocol = _number(item.get("port")), _protocol(item.get("protocol"))
        if number is not None and protocol is not None:
            ports.append(KubeServicePort(name=_text(item.get("name")), port=number, protocol=protocol))
    local = _object(obj.get("spec")).get("externalTrafficPolicy") == TrafficPolicy.LOCAL
    policy = TrafficPolicy.LOCAL if local else TrafficPolicy.CLUSTER
    uid = _text(_object(obj.get("metadata")).get("uid"))
    return KubeService(key=key, ports=tuple(ports), external_traffic_policy=policy, uid=uid)


def parse_endpoint_slice(obj: Mapping[str, object]) -> EndpointSlice:
    """A discovery/v1 EndpointSlice; one of addressType FQDN has no endpoints. Raises SpecError only without a name."""
    key = _key(obj, "EndpointSlice")
    labels = _object(_object(obj.get("metadata")).get("labels"))
    ports = []
    for item in _objects(obj.get("ports")):
        protocol = _protocol(item.get("protocol"))
        if protocol is not None:
            ports.append(SlicePort(name=_text(item.get("name")), port=_number(item.get("port")), protocol=protocol))
    version = {"IPv4": 4, "IPv6": 6}.get(_text(obj.get("addressType")))
    endpoints = []
    for item in _objects(obj.get("endpoints")):
        addresses = tuple(a for a in _addresses(item.get("addresses")) if a.version == version)
        if addresses:
            endpoints.append(_endpoint(item, addresses, key.namespace))
    return EndpointSlice(
        key=key,
        service=_text(labels.get(names.SERVICE_NAME_LABEL)),
        ports=tuple(ports),
        endpoints=tuple(endpoints),
    )


def parse_node(obj: Mapping[str, object]) -> Node:
    """A v1 Node. Raises SpecError only without a name."""
    key = _key(obj, "Node")
    metadata, status = _object(obj.get("metadata")), _object(obj.get("status"))
    labels = _object(metadata.get("labels"))
    internal = [item.get("address") for item in _objects(status.get("addresses")) if item.get("type") == "InternalIP"]
    conditions = {_text(item.get("type")): _text(item.get("status")) for item in _objects(status.get("conditions"))}
    return Node(
        name=key.name,
        labels={k: v for k, v in labels.items() if isinstance(k, str) and isinstance(v, str)},
        addresses=tuple(_addresses(internal)),
        standby=_standby(_object(metadata.get("annotations")), _object(obj.get("spec"))),
        lost=conditions.get("Ready") == "Unknown",
        conditions={kind: word for kind, word in sorted(conditions.items()) if kind and word in ("True", "False")},
    )


def _standby(annotations: Mapping[object, object], spec: Mapping[object, object]) -> str:
    """Somebody's wish that the node should give up what it holds; never what the control plane merely supposes, such
    as node.kubernetes.io/unreachable: an API server that loses its nodes must move nothing."""
    if annotations.get(names.DIRECTOR) == names.STANDBY:
        return f"annotation {names.DIRECTOR}: {names.STANDBY}"
    if spec.get("unschedulable") is True:
        return "cordoned"
    taints = sorted(_text(item.get("key")) for item in _objects(spec.get("taints")))
    return next((f"taint {key}" for key in taints if key in names.LEAVING_TAINTS), "")


def _endpoint(item: Mapping[object, object], addresses: tuple[IPAddress, ...], namespace: str) -> Endpoint:
    conditions = _object(item.get("conditions"))
    # discovery/v1: an unknown ready counts as ready, an unknown serving as ready, an unknown terminating as false.
    ready = conditions.get("ready") is not False
    serving = conditions.get("serving")
    target = _object(item.get("targetRef"))
    name = _text(target.get("name")) if target.get("kind") == "Pod" else ""
    return Endpoint(
        addresses=addresses,
        node=_text(item.get("nodeName")) or None,
        ready=ready,
        serving=serving if isinstance(serving, bool) else ready,
        terminating=conditions.get("terminating") is True,
        pod=ObjectKey(_text(target.get("namespace")) or namespace, name) if name else None,
        uid=_text(target.get("uid")) if name else "",
    )


def _key(obj: Mapping[str, object], kind: str) -> ObjectKey:
    errors: list[FieldError] = []
    metadata = Fields(_object(obj).get("metadata"), "metadata", errors)
    name = metadata.text("name", bool, "must be the object's name", required=True)
    if name is None:
        raise SpecError(kind, tuple(errors))
    return ObjectKey(_text(metadata.raw("namespace")), name)


def _object(value: object) -> Mapping[object, object]:
    return value if isinstance(value, Mapping) else {}


def _objects(value: object) -> list[Mapping[object, object]]:
    return [item for item in value if isinstance(item, Mapping)] if isinstance(value, list | tuple) else []


def _addresses(value: object) -> list[IPAddress]:
    found = [lenient_address(item) for item in value] if isinstance(value, list | tuple) else []
    return [address for address in found if address is not None]


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _number(value: object) -> int | None:
    return value if is_integer(value) and 1 <= value <= _MAX_PORT else None


def _protocol(value: object) -> Protocol | None:
    """None for a protocol that IPVS does not carry; an absent one is TCP."""
    if value is None:
        return Protocol.TCP
    return _PROTOCOLS.get(value) if isinstance(value, str) else None
