"""The schema of a VirtualServiceClass's spec. Pure."""

from lvsapi import names, rules
from lvsapi.model import Director
from lvsapi.schema_parts import (
    ADDRESS_LENGTH,
    MAX_NAMESPACES,
    Schema,
    default_of,
    enum_of,
    integer,
    label,
    list_of,
    map_of,
    name_of,
    object_of,
    priority,
    rule_of,
)
from lvsapi.vrrp import (
    Announcements,
    AuthenticationMode,
    AuthenticationType,
    Checksum,
    ConditionStatus,
    InitialState,
    TrackedCondition,
    Transport,
    VrrpSettings,
)


def class_spec() -> Schema:
    own: Schema = {
        "type": "string",
        "maxLength": ADDRESS_LENGTH,
        "x-kubernetes-validations": [
            rule_of("isIP(self)", "must be an IPv4 or IPv6 address, without prefix length and zone"),
            rule_of("!isIP(self) || ip.isCanonical(self)", "is not in canonical form (RFC 5952)"),
            rule_of(
                "!isIP(self) || ip(self).isGlobalUnicast() || ip(self).isLinkLocalUnicast()",
                "is an unspecified, loopback, multicast or broadcast address; name the node's own",
            ),
        ],
    }
    director = object_of(
        "A node that may be Active.",
        {
            "name": name_of("Name of the node."),
            "priority": priority(),
            "initialState": enum_of(
                InitialState,
                default_of(Director, "initial_state"),
                "keepalived's state: Active begins with one interval's wait, Backup with three.",
            ),
            "addresses": {
                **list_of(
                    own,
                    rules.MAX_DIRECTOR_ADDRESSES,
                    "The node's own addresses where its adverts come from. Default: the Node's InternalIPs.",
                ),
                "x-kubernetes-list-type": "set",
            },
        },
        required=["name", "priority"],
    )
    labels: Schema = {
        "type": "object",
        "maxProperties": 64,
        "additionalProperties": {"type": "string", "maxLength": 63},
        "description": "Labels that a node needs. Default: none, so every node is a director.",
    }
    interface = _interface()
    pool: Schema = {
        "type": "string",
        "maxLength": ADDRESS_LENGTH + 4,
        "x-kubernetes-validations": [
            rule_of("isCIDR(self)", "must be a network such as 192.168.139.120/29"),
            rule_of("!isCIDR(self) || cidr(self) == cidr(self).masked()", "has bits set behind its prefix length"),
        ],
    }
    parts: Schema = {
        "directors": object_of(
            "Which nodes may hold addresses. Default: every node, ranked by the operator.",
            {
                "nodeSelector": object_of("Nodes by their labels.", {"matchLabels": labels}),
                "nodes": {
                    **map_of(director, "name"),
                    "maxItems": rules.MAX_REAL_SERVERS,
                    "description": "Nodes by name with fixed priorities; then nodeSelector is not asked.",
                },
            },
        ),
        "interface": {
            **interface,
            "description": "Network interface of the adverts. "
            "Default: the one whose network holds the address, else that of the default route.",
        },
        "vipInterface": {**interface, "description": "Network interface of the addresses. Default: as interface."},
        "vipPrefixLength": integer(1, 128, "Prefix length of the addresses. Default: 32 for IPv4, 128 for IPv6."),
        "addressPools": {
            **list_of(pool, rules.MAX_REAL_SERVERS, "Networks that addresses must come from. Default: any address."),
            "x-kubernetes-list-type": "set",
        },
        "namespaces": {
            **list_of(label(""), MAX_NAMESPACES, "Namespaces that may use the class. Default: all."),
            "x-kubernetes-list-type": "set",
        },
        "connectionSync": {
            "type": "boolean",
            "description": "The kernel's sync daemon tells the other directors about connections, for real servers "
            "outside the cluster with another scheduler than mh. The syncid is virtualRouterIDs.first. Default: false.",
        },
        "vrrp": _vrrp(),
    }
    checks = [
        rule_of(
            "!has(self.vrrp) || self.vrrp.version != 2 || !has(self.addressPools) || "
            "self.addressPools.all(p, !p.contains(':'))",
            "VRRP version 2 does not carry IPv6: use vrrp.version 3, or a class of its own",
            ".addressPools",
        )
    ]
    return {**object_of("Everything has a default.", parts), "x-kubernetes-validations": checks}


def _interface() -> Schema:
    return {
        "type": "string",
        "maxLength": names.INTERFACE_LENGTH,
        "x-kubernetes-validations": [
            rule_of(r"self.matches('^[^/:\\s]+$') && self != '.' && self != '..'", rules.INTERFACE_RULE)
        ],
    }


