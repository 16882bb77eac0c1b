"""The agent's command line, and what its process imports."""

import asyncio
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from lvsagent.adapters.http import HttpServer
from lvsagent.cli import main, parse

pytestmark = pytest.mark.unit


def test_the_environment_of_the_pod_is_enough() -> None:
    found = parse([], {"NODE_NAME": "n1", "LVS_RUN_DIR": "/r", "LVS_STATE_DIR": "/s", "LVS_PROC_SYS": "/host/proc/sys"})
    assert (found.node, found.run_dir, found.state_dir) == ("n1", Path("/r"), Path("/s"))
    assert found.proc_sys == Path("/host/proc/sys")
    assert found.metrics == ("", 9479)
    assert found.keys_dir == Path("/etc/lvs-dr/keys")
    assert found.election
    assert found.manifests is None


def test_the_folder_of_keys_may_be_elsewhere() -> None:
    environment = {"NODE_NAME": "n1", "LVS_KEYS_DIR": "/k"}
    assert parse([], environment).keys_dir == Path("/k")
    assert parse(["--keys-dir", "/other"], environment).keys_dir == Path("/other")


def test_the_port_between_agents_may_be_another() -> None:
    assert parse([], {"NODE_NAME": "n1"}).claims_port == 9481
    environment = {"NODE_NAME": "n1", "LVS_CLAIMS_PORT": "1234"}
    assert parse([], environment).claims_port == 1234
    assert parse(["--claims-port", "7"], environment).claims_port == 7


def test_options_come_before_the_environment() -> None:
    found = parse(
        ["--node-name", "n2", "--manifests", "/m", "--metrics-address", "[::1]:80", "--no-election"], {"NODE_NAME": "x"}
    )
    assert (found.node, found.manifests, found.metrics, found.election) == ("n2", Path("/m"), ("::1", 80), False)
    assert parse(["--metrics-address", ""], {"NODE_NAME": "x"}).metrics is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--node-name NAME is missing"),
        (["--node-name", "n", "--manifests", "m", "--kubeconfig", "k"], "exclude each other"),
        (["--node-name", "n", "--metrics-address", "nonsense"], "expected HOST:PORT"),
        (["--node-name", "n", "--metrics-address", "h:99999"], "expected HOST:PORT"),
        (["--node-name", "n", "--claims-port", "0"], "must be from 1 to 65535"),
        (["--node-name", "n", "--claims-port", "many"], "invalid int value"),
    ],
)
def test_what_makes_no_sense_is_refused(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        parse(arguments, {})
    assert ended.value.code == 2
    assert message in capsys.readouterr().err


def test_a_missing_way_to_the_api_ends_with_a_message(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    options = ["--node-name", "n", "--state-dir", str(tmp_path), "--run-dir", str(tmp_path)]
    assert main([*options, "--kubeconfig", str(tmp_path / "absent")], {}) == 2
    assert main(options, {}) == 2
    assert "--manifests DIR" in capsys.readouterr().err


def test_the_agent_imports_no_client_library_and_no_scapy() -> None:
    code = (
        "import sys, lvsagent.cli; "
        "print([m for m in ('kubernetes', 'kopf', 'scapy', 'lvsoperator') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_metrics_are_served_on_addresses_of_both_families(host: str) -> None:
    found = parse([], {"NODE_NAME": "n1"}).metrics
    assert found is not None

    async def asked() -> bytes:
        server = HttpServer({"/metrics": lambda: (200, "text/plain", b"here\n")})
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        await server.start(found[0], port)
        try:
            reader, writer = await asyncio.open_connection(host, port)
            writer.write(b"GET /metrics HTTP/1.1\r\n\r\n")
            text = await reader.read()
            writer.close()
            return text
        finally:
            await server.close()

    assert asyncio.run(asked()).endswith(b"here\n")
