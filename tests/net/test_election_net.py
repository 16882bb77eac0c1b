"""The real election in real namespaces: who answers for the VIP, and how soon."""

import contextlib
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.net.election_host import VIP, ElectionHost, Probe, router
from tests.net.lan import Lan

pytestmark = pytest.mark.net


class Lab:
    """dr1 (priority 110) and dr2 (100) run, dr1 is Active; a client probes the VIP."""

    def __init__(self, lan: Lan, folder: Path) -> None:
        self.lan = lan
        self.dr1 = ElectionHost(lan, "dr1", "10.0.0.11/24", folder)
        self.dr2 = ElectionHost(lan, "dr2", "10.0.0.12/24", folder)
        lan.add_host("client", "10.0.0.1/24")
        for host, priority in ((self.dr1, 110), (self.dr2, 100)):
            host.start()
            host.configure(router(priority))
        self.dr1.await_holding()
        self.dr2.await_holding(False)
        self.probe = Probe(lan, "client")
        self.probe.await_answer()


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    with contextlib.ExitStack() as stack:
        lab = Lab(stack.enter_context(Lan()), tmp_path)
        for end in (lab.dr1.close, lab.dr2.close, lab.probe.close):
            stack.callback(end)
        yield lab


def test_one_of_two_holds_the_address_fenced(lab: Lab) -> None:
    shown = lab.lan.run("dr1", ["ip", "address", "show", "dev", "eth0", "to", VIP])
    assert "noprefixroute" in shown
    assert "valid_lft 2sec" in shown or "valid_lft 1sec" in shown
    assert lab.dr1.statistics().routers[0].addresses_held == (f"{VIP}/32",)
    assert lab.dr2.statistics().routers[0].state == "Backup"
    assert lab.dr2.statistics().routers[0].active_address == "10.0.0.11"


def test_a_node_that_vanishes_is_replaced_within_a_second(lab: Lab) -> None:
    begin = time.monotonic()
    lab.lan.cut("dr1")
    lab.dr2.await_holding(timeout=1)
    lab.probe.await_answer(timeout=1)
    assert lab.probe.gap(begin) <= 1


def test_sigterm_hands_over_without_a_gap_that_a_client_would_notice(lab: Lab) -> None:
    begin = time.monotonic()
    lab.dr1.signal(signal.SIGTERM)
    lab.dr1.await_holding(False)
    assert lab.dr2.holds()
    time.sleep(0.1)
    assert lab.probe.gap(begin) <= 0.1
    assert lab.dr1.process is not None
    assert lab.dr1.process.wait(2) == 0


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_the_kernel_takes_the_address_of_a_process_that_is_killed_or_frozen(lab: Lab, number: signal.Signals) -> None:
    lab.dr1.signal(number)
    lab.dr2.await_holding(timeout=1)
    lab.dr1.await_holding(False, timeout=3)
    lab.probe.await_answer(timeout=0.5)