def _vrrp() -> Schema:
    usual = VrrpSettings()
    first, last = usual.virtual_router_ids
    low, high, step = rules.INTERVAL
    ids = {
        **object_of(
            "Virtual Router IDs that may be allocated; VirtualServices share them.",
            {
                "first": {**integer(1, 255, "First."), "default": first},
                "last": {**integer(1, 255, "Last."), "default": last},
            },
        ),
        "default": {"first": first, "last": last},
        "x-kubernetes-validations": [rule_of("self.first <= self.last", "first must not be above last")],
    }
    parts: Schema = {
        "version": {
            **integer(*rules.VERSIONS, "3 (RFC 9568), or 2 (RFC 3768: IPv4 only, whole seconds)."),
            "default": usual.version,
        },
        "advertisementIntervalMilliseconds": {
            **integer(low, high, "Advertisement_Interval: a node is given up after at most 3.5 of it."),
            "multipleOf": step,
            "default": usual.advertisement_interval_ms,
        },
        "sendIntervalMilliseconds": {
            **integer(
                low,
                high,
                "Adverts are sent this often, though they announce advertisementIntervalMilliseconds: "
                "lost ones cost nothing then. Default: as often as they announce.",
            ),
            "multipleOf": step,
        },
        "preempt": {
            "type": "boolean",
            "default": usual.preempt,
            "description": "Preempt_Mode: an address returns to the node that ranks highest.",
        },
        "preemptDelaySeconds": {
            **integer(*rules.PREEMPT_DELAY, "A better node waits so long after its start before it takes over."),
            "default": usual.preempt_delay_seconds,
        },
        "virtualRouterIDs": ids,
        "transport": enum_of(
            Transport, usual.transport, "Unicast: to the other directors' own addresses instead of 224.0.0.18."
        ),
        "checksum": enum_of(
            Checksum,
            usual.checksum,
            "What is sent for VRRPv3 over IPv4: with pseudo-header as keepalived, or RFC 9568's of the message alone. "
            "Both are understood.",
        ),
        "authentication": _authentication(),
        "syncGroup": label("Virtual routers of one group are Active together or not at all."),
        "announcements": _announcements(),
        "virtualMAC": {
            "type": "boolean",
            "default": usual.virtual_mac,
            "description": "Addresses on a macvlan with the virtual router's MAC (keepalived's use_vmac).",
        },
        "gracefulRestartSeconds": {
            **integer(
                *rules.GRACEFUL_RESTART, "An election that restarts within this time loses nothing; 0: it hands over."
            ),
            "default": usual.graceful_restart_seconds,
        },
        "track": _track(),
    }
    checks = [
        rule_of(
            "self.version != 2 || self.advertisementIntervalMilliseconds % 1000 == 0",
            "version 2 has whole seconds: write 1000 or a multiple of it, or use version 3",
            ".advertisementIntervalMilliseconds",
        ),
        rule_of(
            "!has(self.sendIntervalMilliseconds) || "
            "self.sendIntervalMilliseconds <= self.advertisementIntervalMilliseconds",
            "must not be above advertisementIntervalMilliseconds: others would miss adverts",
            ".sendIntervalMilliseconds",
        ),
        rule_of(
            "self.version == 2 || !has(self.authentication) || "
            f"self.authentication.type != '{AuthenticationType.PASSWORD}'",
            "goes with version 2 only (RFC 9568 has none): use HMAC, or version: 2",
            ".authentication.type",
        ),
    ]
    return {**object_of("Election settings (RFC 9568).", parts), "x-kubernetes-validations": checks}


def _authentication() -> Schema:
    usual = VrrpSettings()
    return object_of(
        f"Proof that adverts come from a director. Secret {names.KEYS_SECRET}: <class>.password, <class>.hmac.<id>.",
        {
            "type": enum_of(
                AuthenticationType,
                usual.authentication,
                "Password: VRRPv2's, in clear text, insecure. HMAC: keepalived's auth_hmac.",
            ),
            "mode": enum_of(
                AuthenticationMode,
                usual.authentication_mode,
                "Of HMAC. ReceiveOnly, then Permissive, then Enforce roll keys out without a gap.",
            ),
        },
    )


def _announcements() -> Schema:
    usual = Announcements()
    return object_of(
        "Gratuitous ARP requests and unsolicited neighbour advertisements.",
        {
            "repeat": {**integer(*rules.ANNOUNCE_REPEAT, "Packets in each round."), "default": usual.repeat},
            "delaySeconds": {
                **integer(*rules.ANNOUNCE_DELAY, "One more round so long after a take-over; 0: none."),
                "default": usual.delay_seconds,
            },
            "refreshSeconds": {
                **integer(*rules.ANNOUNCE_REFRESH, "Between later rounds; 0: none."),
                "default": usual.refresh_seconds,
            },
            "onLowerPriority": {
                "type": "boolean",
                "default": usual.on_lower_priority,
                "description": "An advert of lower priority is answered by a round.",
            },
        },
    )


def _track() -> Schema:
    interface = object_of(
        "Good while it is up.",
        {
            "name": {**_interface(), "description": "Name of the interface."},
            "weight": _weight("while it is down, the node does not take part"),
        },
        required=["name"],
    )
    condition = object_of(
        "Good while it has this status; absent or Unknown counts as good.",
        {
            "type": {
                "type": "string",
                "description": "Type of a condition of the Node, e.g. Ready.",
                "minLength": 1,
                "maxLength": names.CONDITION_LENGTH,
                "pattern": names.CONDITION_PATTERN,
            },
            "status": enum_of(ConditionStatus, default_of(TrackedCondition, "status"), "The good one."),
            "weight": _weight("while not good, the node is Active only if nobody else can be"),
        },
        required=["type"],
    )
    return object_of(
        "What changes a node's priority.",
        {
            "interfaces": {**map_of(interface, "name"), "maxItems": rules.MAX_TRACKED},
            "nodeConditions": {**map_of(condition, "type"), "maxItems": rules.MAX_TRACKED},
        },
    )


def _weight(zero: str) -> Schema:
    text = f"Added to the priority: while good if positive, while not if negative. 0: {zero}."
    return {**integer(*rules.WEIGHT, text), "default": 0}
