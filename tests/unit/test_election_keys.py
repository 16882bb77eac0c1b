"""Keys in a folder: read, replaced, missing; and what a router does with them."""

import errno
import os
from dataclasses import replace
from pathlib import Path

import pytest

from lvsagent import ipc
from lvsagent.election.keys import REFRESH, Credentials, Keys
from lvsagent.vrrp import auth, packet

pytestmark = pytest.mark.unit

KEY, OTHER = b"k" * 32, b"o" * 40
US, PEER = bytes((10, 0, 0, 11)), bytes((10, 0, 0, 12))
CONFIG = ipc.RouterConfig(
    name="lab",
    virtual_router_id=51,
    family=4,
    interface="eth0",
    vip_interface="eth0",
    addresses=("10.0.0.200/32",),
    priority=100,
    advertisement_interval_ms=1000,
    authentication=ipc.Authentication.HMAC,
    key="lab",
)
ADVERT = packet.Advertisement(
    virtual_router_id=51, priority=100, interval=100, addresses=(bytes((10, 0, 0, 200)),), source=PEER
)


class Log:
    def __init__(self) -> None:
        self.lines: list[str] = []

    def __call__(self, sentence: str, **fields: object) -> None:
        self.lines.append(" ".join((sentence, *(f"{name}={value}" for name, value in fields.items()))))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    put(tmp_path, "lab.hmac.1", KEY)
    put(tmp_path, "lab.password", b"k8s-lvs-\n")
    return tmp_path


def put(folder: Path, name: str, content: bytes, mode: int = 0o400) -> None:
    path = folder / name
    path.unlink(missing_ok=True)
    path.write_bytes(content)
    path.chmod(mode)


def opened(folder: Path, log: Log | None = None) -> Keys:
    keys = Keys(folder, log or Log())
    assert keys.refresh(0.0)
    return keys


def credentials(keys: Keys, **changes: object) -> Credentials:
    config = replace(CONFIG, **changes)  # type: ignore[arg-type]
    return Credentials(config, keys, auth.Clock(1000.0, 0.0), 0.0)


def understood(sender: Credentials, receiver: Credentials, now: float = 0.0) -> packet.Advertisement | packet.Dropped:
    version = receiver.expectation(None).version
    payload = sender.encode(replace(ADVERT, version=version), packet.GROUP_V4, now)
    policy = packet.Policy({51: receiver.expectation(None)})
    return packet.decode(
        payload,
        source=PEER,
        destination=packet.GROUP_V4,
        hop_limit=255,
        policy=policy,
        wall=1000.0 + now,
        monotonic=now,
    )


