"""State files: refused as a whole when cut or changed, and never in the way."""

import json
import os
from ipaddress import ip_address
from pathlib import Path

import pytest

from lvsagent.adapters.statefile import OWNED, SNAPSHOT, StateFileError, StateFiles
from lvsagent.core.diff import Owned
from lvsagent.core.state import ServiceKey, SyncDaemon, SyncRole
from lvsapi.model import Protocol, Snapshot
from tests.gen import assignment, snapshot, virtual_service

pytestmark = pytest.mark.unit

SAVED = snapshot(virtual_service(assigned=assignment()))
OURS = Owned(
    services=frozenset(
        {
            ServiceKey(address=ip_address("10.0.0.1"), protocol=Protocol.TCP, port=80),
            ServiceKey(ip_address("10.0.0.1"), Protocol.UDP, 30000, 0x1000),
            ServiceKey(ip_address("fd00::1"), None, 0, 0x1000),
        }
    ),
    loopback=frozenset({ip_address("10.0.0.1"), ip_address("fd00::1")}),
    daemons=frozenset({SyncDaemon(role=SyncRole.MASTER, interface="ens33", sync_id=51)}),
    sysctls={"net/ipv4/vs/sync_threshold": "3 50"},
)


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    files = StateFiles(tmp_path / "deep" / "folder")
    assert files.load_snapshot() is None
    assert files.load_owned() == Owned()
    files.save_snapshot(SAVED)
    files.save_owned(OURS)
    again = StateFiles(files.folder)
    saved = again.load_snapshot()
    assert saved is not None
    assert saved.snapshot == SAVED
    owned = again.load_owned()
    assert owned == OURS
    # Marked services are equal by their marks alone.
    whole = {(key.address, key.protocol, key.port, key.mark) for key in owned.services}
    assert whole == {(key.address, key.protocol, key.port, key.mark) for key in OURS.services}
    assert {path.stat().st_mode & 0o777 for path in files.folder.iterdir()} == {0o600}
    assert sorted(path.name for path in files.folder.iterdir()) == [OWNED, SNAPSHOT]


def test_the_record_is_written_when_it_is_another_one_also_by_the_place_of_a_firewall_mark(tmp_path: Path) -> None:
    files = StateFiles(tmp_path)

    def written(owned: Owned) -> bool:
        (files.folder / OWNED).unlink(missing_ok=True)
        files.save_owned(owned)
        return (files.folder / OWNED).exists()

    here, there = (ServiceKey(ip_address(f"10.0.0.{number}"), None, 0, 7) for number in (1, 2))
    assert written(Owned(services=frozenset({here})))
    assert not written(Owned(services=frozenset({here})))
    assert written(Owned(services=frozenset({there})))
    assert not written(Owned(services=frozenset({there})))
    assert written(Owned())


def test_the_record_of_an_older_agent_is_read(tmp_path: Path) -> None:
    files = StateFiles(tmp_path)
    files._store(OWNED, '{"services": [["10.0.0.1", "TCP", 80]], "loopback": ["10.0.0.1"]}')
    key = ServiceKey(address=ip_address("10.0.0.1"), protocol=Protocol.TCP, port=80)
    assert files.load_owned() == Owned(services=frozenset({key}), loopback=frozenset({ip_address("10.0.0.1")}))


def test_the_same_is_not_written_twice(tmp_path: Path) -> None:
    files = StateFiles(tmp_path)
    files.save_snapshot(SAVED)
    files.save_owned(OURS)
    (tmp_path / SNAPSHOT).unlink()
    (tmp_path / OWNED).unlink()
    files.save_snapshot(SAVED)
    files.save_owned(OURS)
    assert list(tmp_path.iterdir()) == []
    files.save_snapshot(Snapshot())
    assert (tmp_path / SNAPSHOT).exists()


def test_a_file_cut_at_any_byte_is_refused(tmp_path: Path) -> None:
    files = StateFiles(tmp_path)
    files.save_owned(OURS)
    whole = (tmp_path / OWNED).read_bytes()
    for length in range(len(whole)):
        (tmp_path / OWNED).write_bytes(whole[:length])
        with pytest.raises(StateFileError, match=r"owned\.json"):
            files.load_owned()


def test_a_file_with_any_bit_flipped_is_refused(tmp_path: Path) -> None:
    files = StateFiles(tmp_path)
    files.save_snapshot(SAVED)
    whole = bytearray((tmp_path / SNAPSHOT).read_bytes())
    for place in range(0, len(whole) * 8, 5):
        flipped = bytearray(whole)
        flipped[place // 8] ^= 1 << place % 8
        (tmp_path / SNAPSHOT).write_bytes(flipped)
        try:
            loaded = files.load_snapshot()
        except StateFileError:
            continue
        # A digit of the header's white space or letter case may change without a meaning; the content may not.
        assert loaded is not None
        assert loaded.snapshot == SAVED


@pytest.mark.parametrize("body", [b"[]", b"nothing", b'{"saved": 1}', b'{"saved": "x", "snapshot": {}}'])
def test_content_that_makes_no_sense_is_refused_in_spite_of_its_checksum(tmp_path: Path, body: bytes) -> None:
    import hashlib

    header = json.dumps({"version": 1, "sha256": hashlib.sha256(body).hexdigest()}).encode()
    for name in (SNAPSHOT, OWNED):
        (tmp_path / name).write_bytes(header + b"\n" + body)
    with pytest.raises(StateFileError, match=r"snapshot\.json"):
        StateFiles(tmp_path).load_snapshot()
    with pytest.raises(StateFileError, match=r"owned\.json"):
        StateFiles(tmp_path).load_owned()


def test_a_later_version_is_named(tmp_path: Path) -> None:
    (tmp_path / SNAPSHOT).write_bytes(b'{"version":2,"sha256":""}\n{}')
    with pytest.raises(StateFileError, match="version 2, this agent reads 1"):
        StateFiles(tmp_path).load_snapshot()


def test_a_folder_in_the_place_of_the_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / OWNED).mkdir()
    with pytest.raises(StateFileError, match=r"owned\.json"):
        StateFiles(tmp_path).load_owned()


def test_a_failed_write_leaves_the_old_file_and_no_rest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = StateFiles(tmp_path)
    files.save_owned(OURS)

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        files.save_owned(Owned())
    monkeypatch.undo()
    assert files.errors == 1
    assert [path.name for path in tmp_path.iterdir()] == [OWNED]
    assert files.load_owned() == OURS
    files.save_owned(Owned())
    assert files.load_owned() == Owned()
