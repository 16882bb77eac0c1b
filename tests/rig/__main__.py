"""The rig from the command line: ``python -m tests.rig help``."""

import argparse
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from . import remote, shell
from .cluster import Cluster, Direction, cluster
from .errors import CommandFailed, RigError

Handler = Callable[[Cluster, list[str]], int]

COMMANDS = """\
  tools                      install the Debian packages that the rig and the tests use
  build                      build everything that is cached (kernel, Kubernetes, images, disk) now
  guest [-m 1G] [-c 2] -- COMMAND…   one command in one kernel with ip_vs, over this machine's files
  place -- COMMAND…          the same in namespaces of this kernel, where it has ip_vs and we are root; else in a guest
  kind-guest [-m 9G] [-t SECONDS] -- COMMAND…   one command in a guest with a Docker engine and kind, as LVS_RIG=kind
  image                      build the project's images; prints their archives
  up [--nodes 3] [--images A.tar,B.tar|none]   a real Kubernetes; unless told otherwise with the project's images
  down | status | kubeconfig | kubectl ARGUMENTS…
  crash N | boot N | freeze N | thaw N | cut N in|out|both | heal N | freeze-api | thaw-api
  node N COMMAND…            in the node's own namespaces
  client COMMAND…            on a host of the nodes' LAN
  load A.tar…                OCI archives into every node
  dump DIR                   logs, objects and tables
Environment: LVS_RIG=guests|kind, LVS_RIG_NAME, LVS_RIG_PROXY=nftables|iptables|ipvs|ipvs-excluding, LVS_NODE_MEMORY=2G,
LVS_CACHE, LVS_RUN, LVS_PATIENCE=8 (on a slow machine limits of time are so many times as long)."""


def node_of(one: Cluster, text: str) -> str:
    """A node by its name, or by its number from 1."""
    nodes = one.nodes
    if text.isdigit() and 1 <= int(text) <= len(nodes):
        return nodes[int(text) - 1]
    if text in nodes:
        return text
    raise RigError(f"{text!r} is not a node; there are {', '.join(nodes) or 'none'}")


def main(arguments: Sequence[str]) -> int:
    """Answers the exit status."""
    name, rest = (arguments[0], list(arguments[1:])) if arguments else ("help", [])
    if name in ("help", "-h", "--help"):
        print(f"usage: python -m tests.rig COMMAND\n{COMMANDS}")
        return 0
    if name in BUILDERS:
        return BUILDERS[name](rest)
    if name in ON_CLUSTER:
        return ON_CLUSTER[name](cluster(), rest)
    raise RigError(f"{name!r} is not a command of the rig; there are:\n{COMMANDS}")


def _tools(rest: list[str]) -> int:
    from . import apt

    apt.install()
    return 0


def _build(rest: list[str]) -> int:
    from . import apt, image
    from .build_kernel import kernel
    from .build_kubernetes import kubernetes
    from .disk import base_disk
    from .small_images import pause

    apt.install()
    archives = image.archives()
    for folder in (kernel(), kubernetes(), pause(), *archives):
        print(folder)
    print(base_disk(kernel() / "linux", tuple(path.resolve() for path in archives)))
    return 0


def _guest(rest: list[str]) -> int:
    from . import guest
    from .build_kernel import kernel

    options = _options("guest", rest, memory="1G")
    linux = kernel() / "linux"
    return guest.run(linux, options.command, memory=options.memory, cpus=options.cpus, timeout=options.timeout)


def _place(rest: list[str]) -> int:
    from . import apt, namespaces

    apt.install()  # what the tests and the lab start in there, ip(8) and keepalived among it
    if not namespaces.has("ipvs"):
        return _guest(rest)
    options = _options("place", rest, memory="1G")
    return namespaces.run(options.command, timeout=options.timeout)


def _kind_guest(rest: list[str]) -> int:
    from . import kind_guest

    options = _options("kind-guest", rest, memory="9G")
    return kind_guest.run(options.command, memory=options.memory, timeout=options.timeout)


def _options(name: str, rest: list[str], *, memory: str) -> argparse.Namespace:
    """Of a command that runs another one."""
    parser = argparse.ArgumentParser(prog=f"python -m tests.rig {name}")
    parser.add_argument("-m", "--memory", default=memory)
    parser.add_argument("-c", "--cpus", type=int, default=2)
    parser.add_argument("-t", "--timeout", type=float, help="seconds")
    parser.add_argument("command", nargs=argparse.REMAINDER)
    options = parser.parse_args(rest)
    if options.command[:1] == ["--"]:
        del options.command[0]
    if not options.command:
        parser.error("a COMMAND is missing")
    return options


