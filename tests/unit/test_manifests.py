"""A folder of manifests as a source: errors have a place and stop nothing else."""

import logging
import os
from pathlib import Path

import pytest

from lvsagent.adapters.manifests import ManifestSource
from lvsagent.core.manifests import assemble, read_document
from lvsapi.model import ObjectKey, Snapshot
from tests.gen import snapshot

pytestmark = pytest.mark.unit

GOOD = """
apiVersion: lvsdr.io/v1alpha1
kind: VirtualService
metadata: {name: %s}
spec: {addresses: [%s], ports: [{port: 80}], realServers: [{address: 10.0.0.9}]}
"""
NODE = "{apiVersion: v1, kind: Node, metadata: {name: %s}}"
_ticks = iter(range(10**6))


def write(folder: Path, name: str, text: str) -> None:
    path = folder / name
    path.write_text(text)
    tick = next(_ticks) * 10**9
    os.utime(path, ns=(tick, tick))


def source(folder: Path) -> ManifestSource:
    return ManifestSource(folder, "here", lambda: None)


def served(found: ManifestSource) -> list[str]:
    current = found.snapshot()
    assert current is not None
    return [str(item.key) for item in current.virtual_services]


def test_documents_lists_and_foreign_kinds(tmp_path: Path) -> None:
    write(tmp_path, "a.yaml", GOOD % ("one", "10.0.0.1") + "---\n---\napiVersion: apps/v1\nkind: Deployment\n")
    write(tmp_path, "b.yml", "apiVersion: v1\nkind: List\nitems:\n- " + NODE % "d1" + "\n- " + NODE % "d2")
    write(tmp_path, "c.json", '{"apiVersion":"lvsdr.io/v1alpha1","kind":"VirtualServiceClass","metadata":{"name":"k"}}')
    write(tmp_path, "ignored.txt", "kind: [")
    it = source(tmp_path)
    assert it.snapshot() is None
    assert it.poll()
    assert it.synced
    current = it.snapshot()
    assert current is not None
    assert served(it) == ["default/one"]
    assert [item.name for item in current.nodes] == ["d1", "d2"]
    assert [item.name for item in current.classes] == ["k"]
    assert not it.poll()
    assert it.problems == ()
    assert it.health == {}
    assert it.held == {}


def test_without_nodes_this_one_is_known(tmp_path: Path) -> None:
    it = source(tmp_path)
    it.poll()
    current = it.snapshot()
    assert current is not None
    assert [item.name for item in current.nodes] == ["here"]


def test_named_directors_are_nodes_too(tmp_path: Path) -> None:
    text = "apiVersion: lvsdr.io/v1alpha1\nkind: VirtualServiceClass\nmetadata: {name: k}\n"
    write(tmp_path, "a.yaml", text + "spec: {directors: {nodes: [{name: there, priority: 5}]}}")
    it = source(tmp_path)
    it.poll()
    current = it.snapshot()
    assert current is not None
    assert [item.name for item in current.nodes] == ["here", "there"]


def test_an_error_names_file_document_and_field_and_the_others_go_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write(tmp_path, "a.yaml", GOOD % ("one", "10.0.0.1"))
    write(tmp_path, "b.yaml", GOOD % ("two", "10.0.0.2") + "---" + GOOD % ("three", "10.0.0.300"))
    it = source(tmp_path)
    with caplog.at_level(logging.ERROR):
        it.poll()
    assert served(it) == ["default/one"]
    (problem,) = it.problems
    assert problem.key == ObjectKey("", "b.yaml")
    assert "b.yaml: document 2: " in problem.message
    assert "spec.addresses[0]: '10.0.0.300'" in problem.message
    assert len(caplog.records) == 1
    it.poll()
    assert len(caplog.records) == 1


def test_the_last_good_version_of_a_file_stays(tmp_path: Path) -> None:
    write(tmp_path, "a.yaml", GOOD % ("one", "10.0.0.1"))
    it = source(tmp_path)
    it.poll()
    for broken in ("kind: [", "\x00", "- 1", "a: b", "kind: 1\napiVersion: v1", GOOD % ("one", "x"), "\udcff"):
        tick = tmp_path / "a.yaml"
        tick.write_bytes(broken.encode("utf-8", "surrogateescape"))
        stamp = next(_ticks) * 10**9
        os.utime(tick, ns=(stamp, stamp))
        it.poll()
        assert served(it) == ["default/one"], broken
        assert it.errors, broken
    write(tmp_path, "a.yaml", GOOD % ("other", "10.0.0.1"))
    assert it.poll()
    assert served(it) == ["default/other"]
    assert not it.errors


def restarted(folder: Path, before: ManifestSource) -> ManifestSource:
    """As an agent that starts anew: it knows what was saved, and not which file said what."""
    current, it = before.snapshot(), source(folder)
    assert current is not None
    it.seed(current)
    assert it.poll()
    return it