@pytest.fixture(autouse=True)
def wall(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lvsagent.election.keys.time.time", lambda: 1000.0)


def test_two_with_one_key_believe_each_other(folder: Path) -> None:
    keys = opened(folder)
    advert = understood(credentials(keys), credentials(keys))
    assert isinstance(advert, packet.Advertisement)
    assert advert.authenticated


def test_the_name_of_a_class_may_have_dots(tmp_path: Path) -> None:
    put(tmp_path, "edge.hmac.example.hmac.12", KEY)
    put(tmp_path, "edge.example.password", b"1111")
    keys = opened(tmp_path)
    ring = keys.ring("edge.hmac.example")
    assert ring is not None
    assert ring.newest == 12
    assert keys.password("edge.example") == b"1111"


def test_another_key_and_no_trailer_are_refused_by_name(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    put(elsewhere, "lab.hmac.1", OTHER)
    receiver = credentials(opened(folder))
    assert understood(credentials(opened(elsewhere)), receiver) == packet.Dropped(packet.DropReason.AUTH_HMAC)
    bare = credentials(opened(folder), authentication=ipc.Authentication.NONE)
    assert understood(bare, receiver) == packet.Dropped(packet.DropReason.AUTH_MISSING)


def test_the_steps_of_a_roll_out_understand_their_neighbours(folder: Path) -> None:
    keys = opened(folder)
    steps = [credentials(keys, authentication=ipc.Authentication.NONE)]
    steps += [credentials(keys, authentication_mode=mode) for mode in ipc.AuthenticationMode]
    for one, other in ((0, 1), (1, 2), (2, 3)):
        assert isinstance(understood(steps[one], steps[other]), packet.Advertisement), (one, other)
        assert isinstance(understood(steps[other], steps[one]), packet.Advertisement), (other, one)


def test_a_password_of_version_2_is_sent_and_demanded(folder: Path) -> None:
    words = {"authentication": ipc.Authentication.PASSWORD, "version": 2}
    ours = credentials(opened(folder), **words)
    assert isinstance(understood(ours, ours), packet.Advertisement)
    put(folder, "lab.password", b"other")
    theirs = credentials(opened(folder), **words)
    assert understood(theirs, ours) == packet.Dropped(packet.DropReason.PASSWORD)


def test_a_router_without_its_key_cannot_run_and_says_what_to_put_where(tmp_path: Path) -> None:
    keys = Keys(tmp_path / "none", Log())
    keys.refresh(0.0)
    found = credentials(keys).problem
    assert found == (f"authentication HMAC: no usable key in {tmp_path}/none: put it into lab.hmac.1 (32-64 octets)")
    assert "lab.password (1-8 octets)" in credentials(keys, authentication=ipc.Authentication.PASSWORD).problem
    receiving = credentials(keys, authentication_mode=ipc.AuthenticationMode.RECEIVE_ONLY)
    assert receiving.problem == ""
    assert isinstance(understood(receiving, receiving), packet.Advertisement)


def test_the_folder_is_looked_at_every_two_seconds_and_the_key_appears(tmp_path: Path) -> None:
    keys = Keys(tmp_path, Log())
    assert not keys.refresh(0.0)
    ours = credentials(keys)
    put(tmp_path, "lab.hmac.1", KEY)
    assert not keys.refresh(REFRESH / 2)
    assert keys.refresh(REFRESH)
    ours.refresh(keys, REFRESH)
    assert ours.problem == ""


def test_during_a_rotation_both_keys_are_good_and_the_new_one_signs_later(folder: Path) -> None:
    keys = opened(folder)
    ours, theirs = credentials(keys), credentials(keys)
    put(folder, "lab.hmac.2", OTHER)
    assert keys.refresh(REFRESH)
    ours.refresh(keys, REFRESH)
    assert isinstance(understood(ours, theirs, 0.1), packet.Advertisement), "signed with the old one yet"
    theirs.refresh(keys, REFRESH)
    later = REFRESH + auth.SETTLE
    assert isinstance(understood(ours, theirs, later), packet.Advertisement)
    assert ours._signer is not None
    assert ours._signer.signing == 2


def test_a_key_whose_file_vanishes_stays_in_force(folder: Path) -> None:
    keys = opened(folder)
    ours = credentials(keys)
    for path in tuple(folder.iterdir()):
        path.unlink()
    assert keys.refresh(REFRESH)
    ours.refresh(keys, REFRESH)
    assert ours.problem == ""
    assert isinstance(understood(ours, ours), packet.Advertisement)


@pytest.mark.parametrize("code", [errno.EMFILE, errno.EIO, errno.ENOENT])
@pytest.mark.parametrize("what", ["open", "iterdir"])
def test_keys_that_cannot_be_read_now_stay_as_they_were(
    folder: Path, monkeypatch: pytest.MonkeyPatch, code: int, what: str
) -> None:
    """With the older one only, a node would sign with that, and refuse what the others sign: two Actives."""
    put(folder, "lab.hmac.2", OTHER)
    keys = opened(folder)
    before = keys.ring("lab")
    real = Path.open

    def fail(path: Path, *arguments: object) -> object:
        if path.name in ("lab.hmac.2", folder.name):
            raise OSError(code, os.strerror(code))
        return real(path, *arguments)  # type: ignore[call-overload]

    monkeypatch.setattr(Path, what, fail)
    assert not keys.refresh(REFRESH)
    assert keys.ring("lab") is before
    monkeypatch.undo()
    assert not keys.refresh(2 * REFRESH), "nothing has changed"
    put(folder, "lab.hmac.3", KEY)
    assert keys.refresh(3 * REFRESH)


def test_a_key_that_cannot_be_read_hides_no_other_one(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(folder, "zebra.hmac.1", OTHER)
    real = Path.open

    def fail(path: Path, *arguments: object) -> object:
        if path.name == "lab.hmac.1":
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return real(path, *arguments)  # type: ignore[call-overload]

    monkeypatch.setattr(Path, "open", fail)
    log = Log()
    keys = opened(folder, log)
    assert keys.ring("zebra") is not None
    assert keys.ring("lab") is None
    assert any("lab.hmac.1" in line and "cannot be read" in line for line in log.lines)


def test_what_cannot_be_used_is_named_once_and_never_quoted(tmp_path: Path) -> None:
    log = Log()
    put(tmp_path, "short.hmac.1", b"secretsecret")
    put(tmp_path, "far.hmac.300", KEY)
    put(tmp_path, "open.hmac.1", KEY, 0o444)
    put(tmp_path, "long.password", b"much-too-long")
    put(tmp_path, ".hidden", b"x")
    keys = opened(tmp_path, log)
    keys.refresh(REFRESH)
    put(tmp_path, "more.hmac.1", KEY)
    keys.refresh(2 * REFRESH)
    assert [keys.ring(name) is None for name in ("short", "far", "open", "more")] == [True, True, False, False]
    assert keys.password("long") is None
    text = "\n".join(log.lines)
    for named in ("short.hmac.1", "file=far", "open.hmac.1", "long.password"):
        assert text.count(named) == 1, text
    assert "secret" not in text
    assert "much-too" not in text


def test_a_folder_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    log = Log()
    (tmp_path / "file").write_text("")
    Keys(tmp_path / "file", log).refresh(0.0)
    assert "cannot be read" in log.lines[0]


def test_what_matters_for_credentials(folder: Path) -> None:
    ours = credentials(opened(folder))
    assert ours.is_for(replace(CONFIG, priority=7))
    assert not ours.is_for(replace(CONFIG, key="other"))
