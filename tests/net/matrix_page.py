"""docs/matrix.md, made of what the tests recorded: ``python -m tests.net.matrix_page``."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from ipaddress import ip_address
from itertools import product
from pathlib import Path
from typing import Final

from lvsapi.ipvs import Forwarding, Scheduler
from lvsapi.model import Backend, ObjectKey, Protocol, VirtualServer
from lvsapi.takeover import Kept, kept_of
from tests.net.matrix import (
    CONNECTIONS,
    FEATURES,
    FIRST_PORT,
    GRID,
    MARK,
    OURS,
    OVER_TAKEOVERS,
    STEPS,
    SYNCHRONISED,
    WEIGHTS,
)
from tests.net.matrix_results import Part, recorded

PAGE: Final = Path(__file__).resolve().parents[2] / "docs" / "matrix.md"
INTRODUCTION: Final = f"""\
# IPVS: what is tried, and what a takeover keeps

What a real kernel did, in network namespaces: `make matrix` runs the tests, records their numbers in
`tests/net/matrix.json`, and makes this page of them. Each run of `make net` compares the kernel with what is recorded.

## Tables and spread

`tests/net/test_matrix_net.py` programs each object below by the code of the agent (parse, resolve, plan, diff, netlink)
for one address, and the same table by `ipvsadm` for another. Then

* `ipvsadm -S` must print the same lines for both, with their limits, and they must be those that were asked for;
* a client opens {CONNECTIONS} connections to each from the same ports, keeps them open, and must be answered by the
  same real servers in the same numbers.

How many of the {CONNECTIONS} the three real servers (weights {", ".join(map(str, WEIGHTS.values()))}) got:

"""
SPREAD_NOTES: Final = """
`twos` chooses at random, otherwise each time, and `dh` by the virtual address, which differs: with `twos` only that
every connection is answered is compared, with `dh` that one real server has them all.

"""
FEATURE_NOTES: Final = """
Each of these is also tried for what it is there for, which equal numbers would not show: 30 datagrams of one socket
reach every server with one-packet scheduling, and one without; with persistence a second client of the network gets
the first one's server, and one outside of it another; what has its place at a drained server falls back with the flag,
and is refused without; a server at its upper limit gets nothing until it has fewer than the lower one; each tunnel is
of the type on the wire that was asked for, with its checksum or without, and a client with full packets is told an MTU
that fits; and each of three real servers is reached its own way (limits, a tunnel, another port).

"""
KEPT: Final = f"""\
## What a takeover keeps, with real servers outside the cluster

`tests/net/test_matrix_takeover_net.py` holds {CONNECTIONS} connections of each object, all objects at a time on two
directors, and lets them go on in another order than they were opened in:

"""
KEPT_NOTES: Final = f"""
How many of the {CONNECTIONS} live on, in this order; `all` means all of them each time. Where it is not `all`, it is
chance, and another number the next time.

"""
MASQUERADE_NOTE: Final = """
With Masquerade the last number is 0 whatever the scheduler: the new Active node sends on untranslated what a backend
says in a connection that it has not seen, and the client answers with a reset.

"""
SYNCHRONISED_NOTE: Final = """\
With `connectionSync`, some seconds after they were opened and with such an answer under way, all live on{}.

"""
PODS: Final = """\
## What a takeover keeps, with pods

`tests/net/test_matrix_pods_net.py`: three nodes with a pod each, connections held by all cases at a time. The address
moves, the tables stand. How many of those to living pods live on, over a planned hand-over and over a crash of the
Active node:

"""
PODS_NOTE: Final = """
The connections of the new Active node's own pods are never among the lost. `sh`, `dh` and `fo` keep the others, too,
while the backends are the same; `mh` also when they change (`docs/decisions/0008`). Pods have weight 1:
`ovf` gives each two connections and refuses the rest.

"""
VERDICTS: Final = """\
## What the condition says

`ConnectionsSurvive` of each object. Tests hold it to the numbers above: what it promises is kept, and with real servers
outside the cluster what it does not promise is not.

