"""A VirtualServiceClass from a plain dict. Pure."""

from collections.abc import Mapping
from ipaddress import ip_network

from lvsapi import names
from lvsapi.errors import FieldError
from lvsapi.fields import Fields, lenient_address, refusal_of_address
from lvsapi.model import Director, IPAddress, IPNetwork, VirtualServiceClass
from lvsapi.rules import (
    ANNOUNCE_DELAY,
    ANNOUNCE_REFRESH,
    ANNOUNCE_REPEAT,
    CONDITION_RULE,
    GRACEFUL_RESTART,
    INTERFACE_RULE,
    INTERVAL,
    LABEL_RULE,
    MAX_DIRECTOR_ADDRESSES,
    MAX_REAL_SERVERS,
    MAX_TRACKED,
    NAME_RULE,
    PREEMPT_DELAY,
    PRIORITY,
    VERSIONS,
    WEIGHT,
    finish,
    head_of,
    item_of,
    key_of,
)
from lvsapi.vrrp import (
    Announcements,
    AuthenticationMode,
    AuthenticationType,
    ConditionStatus,
    InitialState,
    TrackedCondition,
    TrackedInterface,
    VrrpSettings,
)


def parse_class(obj: Mapping[str, object], *, pruned: bool = False) -> VirtualServiceClass:
    """A VirtualServiceClass. ``pruned``: from the API server, which lets no field through that its schema does not
    have: what is not known here is of a newer schema, whose defaults stand in every object at once, and is passed over
    until we are newer, too. Raises SpecError."""
    errors: list[FieldError] = []
    top = Fields(obj, "", errors)
    key = key_of(head_of(top, names.CLASS_KIND), namespaced=False)
    spec = top.section("spec")
    directors = spec.section("directors")
    selector = directors.section("nodeSelector")
    labels = selector.raw("matchLabels")
    match_labels: dict[str, str] = {}
    for name, value in Fields(labels, selector.where("matchLabels"), errors).pairs():
        if isinstance(name, str) and isinstance(value, str):
            match_labels[name] = value
        else:
            selector.refuse(f"matchLabels.{name}", value, "must be text; write numbers and true in quotes")
    nodes = _nodes(directors)
    for part in (selector, directors):
        part.finish()
    settings = _vrrp(spec.section("vrrp"))
    pools = _pools(spec)
    _check_version(spec, settings, pools)
    result = VirtualServiceClass(
        name=key.name,
        director_selector=match_labels,
        directors=nodes,
        interface=spec.text("interface", names.is_interface, INTERFACE_RULE) or "",
        vip_interface=spec.text("vipInterface", names.is_interface, INTERFACE_RULE) or "",
        vip_prefix_length=spec.integer("vipPrefixLength", 1, 128),
        pools=pools,
        namespaces=_namespaces(spec),
        vrrp=settings,
        connection_sync=_flag(spec, "connectionSync", False),
    )
    spec.finish()
    finish(names.CLASS_KIND, key, errors, pruned)
    return result


def _vrrp(vrrp: Fields) -> VrrpSettings:
    usual = VrrpSettings()
    version = vrrp.integer("version", *VERSIONS) or usual.version
    low, high, step = INTERVAL
    interval = (
        vrrp.integer("advertisementIntervalMilliseconds", low, high, step=step) or usual.advertisement_interval_ms
    )
    if version == 2 and interval % 1000:
        rule = "version 2 has whole seconds: write 1000 or a multiple of it, or use version 3"
        vrrp.refuse("advertisementIntervalMilliseconds", interval, rule)
    send = vrrp.integer("sendIntervalMilliseconds", low, high, step=step) or usual.send_interval_ms
    if send > interval:
        rule = f"must not be above advertisementIntervalMilliseconds, which is {interval}: others would miss adverts"
        vrrp.refuse("sendIntervalMilliseconds", send, rule)
    ids = vrrp.section("virtualRouterIDs")
    first = ids.integer("first", 1, 255) or usual.virtual_router_ids[0]
    last = ids.integer("last", 1, 255) or usual.virtual_router_ids[1]
    if first > last:
        ids.refuse("first", first, f"must not be above last, which is {last}")
    ids.finish()
    proof, mode = _authentication(vrrp.section("authentication"), version)
    interfaces, conditions = _tracked(vrrp.section("track"))
    settings = VrrpSettings(
        version=version,
        advertisement_interval_ms=interval,
        send_interval_ms=send,
        preempt=_flag(vrrp, "preempt", usual.preempt),
        preempt_delay_seconds=vrrp.integer("preemptDelaySeconds", *PREEMPT_DELAY) or usual.preempt_delay_seconds,
        virtual_router_ids=(first, last),
        transport=vrrp.choice("transport", usual.transport),
        checksum=vrrp.choice("checksum", usual.checksum),
        authentication=proof,
        authentication_mode=mode,
        sync_group=vrrp.text("syncGroup", names.is_dns_label, LABEL_RULE) or usual.sync_group,
        announcements=_announcements(vrrp.section("announcements")),
        virtual_mac=_flag(vrrp, "virtualMAC", usual.virtual_mac),
        graceful_restart_seconds=vrrp.integer("gracefulRestartSeconds", *GRACEFUL_RESTART)
        or usual.graceful_restart_seconds,
        track_interfaces=interfaces,
        track_conditions=conditions,
    )
    vrrp.finish()
    return settings


def _flag(fields: Fields, name: str, default: bool) -> bool:
    value = fields.boolean(name)
    return default if value is None else value


