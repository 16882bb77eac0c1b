"""A pytest plugin: writes the node id of the first test that fails to the file that ``--red`` names."""

from pathlib import Path

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--red", metavar="FILE", help="write the first failing test's node id to this file")


class _Red:
    def __init__(self, path: Path) -> None:
        self._path = path

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed and not self._path.exists():
            self._path.write_text(report.nodeid)


def pytest_configure(config: pytest.Config) -> None:
    if path := config.getoption("--red"):
        config.pluginmanager.register(_Red(Path(path)))
