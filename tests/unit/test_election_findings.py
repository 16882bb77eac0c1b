"""What routers notice on the wire: for how long it is news."""

import pytest

from lvsagent.election.findings import MEMORY, Findings
from lvsagent.ipc import Finding

pytestmark = pytest.mark.unit

FOREIGN, DIFFERS = Finding.FOREIGN_ROUTER, Finding.INTERVAL_DIFFERS


def test_a_finding_counts_until_it_is_old_and_says_what_was_noted_last() -> None:
    findings = Findings()
    findings.note(FOREIGN, "one", 100.0)
    findings.note(FOREIGN, "two", 101.0)
    assert findings.current(101.0 + MEMORY) == {"ForeignVRID": "two"}
    assert findings.current(101.1 + MEMORY) == {}


def test_a_finding_that_is_over_is_forgotten_at_once() -> None:
    findings = Findings()
    findings.note(FOREIGN, "one", 100.0)
    findings.forget(FOREIGN)
    assert findings.current(100.0) == {}


def test_a_doubt_becomes_a_finding_when_it_lasts_without_a_break() -> None:
    findings = Findings()
    findings.doubt(DIFFERS, "so", 100.0, 1.0)
    findings.doubt(DIFFERS, None, 100.9, 1.0)
    findings.doubt(DIFFERS, "so", 101.0, 1.0)
    findings.doubt(DIFFERS, "so", 101.9, 1.0)
    assert findings.current(101.9) == {}
    findings.doubt(DIFFERS, "so", 102.0, 1.0)
    assert findings.current(102.0) == {"IntervalDiffers": "so"}


def test_a_doubt_that_pauses_begins_anew() -> None:
    findings = Findings()
    for now in (100.0, 102.0, 105.1):
        findings.doubt(DIFFERS, "so", now, 3.0, pause=3.0)
    assert findings.current(105.1) == {}
    findings.doubt(DIFFERS, "so", 108.1, 3.0, pause=3.0)
    assert findings.current(108.1) == {"IntervalDiffers": "so"}
