"""``lvs-node-init``: what a node needs before it may carry virtual addresses, and the way back.

Runs before the agent (an init container), by hand on a real server outside the cluster, and once more with ``--undo``
when the product leaves the node. Exit status 0: done and verified; 1: something is missing, named on standard error;
2: wrong arguments.
"""

import argparse
import errno
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path

from lvsagent.adapters.addresses import Addresses
from lvsagent.adapters.clients import Clients
from lvsagent.adapters.ipvs import Ipvs, IpvsUnavailable
from lvsagent.adapters.kernel import TABLE, Kernel
from lvsagent.adapters.procfs import Originals, Sysctls, boot_id, prepare, restore, root, settle
from lvsagent.adapters.statefile import StateFileError, StateFiles
from lvsagent.core.clients import ClientPaths
from lvsagent.core.diff import AddLoopback, DeleteLoopback, Owned, diff
from lvsagent.core.failure import OperationFailed, Reason
from lvsagent.core.loops import LoopGuard, ours
from lvsagent.core.state import KernelState
from lvsagent.core.sysctl import IPVS, REAL_SERVER, REQUIRED, Record, check, interface_keys
from lvsapi.model import IPAddress

STATE_VARIABLE = "LVS_STATE_DIR"
STATE_DIR = "/var/lib/lvs-dr"


def main(argv: Sequence[str] | None = None, environment: Mapping[str, str] = os.environ) -> int:
    """The command. Returns the exit status."""
    arguments = _parse(argv, environment)
    sysctls, originals, boot = Sysctls(arguments.proc_sys), Originals(arguments.state_dir), boot_id()
    wanted = REAL_SERVER if arguments.real_server else REQUIRED
    vips: list[IPAddress] = arguments.vip
    try:
        if arguments.undo:
            clients = Clients(sysctls, originals)
            clients.make(ClientPaths())
            clients.close()
            failures = [*_remove_tables(StateFiles(arguments.state_dir), sysctls.folder)]
            failures += [*_remove_addresses(originals, boot), *restore(sysctls, originals, boot)]
            return _report(failures, "the node's settings are as they were before")
        if not arguments.real_server and not _has_ipvs(arguments.check):
            wanted = {key: value for key, value in REQUIRED.items() if key not in IPVS}
        failures = []
        if not arguments.check:
            failures += _prepare(sysctls, originals, boot, wanted)
        problems = check(sysctls.read([*wanted, *interface_keys(sysctls.interfaces())]), wanted)
        for problem in problems:
            print(f"{'error' if problem.fatal else 'warning'}: {problem.message}", file=sys.stderr)
        fatal = any(problem.fatal for problem in problems)
        if vips and not fatal and not failures and not arguments.check:
            failures += _add_addresses(originals, boot, vips)
        done = "verified: " + ", ".join(f"{key}={value}" for key, value in wanted.items())
        return 1 if _report(failures, "" if fatal else done) or fatal else 0
    except OSError as error:
        where = f" ({error.filename})" if error.filename else ""
        print(f"error: {error.strerror or error}{where}", file=sys.stderr)
        return 1


def _prepare(sysctls: Sysctls, originals: Originals, boot: str, wanted: Mapping[str, str]) -> Sequence[OperationFailed]:
    """A disk that is full when a node starts must not keep it from serving; the agent would go on, too."""
    try:
        return prepare(sysctls, originals, boot, wanted)
    except OSError as error:
        print(
            f"warning: {originals.path} cannot be written ({error.strerror or error}): the node's settings are made all"
            " the same, and stay when the product leaves. Make room, or the folder writable",
            file=sys.stderr,
        )
        return settle(sysctls, wanted)


def _has_ipvs(strict: bool) -> bool:
    """Asking for it loads the module, which creates net.ipv4.vs. Where it is missing the agent says so, again and again
    and in the objects' conditions, and sets the rest when it is there: a pod that never starts would say less.
    Raises OSError; ``strict``: also where it is missing."""
    try:
        Ipvs().close()
    except IpvsUnavailable as error:
        if strict or error.errno != errno.ENOENT:
            raise
        print(f"error: {error.strerror}", file=sys.stderr)
        return False
    return True


def _parse(argv: Sequence[str] | None, environment: Mapping[str, str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="lvs-node-init", description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument(
        "--state-dir",
        type=Path,
        default=Path(environment.get(STATE_VARIABLE) or STATE_DIR),
        help=f"folder that keeps the originals (default: {STATE_VARIABLE}, or {STATE_DIR})",
    )
    parser.add_argument(
        "--proc-sys",
        type=Path,
        default=root(environment),
        help="the host's /proc/sys (default: LVS_PROC_SYS, or /proc/sys)",
    )
    parser.add_argument("--undo", action="store_true", help="write back what was there before")
    parser.add_argument("--check", action="store_true", help="look only, write nothing")
    parser.add_argument("--real-server", action="store_true", help="a real server outside the cluster, without IPVS")
    parser.add_argument(
        "--vip", action="append", type=ip_address, default=[], help="with --real-server: an address to put on lo"
    )
    arguments = parser.parse_args(argv)
    if arguments.vip and not arguments.real_server:
        parser.error("--vip needs --real-server: on a node of the cluster the agent puts addresses on lo")
    if arguments.undo and arguments.check:
        parser.error("--undo and --check exclude each other")
    return arguments


def _report(failures: Sequence[OperationFailed], done: str) -> int:
    for failure in failures:
        print(f"error: {failure.message}", file=sys.stderr)
    if done and not failures:
        print(done)
    return int(bool(failures))


def _add_addresses(originals: Originals, boot: str, vips: Sequence[IPAddress]) -> Sequence[OperationFailed]:
    addresses = Addresses()
    try:
        fresh = [vip for vip in vips if vip not in addresses.loopback()]
        record = originals.load() or Record(boot_id=boot)
        kept = record if record.boot_id == boot else Record(boot_id=boot)
        if fresh:
            originals.save(replace(kept, loopback=tuple(dict.fromkeys((*kept.loopback, *map(str, fresh))))))
        return addresses.apply([AddLoopback(vip) for vip in fresh])
    finally:
        addresses.close()


def _remove_tables(files: StateFiles, proc_sys: Path) -> Sequence[OperationFailed]:
    """What an agent recorded as its own and did not take away when it ended, and what is ours whether it is recorded or
    not: what has our firewall marks, or stands in our nftables tables."""
    owned = Owned()
    try:
        owned = files.load_owned()
    except StateFileError as error:
        print(f"warning: tables of the agent, if there are any, stay: {error}", file=sys.stderr)
    if owned == Owned() and not TABLE.exists():
        return ()  # asking would load IPVS
    with Kernel(node="", proc_sys=proc_sys) as kernel:
        have = kernel.read()
        failures = kernel.apply(diff(KernelState(), have, owned).ops)
        kernel.guard_loops(LoopGuard(), ours(have.services.values()))
    if not failures:
        files.forget_owned()
    return failures


def _remove_addresses(originals: Originals, boot: str) -> Sequence[OperationFailed]:
    record = originals.load()
    if record is None or record.boot_id != boot or not record.loopback:
        return ()
    addresses = Addresses()
    try:
        failures = addresses.apply([DeleteLoopback(ip_address(text)) for text in record.loopback])
    finally:
        addresses.close()
    return [failure for failure in failures if failure.reason is not Reason.NO_SUCH_ADDRESS]


if __name__ == "__main__":
    sys.exit(main())
