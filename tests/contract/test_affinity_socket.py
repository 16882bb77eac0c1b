"""From where agents speak about connections: always from the address by which the others know the node."""

import asyncio
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from lvsagent.adapters import connections
from lvsagent.core.agent import About
from lvsagent.election.keys import Keys
from lvsagent.ipc import PeerNode
from lvsagent.runtime.affinity import Affinity
from lvsagent.runtime.view import View

pytestmark = pytest.mark.contract


@pytest.fixture(autouse=True)
def _no_daemon_was_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "clean", lambda: None)


@pytest.fixture
def port() -> Iterator[int]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as found:
        found.bind(("127.0.0.1", 0))
        yield found.getsockname()[1] + 1


def test_the_socket_follows_the_address_of_the_node(tmp_path: Path, port: int) -> None:
    """It stayed at the first one: what others sent was refused, and nobody believed what came from there."""

    async def act() -> None:
        view = View(node="node1", version="test")
        part = Affinity(view=view, call=asyncio.to_thread, keys=Keys(tmp_path, lambda *_, **__: None), port=port)

        async def bound(*addresses: str) -> str:
            nodes = (PeerNode(name="node1", addresses=addresses),) if addresses else ()
            view.claims.about = About(node="node1", nodes=(*nodes, PeerNode(name="node2", addresses=("127.0.0.9",))))
            await part._turn(0.0)
            assert part._transport is not None
            name: str = part._transport.get_extra_info("sockname")[0]
            return name

        assert await bound("127.0.0.1") == "127.0.0.1"
        first = part._transport
        assert await bound("127.0.0.1") == "127.0.0.1"
        assert part._transport is first
        assert await bound("127.0.0.2") == "127.0.0.2"
        assert await bound("192.0.2.1") == "0.0.0.0", "which this machine does not have"
        assert await bound("127.0.0.3", "::1") == "127.0.0.3"
        assert await bound("::1", "127.0.0.3") == "::1"
        assert await bound() == "::1", "a Node that is not known for a moment changes nothing"
        last = part._transport
        assert last is not None
        last.abort()
        assert await bound("::1") == "::1"
        assert part._transport is not last
        assert part._transport is not None
        part._transport.close()

    asyncio.run(act())