"""


def page(results: Mapping[str, Part] | None = None) -> str:
    """The whole page."""
    results = recorded() if results is None else results
    spread, kept = results["spread"], results["kept"]
    features: list[tuple[str, ...]] = [("object", "spread", "forwarding", "in ipvsadm's words")]
    for case in FEATURES:
        head, first, *_ = case.lines("VIP", FIRST_PORT) if case.ports == "one" else case.lines(str(MARK), FIRST_PORT)
        features.append((case.name, _numbers(spread[case.name]), str(case.forwarding), f"`{head}` `{first}`"))
    steps = "".join(f"* {what};\n" for what in STEPS.values())
    return "".join(
        (
            INTRODUCTION,
            _grid({name: _numbers(found) for name, found in spread.items()}),
            SPREAD_NOTES,
            _table(features),
            FEATURE_NOTES,
            KEPT,
            f"{steps[:-2]}.\n",
            KEPT_NOTES,
            _grid({name: _of_steps(found) for name, found in kept.items()}),
            "\n",
            _table(_further(kept)),
            MASQUERADE_NOTE,
            SYNCHRONISED_NOTE.format(_without_sync(kept)),
            PODS,
            _table(_pods(results["pods"])),
            PODS_NOTE,
            VERDICTS,
            _table(_verdicts()),
        )
    )


def _numbers(found: Mapping[str, int]) -> str:
    return " ".join(str(found[name]) for name in sorted(found))


def _of_steps(found: Mapping[str, int]) -> str:
    numbers = [found[step] for step in STEPS]
    return "all" if set(numbers) == {CONNECTIONS} else " ".join(map(str, numbers))


def _grid(cells: Mapping[str, str]) -> str:
    """Scheduler by forwarding and family; ``cells`` by the names of GRID."""
    rows: list[tuple[str, ...]] = [("scheduler", *(f"{f}, IPv{family}" for f, family in product(Forwarding, (4, 6))))]
    for scheduler in Scheduler:
        rows.append((f"`{scheduler}`", *(cells[case.name] for case in GRID if case.scheduler is scheduler)))
    return _table(rows)


def _further(kept: Part) -> list[tuple[str, ...]]:
    return [
        ("further objects", "live on"),
        *((case.name, _of_steps(kept[case.name])) for case in OVER_TAKEOVERS if case not in GRID),
    ]


def _pods(found: Part) -> list[tuple[str, ...]]:
    rows = [("scheduler", *(f"{step}, IPv{family}" for family in (4, 6) for step in ("hand-over", "crash")))]
    for scheduler in Scheduler:
        cells = []
        for family, step in product((4, 6), ("planned", "crash")):
            numbers = found[f"{scheduler} IPv{family}"]
            cells.append(f"{numbers[f'{step} kept']} of {numbers[f'{step} held']}")
        rows.append((f"`{scheduler}`", *cells))
    return rows


def _without_sync(kept: Part) -> str:
    lost = [f"{name} ({steps[SYNCHRONISED]})" for name, steps in kept.items() if steps[SYNCHRONISED] != CONNECTIONS]
    return f", but for {', '.join(lost)}" if lost else ""


# -- the condition ---------------------------------------------------------------------------------------------------

POD: Final = Backend(address=ip_address("10.244.1.11"), port=8080, weight=1, node="n1")
OUTSIDE: Final = Backend(address=ip_address("10.0.0.31"), port=80, weight=1, node=None, host_network=True)
BACKENDS: Final = {
    "pods": (POD, (Forwarding.DIRECT_ROUTING,)),
    "real servers outside": (OUTSIDE, (Forwarding.DIRECT_ROUTING, Forwarding.TUNNEL)),
    "real servers outside, masqueraded": (OUTSIDE, (Forwarding.MASQUERADE,)),
}


def _verdicts() -> list[tuple[str, ...]]:
    """Schedulers of one verdict share a row."""
    rows: list[tuple[str, ...]] = [("backends", "scheduler", "connectionSync", "ConnectionsSurvive", "what it says")]
    for what, (backend, ways) in BACKENDS.items():
        for sync in (False, True) if backend.node is None else (False,):
            verdicts: dict[Kept, list[str]] = {}
            for scheduler in Scheduler:
                servers = [server_of(scheduler, way, backend) for way in ways]
                kept = _only(kept_of([server], sync, sync, "") for server in servers)
                general = replace(kept, message=kept.message.replace(f"scheduler {scheduler}", "this scheduler"))
                verdicts.setdefault(general, []).append(f"`{scheduler}`")
            for kept, words in verdicts.items():
                rows.append(
                    (what, " ".join(words), "yes" if sync else "no", f"{kept.all}, {kept.reason}", kept.message)
                )
    return rows


def _only(found: Iterable[Kept]) -> Kept:
    (one,) = set(found)
    return one


def server_of(scheduler: Scheduler, forwarding: Forwarding, *backends: Backend) -> VirtualServer:
    """One service on OURS."""
    return VirtualServer(
        owner=ObjectKey("default", "case"),
        address=ip_address(OURS[4]),
        protocol=Protocol.TCP,
        port=80,
        scheduler=scheduler,
        forwarding=forwarding,
        backends=backends,
    )


def _table(rows: list[tuple[str, ...]]) -> str:
    head, *body = (f"| {' | '.join(row)} |" for row in rows)
    return "\n".join([head, "|---" * len(rows[0]) + "|", *body]) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page())
