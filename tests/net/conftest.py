"""Fixtures of the fault tests (test_faults_*_net.py)."""

import contextlib
from collections.abc import Iterator

import pytest

from tests.net.faults import Directors
from tests.net.lan import Lan


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
