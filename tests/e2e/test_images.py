"""What the images really hold, read out of the archives that the cluster runs. `tests/contract/test_deploy.py` judges
their recipe."""

import _imp
import re
from pathlib import Path

import pytest

from tests.rig import image, oci

pytestmark = pytest.mark.e2e

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = {
    "agent": {"lvsapi": "crds", "lvsagent": "nodeagent"},
    "operator": {"lvsapi": "crds", "lvsoperator": "operator"},
}
"""Ours, in each image, and where their sources lie."""
COMMANDS = {"agent": {"lvs-agent", "lvs-checks", "lvs-election", "lvs-node-init"}, "operator": {"lvs-operator"}}
FOREIGN = {
    "agent": (
        "scapy",
        "pyroute2",
        "kopf",
        "kubernetes",
        "lvsoperator",
        "pip",
        "setuptools",
        "ensurepip/_bundled",
        "pytest",
    ),
    "operator": ("scapy", "pyroute2", "lvsagent", "pip", "setuptools", "ensurepip/_bundled", "pytest"),
}
MEGABYTES = {"agent": (155, 30), "operator": (220, 98)}
"""At most, unpacked: the whole image, and what is not Debian's. Measured: 140 and 27, 203 and 90."""
UNCHECKED_HASH = 1
"""PEP 552: the bytecode is that of a source with this hash, and nobody looks whether it still is."""


@pytest.fixture(scope="module", params=["agent", "operator"])
def target(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture(scope="module")
def held(target: str) -> oci.Image:
    """Built from this very tree."""
    place = dict(zip(image.IMAGES, image.images(), strict=True))[target]
    return oci.read(place, "opt/lvs/lib/")


def packages(held: oci.Image) -> dict[str, oci.File]:
    """What lies in the environment's site-packages, by the path there."""
    found = {
        name.partition("/site-packages/")[2]: file for name, file in held.files.items() if "/site-packages/" in name
    }
    assert found
    return found


def test_it_is_not_root_and_starts_our_command(target: str, held: oci.Image) -> None:
    assert held.config["User"] == "65532:65532"
    assert held.config["Entrypoint"] == [f"lvs-{target}"]
    folder = "opt/lvs/bin/"
    ours = {name.removeprefix(folder) for name in held.files if name.startswith(f"{folder}lvs-")}
    assert ours == COMMANDS[target]
    for name in ours:
        assert held.files[folder + name].mode & 0o111 == 0o111


def test_it_holds_nothing_that_it_does_not_need(target: str, held: oci.Image) -> None:
    for word in FOREIGN[target]:
        found = [name for name in held.files if re.search(rf"(^|/){word}(-[^/]*|3?)?/|/bin/{word}[0-9.]*$", name)]
        assert found == [], word
    assert [name for name in held.files if name.endswith((".pyx", ".pyi"))] == []


def test_ours_is_what_lies_in_this_tree(target: str, held: oci.Image) -> None:
    there = {name: file.content for name, file in packages(held).items() if name.endswith(".py")}
    for package, folder in PACKAGES[target].items():
        wanted = {
            str(path.relative_to(ROOT / folder)): path.read_bytes() for path in (ROOT / folder / package).rglob("*.py")
        }
        assert {name: code for name, code in there.items() if name.startswith(f"{package}/")} == wanted


def test_every_module_is_compiled_and_nobody_asks_for_its_date(held: oci.Image) -> None:
    files = packages(held)
    sources = {name: file.content for name, file in files.items() if name.endswith(".py")}
    assert len(sources) > 400
    for name, source in sources.items():
        folder, _, module = name.removesuffix(".py").rpartition("/")
        (compiled,) = [
            file.content
            for path, file in files.items()
            if path.startswith(f"{folder}/__pycache__/{module}.cpython-".lstrip("/"))
        ]
        assert int.from_bytes(compiled[4:8], "little") == UNCHECKED_HASH, name
        magic = int.from_bytes(compiled[:4], "little")
        assert compiled[8:16] == _imp.source_hash(magic, source), f"{name}: the bytecode is another source's"


def test_it_is_no_larger_than_it_was_when_this_was_written(target: str, held: oci.Image) -> None:
    own = sum(file.size for name, file in held.files.items() if name.startswith("opt/lvs/"))
    megabytes = (held.size / 1e6, own / 1e6)
    packed = held.packed / 1e6
    print(f"{target}: {megabytes[0]:.0f} MB, of these {megabytes[1]:.0f} MB not Debian's; {packed:.0f} MB packed")
    assert all(found <= most for found, most in zip(megabytes, MEGABYTES[target], strict=True)), megabytes
