"""Kernel settings: what is needed, what is said about it, and the way back."""

import dataclasses

import pytest

from lvsagent.core import sysctl
from lvsagent.core.sysctl import (
    IP6_FORWARD,
    IP_FORWARD,
    REQUIRED,
    Change,
    Record,
    RecordError,
    check,
    decode_record,
    effective,
    interface_keys,
    remember,
    satisfied,
    side_effects,
    undo,
)

pytestmark = pytest.mark.unit
IGNORE = "net/ipv4/conf/all/arp_ignore"


def test_a_node_that_has_everything_has_no_problem() -> None:
    assert check(REQUIRED) == ()


@pytest.mark.parametrize("key", sorted(REQUIRED))
def test_a_wrong_value_is_named_with_consequence_and_remedy(key: str) -> None:
    (problem,) = check({**REQUIRED, key: "0"})
    assert problem.key == key
    assert problem.fatal
    for word in (key.replace("/", "."), "is 0", f"needs {REQUIRED[key]}", "sysctl -w", "lvs-node-init"):
        assert word in problem.message


def test_a_missing_ipvs_key_says_that_the_module_is_missing() -> None:
    (problem,) = check({**REQUIRED, "net/ipv4/vs/sloppy_tcp": None})
    assert "modprobe ip_vs" in problem.message
    (problem,) = check({**REQUIRED, IP_FORWARD: None})
    assert "/proc/sys" in problem.message


def test_a_stricter_arp_ignore_satisfies_but_one_that_silences_the_active_does_not() -> None:
    assert satisfied(IGNORE, "2", "1")
    assert not satisfied(IGNORE, "8", "1")
    assert not satisfied(IGNORE, None, "1")


def test_the_effective_value_is_the_maximum_of_all_and_the_interface() -> None:
    values = {
        "net/ipv4/conf/all/rp_filter": "1",
        "net/ipv4/conf/eth0/rp_filter": "0",
        "net/ipv4/conf/eth1/rp_filter": "2",
    }
    assert effective(values, "eth0", "rp_filter") == 1
    assert effective(values, "eth1", "rp_filter") == 2
    assert effective({}, "eth0", "rp_filter") == 0


def test_strict_reverse_path_filtering_is_a_warning_and_loose_is_not() -> None:
    values = {**REQUIRED, "net/ipv4/conf/all/rp_filter": "1", "net/ipv4/conf/eth0/rp_filter": "0"}
    (problem,) = check(values)
    assert not problem.fatal
    assert "strict" in problem.message
    assert check({**values, "net/ipv4/conf/eth0/rp_filter": "2"}) == ()


def test_an_interface_that_never_answers_arp_is_a_warning() -> None:
    (problem,) = check({**REQUIRED, "net/ipv4/conf/eth0/arp_ignore": "8"})
    assert not problem.fatal
    assert "effectively 8" in problem.message


def test_interface_keys_cover_all_and_every_interface() -> None:
    assert "net/ipv4/conf/all/rp_filter" in interface_keys(["eth0"])
    assert "net/ipv4/conf/eth0/arp_ignore" in interface_keys(["eth0"])


def test_an_interface_name_with_a_dot_keeps_its_slashes() -> None:
    assert sysctl.dotted("net/ipv4/conf/eth0.10/rp_filter") == "net/ipv4/conf/eth0.10/rp_filter"


BEFORE = {**dict.fromkeys(REQUIRED, "0"), "net/ipv4/vs/conntrack": "1"}


def test_only_what_is_changed_is_remembered() -> None:
    record = remember(None, "boot", BEFORE, REQUIRED)
    assert "net/ipv4/vs/conntrack" not in record.changes
    assert record.changes[IGNORE] == Change(original="0", written="1")


def test_an_original_of_the_same_boot_is_never_overwritten() -> None:
    first = remember(None, "boot", BEFORE, REQUIRED)
    again = remember(first, "boot", {**REQUIRED, IGNORE: "3"}, REQUIRED)
    assert again == first


def test_after_a_reboot_the_originals_are_new() -> None:
    first = remember(None, "boot", BEFORE, REQUIRED)
    later = remember(first, "another boot", {**REQUIRED, IGNORE: "0"}, REQUIRED)
    assert later.changes == {IGNORE: Change(original="0", written="1")}
    assert later.boot_id == "another boot"


def test_undo_restores_only_keys_that_still_hold_our_value() -> None:
    record = remember(None, "boot", BEFORE, REQUIRED)
    values = undo(record, "boot", {**REQUIRED, "net/ipv4/vs/sloppy_tcp": "7"})
    assert "net/ipv4/vs/sloppy_tcp" not in values
    assert values[IGNORE] == "0"
    assert next(iter(values)) == IP_FORWARD


def test_undo_in_another_boot_writes_nothing() -> None:
    assert undo(remember(None, "boot", BEFORE, REQUIRED), "another boot", REQUIRED) == {}


def test_what_ip_forward_changes_by_itself_is_remembered_and_restored_after_it() -> None:
    side = dict.fromkeys(side_effects(["eth0"]), "0")
    record = remember(None, "boot", {**BEFORE, **side}, REQUIRED)
    after = {**REQUIRED, **side, "net/ipv4/conf/eth0/forwarding": "1"}
    values = undo(record, "boot", after)
    assert values["net/ipv4/conf/eth0/forwarding"] == "0"
    assert values["net/ipv4/conf/all/accept_redirects"] == "0"
    unchanged = remember(None, "boot", {**BEFORE, **side, IP_FORWARD: "1"}, REQUIRED)
    assert not set(side) & set(unchanged.changes)


def test_what_ipv6_forwarding_changes_by_itself_is_remembered_apart_from_ipv4s() -> None:
    four, six = "net/ipv4/conf/eth0/forwarding", "net/ipv6/conf/eth0/forwarding"
    side = dict.fromkeys(side_effects(["eth0"]), "0")
    assert {four, six, "net/ipv6/conf/default/forwarding"} <= side.keys()
    record = remember(None, "boot", {IP6_FORWARD: "0", **side}, {IP6_FORWARD: "1"})
    assert record.changes.keys() == {IP6_FORWARD, six, "net/ipv6/conf/default/forwarding"}
    more = remember(record, "boot", {IP_FORWARD: "0", **side, six: "1"}, {IP_FORWARD: "1"})
    assert more.changes[six] == Change(original="0", written="1")
    assert four in more.changes
    values = undo(more, "boot", {key: change.written for key, change in more.changes.items()})
    assert {*list(values)[:2]} == {IP_FORWARD, IP6_FORWARD}
    assert set(values.values()) == {"0"}


@pytest.mark.parametrize("value", ["1", "2"])
def test_ipv6_that_is_forwarded_already_is_left_as_it_is(value: str) -> None:
    assert satisfied(IP6_FORWARD, value, "1")


def test_a_record_survives_the_disk() -> None:
    record = dataclasses.replace(remember(None, "boot", BEFORE, REQUIRED), loopback=("10.0.0.1",))
    assert decode_record(record.encode()) == record


@pytest.mark.parametrize(
    "text", ["", "[]", "{", '{"bootID": 1}', '{"bootID": "b", "sysctls": {"k": 1}, "loopback": []}']
)
def test_a_record_that_cannot_be_read_is_refused_with_one_error(text: str) -> None:
    with pytest.raises(RecordError, match="not a record"):
        decode_record(text)


def test_an_empty_record_undoes_nothing() -> None:
    assert undo(Record(boot_id="boot"), "boot", REQUIRED) == {}
