"""``lvs-node-init`` and the settings' files, on a folder in the place of /proc/sys."""

import errno
import os
from ipaddress import ip_address
from pathlib import Path
from typing import Never

import pytest

from lvsagent import node_init
from lvsagent.adapters import netlink
from lvsagent.adapters.ipvs import Ipvs, IpvsUnavailable
from lvsagent.adapters.procfs import Originals, Sysctls, prepare, restore
from lvsagent.core.failure import Reason
from lvsagent.core.sysctl import IPVS, REQUIRED, Record

pytestmark = pytest.mark.unit
FORWARD = "net/ipv4/ip_forward"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """All settings at 0."""
    for key in (*REQUIRED, "net/ipv4/conf/eth0/rp_filter"):
        (tmp_path / "sys" / key).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "sys" / key).write_text("0\n")
    return tmp_path / "sys"


@pytest.fixture
def originals(tmp_path: Path) -> Originals:
    return Originals(tmp_path / "state")


def test_settings_are_recorded_before_they_are_written_and_restored(folder: Path, originals: Originals) -> None:
    sysctls = Sysctls(folder)
    assert prepare(sysctls, originals, "boot", REQUIRED) == ()
    assert sysctls.read(REQUIRED) == dict(REQUIRED)
    record = originals.load()
    assert record
    assert {change.original for change in record.changes.values()} == {"0"}
    assert restore(sysctls, originals, "boot") == ()
    assert set(sysctls.read(REQUIRED).values()) == {"0"}
    assert originals.load() is None
    assert restore(sysctls, originals, "boot") == ()


def test_a_second_run_keeps_the_originals_and_writes_nothing(folder: Path, originals: Originals) -> None:
    prepare(Sysctls(folder), originals, "boot", REQUIRED)
    text, moment = originals.path.read_text(), (folder / FORWARD).stat().st_mtime_ns
    assert prepare(Sysctls(folder), originals, "boot", REQUIRED) == ()
    assert (originals.path.read_text(), (folder / FORWARD).stat().st_mtime_ns) == (text, moment)


def test_a_record_that_cannot_be_read_is_put_aside(folder: Path, originals: Originals) -> None:
    originals.path.parent.mkdir()
    originals.path.write_text("{")
    assert prepare(Sysctls(folder), originals, "boot", REQUIRED) == ()
    assert originals.path.with_name("sysctl.json.unreadable").read_text() == "{"
    assert originals.load()


def test_a_setting_that_does_not_take_the_value_is_reported(
    folder: Path, originals: Originals, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "write", lambda descriptor, data: len(data))
    failures = prepare(Sysctls(folder), originals, "boot", REQUIRED)
    assert {failure.reason for failure in failures} == {Reason.NOT_VERIFIED}
    assert "net.ipv4.ip_forward: wrote 1, reads 0" in failures[0].message


@pytest.mark.parametrize(
    ("key", "code", "reason", "remedy"),
    [
        (FORWARD, errno.EROFS, Reason.READ_ONLY, "--proc-sys"),
        (FORWARD, errno.EACCES, Reason.NO_PERMISSION, "NET_ADMIN"),
        (FORWARD, errno.ENOENT, Reason.NO_SUCH_SYSCTL, "/proc/sys"),
        (next(iter(IPVS)), errno.ENOENT, Reason.NO_SUCH_SYSCTL, "modprobe ip_vs"),
        (FORWARD, errno.EIO, Reason.OTHER, "sysctl(8)"),
    ],
)
def test_a_refused_write_names_key_value_and_remedy(
    folder: Path, monkeypatch: pytest.MonkeyPatch, key: str, code: int, reason: Reason, remedy: str
) -> None:
    def refuse(path: object, flags: int) -> Never:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "open", refuse)
    failure = Sysctls(folder).write(key, "1")
    assert failure
    assert (failure.reason, failure.errno, failure.operation) == (reason, code, "set_sysctl")
    assert f"{key.replace('/', '.')}=1" in failure.message
    assert remedy in failure.message


