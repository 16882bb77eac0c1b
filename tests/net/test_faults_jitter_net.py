"""Faults of the network between directors: what of row 30 of docs/faults.md needs the kernel's netem."""

import contextlib
import time

import pytest

from lvsagent import ipc
from tests.net.faults import LOSSLESS, Directors, scaled

pytestmark = pytest.mark.net
NEEDS = ("lan", "filters", "netem")


def test_fault_30_jitter_reordering_and_duplicates_move_nothing(directors: Directors) -> None:
    directors.serve(**LOSSLESS)
    before, dropped, begin = directors.transitions(), directors.dropped(directors.dr2), time.monotonic()
    netem = ["delay", "20ms", "20ms", "distribution", "normal", "reorder", "25%", "50%", "duplicate", "10%"]
    with contextlib.ExitStack() as stack:
        for port in ("dr1", "dr2"):
            directors.lan.run("switch", ["tc", "qdisc", "add", "dev", port, "root", "netem", *netem])
            stack.callback(directors.lan.run, "switch", ["tc", "qdisc", "delete", "dev", port, "root"])
        time.sleep(scaled(3, 60))
    directors.assert_unmoved(before, begin)
    assert directors.dropped(directors.dr2) == dropped


def test_fault_30_with_keys_reordered_adverts_are_refused_and_still_move_nothing(directors: Directors) -> None:
    for host in directors.hosts:
        keys = host.folder / "keys"
        keys.mkdir(exist_ok=True)
        (keys / "lab.hmac.1").write_bytes(b"0123456789abcdef0123456789abcdef")
        (keys / "lab.hmac.1").chmod(0o400)
    time.sleep(2.1)  # they look every two seconds
    directors.serve(**LOSSLESS, authentication=ipc.Authentication.HMAC, key="lab")
    before, replayed, begin = directors.transitions(), directors.dropped(directors.dr2)["replay"], time.monotonic()
    directors.lan.run(
        "switch", ["tc", "qdisc", "add", "dev", "dr2", "root", "netem", "delay", "20ms", "20ms", "duplicate", "10%"]
    )
    time.sleep(scaled(3, 60))
    directors.lan.run("switch", ["tc", "qdisc", "delete", "dev", "dr2", "root"])
    directors.assert_unmoved(before, begin)
    assert directors.dropped(directors.dr2)["replay"] > replayed
