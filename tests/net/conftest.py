"""Fixtures: two directors for the fault tests, and the kernel of a fresh host."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from lvsagent.adapters.kernel import Kernel
from tests.net.faults import Directors
from tests.net.lan import Lan
from tests.net.preloaded import Nursery


@pytest.fixture(scope="session", autouse=True)
def preloaded_agents() -> Iterator[None]:
    Lan.nursery = Nursery()
    yield
    Lan.nursery.close()
    Lan.nursery = None


@pytest.fixture(scope="module")
def shared_directors(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Directors]:
    with contextlib.ExitStack() as stack:
        directors = Directors(stack.enter_context(Lan()), tmp_path_factory.mktemp("faults"))
        stack.callback(directors.close)
        yield directors


@pytest.fixture
def directors(shared_directors: Directors) -> Directors:
    """Two directors that run and have no wish."""
    shared_directors.reset()
    return shared_directors


@pytest.fixture
def kernel() -> Iterator[Kernel]:
    """The kernel of a fresh host; this thread, and so every command of the test, is in it."""
    with Lan() as lan:
        lan.add_host("n1", "10.0.0.21/24")
        with lan.inside("n1"), Kernel(node="n1", proc_sys=Path("/proc/sys")) as kernel:
            yield kernel
