"""Where the API server is and who we are there: from the pod's service account or from a kubeconfig file."""

import base64
import binascii
import os
import ssl
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")


class ConfigError(ValueError):
    """The way to the API server is not described well enough. The text names file, field and remedy."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KubeConfig:
    """Address and credentials. Files are read anew when they change: tokens rotate hourly."""

    server: str
    """URL without a trailing slash."""
    ca_file: Path | None = None
    ca_data: str | None = None
    """PEM text."""
    insecure: bool = False
    token: str | None = None
    token_file: Path | None = None
    certificate_file: Path | None = None
    key_file: Path | None = None
    certificate_data: bytes | None = None
    """PEM: certificate."""
    key_data: bytes | None = None
    """PEM: key."""
    server_name: str | None = None
    """Name to expect in the server's certificate, when it is not that of the URL."""

    def authorization(self) -> dict[str, str]:
        """The header of a request, with the token as it is on disk now. Raises OSError."""
        token = self.token_file.read_text().strip() if self.token_file else self.token
        return {"Authorization": f"Bearer {token}"} if token else {}

    def fingerprint(self) -> tuple[bytes | None, ...]:
        """Changes when what is in a file of the TLS context does (not the token: that is read for each request). Not
        when it is only written anew: the kubelet does so with all files of a volume when a token rotates."""
        return tuple(map(_read, (self.ca_file, self.certificate_file, self.key_file)))

    def tls(self) -> ssl.SSLContext | None:
        """None for plain http. Raises OSError (ssl.SSLError is one) or ConfigError."""
        if not self.server.startswith("https://"):
            return None
        context = ssl.create_default_context(
            cafile=str(self.ca_file) if self.ca_file else None, cadata=self.ca_data or None
        )
        # As strict as kubectl: Python 3.13 refuses certificates without key identifiers, which many clusters have.
        context.verify_flags &= ~ssl.VERIFY_X509_STRICT
        if self.insecure:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        if self.certificate_file:
            context.load_cert_chain(str(self.certificate_file), str(self.key_file) if self.key_file else None)
        elif self.certificate_data:
            # The ssl module takes files only. The pair is on disk for the length of one call, readable by us alone.
            with tempfile.NamedTemporaryFile(prefix="lvs-agent-") as pair:
                pair.write(self.certificate_data + b"\n" + (self.key_data or b""))
                pair.flush()
                context.load_cert_chain(pair.name)
        return context


def in_cluster(environment: Mapping[str, str], folder: Path = SERVICE_ACCOUNT) -> KubeConfig:
    """The configuration of a pod. Raises ConfigError outside of one."""
    host, port = environment.get("KUBERNETES_SERVICE_HOST"), environment.get("KUBERNETES_SERVICE_PORT", "443")
    if not host:
        raise ConfigError(
            "KUBERNETES_SERVICE_HOST is not set: not in a pod?"
            " Give --kubeconfig FILE, or --manifests DIR to run without an API"
        )
    if not (folder / "token").exists():
        raise ConfigError(f"{folder}/token does not exist: the pod needs a service account token there")
    name = f"[{host}]" if ":" in host else host
    ca_file = folder / "ca.crt"
    return KubeConfig(
        server=f"https://{name}:{port}",
        ca_file=ca_file if ca_file.exists() else None,
        token_file=folder / "token",
    )


def from_file(path: Path) -> KubeConfig:
    """The current context of a kubeconfig file. Raises ConfigError."""
    try:
        document = yaml.safe_load(path.read_text())
    except (OSError, yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read as a kubeconfig: {error}") from error
    if not isinstance(document, dict):
        raise ConfigError(f"{path}: is not a kubeconfig: expected a mapping")
    context = _named(path, document, "contexts", str(document.get("current-context", "")), "context")
    cluster = _named(path, document, "clusters", str(context.get("cluster", "")), "cluster")
    user = _named(path, document, "users", str(context.get("user", "")), "user") if context.get("user") else {}
    if "exec" in user or "auth-provider" in user:
        raise ConfigError(
            f"{path}: users[].user.exec and auth-provider are not supported:"
            " give a token, a tokenFile or a client certificate"
        )
    if not isinstance(cluster.get("server"), str):
        raise ConfigError(f"{path}: clusters[].cluster.server is missing: give the URL of the API server")

    def file(owner: Mapping[str, Any], field: str) -> Path | None:
        return (path.parent / str(owner[field])) if owner.get(field) else None

    def data(owner: Mapping[str, Any], field: str) -> bytes | None:
        try:
            return base64.b64decode(str(owner[field]), validate=True) if owner.get(field) else None
        except binascii.Error as error:
            raise ConfigError(f"{path}: {field} is not base64: {error}") from error

    ca_data = data(cluster, "certificate-authority-data")
    return KubeConfig(
        server=str(cluster["server"]).rstrip("/"),
        ca_file=None if ca_data else file(cluster, "certificate-authority"),
        ca_data=ca_data.decode() if ca_data else None,
        insecure=bool(cluster.get("insecure-skip-tls-verify", False)),
        server_name=cluster.get("tls-server-name"),
        token=user.get("token"),
        token_file=file(user, "tokenFile"),
        certificate_file=file(user, "client-certificate"),
        key_file=file(user, "client-key"),
        certificate_data=data(user, "client-certificate-data"),
        key_data=data(user, "client-key-data") or (_read(file(user, "client-key"))),
    )


def default(kubeconfig: str | None) -> KubeConfig:
    """``--kubeconfig`` if given, else the pod's service account. Raises ConfigError."""
    return from_file(Path(kubeconfig)) if kubeconfig else in_cluster(os.environ)


def _read(path: Path | None) -> bytes | None:
    try:
        return path.read_bytes() if path else None
    except OSError:
        return None


def _named(path: Path, document: Mapping[str, Any], section: str, name: str, field: str) -> dict[str, Any]:
    entries = document.get(section)
    for entry in entries if isinstance(entries, list) else []:
        if isinstance(entry, dict) and str(entry.get("name")) == name and isinstance(entry.get(field), dict):
            return dict(entry[field])
    raise ConfigError(f"{path}: {section} has no entry named {name!r}: name an existing one")
