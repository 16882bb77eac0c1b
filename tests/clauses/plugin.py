"""A pytest plugin: writes which collected tests carry which clause to the file that ``--clauses`` names."""

import json
from pathlib import Path

import pytest

from tests.clauses.clauses import BY_ID
from tests.clauses.deviations import DEVIATIONS
from tests.clauses.model import Aspect


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--clauses", metavar="FILE", help="write the tests of each clause to this file")


def pytest_collection_finish(session: pytest.Session) -> None:
    path = session.config.getoption("--clauses")
    if path:
        found = [
            [identifier, aspect, item.nodeid]
            for item in session.items
            for marker in item.iter_markers("clause")
            for identifier, aspect in _parse(marker.args, item.nodeid)
        ]
        Path(path).write_text(json.dumps(found))


def _parse(words: tuple[str, ...], test: str) -> list[tuple[str, str]]:
    *identifiers, aspect = words
    known = BY_ID.keys() | ({f"D{each.number}" for each in DEVIATIONS} if aspect == Aspect.INSTEAD else set())
    unknown = [word for word in identifiers if word not in known]
    if unknown or not identifiers or aspect not in list(Aspect):
        raise pytest.UsageError(f"{test}: clause{words}: must be identifiers and then {'/'.join(Aspect)}")
    return [(identifier, aspect) for identifier in identifiers]