def test_a_file_that_is_broken_takes_nothing_away_when_the_agent_starts_anew(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Somebody made a mistake weeks ago, which stopped nothing, and now the node is rebooted."""
    write(tmp_path, "a.yaml", GOOD % ("one", "10.0.0.1"))
    write(tmp_path, "b.yaml", GOOD % ("two", "10.0.0.2"))
    it = source(tmp_path)
    it.poll()
    write(tmp_path, "b.yaml", GOOD % ("two", "10.0.0.300"))
    it.poll()
    with caplog.at_level(logging.ERROR):
        it = restarted(tmp_path, restarted(tmp_path, it))
    assert served(it) == ["default/one", "default/two"]
    assert it.errors.keys() == {"b.yaml"}
    assert "everything that was served before stays" in caplog.text
    # What the other files say counts, and what they said and say no longer.
    write(tmp_path, "a.yaml", GOOD % ("other", "10.0.0.1"))
    assert it.poll()
    assert served(it) == ["default/other", "default/two"]
    (tmp_path / "a.yaml").unlink()
    assert it.poll()
    assert served(it) == ["default/two"]
    # It can be used again, or it goes.
    write(tmp_path, "b.yaml", GOOD % ("three", "10.0.0.2"))
    assert it.poll()
    assert served(it) == ["default/three"]
    assert not it.errors


def test_a_broken_file_that_is_removed_takes_what_was_left_with_it(tmp_path: Path) -> None:
    write(tmp_path, "a.yaml", GOOD % ("one", "10.0.0.1"))
    write(tmp_path, "b.yaml", GOOD % ("two", "10.0.0.2"))
    it = source(tmp_path)
    it.poll()
    write(tmp_path, "b.yaml", "kind: [")
    it = restarted(tmp_path, it)
    assert served(it) == ["default/one", "default/two"]
    (tmp_path / "b.yaml").unlink()
    assert it.poll()
    assert served(it) == ["default/one"]


def test_what_was_removed_while_the_agent_was_away_goes_when_all_files_can_be_used(tmp_path: Path) -> None:
    write(tmp_path, "a.yaml", GOOD % ("one", "10.0.0.1"))
    write(tmp_path, "b.yaml", GOOD % ("two", "10.0.0.2"))
    it = source(tmp_path)
    it.poll()
    (tmp_path / "b.yaml").unlink()
    assert served(restarted(tmp_path, it)) == ["default/one"]


def test_nodes_that_no_manifest_named_are_found_anew(tmp_path: Path) -> None:
    write(tmp_path, "a.yaml", GOOD % ("one", "10.0.0.1"))
    write(tmp_path, "b.yaml", GOOD % ("two", "10.0.0.2"))
    it = source(tmp_path)
    it.poll()
    write(tmp_path, "b.yaml", "kind: [")
    it = restarted(tmp_path, it)
    write(
        tmp_path,
        "c.yaml",
        "{apiVersion: lvsdr.io/v1alpha1, kind: VirtualServiceClass, metadata: {name: default},"
        " spec: {directors: {nodes: [{name: dr2, priority: 100}]}}}",
    )
    it.poll()
    current = it.snapshot()
    assert current is not None
    assert [node.name for node in current.nodes] == ["dr2", "here"]


@pytest.mark.parametrize("blank", ["", "\n", "  \n\n"])
def test_a_blank_file_is_what_a_full_disk_left_and_takes_nothing_away(tmp_path: Path, blank: str) -> None:
    write(tmp_path, "a.yaml", GOOD % ("one", "10.0.0.1"))
    it = source(tmp_path)
    it.poll()
    write(tmp_path, "a.yaml", blank)
    it.poll()
    assert served(it) == served(restarted(tmp_path, it)) == ["default/one"]
    assert it.errors == {"a.yaml": ("a.yaml: is empty: remove the file, if what it said shall go",)}


def test_a_removed_file_is_a_removed_object(tmp_path: Path) -> None:
    write(tmp_path, "a.yaml", GOOD % ("one", "10.0.0.1"))
    it = source(tmp_path)
    it.poll()
    (tmp_path / "a.yaml").unlink()
    assert it.poll()
    assert served(it) == []


def test_a_folder_that_cannot_be_read_removes_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = tmp_path / "m"
    it = source(folder)
    assert not it.poll()
    assert it.snapshot() is None
    it.seed(snapshot())
    assert it.snapshot() == snapshot()
    folder.mkdir()
    write(folder, "a.yaml", GOOD % ("one", "10.0.0.1"))
    assert it.poll()
    (folder / "a.yaml").rename(tmp_path / "a.yaml")
    folder.rmdir()
    assert not it.poll()
    assert not it.poll()
    assert served(it) == ["default/one"]
    assert sum("cannot be read" in record.message for record in caplog.records) == 2


def test_the_first_file_counts_when_two_hold_one_object(tmp_path: Path) -> None:
    write(tmp_path, "b.yaml", GOOD % ("one", "10.0.0.2"))
    write(tmp_path, "a.yaml", GOOD % ("one", "10.0.0.1"))
    it = source(tmp_path)
    it.poll()
    current = it.snapshot()
    assert current is not None
    assert [str(a) for item in current.virtual_services for a in item.addresses] == ["10.0.0.1"]


def test_one_object_twice_in_a_file_is_an_error(tmp_path: Path) -> None:
    write(tmp_path, "a.yaml", GOOD % ("one", "10.0.0.1") + "---" + GOOD % ("one", "10.0.0.2"))
    it = source(tmp_path)
    it.poll()
    assert served(it) == []
    assert "stands there twice" in it.problems[0].message


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("text", "expected an object"),
        ({}, "apiVersion and kind are missing"),
        ({"apiVersion": "lvsdr.io/v1", "kind": "VirtualService"}, "is unknown: lvsdr.io/v1alpha1 has VirtualService"),
    ],
)
def test_what_is_no_object_is_refused(data: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_document(data)


def test_no_files_are_an_empty_snapshot() -> None:
    assert assemble([]).snapshot == Snapshot()
