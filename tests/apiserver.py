"""A real kube-apiserver for tests, on the loopback and ports of its own. Fixture: ``tests/contract/conftest.py``."""

import ctypes
import http.client
import json
import os
import secrets
import shutil
import signal
import socket
import ssl
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.rig.build_kubernetes import kubernetes

BINARIES = ("etcd", "kube-apiserver", "kubectl")
START_SECONDS = 90.0


@dataclass(frozen=True)
class ApiServer:
    """Where it is and how to speak to it; the user may do everything."""

    url: str
    token: str
    ca_file: Path
    kubeconfig: Path
    bin: Path

    def kubectl(self, *arguments: str, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
        """Run kubectl; look at returncode, stdout and stderr."""
        command = [str(self.bin / "kubectl"), "--kubeconfig", str(self.kubeconfig), *arguments]
        return subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=60, check=False)

    def apply(self, obj: Mapping[str, object], *arguments: str) -> subprocess.CompletedProcess[str]:
        """Server-side apply one object."""
        text = yaml.safe_dump(dict(obj))
        return self.kubectl("apply", "--server-side", "--force-conflicts", "-f", "-", *arguments, stdin=text)

    def ask(
        self, path: str, *, method: str = "GET", body: object = None, kind: str = "application/json"
    ) -> tuple[int, dict[str, Any]]:
        """HTTP status and what is answered. Starting kubectl for it costs a quarter of a second of a processor.

        path: with its query. body: an object, sent as media type ``kind``.
        """
        status, said = self._request(method, path, None if body is None else json.dumps(body), kind)
        return status, json.loads(said)

    def is_ready(self) -> bool:
        """It says so, and has made the namespace that every cluster has."""
        with suppress(OSError, http.client.HTTPException):
            return all(self._request("GET", path)[0] == 200 for path in ("/readyz", "/api/v1/namespaces/default"))
        return False

    def _request(self, method: str, path: str, body: str | None = None, kind: str = "*/*") -> tuple[int, bytes]:
        address = self.url.removeprefix("https://")
        headers = {"Authorization": f"Bearer {self.token}", "Content-Type": kind}
        with closing(http.client.HTTPSConnection(address, timeout=30, context=self._trust)) as connection:
            connection.request(method, path, body, headers)
            answer = connection.getresponse()
            return answer.status, answer.read()

    @cached_property
    def _trust(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=str(self.ca_file))


def tools() -> Path:
    """The folder of kubectl and its kin: $LVS_RIG_BIN, else what the rig has built (it builds when it must)."""
    given = os.environ.get("LVS_RIG_BIN")
    return Path(given) if given else kubernetes()


@contextmanager
def running_api_server(home: Path) -> Iterator[ApiServer]:
    """etcd and kube-apiserver from $LVS_RIG_BIN, empty, stopped at the end (also when the test run is killed).

    home: an empty folder for keys, data and logs.
    """
    folder = tools()
    missing = [name for name in BINARIES if not os.access(folder / name, os.X_OK)]
    if missing:
        pytest.fail(f"{', '.join(missing)} not found in {folder}: run 'make rig', or set LVS_RIG_BIN to their folder")
    if shutil.which("openssl") is None:
        pytest.fail("openssl not found: install it, the API server needs a key for its service accounts")
    client, peer, secure = _free_ports(3)
    token = secrets.token_hex(16)
    (home / "tokens.csv").write_text(f'{token},admin,admin,"system:masters"\n')
    subprocess.run(["openssl", "genrsa", "-out", str(home / "sa.key"), "2048"], check=True, capture_output=True)
    url = f"https://127.0.0.1:{secure}"
    store, heard = f"http://127.0.0.1:{client}", f"http://127.0.0.1:{peer}"
    commands = [
        [
            *(str(folder / "etcd"), f"--data-dir={home}/etcd", "--unsafe-no-fsync", "--log-level=warn"),
            *(f"--listen-client-urls={store}", f"--advertise-client-urls={store}"),
            *(f"--listen-peer-urls={heard}", f"--initial-advertise-peer-urls={heard}"),
            f"--initial-cluster=default={heard}",
        ],
        [
            *(str(folder / "kube-apiserver"), f"--etcd-servers={store}", f"--cert-dir={home}/certificates"),
            "--allow-privileged=true",  # the agents' DaemonSet has a privileged init container
            *("--bind-address=127.0.0.1", "--advertise-address=127.0.0.1", f"--secure-port={secure}"),
            *(f"--token-auth-file={home}/tokens.csv", "--authorization-mode=RBAC"),
            *(f"--service-account-key-file={home}/sa.key", f"--service-account-signing-key-file={home}/sa.key"),
            *("--service-account-issuer=https://kubernetes.default.svc", "--service-cluster-ip-range=10.96.0.0/24"),
            *("--disable-admission-plugins=ServiceAccount", "--endpoint-reconciler-type=none"),
        ],
    ]
    started: list[subprocess.Popen[bytes]] = []
    try:
        for command in commands:
            with (home / f"{Path(command[0]).name}.log").open("wb") as log:
                started.append(
                    subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True, preexec_fn=_die_with_us)
                )
        server = ApiServer(
            url=url,
            token=token,
            ca_file=home / "certificates" / "apiserver.crt",
            kubeconfig=_kubeconfig(home, url, token),
            bin=folder,
        )
        _await_ready(server, started, home)
        yield server
    finally:
        for process in reversed(started):
            process.kill()  # a polite end takes the API server ten seconds, and its data is thrown away
        for process in started:
            process.wait()


def _await_ready(server: ApiServer, started: list[subprocess.Popen[bytes]], home: Path) -> None:
    end = time.monotonic() + START_SECONDS
    while not server.is_ready():
        dead = [process for process in started if process.poll() is not None]
        if dead or time.monotonic() > end:
            logs = "\n".join(path.read_text(errors="replace")[-2000:] for path in sorted(home.glob("*.log")))
            pytest.fail(f"kube-apiserver did not start: {'a process died' if dead else 'too slow'}\n{logs}")
        time.sleep(0.2)


def _kubeconfig(home: Path, url: str, token: str) -> Path:
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [
            {"name": "test", "cluster": {"server": url, "certificate-authority": f"{home}/certificates/apiserver.crt"}}
        ],
        "users": [{"name": "admin", "user": {"token": token}}],
        "contexts": [{"name": "test", "context": {"cluster": "test", "user": "admin"}}],
        "current-context": "test",
    }
    path = home / "kubeconfig"
    path.write_text(yaml.safe_dump(config))
    return path


def _free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports: list[int] = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def _die_with_us() -> None:
    """prctl(2) PR_SET_PDEATHSIG: nothing is left behind by a test run that was killed."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)
