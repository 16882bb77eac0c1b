"""The parts of the election process that need no network: refusals, the kept wish, the socket."""

import contextlib
import ipaddress
import json
import socket
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from lvsagent import ipc
from lvsagent.election import handoff
from lvsagent.election.keys import Credentials, Keys
from lvsagent.election.log import Log
from lvsagent.election.router import Router, by_name, parameters
from lvsagent.election.server import LARGEST_BACKLOG, LONGEST_LINE, MOST_CLIENTS, Client, Server
from lvsagent.election.wish import WishStore
from lvsagent.vrrp import auth, events

pytestmark = pytest.mark.unit

ROUTER = ipc.RouterConfig(
    name="lab",
    virtual_router_id=51,
    family=4,
    interface="eth0",
    vip_interface="eth0",
    addresses=("10.0.0.200/32",),
    priority=100,
)
WISH = ipc.Configure(generation=7, routers=(ROUTER,))


def router_of(config: ipc.RouterConfig, refused: str | None = None) -> Router:
    keys = Keys(Path("/nonexistent"), Log())
    return Router.of(config, refused, Credentials(config, keys, auth.Clock(0.0, 0.0), 0.0))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"family": 5}, "family 5: must be 4 or 6"),
        ({"family": 6}, "addresses: '10.0.0.200/32' is no IPv6 address"),
        ({"family": 6, "addresses": ("fe80::1%eth0/128",)}, "addresses: 'fe80::1%eth0/128' is no IPv6 address"),
        (
            {"family": 6, "addresses": ("fd00::1/128",) * 64},
            "addresses: 64 of them; must be 1-63, use more routers",
        ),
        ({"virtual_router_id": 0}, "virtual_router_id 0: must be 1-255"),
        ({"virtual_router_id": 256}, "virtual_router_id 256: must be 1-255"),
        ({"priority": 0}, "priority 0: must be 1-255"),
        ({"priority": 256}, "priority 256: must be 1-255"),
        ({"advertisement_interval_ms": 9}, "advertisement_interval_ms 9: must be 10-40950"),
        ({"advertisement_interval_ms": 40951}, "advertisement_interval_ms 40951: must be 10-40950"),
        ({"addresses": ()}, "addresses: 0 of them; must be 1-64, use more routers"),
        ({"addresses": ("10.0.0.1/32",) * 65}, "addresses: 65 of them; must be 1-64, use more routers"),
        ({"addresses": ("10.0.0.300/32",)}, "addresses: '10.0.0.300/32' is no IPv4 address"),
        ({"addresses": ("fd00::1/128",)}, "addresses: 'fd00::1/128' is no IPv4 address"),
        ({"addresses": ("10.0.0.200/0",)}, "addresses: '10.0.0.200/0' must have a prefix length of 1-32"),
        (
            {"unicast_peers": ()},
            "unicast_peers: none; name the addresses of the other directors or use multicast",
        ),
        ({"unicast_peers": ("fd00::1",)}, "unicast_peers: 'fd00::1' is no IPv4 address"),
        ({"sources": ("10.0.0.1/24",)}, "sources: '10.0.0.1/24' is no IPv4 address"),
        ({"vip_interface": "lo"}, "interface lo: addresses there belong to the agent; name an interface of the LAN"),
    ],
)
def test_a_router_that_cannot_be_run_is_refused_with_field_value_and_remedy(
    changes: dict[str, object], reason: str
) -> None:
    config = replace(ROUTER, **changes)  # type: ignore[arg-type]
    assert by_name((config,)) == {"lab": (config, reason)}
    assert router_of(config, reason).statistics(lambda *_: True, 0.0).state == "Initialize"


