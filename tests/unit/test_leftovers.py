"""Which entries are left of connections that are over, and what is written so that the kernel forgets them."""

from dataclasses import replace
from ipaddress import ip_address

import pytest

from lvsagent.core import leftovers as module
from lvsagent.core.affinity import Connection, Tables
from lvsagent.core.leftovers import QUIET, SETTLED, VOUCHED, Place, Vouchers, look
from lvsagent.core.maglev import DestinationKey
from lvsapi.model import Protocol
from tests.unit.test_affinity import POD, VIP, connection, opened, service, tables

pytestmark = pytest.mark.unit

OTHERS = frozenset({POD[2][0], POD[3][0]})
STANDBY = Place(active=frozenset(), told=OTHERS, alone=True)
ACTIVE = replace(STANDBY, active=frozenset({VIP}))
NOBODY = Vouchers(0.0)


def against(connections: list[Connection], tables: Tables) -> list[tuple[Connection, DestinationKey]]:
    return [(c, place) for c in connections if (place := module.against(c, tables)) is not None]


def leftovers(misplaced: list[tuple[Connection, DestinationKey]], here: Place, vouchers: Vouchers) -> list[Connection]:
    return [one for c, place in misplaced if (one := module.leftover(c, place, here, vouchers)) is not None]


def moved(state: str = "ESTABLISHED", expires: int = 900, pod: int = 2) -> list[Connection]:
    """Connections of that pod from before the third one came, which takes their places."""
    found = against(opened(1, 2), tables(1, 2, 3))
    return [
        c._replace(state=state, expires=expires) for c, place in found if c.destination == POD[pod] and place == POD[3]
    ]


def forgotten(connections: list[Connection], here: Place, vouchers: Vouchers = NOBODY) -> list[Connection]:
    return leftovers(against(connections, tables(1, 2, 3)), here, vouchers)


def test_only_what_is_against_the_table_and_in_it_is_looked_at() -> None:
    assert against(opened(1, 2, 3), tables(1, 2, 3)) == []
    displaced = against(opened(1, 2), tables(1, 2, 3))
    assert 250 < len(displaced) < 420
    assert sum(place == POD[3] for _, place in displaced) > 0.9 * len(displaced), "those that the new one takes"
    assert against(opened(1, 2), tables(1, 3)) == [
        (c, place) for c, place in against(opened(1, 2), tables(1, 3)) if c.destination == POD[1]
    ], "a destination that is gone takes its connections with it"
    assert against([connection(2000, 1)], tables()) == []


def test_what_is_written_says_where_the_table_would_send_it_and_lasts_a_second() -> None:
    before = moved("FIN_WAIT", 10)
    after = forgotten(before, ACTIVE)
    assert len(after) == len(before) > 0
    assert {(c.destination, c.state, c.expires) for c in after} == {(POD[3], "FIN_WAIT", 1)}
    assert [c.flow for c in after] == [c.flow for c in before]


@pytest.mark.parametrize("here", [STANDBY, ACTIVE, replace(STANDBY, alone=False)])
@pytest.mark.parametrize("pod", [1, 2])
@pytest.mark.parametrize("state", ["FIN_WAIT", "TIME_WAIT"])
def test_a_connection_that_ended_is_forgotten_by_everybody_when_nothing_comes_any_more(
    here: Place, pod: int, state: str
) -> None:
    vouchers = Vouchers(0.0)
    vouchers.heard(moved(state, pod=pod), 1.0)
    assert forgotten(moved(state, 120 - QUIET, pod), here, vouchers)
    assert not forgotten(moved(state, 121 - QUIET, pod), replace(here, alone=False), vouchers)


def test_an_open_connection_is_forgotten_only_where_others_see_it_and_nobody_vouches_for_it() -> None:
    assert forgotten(moved(), STANDBY)
    assert not forgotten(moved(), ACTIVE), "it sees them all"
    assert not forgotten(moved(pod=1), STANDBY), "the pod is here"
    assert not forgotten(moved(), replace(STANDBY, told=frozenset())), "nobody tells of that pod's"
    assert not forgotten(moved(), replace(STANDBY, alone=False))
    vouchers = Vouchers(0.0)
    first, second, *others = moved()
    vouchers.heard([first, second._replace(destination=POD[1])], 100.0)
    assert [c.flow for c in forgotten(moved(), STANDBY, vouchers)] == [c.flow for c in (second, *others)]
    vouchers.forget(100.0 + VOUCHED - 0.1)
    assert vouchers.has(first)
    vouchers.forget(100.0 + VOUCHED)
    assert not vouchers.has(first)


def test_a_flow_of_udp_that_another_node_serves_is_forgotten_likewise() -> None:
    udp = replace(service(), key=replace(service().key, protocol=Protocol.UDP))
    after = tables(1, 2, 3)
    after.use({udp.key: replace(service(1, 2, 3), key=udp.key)})
    before = [c._replace(protocol=Protocol.UDP, state="UDP", expires=200) for c in moved()]
    written = leftovers(against(before, after), STANDBY, NOBODY)
    assert {(c.destination, c.state, c.expires) for c in written} == {(POD[3], "UDP", 1)}
    assert not leftovers(against(before, after), ACTIVE, NOBODY)


def test_nobody_s_word_is_missing_when_all_had_time_to_say_it() -> None:
    vouchers = Vouchers(1000.0)
    assert not vouchers.complete(500.0, 1000.0 + VOUCHED - 0.1)
    assert vouchers.complete(500.0, 1000.0 + VOUCHED)
    assert not vouchers.complete(2000.0, 2000.0 + SETTLED - 0.1)
    assert vouchers.complete(2000.0, 2000.0 + SETTLED)


def test_a_client_s_address_is_no_part_of_the_destination() -> None:
    """The same client port to two services are two flows."""
    vouchers = Vouchers(0.0)
    one = moved()[0]
    vouchers.heard([one._replace(address=ip_address("10.0.0.201"))], 1.0)
    assert not vouchers.has(one)


def test_one_look_finds_what_is_told_and_what_is_left_and_keeps_no_more_than_it_may() -> None:
    ended = [c._replace(state="FIN_WAIT", expires=10) for c in moved()]
    open_ = moved(pod=1)
    wanted = tables(1, 2, 3)
    here = replace(STANDBY, alone=False)
    found = look(iter([*ended, *open_]), [wanted], wanted, [POD[1][0], POD[2][0]], here, NOBODY)
    assert list(found.told.values()) == open_, "who has ended is not told"
    assert [c.flow for c in found.over] == [c.flow for c in ended]
    assert found.misplaced
    assert found.left_out == 0
    found = look(iter([*ended, *open_]), [wanted], wanted, [POD[1][0]], here, NOBODY, most=10)
    assert (len(found.told), len(found.over)) == (10, 10)
    assert found.left_out == len(ended) + len(open_) - 20
    assert not look(iter(opened(1, 2, 3)), [wanted], wanted, [POD[1][0]], here, NOBODY).misplaced


def test_claims_that_are_too_many_to_be_remembered_are_as_good_as_not_heard(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST", 2)
    vouchers = Vouchers(0.0)
    vouchers.heard(moved()[:2], 100.0)
    vouchers.heard(moved()[:2], 101.0)
    assert vouchers.complete(0.0, 101.0)
    vouchers.heard(moved()[:3], 102.0)
    assert vouchers.has(moved()[1])
    assert not vouchers.has(moved()[2])
    assert not vouchers.complete(0.0, 102.0 + VOUCHED - 0.1)
    assert vouchers.complete(0.0, 102.0 + VOUCHED)
