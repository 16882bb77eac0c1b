"""Coverage of the pure cores is judged by branches, file by file, over what the import contract calls pure."""

from pathlib import Path

import pytest

from tests.covered import DECODER, EVERY, FOLDERS, PURE, ROOT, Covered, Share, covered, files_of, judged, pure_modules

pytestmark = pytest.mark.unit


def seen(branches: int, lines: int = 100) -> Covered:
    return Covered(branches=Share(covered=branches, all=100), lines=Share(covered=lines, all=100), missing="7, 12->15")


def test_what_is_measured_is_what_the_import_contract_calls_pure() -> None:
    modules = pure_modules()
    files = files_of(modules)
    assert {"lvsapi", "lvsoperator.core", "lvsagent.core", "lvsagent.vrrp", "lvsagent.liveness"} <= set(modules)
    assert {"crds/lvsapi/assign.py", "nodeagent/lvsagent/ipc.py", "operator/lvsoperator/core/reconcile.py"} <= set(
        files
    )
    for name in modules:
        folder = FOLDERS[name.split(".")[0]]
        assert any(file.startswith(f"{folder}/{name.replace('.', '/')}") for file in files), name
    assert set(files_of(DECODER)) <= set(files)


def test_a_module_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        files_of(["lvsagent.nothing"])
    with pytest.raises(FileNotFoundError):
        files_of(["lvsapi.names"], tmp_path)
    assert files_of(["lvsapi.names"], ROOT) == ("crds/lvsapi/names.py",)


def test_lines_do_not_make_up_for_branches() -> None:
    sentence, bad = judged(PURE, {"a": seen(94)}, ["a"])
    assert sentence == "the pure cores: branches 94.0 % (94 of 100), lines 100.0 % (100 of 100)"
    assert bad == ["the pure cores: branches 94.0 % (94 of 100), needs 95 %"]
    assert judged(PURE, {"a": seen(95)}, ["a"])[1] == []


def test_a_good_whole_hides_no_file() -> None:
    files = {str(number): seen(100) for number in range(9)}
    assert judged(PURE, {**files, "bad": seen(89)}, [*files, "bad"])[1] == [
        "bad: branches 89.0 % (89 of 100), lines 100.0 % (100 of 100), needs 90 %; missing: 7, 12->15"
    ]
    assert judged(PURE, {**files, "bad": seen(90)}, [*files, "bad"])[1] == []
    assert judged(PURE, {**files, "bad": seen(1)}, files)[1] == [], "it is none of the cores"


def test_a_file_that_has_no_branches_or_was_never_measured_is_judged_too() -> None:
    plain = Covered(branches=Share(covered=0, all=0), lines=Share(covered=99, all=100))
    assert judged(PURE, {"a": plain}, ["a"])[1] == []
    assert judged(EVERY, {"a": plain}, ["a"])[1][0] == "the decoder: lines 99.0 % (99 of 100), needs 100 %"
    assert judged(PURE, {}, ["a"])[1] == ["a: not measured"]


def test_a_report_of_coverage_is_read() -> None:
    summary = {"covered_branches": 3, "num_branches": 4, "covered_lines": 9, "num_statements": 10, "percent_covered": 1}
    report = {"files": {"a.py": {"summary": summary, "missing_lines": [7], "missing_branches": [[6, 7], [9, -1]]}}}
    assert covered(report) == {
        "a.py": Covered(branches=Share(covered=3, all=4), lines=Share(covered=9, all=10), missing="7, 6->7, 9->-1")
    }
