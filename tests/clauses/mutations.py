"""How the code is broken at each applicable clause."""

from collections.abc import Mapping
from typing import Final

from tests.clauses.model import Mutation
from tests.clauses.mutations_states import STATES

MUTATIONS: Final[Mapping[str, tuple[Mutation, ...]]] = {**STATES}
