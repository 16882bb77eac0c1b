"""What an election says of a router, for tests that only care for a part of it."""

from typing import Any

from lvsagent.ipc import RouterStatistics


def router_statistics(router: str, **changes: Any) -> RouterStatistics:
    """An Active of VRID 200 that has counted nothing, but for ``changes``."""
    fields: dict[str, Any] = {
        "router": router,
        "state": "Active",
        "virtual_router_id": 200,
        "family": 4,
        "interface": "eth0",
        "priority": 250,
        "active_address": "",
        "addresses_held": (),
        "transitions": {},
        "adverts_sent": 0,
        "adverts_received": 0,
        "announcements_sent": 0,
        "address_errors": 0,
    }
    return RouterStatistics(**{**fields, **changes})
