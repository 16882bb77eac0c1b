"""``python -m tests.clauses table``: write docs/rfc9568.md. ``… break [--net] [C26 …]``: break the code at clauses.

``break`` runs on a copy, says what turned red, and exits with 1 if anything survived. Without ``--net`` clauses whose
tests all need the rig's kernel are left out; with it they run there.
"""

import argparse
import sys
import time

from tests.clauses import breaking
from tests.clauses.clauses import APPLICABLE, BY_ID
from tests.clauses.collect import Shown, collect
from tests.clauses.mutations import MUTATIONS
from tests.clauses.page import PAGE, page


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.clauses", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("table", help="write docs/rfc9568.md")
    command = commands.add_parser("break", help="break a copy of the code and look which tests notice")
    command.add_argument("--net", action="store_true", help="also run tests that need the rig's kernel")
    command.add_argument("clauses", nargs="*", metavar="CLAUSE", help="only these (default: all)")
    parsed = parser.parse_args(arguments)
    shown = collect()
    status = 0
    if parsed.command == "break":
        if unknown := [word for word in parsed.clauses if word not in BY_ID]:
            parser.error(f"no such clause: {', '.join(unknown)}")
        status = break_all(shown, parsed.clauses or [clause.id for clause in APPLICABLE], net=parsed.net)
    PAGE.write_text(page(shown, breaking.load()))
    return status


def break_all(shown: tuple[Shown, ...], clauses: list[str], *, net: bool) -> int:
    """The exit status. What is proved is kept, what survived is forgotten."""
    begin = time.monotonic()
    if (before := breaking.red_unbroken(clauses, shown, net=net)) is not None:
        print(f"{before.test} is red although nothing is broken", flush=True)
        return 1
    kept = {(proof.clause, proof.digest): proof for proof in breaking.load()}
    valid = {(clause, mutation.digest) for clause, mutations in MUTATIONS.items() for mutation in mutations}
    kept = {key: proof for key, proof in kept.items() if key in valid}
    red = survived = left_out = 0
    for clause in clauses:
        mutations = MUTATIONS.get(clause, ())
        if not mutations:
            print(f"{clause}  there is no way to break it in mutations.py", flush=True)
            survived += 1
        if not net and all(each.net for each in shown if each.clause == clause):
            print(f"{clause}  left out: its tests need --net", flush=True)
            left_out += 1
            continue
        for mutation in mutations:
            if mutation.net and not net:
                left_out += 1
                continue
            kept.pop((clause, mutation.digest), None)
            try:
                proof = breaking.prove(clause, mutation, shown, net=mutation.net)
            except breaking.Survived as why:
                print(f"{clause}  {mutation.says}: SURVIVED: {why}", flush=True)
                survived += 1
            else:
                print(f"{clause}  {mutation.says}: red: {proof.test}", flush=True)
                kept[clause, mutation.digest] = proof
                red += 1
    breaking.save(kept.values())
    seconds = time.monotonic() - begin
    print(f"{red} red, {survived} survived, {left_out} left out, {seconds:.0f} s", flush=True)
    return 1 if survived or not red else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
