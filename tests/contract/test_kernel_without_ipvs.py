"""The real agent on this very kernel, in a network namespace of its own: without IPVS it says so and stays.

Where this kernel has IPVS the agent asks it for that by a name that it does not know, so the answer is the real one.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.contract

MANIFEST = """apiVersion: lvsdr.io/v1alpha1
kind: VirtualService
metadata: {name: web, namespace: default}
spec:
  addresses: [10.0.0.200]
  ports: [{port: 80}]
  realServers: [{address: 10.0.0.11}]
---
apiVersion: lvsdr.io/v1alpha1
kind: VirtualServiceClass
metadata: {name: default}
spec: {directors: {nodes: [{name: n1, priority: 200}]}}
"""
AGENT = """
import sys
from lvsagent import cli
from lvsagent.adapters import ipvs
ipvs.GENL_NAME = sys.argv.pop(1).encode()
sys.exit(cli.main())
"""
STORY = """
import json, subprocess, sys, time, urllib.error, urllib.request
from lvsagent.adapters import ipvs

def ask(path):
    try:
        with urllib.request.urlopen("http://127.0.0.1:9479" + path, timeout=2) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()
    except OSError:
        return 0, ""

subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
try:
    ipvs.Ipvs().close()
    ipvs.GENL_NAME = b"IPVS-of-nobody"
except ipvs.IpvsUnavailable:
    pass
try:
    ipvs.Ipvs().close()
    lacking = ""
except ipvs.IpvsUnavailable as error:
    lacking = error.strerror
with open(sys.argv[1] + "/log", "wb") as log:
    agent = subprocess.Popen([sys.executable, "-c", sys.argv[2], ipvs.GENL_NAME.decode(), "--node-name", "n1",
                              "--no-election",
                              "--manifests", sys.argv[1] + "/manifests", "--run-dir", sys.argv[1] + "/run",
                              "--state-dir", sys.argv[1] + "/state", "--metrics-address", "127.0.0.1:9479"], stderr=log)
    begin = time.monotonic()
    said = None
    while time.monotonic() - begin < 30 and agent.poll() is None:
        status, text = ask("/readyz")
        if status == 200 or "cannot be programmed" in text:
            said = time.monotonic() - begin
            break
        time.sleep(0.05)
    time.sleep(4)
    stays = agent.poll() is None
    story = {"lacking": lacking, "said": said, "stays": stays, "ready": ask("/readyz"), "healthy": ask("/healthz"),
             "metrics": ask("/metrics")[1]}
    agent.terminate()
    story["status"] = agent.wait(20)
print(json.dumps(story))
"""


def test_fault_52_an_agent_on_a_kernel_without_ipvs_says_what_to_do_and_stays(tmp_path: Path) -> None:
    (tmp_path / "manifests").mkdir()
    (tmp_path / "manifests" / "web.yaml").write_text(MANIFEST)
    # A user namespace, too: nobody needs to be root for it, and no setting of this machine can be touched.
    command = ["unshare", "--map-root-user", "--net", sys.executable, "-c", STORY, str(tmp_path), AGENT]
    done = subprocess.run(command, capture_output=True, text=True, timeout=90, check=False)
    assert done.returncode == 0, done.stderr
    story: dict[str, Any] = json.loads(done.stdout)
    log = (tmp_path / "log").read_text()
    assert story["stays"], log
    assert story["status"] == 0, log
    assert story["healthy"][0] == 200
    for part in (os.uname().release, "modprobe -a ip_vs ip_vs_mh", "/etc/modules-load.d", "CONFIG_IP_VS_MH"):
        assert part in story["lacking"]
    print(f"said {story['said']:.2f} s after the start")
    assert story["said"] < 10.0, "five, and a busy machine"
    assert story["ready"] == [503, "the kernel cannot be programmed\n"]
    assert "lvs_kernel_supported 0.0" in story["metrics"]
    assert log.count("the kernel cannot be programmed; trying again") == 1, "once, not at every look"
    assert "KernelUnsupported" in log
    assert story["lacking"] in log