def _image(rest: list[str]) -> int:
    from . import image

    for archive in image.images():
        print(archive)
    return 0


def _up(one: Cluster, rest: list[str]) -> int:
    from . import image

    parser = argparse.ArgumentParser(prog="python -m tests.rig up")
    parser.add_argument("--nodes", type=int, default=3)
    parser.add_argument("--images", help="OCI archives, separated by commas; none: no images")
    options = parser.parse_args(rest)
    if options.images == "none":
        archives = []
    elif options.images:
        archives = [Path(path) for path in options.images.split(",")]
    else:
        archives = list(image.archives())
    started = time.monotonic()
    one.load_images(archives)
    one.up(options.nodes, owned=False)
    print(f"{one.name}: {', '.join(one.nodes)} are Ready after {time.monotonic() - started:.1f} s")
    print(f"export KUBECONFIG={one.kubeconfig}")
    return 0


def _status(one: Cluster, rest: list[str]) -> int:
    print(one.kubectl("get", "nodes", "-o", "wide"), end="")
    return 0


def _kubectl(one: Cluster, rest: list[str]) -> int:
    stdin = sys.stdin.read() if "-" in rest and not sys.stdin.isatty() else None
    print(one.kubectl(*rest, stdin=stdin, timeout=3600), end="")
    return 0


def _node(one: Cluster, rest: list[str]) -> int:
    stream = getattr(one, "stream", None)
    if stream is not None:
        return int(stream(node_of(one, rest[0]), rest[1:]))
    remote.to_stdout(one.on_node(node_of(one, rest[0]), rest[1:], timeout=3600).encode())
    return 0


def _client(one: Cluster, rest: list[str]) -> int:
    return one.client_popen(rest).wait()


def _cut(one: Cluster, rest: list[str]) -> int:
    directions: dict[str, Direction] = {"in": "in", "out": "out", "both": "both"}
    wanted = rest[1] if len(rest) > 1 else "both"
    if wanted not in directions:
        raise RigError(f"cut {rest[0]} {wanted}: choose in, out or both")
    one.cut(node_of(one, rest[0]), directions[wanted])
    return 0


def _call(method: str, wants_node: bool = False) -> Handler:
    def handle(one: Cluster, rest: list[str]) -> int:
        getattr(one, method)(*([node_of(one, rest[0])] if wants_node else []))
        return 0

    return handle


def _load(one: Cluster, rest: list[str]) -> int:
    one.load_images([Path(path) for path in rest])
    return 0


def _dump(one: Cluster, rest: list[str]) -> int:
    one.dump(Path(rest[0]))
    return 0


def _kubeconfig(one: Cluster, rest: list[str]) -> int:
    print(one.kubeconfig)
    return 0


BUILDERS: dict[str, Callable[[list[str]], int]] = {
    "tools": _tools,
    "build": _build,
    "guest": _guest,
    "place": _place,
    "kind-guest": _kind_guest,
    "image": _image,
}
ON_CLUSTER: dict[str, Handler] = {
    "up": _up,
    "down": _call("down"),
    "status": _status,
    "kubeconfig": _kubeconfig,
    "kubectl": _kubectl,
    "crash": _call("crash", True),
    "boot": _call("boot", True),
    "freeze": _call("freeze", True),
    "thaw": _call("thaw", True),
    "cut": _cut,
    "heal": _call("heal", True),
    "freeze-api": _call("freeze_api"),
    "thaw-api": _call("thaw_api"),
    "node": _node,
    "client": _client,
    "load": _load,
    "dump": _dump,
}


def run() -> int:
    """main() with messages instead of tracebacks."""
    os.environ["PATH"] = shell.SEARCH_PATH
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))  # so that everything is put away
    try:
        return main(sys.argv[1:])
    except CommandFailed as failed:
        print(failed, file=sys.stderr)
        return failed.status or 1
    except (RigError, ValueError, subprocess.TimeoutExpired) as error:
        print(f"rig: {error}", file=sys.stderr)
        return 1
    except IndexError:
        print(f"rig: {' '.join(sys.argv[1:])}: an argument is missing\n{COMMANDS}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(run())
