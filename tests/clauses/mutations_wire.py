"""Ways to break the codec, the receiver and the settings (RFC 9568 sections 5 and 7, RFC 3768), a clause each."""

from collections.abc import Mapping
from typing import Final

from tests.clauses.model import Mutation

AGENT: Final = "nodeagent/lvsagent"
PACKET: Final = f"{AGENT}/vrrp/packet.py"
V2: Final = f"{AGENT}/vrrp/v2.py"
ROUTER: Final = f"{AGENT}/election/router.py"
RECEIVE: Final = f"{AGENT}/election/receive.py"
RULES: Final = "crds/lvsapi/rules.py"

WIRE: Final[Mapping[str, tuple[Mutation, ...]]] = {
    "C2": (
        Mutation(
            "the TTL of IPv4 does not matter",
            PACKET,
            "if hop_limit != HOP_LIMIT:",
            "if size == 16 and hop_limit != HOP_LIMIT:",
        ),
    ),
    "C4": (
        Mutation(
            "the hop limit of IPv6 does not matter",
            PACKET,
            "if hop_limit != HOP_LIMIT:",
            "if size == 4 and hop_limit != HOP_LIMIT:",
        ),
    ),
    "C5": (Mutation("a forwarded advert is not noticed", PACKET, "if hop_limit != HOP_LIMIT:", "if hop_limit == 0:"),),
    "C6": (
        Mutation(
            "any type is taken",
            PACKET,
            "if payload[0] & 0x0F != TYPE_ADVERTISEMENT:",
            "if payload[0] & 0x0F > 15:",
        ),
    ),
    "C7": (
        Mutation("a class may say 255", RULES, "PRIORITY = (1, 254)", "PRIORITY = (1, 255)"),
        Mutation(
            "a weight may make it 255",
            f"{AGENT}/core/routers.py",
            "priority=min(high, max(low, own.priority + router.weights.get(facts.node, 0)))",
            "priority=min(255, max(low, own.priority + router.weights.get(facts.node, 0)))",
        ),
    ),
    "C8": (
        Mutation("a class may say 0", RULES, "PRIORITY = (1, 254)", "PRIORITY = (0, 254)"),
        Mutation(
            "a weight may make it 0",
            f"{AGENT}/core/routers.py",
            "priority=min(high, max(low, own.priority + router.weights.get(facts.node, 0)))",
            "priority=min(high, max(0, own.priority + router.weights.get(facts.node, 0)))",
        ),
        Mutation(
            "the advert says another priority",
            f"{AGENT}/vrrp/machine.py",
            "return self._advert(priority=self.parameters.effective_priority)",
            "return self._advert(priority=1)",
        ),
    ),
    "C9": (Mutation("an empty list is taken", PACKET, "if count == 0:", "if count > 255:"),),
    "C10": (
        Mutation("the reserved bits are part of the interval", PACKET, "& MAXIMUM_INTERVAL", "& 0xFFFF"),
        Mutation(
            "the reserved bits are set",
            PACKET,
            "message += advertisement.interval.to_bytes(2)",
            "message += (advertisement.interval | 0x1000).to_bytes(2)",
        ),
    ),
    "C11": (
        Mutation(
            "IPv6 without pseudo-header",
            PACKET,
            "message[6:8] = ip.checksum(ip.pseudo_header(advertisement.source, target, len(message)), message)",
            "message[6:8] = ip.checksum(message)",
        ),
        Mutation(
            "the RFC's form cannot be had",
            PACKET,
            "    if form is ChecksumForm.PSEUDO_HEADER:",
            "    if form:",
        ),
        Mutation("one too many", PACKET, "message[6:8] = ip.checksum(head, message)", "message[6:8] = b'ab'"),
    ),
    "C12": (
        Mutation(
            "a wrong checksum is taken",
            PACKET,
            "    if form is None:",
            "    form = form or ChecksumForm.MESSAGE\n    if not form:",
        ),
    ),
    "C13": (
        Mutation(
            "any first address is taken",
            PACKET,
            "if size == 16 and not ip.is_link_local(addresses[0]):",
            "if size == 17 and not ip.is_link_local(addresses[0]):",
        ),
        Mutation(
            "global addresses are listed first",
            ROUTER,
            "return (*(first or [link_local(config.virtual_router_id)]), *others)",
            "return (*others, *(first or [link_local(config.virtual_router_id)]))",
        ),
    ),
    "C14": (
        Mutation(
            "the size of an address is guessed from the length",
            PACKET,
            "    size = len(source)\n",
            "    size = (len(payload) - HEADER_LENGTH) // max(1, payload[3])\n",
        ),
        Mutation(
            "addresses of the other family may be asked for",
            ROUTER,
            "if address is None or address.version != family or",
            "if address is None or",
        ),
    ),
    "C16": (
        Mutation(
            "an interval of 0 is taken",
            PACKET,
            "reason = None if interval else DropReason.INTERVAL",
            "reason = None",
        ),
        Mutation(
            "an interval that does not fit may be asked for",
            ROUTER,
            "if config.advertisement_interval_ms not in INTERVAL_RANGE:",
            "if config.advertisement_interval_ms < 0:",
        ),
    ),
    "C41": (Mutation("any version is read as version 3", PACKET, "version = payload[0] >> 4", "version = VERSION"),),
    "C42": (
        Mutation(
            "a shorter message is taken",
            PACKET,
            "(len(payload) != end and not signed)",
            "(len(payload) > end and not signed)",
        ),
        Mutation(
            "a packet that was cut is taken",
            f"{AGENT}/vrrp/ip.py",
            "<= total_length or total_length != len(packet):",
            "<= total_length:",
        ),
    ),
    "C43": (
        Mutation(
            "any interface will do",
            RECEIVE,
            "if router.place == place and router.refused is None",
            "if router.refused is None",
        ),
        Mutation(
            "the VRIDs of the interface do not matter",
            PACKET,
            " or (virtual_router_ids is not None and identifier not in virtual_router_ids)",
            "",
        ),
    ),
    "C45": (
        Mutation("dropped without a count", RECEIVE, "self.dropped[reason] += 1", "pass"),
        Mutation("logged every time", RECEIVE, "if self._log.due(now, reason, DROPPED):", "if True:"),
        Mutation("never logged", RECEIVE, "if self._log.due(now, reason, DROPPED):", "if False:"),
    ),
    "C46": (
        Mutation(
            "another interval is not reported",
            RECEIVE,
            "router.findings.doubt(Finding.INTERVAL_DIFFERS, text, now, PATIENCE)",
            "pass",
        ),
        Mutation(
            "another interval is dropped",
            RECEIVE,
            "        router.adverts_received += 1\n",
            "        if advert.interval != round(router.machine.parameters.interval * 100):\n            return\n"
            "        router.adverts_received += 1\n",
        ),
    ),
    "C47": (
        Mutation(
            "other addresses are not reported",
            RECEIVE,
            "router.findings.doubt(Finding.ADDRESS_LIST_DIFFERS, text, now, PATIENCE)",
            "pass",
        ),
        Mutation(
            "other addresses are dropped",
            RECEIVE,
            "        router.adverts_received += 1\n",
            "        if set(advert.addresses) != set(router.machine.parameters.addresses):\n            return\n"
            "        router.adverts_received += 1\n",
        ),
    ),
    "C48": (
        Mutation(
            "priority and VRID in the wrong order",
            PACKET,
            "            advertisement.virtual_router_id,\n            advertisement.priority,\n",
            "            advertisement.priority,\n            advertisement.virtual_router_id,\n",
        ),
        Mutation(
            "only the first address is listed",
            PACKET,
            'b"\\0\\0" + b"".join(advertisement.addresses)',
            'b"\\0\\0" + len(advertisement.addresses) * advertisement.addresses[0]',
        ),
    ),
    "C59": (
        Mutation(
            "all directors have one priority",
            "crds/lvsapi/assign.py",
            "max(1, TOP_PRIORITY - PRIORITY_STEP * place)",
            "max(1, TOP_PRIORITY)",
        ),
    ),
    "V1": (
        Mutation(
            "the TTL of version 2 does not matter",
            PACKET,
            "if hop_limit != HOP_LIMIT:",
            "if version == 3 and hop_limit != HOP_LIMIT:",
        ),
        Mutation(
            "authentication data may be missing",
            PACKET,
            "(len(payload) != end and not signed)",
            "(len(payload) not in (end, end - 8) and not signed)",
        ),
        Mutation(
            "version 3 is taken by a router of version 2",
            PACKET,
            "    if version != expected.version:\n",
            "    if version > expected.version + 9:\n",
        ),
    ),
    "V2": (
        Mutation(
            "any authentication type is taken",
            V2,
            "if message[4] != (NO_AUTHENTICATION if password is None else SIMPLE_TEXT_PASSWORD):",
            "if message[4] > 255:",
        ),
        Mutation("any password is taken", V2, "not compare_digest(message[-DATA_LENGTH:], _data(password))", "False"),
    ),
    "V3": (
        Mutation("any interval is taken", V2, "if theirs == 0 or (interval and theirs != interval):", "if theirs < 0:"),
    ),
    "V6": (
        Mutation(
            "data of type 0 are compared",
            V2,
            "    if password is not None and not compare_digest(message[-DATA_LENGTH:], _data(password)):",
            '    if not compare_digest(message[-DATA_LENGTH:], _data(password or b"")):',
        ),
        Mutation("data of type 0 are not 0", V2, '_data(password or b"")', '_data(password or b"none")'),
    ),
}
