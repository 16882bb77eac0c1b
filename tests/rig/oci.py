"""OCI archives of one layer, for images that are one program and nothing else."""

import hashlib
import io
import json
import tarfile
from collections.abc import Mapping
from pathlib import Path

MEDIA = "application/vnd.oci.image"


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
        index = tar.extractfile("index.json")
        assert index is not None
        return digest(index.read())


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
