"""The node's kernel settings, at run time: written and remembered at the start, given back at the end. Blocking."""

import logging
from pathlib import Path

from lvsagent.adapters.kernel import Kernel
from lvsagent.adapters.procfs import Originals, Sysctls, boot_id, prepare, restore
from lvsagent.core.sysctl import REQUIRED

_log = logging.getLogger(__name__)


def prepare_node(node: str, proc_sys: Path, state_dir: Path) -> None:
    """Standalone there is no init container, and an agent that restarts alone has none either."""
    sysctls, originals = Sysctls(proc_sys), Originals(state_dir)
    try:
        # Asking for IPVS loads it, and net.ipv4.vs is there.
        Kernel(node=node, proc_sys=proc_sys).close()
    except OSError:
        pass  # the loop says so
    try:
        failures = prepare(sysctls, originals, boot_id(), REQUIRED)
    except OSError as error:
        _log.error("the node's settings cannot be prepared", extra={"error": error})
        return
    for failure in failures:
        _log.error("a setting of the node cannot be written", extra={"error": failure.message})


def restore_node(proc_sys: Path, state_dir: Path) -> None:
    """As they were before."""
    sysctls, originals = Sysctls(proc_sys), Originals(state_dir)
    try:
        failures = restore(sysctls, originals, boot_id())
    except OSError as error:
        _log.error("the node's settings cannot be restored", extra={"error": error})
        return
    for failure in failures:
        _log.error("a setting of the node cannot be restored", extra={"error": failure.message})
