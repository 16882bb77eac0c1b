"""The API server over one kept connection: a look costs milliseconds, where a kubectl costs a tenth of a second of
processor each time. For reading; what a user does is done with kubectl."""

import contextlib
import http.client
import json
import ssl
import tempfile
import threading
from base64 import b64decode
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import yaml

SECONDS = 15.0
"""For an answer: a frozen API server gives none."""
PATHS = {
    "nodes": "api/v1",
    "pods": "api/v1",
    "daemonsets": "apis/apps/v1",
    "lvsvirtualservices": "apis/lvsdr.io/v1alpha1",
}


class ApiFailed(OSError):
    """The API server said no, or nothing."""


class Api:
    """Of the cluster of a kubeconfig whose user has a client certificate. Threads take turns."""

    def __init__(self, kubeconfig: Path) -> None:
        self._kubeconfig = kubeconfig
        self._turn = threading.Lock()
        self._connection: http.client.HTTPSConnection | None = None

    def get(self, kind: str, name: str, namespace: str) -> dict[str, Any]:
        """One object of a namespace. Raises ApiFailed, also when there is none."""
        return self._ask(f"/{PATHS[kind]}/namespaces/{namespace}/{kind}/{name}")

    def items(self, kind: str, namespace: str = "", selector: str = "") -> list[dict[str, Any]]:
        """Those with these labels; without a namespace, of all. Raises ApiFailed."""
        within = f"/namespaces/{namespace}" if namespace else ""
        found = self._ask(f"/{PATHS[kind]}{within}/{kind}?labelSelector={quote(selector)}")
        return list(found["items"])

    def _ask(self, path: str) -> dict[str, Any]:
        with self._turn:
            # A connection that was kept may have ended meanwhile: that is no answer. What a new one says is.
            for kept in (True, False) if self._connection else (False,):
                try:
                    status, body = self._once(path)
                    break
                except (OSError, http.client.HTTPException) as error:
                    self._close()
                    if not kept:
                        raise ApiFailed(f"GET {path}: {type(error).__name__} {error}") from None
        if status != 200:
            raise ApiFailed(f"GET {path}: {status} {body.decode(errors='replace')[:500]}")
        return dict(json.loads(body))

    def _once(self, path: str) -> tuple[int, bytes]:
        if self._connection is None:
            self._connection = connection(self._kubeconfig, SECONDS)
        self._connection.request("GET", path, headers={"Accept": "application/json"})
        answer = self._connection.getresponse()
        return answer.status, answer.read()

    def close(self) -> None:
        """It may be used again."""
        with self._turn:
            self._close()

    def _close(self) -> None:
        if self._connection is not None:
            with contextlib.suppress(OSError):
                self._connection.close()
            self._connection = None


def connection(kubeconfig: Path, seconds: float) -> http.client.HTTPSConnection:
    """To the API server, as the user of the kubeconfig; each wait takes at most these seconds."""
    config = yaml.safe_load(kubeconfig.read_text())
    where, who = config["clusters"][0]["cluster"], config["users"][0]["user"]
    context = ssl.create_default_context(cadata=b64decode(where["certificate-authority-data"]).decode())
    with tempfile.NamedTemporaryFile() as pair:
        pair.write(b64decode(who["client-certificate-data"]) + b"\n" + b64decode(who["client-key-data"]))
        pair.flush()
        context.load_cert_chain(pair.name)
    url = urlsplit(where["server"])
    return http.client.HTTPSConnection(url.hostname or "", url.port, context=context, timeout=seconds)
