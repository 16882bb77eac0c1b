"""Fixtures of the contract tier."""

from collections.abc import Iterator

import pytest

from tests.apiserver import ApiServer, running_api_server


@pytest.fixture(scope="session")
def apiserver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    """A real, empty kube-apiserver; fails, never skips, where its binaries are missing."""
    with running_api_server(tmp_path_factory.mktemp("apiserver")) as server:
        yield server