@pytest.mark.parametrize(("code", "word"), [(errno.ENOENT, "modprobe -a ip_vs ip_vs_mh"), (errno.EPERM, "NET_ADMIN")])
def test_a_kernel_without_ipvs_and_a_process_without_rights_are_told_apart(
    monkeypatch: pytest.MonkeyPatch, code: int, word: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    def refuse(self: netlink.Netlink, message: netlink.Message) -> Never:
        raise netlink.NetlinkError(code, os.strerror(code))

    monkeypatch.setattr(netlink.Netlink, "request", refuse)
    with pytest.raises(IpvsUnavailable, match=word):
        Ipvs()
    assert node_init.main(["--check", "--state-dir", str(tmp_path), "--proc-sys", str(tmp_path)]) == 1
    assert word in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_fault_52_the_init_container_lets_the_agent_say_that_the_kernel_has_no_ipvs(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    codes = iter((errno.EPERM, errno.ENOENT))

    def refuse(self: netlink.Netlink, message: netlink.Message) -> Never:
        code = next(codes)
        raise netlink.NetlinkError(code, os.strerror(code))

    monkeypatch.setattr(netlink.Netlink, "request", refuse)
    arguments = ["--state-dir", str(tmp_path / "state"), "--proc-sys", str(folder)]
    for status in (1, 0):
        assert node_init.main(arguments) == status
        assert "error: " in capsys.readouterr().err
        assert (folder / "net/ipv4/conf/all/arp_ignore").read_text().strip() == str(1 - status)


def test_fault_13_a_full_disk_keeps_no_node_from_its_settings(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The init container of a node that is rebooted with a full disk would fail, again and again."""

    def full(self: Originals, record: Record) -> Never:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Originals, "save", full)
    arguments = ["--real-server", "--proc-sys", str(folder), "--state-dir", str(tmp_path / "state")]
    assert node_init.main(arguments) == 0
    told = capsys.readouterr()
    assert "state/sysctl.json cannot be written (No space left on device)" in told.err
    assert "verified: net/ipv4/conf/all/arp_ignore=1" in told.out
    # What the kernel refuses is an error all the same.
    monkeypatch.setattr(Sysctls, "write", lambda self, key, value: Sysctls._failure(self, key, value, errno.EROFS))
    (folder / "net/ipv4/conf/all/arp_ignore").write_text("0\n")
    assert node_init.main(arguments) == 1
    assert "read_only" in capsys.readouterr().err


def test_check_names_everything_that_is_missing_and_writes_nothing(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--real-server", "--check", "--proc-sys", str(folder), "--state-dir", str(tmp_path / "state")]
    assert node_init.main(arguments) == 1
    errors = capsys.readouterr().err
    assert "net.ipv4.conf.all.arp_ignore is 0, needs 1" in errors
    assert "net.ipv4.conf.all.arp_announce is 0, needs 2" in errors
    assert not (tmp_path / "state").exists()


def test_the_environment_names_the_folders(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    environment = {"LVS_PROC_SYS": str(folder), "LVS_STATE_DIR": str(tmp_path / "state")}
    assert node_init.main(["--real-server"], environment) == 0
    assert "verified: net/ipv4/conf/all/arp_ignore=1" in capsys.readouterr().out
    assert node_init.main(["--real-server", "--undo"], environment) == 0
    assert (folder / "net/ipv4/conf/all/arp_ignore").read_text().strip() == "0"


@pytest.mark.parametrize("arguments", [["--vip", "10.0.0.1"], ["--undo", "--check"], ["--real-server", "--vip", "web"]])
def test_wrong_arguments_are_refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        node_init.main(arguments, {})
    assert caught.value.code == 2
    assert "lvs-node-init" in capsys.readouterr().err


def test_attributes_survive_the_wire_and_truncated_ones_end_the_parse() -> None:
    data = netlink.attribute(1, b"abc") + netlink.attribute(2 | netlink.NESTED, ip_address("10.0.0.1").packed)
    assert netlink.parse_attributes(data) == {1: b"abc", 2: b"\n\0\0\1"}
    assert netlink.parse_attributes(data[:8] + b"\1\0\1\0") == {1: b"abc"}
    assert netlink.error_name(errno.EEXIST) == "eexist"
    assert netlink.error_name(9999) == "errno_9999"
