"""Where the API server is, from a pod or from a file."""

import base64
from pathlib import Path
from typing import Any

import pytest
import yaml

from lvsagent.adapters.kubeconfig import ConfigError, default, from_file, in_cluster

pytestmark = pytest.mark.unit


def written(folder: Path, user: dict[str, Any] | None = None, **cluster: Any) -> Path:
    path = folder / "kubeconfig"
    document = {
        "current-context": "me",
        "contexts": [{"name": "other"}, {"name": "me", "context": {"cluster": "c", "user": "u"}}],
        "clusters": [{"name": "c", "cluster": {"server": "https://10.0.0.1:6443/", **cluster}}],
        "users": [{"name": "u", "user": user or {}}],
    }
    path.write_text(yaml.safe_dump(document))
    return path


def test_token_and_files_of_a_kubeconfig(tmp_path: Path) -> None:
    found = from_file(written(tmp_path, {"tokenFile": "token"}, **{"certificate-authority": "ca.crt"}))
    (tmp_path / "token").write_text("secret\n")
    assert found.server == "https://10.0.0.1:6443"
    assert found.ca_file == tmp_path / "ca.crt"
    assert found.authorization() == {"Authorization": "Bearer secret"}
    (tmp_path / "token").write_text("next")
    assert found.authorization() == {"Authorization": "Bearer next"}


def test_inline_data_of_a_kubeconfig(tmp_path: Path) -> None:
    data = {"client-certificate-data": base64.b64encode(b"cert").decode(), "client-key-data": "a2V5"}
    found = from_file(written(tmp_path, {**data, "token": "t"}, **{"certificate-authority-data": "Y2E="}))
    assert (found.ca_data, found.certificate_data, found.key_data) == ("ca", b"cert", b"key")
    assert found.authorization() == {"Authorization": "Bearer t"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[", "cannot be read"),
        ("1", "expected a mapping"),
        ("current-context: x", "contexts has no entry named 'x'"),
        ("{current-context: x, contexts: [{name: x, context: {cluster: c}}]}", "clusters has no entry named 'c'"),
        (
            "{current-context: x, contexts: [{name: x, context: {cluster: c}}], clusters: [{name: c, cluster: {}}]}",
            "server is missing",
        ),
    ],
)
def test_what_is_missing_is_named(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "k").write_text(text)
    with pytest.raises(ConfigError, match=message):
        default(str(tmp_path / "k"))


def test_logins_that_run_programs_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="not supported"):
        from_file(written(tmp_path, {"exec": {"command": "aws"}}))
    with pytest.raises(ConfigError, match="not base64"):
        from_file(written(tmp_path, {"client-key-data": "%"}))
    with pytest.raises(ConfigError, match="cannot be read"):
        from_file(tmp_path / "absent")


def test_a_pod_knows_the_way(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("t")
    (tmp_path / "ca.crt").write_text("ca")
    found = in_cluster({"KUBERNETES_SERVICE_HOST": "fd00::1", "KUBERNETES_SERVICE_PORT": "6443"}, tmp_path)
    assert found.server == "https://[fd00::1]:6443"
    assert found.ca_file == tmp_path / "ca.crt"


def test_outside_of_a_pod_it_is_said_what_to_give(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--kubeconfig FILE, or --manifests DIR"):
        in_cluster({}, tmp_path)
    with pytest.raises(ConfigError, match="token does not exist"):
        in_cluster({"KUBERNETES_SERVICE_HOST": "10.0.0.1"}, tmp_path)


def test_a_changed_certificate_changes_the_fingerprint(tmp_path: Path) -> None:
    found = from_file(written(tmp_path, {}, **{"certificate-authority": "ca.crt"}))
    before = found.fingerprint()
    (tmp_path / "ca.crt").write_text("new")
    assert found.fingerprint() != before


def test_plain_http_needs_no_tls(tmp_path: Path) -> None:
    assert from_file(written(tmp_path, {}, server="http://10.0.0.1:8080")).tls() is None
    context = from_file(written(tmp_path, {}, **{"insecure-skip-tls-verify": True})).tls()
    assert context is not None
    assert not context.check_hostname