def _authentication(fields: Fields, version: int) -> tuple[AuthenticationType, AuthenticationMode]:
    usual = VrrpSettings()
    kind = fields.choice("type", usual.authentication)
    mode = fields.choice("mode", usual.authentication_mode)
    if kind is AuthenticationType.PASSWORD and version != 2:
        fields.refuse("type", str(kind), "goes with version 2 only (RFC 9568 has none): use HMAC, or version: 2")
    fields.finish()
    return kind, mode


def _announcements(fields: Fields) -> Announcements:
    usual = Announcements()
    refresh = fields.integer("refreshSeconds", *ANNOUNCE_REFRESH)
    found = Announcements(
        repeat=fields.integer("repeat", *ANNOUNCE_REPEAT) or usual.repeat,
        delay_seconds=fields.integer("delaySeconds", *ANNOUNCE_DELAY) or usual.delay_seconds,
        refresh_seconds=usual.refresh_seconds if refresh is None else refresh,
        on_lower_priority=_flag(fields, "onLowerPriority", usual.on_lower_priority),
    )
    fields.finish()
    return found


def _tracked(fields: Fields) -> tuple[tuple[TrackedInterface, ...], tuple[TrackedCondition, ...]]:
    interfaces: list[TrackedInterface] = []
    for path, value in fields.items("interfaces", MAX_TRACKED):
        item = item_of(value, path, fields)
        name = item.text("name", names.is_interface, INTERFACE_RULE, required=True)
        weight = item.integer("weight", *WEIGHT) or 0
        item.finish()
        if name is not None:
            if any(other.name == name for other in interfaces):
                item.refuse("name", name, "is there twice; remove one")
            interfaces.append(TrackedInterface(name=name, weight=weight))
    conditions: list[TrackedCondition] = []
    for path, value in fields.items("nodeConditions", MAX_TRACKED):
        item = item_of(value, path, fields)
        kind = item.text("type", names.is_condition, CONDITION_RULE, required=True)
        status = ConditionStatus.TRUE
        if isinstance(item.raw("status"), bool):
            item.refuse("status", item.raw("status"), f'is text: write "{item.raw("status")}" in quotes')
        else:
            status = item.choice("status", status)
        weight = item.integer("weight", *WEIGHT) or 0
        item.finish()
        if kind is not None:
            if any(other.type == kind for other in conditions):
                item.refuse("type", kind, "is there twice; remove one")
            conditions.append(TrackedCondition(type=kind, status=status, weight=weight))
    fields.finish()
    return tuple(interfaces), tuple(conditions)


def _check_version(spec: Fields, settings: VrrpSettings, pools: tuple[IPNetwork, ...]) -> None:
    """The API server has the same rule in CEL."""
    if settings.version == 2:
        for index, pool in enumerate(pools):
            if pool.version == 6:
                path = f"{spec.where('addressPools')}[{index}]"
                rule = "is IPv6, which VRRP version 2 does not carry: use vrrp.version 3, or a class of its own"
                Fields(None, path, spec.errors).refuse(None, str(pool), rule)


def _nodes(directors: Fields) -> tuple[Director, ...]:
    found: list[Director] = []
    for path, value in directors.items("nodes", MAX_REAL_SERVERS):
        item = item_of(value, path, directors)
        name = item.text("name", names.is_dns_subdomain, NAME_RULE, required=True)
        priority = item.integer("priority", *PRIORITY, required=True)
        state = item.choice("initialState", InitialState.BACKUP)
        addresses = _own_addresses(item)
        item.finish()
        if name is None or priority is None:
            continue
        if any(director.node == name for director in found):
            item.refuse("name", name, "is there twice; remove one")
        found.append(Director(node=name, priority=priority, initial_state=state, addresses=addresses))
    return tuple(found)


def _own_addresses(item: Fields) -> tuple[IPAddress, ...]:
    """A director's own addresses: link-local ones too, for IPv6 adverts come from these."""
    found: list[IPAddress] = []
    for path, value in item.items("addresses", MAX_DIRECTOR_ADDRESSES):
        address = lenient_address(value)
        link_local = address is not None and address.is_link_local and str(address) == value
        refusal = None if link_local else refusal_of_address(value)
        if address in found:
            refusal = "is there twice; remove one"
        if refusal is not None:
            Fields(None, path, item.errors).refuse(None, value, refusal)
        elif address is not None:
            found.append(address)
    return tuple(found)


def _pools(spec: Fields) -> tuple[IPNetwork, ...]:
    found: list[IPNetwork] = []
    for path, value in spec.items("addressPools", MAX_REAL_SERVERS):
        item = Fields(None, path, spec.errors)
        rule = "must be a network such as 192.168.139.120/29"
        if not isinstance(value, str) or "/" not in value or "%" in value:
            item.refuse(None, value, rule)
            continue
        try:
            network = ip_network(value, strict=False)
        except ValueError:
            item.refuse(None, value, rule)
            continue
        if str(network) != value:
            item.refuse(None, value, f"is not in canonical form; write {network}")
        found.append(network)
    return tuple(found)


def _namespaces(spec: Fields) -> tuple[str, ...]:
    found: list[str] = []
    for path, value in spec.items("namespaces"):
        if isinstance(value, str) and names.is_dns_label(value):
            found.append(value)
        else:
            Fields(None, path, spec.errors).refuse(None, value, LABEL_RULE)
    return tuple(found)
