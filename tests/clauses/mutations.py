"""How the code is broken at each applicable clause."""

from collections.abc import Mapping
from typing import Final

from tests.clauses.model import Mutation
from tests.clauses.mutations_kernel import KERNEL
from tests.clauses.mutations_states import STATES
from tests.clauses.mutations_wire import WIRE

MUTATIONS: Final[Mapping[str, tuple[Mutation, ...]]] = {
    clause: (*STATES.get(clause, ()), *WIRE.get(clause, ()), *KERNEL.get(clause, ()))
    for clause in {**STATES, **WIRE, **KERNEL}
}
