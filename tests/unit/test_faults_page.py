"""docs/faults.md names every test of a fault, and no other."""

import ast
import functools
import re
from collections import defaultdict
from pathlib import Path

import pytest

pytestmark = pytest.mark.unit

ROOT = Path(__file__).resolve().parents[2]
ROWS = (*range(1, 15), *range(27, 55), 57, 59, 61, 62, 63)
"""Of the election, a node's kernel and backends. The others belong to the data path, the operator, the life cycle."""
ALL = range(1, 64)
NAME = re.compile(r"test_fault_(\d\d)((?:_and_\d\d)*)_")


@functools.cache
def files_by_row() -> dict[int, set[str]]:
    """Row -> files with tests of it."""
    found: dict[int, set[str]] = defaultdict(set)
    for path in (ROOT / "tests").rglob("test_*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_fault_"):
                name = NAME.match(node.name)
                assert name is not None, f"{node.name} in {path.name} does not begin with its row's number"
                for row in re.findall(r"\d\d", name.group(0)):
                    found[int(row)].add(str(path.relative_to(ROOT / "tests")))
    return found


def page() -> dict[int, list[str]]:
    """Row -> its cells behind the number."""
    rows: dict[int, list[str]] = {}
    for line in (ROOT / "docs" / "faults.md").read_text().splitlines():
        if cells := re.match(r"\| (\d+(?:, \d+)*) \| (.*) \|$", line):
            for number in cells[1].split(", "):
                assert int(number) not in rows, f"row {number} is there twice"
                rows[int(number)] = cells[2].split(" | ")
    return rows


def test_every_row_is_on_the_page() -> None:
    assert sorted(page()) == list(ALL)


@pytest.mark.parametrize("row", ROWS)
def test_a_row_names_every_file_that_has_a_test_of_it_and_no_other(row: int) -> None:
    fault, files, shown, asked, measured = page()[row]
    assert set(re.findall(r"`([a-z]+/\w+\.py)`", files)) == files_by_row()[row]
    assert fault
    assert shown
    assert asked
    assert measured


def test_a_row_of_another_part_names_no_file_that_has_no_test_of_it() -> None:
    tests = files_by_row()
    for row, cells in page().items():
        if row not in ROWS:
            assert set(re.findall(r"`([a-z]+/\w+\.py)`", " ".join(cells))) <= tests[row], row


def test_every_test_of_a_fault_has_the_number_of_a_row() -> None:
    assert set(files_by_row()) <= set(ALL)
