"""What a takeover keeps of established connections: every scheduler, every way of forwarding, both families.

What is found here is recorded by ``make matrix``, and docs/matrix.md is made of it.
"""

import time
from collections.abc import Callable, Iterator

import pytest

from lvsagent.core.state import SyncRole
from lvsapi.model import Resolved
from lvsapi.takeover import kept_of
from tests.net import matrix_results
from tests.net.lan import Lan
from tests.net.matrix import CONNECTIONS, OVER_TAKEOVERS, STEPS, SYNCHRONISED, Case
from tests.net.matrix_takeover import Directors, Held

pytestmark = pytest.mark.net
SYNC_LAG = 3.5
"""The kernel's master daemon sends what it has gathered within 2 s."""
Found = dict[str, dict[str, int]]


@pytest.fixture(scope="module")
def directors(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Directors]:
    with Lan() as lan:
        yield Directors(lan, tmp_path_factory.mktemp("takeover"), OVER_TAKEOVERS)


@pytest.fixture(scope="module")
def found(directors: Directors) -> Found:
    """By case and step, how many of the held connections lived on."""
    steps = {step: TAKE[step](directors) for step in (*STEPS, SYNCHRONISED)}
    results = {case.name: {step: kept[case.name] for step, kept in steps.items()} for case in OVER_TAKEOVERS}
    matrix_results.write("kept", results)
    return results


def crash(directors: Directors) -> dict[str, int]:
    directors.come("n1", "n2")
    directors.take("n1")
    with Held(directors) as held:
        directors.die("n1")
        directors.take("n2")
        return held.kept()


def planned(directors: Directors) -> dict[str, int]:
    directors.come("n1", "n2")
    directors.take("n1")
    with Held(directors) as held:
        directors.take("n2")
        directors.give("n1")
        return held.kept()


def come_back(directors: Directors) -> dict[str, int]:
    directors.leave("n1")
    directors.come("n2")
    directors.take("n2")
    with Held(directors) as held:
        directors.come("n1")
        directors.take("n1")
        directors.give("n2")
        return held.kept()


def answer(directors: Directors) -> dict[str, int]:
    directors.come("n1", "n2")
    directors.take("n1")
    with Held(directors) as held:
        held.ask(b"later\n")
        directors.take("n2")
        directors.give("n1")
        return held.kept_with_an_answer_under_way()


def synchronised(directors: Directors) -> dict[str, int]:
    directors.come("n1", "n2")
    resolved = directors.objects(synchronised=True)
    active = frozenset(router.name for router in resolved.routers)
    assert {daemon.role for daemon in directors.program("n1", resolved, active).daemons} == {SyncRole.MASTER}
    assert {daemon.role for daemon in directors.program("n2", resolved).daemons} == {SyncRole.BACKUP}
    directors.take("n1")
    with Held(directors) as held:
        held.ask(b"later\n")
        time.sleep(SYNC_LAG)
        directors.take("n2")
        directors.give("n1")
        return held.kept_with_an_answer_under_way()


TAKE: dict[str, Callable[[Directors], dict[str, int]]] = {
    "crash": crash,
    "planned": planned,
    "return": come_back,
    "answer": answer,
    SYNCHRONISED: synchronised,
}


def promised(directors: Directors, resolved: Resolved, case: Case, *, daemon: bool) -> bool:
    """What the condition says of the object."""
    port = directors.ports[case.name]
    servers = [server for server in resolved.servers if server.port == port]
    assert servers
    return kept_of(servers, daemon, daemon, "").all


def test_a_takeover_keeps_what_the_condition_promises_and_no_more(directors: Directors, found: Found) -> None:
    kept = {name: all(steps[step] == CONNECTIONS for step in STEPS) for name, steps in found.items()}
    assert kept == {case.name: promised(directors, directors.resolved, case, daemon=False) for case in OVER_TAKEOVERS}


def test_with_the_sync_daemon_likewise(directors: Directors, found: Found) -> None:
    resolved = directors.objects(synchronised=True)
    assert {name: steps[SYNCHRONISED] == CONNECTIONS for name, steps in found.items()} == {
        case.name: promised(directors, resolved, case, daemon=True) for case in OVER_TAKEOVERS
    }


def test_what_a_takeover_keeps_is_what_is_recorded(found: Found) -> None:
    recorded = matrix_results.recorded()["kept"]
    now, then = (
        {case.name: matrix_results.certain(case.scheduler, part[case.name]) for case in OVER_TAKEOVERS}
        for part in (found, recorded)
    )
    assert now == then, "see `make matrix`"