@pytest.mark.parametrize(
    ("addresses", "listed"),
    [
        (("fd00::1/128", "fd00::2/64"), ("fe80::5e00:2:0:33", "fd00::1", "fd00::2")),
        (("fd00::1/128", "fe80::1/64"), ("fe80::1", "fd00::1")),
    ],
)
def test_an_ipv6_router_lists_a_link_local_address_first(addresses: tuple[str, ...], listed: tuple[str, ...]) -> None:
    config = replace(ROUTER, family=6, addresses=addresses)
    assert by_name((config,))["lab"] == (config, None)
    found = parameters(config, bytes(16)).addresses
    assert tuple(str(ipaddress.ip_address(address)) for address in found) == listed


def test_a_virtual_mac_is_on_one_interface_only() -> None:
    one = replace(ROUTER, virtual_mac=True)
    other = replace(one, name="b", interface="eth1", vip_interface="eth1", addresses=("10.0.1.200/32",))
    reason = "virtual_mac: vrrp4.51 is made for lab already; use another virtual_router_id"
    assert by_name((one, other))["b"] == (other, reason)
    six = replace(one, name="six", family=6, addresses=("fd00::1/128",))
    assert by_name((one, six))["six"] == (six, None)


def test_the_families_have_virtual_router_ids_of_their_own() -> None:
    six = replace(ROUTER, name="six", family=6, addresses=("fd00::1/128",))
    assert [reason for _, reason in by_name((ROUTER, six)).values()] == [None, None]


def test_two_routers_do_not_share_an_address_or_a_virtual_router_id_on_one_interface() -> None:
    twin = replace(ROUTER, name="twin", addresses=("10.0.0.201/32",))
    thief = replace(ROUTER, name="thief", virtual_router_id=52, addresses=("10.0.0.200/24",))
    other = replace(ROUTER, name="other", interface="eth1", addresses=("10.0.0.202/32",))
    assert {name: reason for name, (_, reason) in by_name((ROUTER, twin, thief, other)).items()} == {
        "lab": None,
        "twin": "virtual_router_id 51: taken by lab on eth0",
        "thief": "addresses: 10.0.0.200 already served by lab",
        "other": None,
    }


def test_an_address_keeps_its_prefix_length_and_another_length_is_another_router() -> None:
    wide = replace(ROUTER, addresses=("10.0.0.200/24",))
    router = router_of(wide)
    assert router.statistics(lambda *_: True, 0.0).addresses_held == ("10.0.0.200/24",)
    assert router.is_another(ROUTER)
    assert not router.is_another(replace(wide, addresses=("10.0.0.200/24", "10.0.0.201/32"), priority=7))


def test_a_router_knows_its_real_servers_of_its_family() -> None:
    assert router_of(replace(ROUTER, real_servers=("10.0.0.31", "fd00::31"))).real_servers == {bytes((10, 0, 0, 31))}


def test_the_interval_is_what_an_advert_can_say() -> None:
    assert parameters(replace(ROUTER, advertisement_interval_ms=104), b"").interval == 0.1
    assert parameters(replace(ROUTER, advertisement_interval_ms=10), b"").interval == 0.01


def test_every_transition_there_is_counts_from_zero() -> None:
    transitions = router_of(ROUTER).statistics(lambda *_: False, 0.0).transitions
    assert transitions["Backup,Active,active_silent"] == 0
    assert transitions["Active,Backup,late_timer"] == 0
    assert len(transitions) == sum(map(len, events.TRANSITIONS.values()))


# --- the kept wish ------------------------------------------------------------------------------------------------


class Lines(list[str]):
    def __call__(self, sentence: str, **fields: object) -> None:
        self.append(sentence)


def store(folder: Path, boot: str = "one", log: Lines | None = None) -> WishStore:
    boot_id = folder / "boot_id"
    boot_id.write_text(boot + "\n")
    return WishStore(folder / "state", log if log is not None else Lines(), boot_id)


def test_a_wish_is_kept_over_a_restart_of_the_process(tmp_path: Path) -> None:
    store(tmp_path).save(WISH)
    assert store(tmp_path).load() == replace(WISH, generation=-1)
    assert [each.name for each in (tmp_path / "state").iterdir()] == ["election.json"]


