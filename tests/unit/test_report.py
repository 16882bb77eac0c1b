"""Who says what about an object's status."""

import pytest

from lvsagent.core.report import Report, election_problems, findings_of, reports, unserved
from lvsagent.ipc import RouterStatistics
from lvsapi.model import ObjectKey, Problem
from lvsapi.resolve import resolve
from lvsapi.vrrp import AuthenticationType
from tests.gen import assignment, endpoint, endpoint_slice, service_class, snapshot, virtual_service
from tests.statistics import router_statistics

pytestmark = pytest.mark.unit

WEB = ObjectKey("default", "web")
DRAINING = endpoint("10.244.1.3", ready=False, serving=True, terminating=True)
RESOLVED = resolve(snapshot(virtual_service(assigned=assignment()), slices=[endpoint_slice(["10.244.1.2", DRAINING])]))
ROUTER = "default/200/v4"
BROKEN = Problem(key=WEB, condition="Programmed", reason="KernelUnsupported", message="modprobe ip_vs")


def test_the_active_node_reports_its_backends() -> None:
    assert reports(RESOLVED, frozenset({ROUTER}), (), "node2", {}) == {WEB: Report(active=True, ready=1, total=2)}


def test_other_nodes_say_nothing() -> None:
    assert reports(RESOLVED, frozenset(), (), "node1", {}) == {}
    assert reports(RESOLVED, frozenset(), (BROKEN,), "node2", {}) == {}


def test_the_first_director_says_why_it_cannot_serve_when_nobody_does() -> None:
    (report,) = reports(RESOLVED, frozenset(), (BROKEN,), "node1", {}).values()
    assert not report.active
    assert report.problems == (BROKEN,)
    assert reports(RESOLVED, frozenset(), (BROKEN,), "node1", {WEB: "node2"}) == {}
    assert reports(RESOLVED, frozenset(), (BROKEN,), "node1", {WEB: "node1"})


def statistics(problem: str = "", **findings: str) -> RouterStatistics:
    return router_statistics(ROUTER, problem=problem, findings=findings)


def test_findings_and_refusals_of_the_election_are_problems_of_what_the_router_carries() -> None:
    heard = {ROUTER: statistics("no such interface", ForeignVRID="10.0.0.9 speaks", AddressConflict="taken")}
    found = election_problems(RESOLVED, heard)
    assert [(p.key, p.condition, p.reason, p.message) for p in found] == [
        (WEB, "ElectionHealthy", "RouterRefused", "no such interface"),
        (WEB, "ElectionHealthy", "AddressConflict", "taken"),
        (WEB, "ElectionHealthy", "ForeignVRID", "10.0.0.9 speaks"),
    ]
    assert election_problems(RESOLVED, {ROUTER: statistics()}) == ()
    assert election_problems(RESOLVED, {}) == ()


@pytest.mark.parametrize(
    ("finding", "held", "state", "missing"),
    [
        ("AddressConflict", (), "Active", ["AddressConflict"]),
        ("AddressRefused", (), "Active", ["AddressRefused"]),
        ("AddressConflict", ("192.168.139.123/32",), "Active", []),
        ("AddressConflict", (), "Backup", []),
        ("AddressClaimed", (), "Active", []),
    ],
)
def test_an_object_whose_address_the_active_node_cannot_have_is_not_ready(
    finding: str, held: tuple[str, ...], state: str, missing: list[str]
) -> None:
    """A router carries other objects' addresses, too: only whose address is missing is not ready."""
    heard = router_statistics(ROUTER, addresses_held=held, state=state, findings={finding: "02:00:00:00:00:09 has it"})
    found = unserved(RESOLVED, {ROUTER: heard})
    assert [(p.condition, p.reason) for p in found] == [("Ready", reason) for reason in missing]
    assert [p.message for p in found] == ["192.168.139.123 is not served: 02:00:00:00:00:09 has it"] * len(missing)


def test_a_password_is_named_insecure_wherever_it_is_used() -> None:
    item = virtual_service(assigned=assignment())
    owner = service_class(version=2, interval_ms=1000, authentication=AuthenticationType.PASSWORD)
    resolved = resolve(snapshot(item, classes=[owner]))
    (problem,) = election_problems(resolved, {})
    assert problem.reason == "PasswordInsecure"
    assert "VirtualServiceClass default" in problem.message
    assert findings_of(resolved.routers[0], statistics(PasswordInsecure="its own words")) == {
        "PasswordInsecure": "its own words"
    }
