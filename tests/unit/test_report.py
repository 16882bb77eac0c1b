"""Who says what about an object's status."""

import pytest

from lvsagent.core.report import Report, reports
from lvsapi.model import ObjectKey, Problem
from lvsapi.resolve import resolve
from tests.gen import assignment, endpoint, endpoint_slice, snapshot, virtual_service

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