def test_a_kept_wish_follows_what_it_says_of_the_nodes_and_serves_no_longer_after_a_reboot(tmp_path: Path) -> None:
    kept = store(tmp_path)
    nodes = (ipc.PeerNode(name="dr1", addresses=("10.0.0.11",)), ipc.PeerNode(name="dr2", addresses=("10.0.0.12",)))
    kept.save(WISH)
    told = replace(WISH, node="dr1", serving=True, nodes=nodes)
    kept.save(told)
    assert store(tmp_path).load() == replace(told, generation=-1)
    rebooted = store(tmp_path, boot="two").load()
    assert rebooted is not None
    assert (rebooted.node, rebooted.serving, rebooted.nodes) == ("dr1", False, nodes)


def test_after_a_reboot_no_router_of_the_kept_wish_is_ready(tmp_path: Path) -> None:
    store(tmp_path).save(WISH)
    loaded = store(tmp_path, boot="two").load()
    assert loaded is not None
    assert [router.ready for router in loaded.routers] == [False]


def test_the_same_wish_is_written_once(tmp_path: Path) -> None:
    keeper = store(tmp_path)
    keeper.save(WISH)
    kept = tmp_path / "state" / "election.json"
    kept.unlink()
    keeper.save(replace(WISH, generation=8))
    assert not kept.exists()
    keeper.save(replace(WISH, routers=()))
    assert kept.exists()


def test_there_may_be_no_wish(tmp_path: Path) -> None:
    assert store(tmp_path).load() is None


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"boot_id": "one", "wish": {"kind": "configured"}}', "\x00"])
def test_a_wish_that_cannot_be_read_is_ignored_and_said(tmp_path: Path, content: str) -> None:
    log = Lines()
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "election.json").write_text(content)
    assert store(tmp_path, log=log).load() is None
    assert log == ["the kept wish cannot be read and is ignored"]


def test_a_wish_of_another_kind_is_ignored(tmp_path: Path) -> None:
    (tmp_path / "state").mkdir()
    content = {"boot_id": "one", "wish": {"kind": "configured", "generation": 1}}
    (tmp_path / "state" / "election.json").write_text(json.dumps(content))
    assert store(tmp_path).load() is None


def test_a_disk_that_takes_nothing_costs_a_line(tmp_path: Path) -> None:
    log = Lines()
    (tmp_path / "state").write_text("a file in the place of the folder")
    store(tmp_path, log=log).save(WISH)
    assert len(log) == 1


# --- the socket ---------------------------------------------------------------------------------------------------


class Served:
    def __init__(self, folder: Path) -> None:
        self.log = Lines()
        self.path = folder / "election.sock"
        self.server = Server(self.path, self.log)
        self.opened: list[socket.socket] = []

    def connect(self) -> tuple[socket.socket, Client | None]:
        end = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.opened.append(end)
        end.connect(str(self.path))
        return end, self.server.accept()


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    with contextlib.ExitStack() as stack:
        served = Served(tmp_path)
        yield served
        for end in served.opened:
            stack.callback(end.close)
        served.server.close()
        assert not served.path.exists()


def test_a_wish_may_arrive_in_pieces_and_several_at_once(served: Served) -> None:
    end, client = served.connect()
    assert client is not None
    line = ipc.encode(WISH)
    end.sendall(line[:10])
    assert served.server.receive(client) == []
    end.sendall(line[10:] + line)
    assert served.server.receive(client) == [WISH, WISH]
    assert served.server.receive(client) == []


@pytest.mark.parametrize("line", [b"nonsense\n", ipc.encode(ipc.Configured(generation=1))])
def test_a_client_that_says_something_else_is_dropped(served: Served, line: bytes) -> None:
    end, client = served.connect()
    assert client is not None
    end.sendall(line)
    assert served.server.receive(client) == []
    assert served.server.clients == ()
    assert served.log == ["a client of the election socket was dropped"]
    assert served.server.receive(client) == []


