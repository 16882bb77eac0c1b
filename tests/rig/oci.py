"""Archives of images: written, for images that are one program and nothing else; read, to see what one really holds.

Written in OCI's format. Read also in Docker's own, which is all that ``docker save`` writes before version 25.
"""

import hashlib
import io
import json
import tarfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MEDIA = "application/vnd.oci.image"
INDEX, DOCKERS_INDEX = "index.json", "manifest.json"
"""The file that says what else is in an archive: OCI's, and Docker's own."""
WHITEOUT = ".wh."
"""In front of a name: the file of a lower layer is gone. ``.wh..wh..opq``: all of the folder is."""


@dataclass(frozen=True, slots=True)
class File:
    """Something in an image."""

    mode: int
    uid: int
    link: str
    """Where a symbolic link leads; else empty."""
    size: int
    content: bytes
    """Empty where nobody asked for it."""


@dataclass(frozen=True, slots=True)
class Image:
    """What an archive holds."""

    config: Mapping[str, Any]
    """``User``, ``Entrypoint``, ``Env`` and so on."""
    files: Mapping[str, File]
    """By path without the first slash; no folders."""
    packed: int
    """Octets of all layers as they travel."""

    @property
    def size(self) -> int:
        """Octets of all files."""
        return sum(file.size for file in self.files.values())


def digest(blob: bytes) -> str:
    return "sha256:" + hashlib.sha256(blob).hexdigest()


def write(out: Path, reference: str, files: Mapping[str, bytes], entrypoint: list[str], user: str = "0:0") -> None:
    """``files`` maps absolute paths in the image to contents; all are executable. Same input, same bytes."""
    layer = _tar({name.lstrip("/"): data for name, data in files.items()})
    config = json.dumps(
        {
            "architecture": "amd64",
            "os": "linux",
            "config": {"Entrypoint": entrypoint, "User": user},
            "rootfs": {"type": "layers", "diff_ids": [digest(layer)]},
        }
    ).encode()
    manifest = json.dumps(
        {
            "schemaVersion": 2,
            "mediaType": f"{MEDIA}.manifest.v1+json",
            "config": _descriptor("config.v1+json", config),
            "layers": [_descriptor("layer.v1.tar", layer)],
        }
    ).encode()
    names = {"io.containerd.image.name": reference, "org.opencontainers.image.ref.name": reference}
    entry = {**_descriptor("manifest.v1+json", manifest), "annotations": names}
    index = json.dumps({"schemaVersion": 2, "manifests": [entry]}).encode()
    blobs = {"oci-layout": b'{"imageLayoutVersion":"1.0.0"}', "index.json": index}
    blobs |= {f"blobs/sha256/{digest(blob)[7:]}": blob for blob in (layer, config, manifest)}
    out.write_bytes(_tar(blobs))


def image_digest(archive: Path) -> str:
    """The digest of an archive's index: changes when, and only when, the image does."""
    with tarfile.open(archive) as tar:
        names = tar.getnames()
        return digest(_octets(tar, next(name for name in (INDEX, DOCKERS_INDEX) if name in names)))


def read(archive: Path, wanted: str) -> Image:
    """The image in an archive, layer over layer, with contents of what lies below ``wanted``."""
    with tarfile.open(archive) as tar:
        config, layers = _parts(tar) if INDEX in tar.getnames() else _dockers_parts(tar)
        files: dict[str, File] = {}
        for layer in layers:
            files = _over(files, dict(_layer(layer, wanted)))
        return Image(json.loads(config)["config"], files, sum(map(len, layers)))


def _parts(tar: tarfile.TarFile) -> tuple[bytes, list[bytes]]:
    """Configuration and layers, the lowest first."""

    def blob(described: Mapping[str, Any]) -> bytes:
        return _octets(tar, f"blobs/sha256/{described['digest'].removeprefix('sha256:')}")

    found = json.loads(_octets(tar, INDEX))
    while "manifests" in found:  # Docker has an index in its index
        found = json.loads(blob(found["manifests"][0]))
    return blob(found["config"]), [blob(layer) for layer in found["layers"]]


def _dockers_parts(tar: tarfile.TarFile) -> tuple[bytes, list[bytes]]:
    """Likewise. Layers are not packed in there."""
    (found,) = json.loads(_octets(tar, DOCKERS_INDEX))
    return _octets(tar, found["Config"]), [_octets(tar, layer) for layer in found["Layers"]]


def _octets(tar: tarfile.TarFile, name: str) -> bytes:
    file = tar.extractfile(name)
    assert file is not None, f"{tar.name!r}: {name} is no file"
    return file.read()


def _layer(packed: bytes, wanted: str) -> Iterator[tuple[str, File]]:
    with tarfile.open(fileobj=io.BytesIO(packed)) as tar:
        for member in tar:
            if member.isdir():
                continue
            name = member.name.removeprefix("./").lstrip("/")
            asked = tar.extractfile(member) if name.startswith(wanted) and not member.issym() else None
            content = asked.read() if asked is not None else b""
            yield name, File(member.mode, member.uid, member.linkname if member.issym() else "", member.size, content)


def _over(lower: Mapping[str, File], upper: Mapping[str, File]) -> dict[str, File]:
    """Both, one upon the other."""
    gone: set[str] = set()
    for name in upper:
        folder, _, last = name.rpartition("/")
        prefix = f"{folder}/" if folder else ""
        if last == f"{WHITEOUT}{WHITEOUT}.opq":
            gone |= {one for one in lower if one.startswith(prefix)}
        elif last.startswith(WHITEOUT):
            old = prefix + last.removeprefix(WHITEOUT)
            gone |= {one for one in lower if one == old or one.startswith(f"{old}/")}
    left = {name: file for name, file in lower.items() if name not in gone}
    return {**left, **{name: file for name, file in upper.items() if f"/{WHITEOUT}" not in f"/{name}"}}


def _descriptor(kind: str, blob: bytes) -> dict[str, object]:
    return {"mediaType": f"{MEDIA}.{kind}", "digest": digest(blob), "size": len(blob)}


def _tar(files: Mapping[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.GNU_FORMAT) as tar:
        for name, data in sorted(files.items()):
            info = tarfile.TarInfo(name)
            info.size, info.mode = len(data), 0o755
            tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()
