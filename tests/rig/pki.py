"""Keys, certificates and kubeconfigs of a cluster, by openssl. Elliptic curves: quick to make."""

import base64
from pathlib import Path

import yaml

from . import shell

DAYS = "3650"


class Authority:
    """A certificate authority in a folder; what it signs lies beside it as NAME.key and NAME.crt."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._key("ca")
        subject = ["-subj", "/CN=rig", "-out", self.path("ca.crt")]
        shell.run(["openssl", "req", "-x509", "-new", "-key", self.path("ca.key"), "-days", DAYS, *subject])

    def path(self, name: str) -> str:
        """Where a file of this authority lies."""
        return str(self.folder / name)

    def key_pair(self, name: str) -> None:
        """NAME.key and NAME.pub."""
        self._key(name)
        shell.run(["openssl", "ec", "-in", self.path(f"{name}.key"), "-pubout", "-out", self.path(f"{name}.pub")])

    def sign(self, name: str, subject: str, *names: str) -> None:
        """NAME.key and NAME.crt; ``names`` as openssl writes them (``IP:10.0.0.1``, ``DNS:node1``)."""
        self._key(name)
        request = self.path(f"{name}.csr")
        shell.run(["openssl", "req", "-new", "-key", self.path(f"{name}.key"), "-subj", subject, "-out", request])
        extensions = self.folder / f"{name}.ext"
        extensions.write_text(f"subjectAltName={','.join(names or ('DNS:x',))}\n")
        authority = ["-CA", self.path("ca.crt"), "-CAkey", self.path("ca.key"), "-CAcreateserial"]
        output = ["-days", DAYS, "-extfile", str(extensions), "-out", self.path(f"{name}.crt")]
        shell.run(["openssl", "x509", "-req", "-in", request, *authority, *output])

    def kubeconfig(self, name: str, server: str) -> str:
        """A kubeconfig with everything inside it, for the holder of NAME's certificate."""
        user = {"client-certificate-data": self._base64(f"{name}.crt"), "client-key-data": self._base64(f"{name}.key")}
        cluster = {"server": server, "certificate-authority-data": self._base64("ca.crt")}
        return yaml.safe_dump(
            {
                "apiVersion": "v1",
                "kind": "Config",
                "clusters": [{"name": "rig", "cluster": cluster}],
                "users": [{"name": name, "user": user}],
                "contexts": [{"name": "rig", "context": {"cluster": "rig", "user": name}}],
                "current-context": "rig",
            }
        )

    def _key(self, name: str) -> None:
        curve = ["ecparam", "-name", "prime256v1", "-genkey", "-noout"]
        shell.run(["openssl", *curve, "-out", self.path(f"{name}.key")])

    def _base64(self, name: str) -> str:
        return base64.b64encode((self.folder / name).read_bytes()).decode()