def test_a_client_that_hangs_up_is_forgotten(served: Served) -> None:
    end, client = served.connect()
    assert client is not None
    end.close()
    assert served.server.receive(client) == []
    assert served.server.clients == ()


def test_a_line_without_end_is_not_kept_for_ever(served: Served) -> None:
    end, client = served.connect()
    assert client is not None
    client.received += b"x" * LONGEST_LINE
    end.sendall(b"x")
    served.server.receive(client)
    assert served.server.clients == ()


def test_every_client_gets_every_message(served: Served) -> None:
    ends = [served.connect()[0] for _ in range(3)]
    served.server.send(ipc.Configured(generation=1))
    assert [end.recv(1000) for end in ends] == [ipc.encode(ipc.Configured(generation=1))] * 3


def test_a_client_that_does_not_read_is_dropped_and_the_others_are_served(served: Served) -> None:
    _, slow = served.connect()
    assert slow is not None
    slow.unsent += b"x" * LARGEST_BACKLOG * 2
    end, _ = served.connect()
    served.server.send(ipc.Configured(generation=1))
    assert slow not in served.server.clients
    assert end.recv(1000) == ipc.encode(ipc.Configured(generation=1))


def test_a_client_that_is_gone_is_noticed_when_it_is_told_something(served: Served) -> None:
    end, client = served.connect()
    end.close()
    served.server.send(ipc.Configured(generation=1))
    assert client not in served.server.clients


def test_there_is_an_end_of_the_number_of_clients(served: Served) -> None:
    assert all(served.connect()[1] is not None for _ in range(MOST_CLIENTS))
    assert served.connect()[1] is None
    assert served.server.accept() is None


# --- what processes leave to one another --------------------------------------------------------------------------


def test_a_restart_that_was_announced_counts_once_and_in_time(tmp_path: Path) -> None:
    log = Log()
    handoff.leave(tmp_path, {"a": 10.0, "b": 5.0}, log)
    assert handoff.take(tmp_path, 6.0, log) == {"a"}
    assert handoff.take(tmp_path, 6.0, log) == frozenset()


def test_what_was_left_before_a_reboot_or_is_damaged_does_not_count(tmp_path: Path) -> None:
    log, other_boot = Log(), tmp_path / "boot"
    other_boot.write_text("another")
    handoff.leave(tmp_path, {"a": 10.0}, log, other_boot)
    assert handoff.take(tmp_path, 6.0, log) == frozenset()
    assert handoff.started(tmp_path, 1.0, log, other_boot) == ()
    assert handoff.started(tmp_path, 2.0, log) == ()
    for damaged in ("", "[]", '{"until": 3}', "null"):
        (tmp_path / handoff.FILE_NAME).write_text(damaged)
        (tmp_path / handoff.STARTS_NAME).write_text(damaged)
        assert handoff.take(tmp_path, 6.0, log) == frozenset()
        assert handoff.started(tmp_path, 6.0, log) == ()


def test_starts_are_remembered_until_an_orderly_end(tmp_path: Path) -> None:
    log = Log()
    assert [handoff.started(tmp_path, at, log) for at in (1.0, 2.0, 3.0)] == [(), (1.0,), (1.0, 2.0)]
    handoff.ended(tmp_path)
    assert handoff.started(tmp_path, 4.0, log) == ()
    for at in range(50):
        assert len(handoff.started(tmp_path, float(at), log)) <= 16


def test_a_folder_that_cannot_be_written_costs_a_transition_only(tmp_path: Path) -> None:
    log = Log()
    (tmp_path / "file").write_text("")
    handoff.leave(tmp_path / "file", {"a": 1.0}, log)
    assert handoff.started(tmp_path / "file", 1.0, log) == ()
