"""The words for a clause: what it asks, whether it applies to us, and how the code is broken at it."""

from dataclasses import dataclass
from enum import StrEnum, unique
from hashlib import sha256


@unique
class Level(StrEnum):
    """RFC 2119."""

    MUST = "MUST"
    SHOULD = "SHOULD"
    MAY = "MAY"


@unique
class Aspect(StrEnum):
    """What a test shows about a clause: the second word of ``@pytest.mark.clause``."""

    HELD = "held"
    BREACH = "breach"
    """The breach is made, and somebody notices: we drop or count or log it, or an independent judge names it."""
    INSTEAD = "instead"
    """Of a deviation: what we do instead."""


@unique
class Standing(StrEnum):
    """What the clause is to us."""

    APPLICABLE = "applicable"
    DEVIATION = "deviation"
    NOT_APPLICABLE = "not applicable"

    @property
    def needs(self) -> tuple[Aspect, ...]:
        """What tests must show."""
        return {
            Standing.APPLICABLE: (Aspect.HELD, Aspect.BREACH),
            Standing.DEVIATION: (Aspect.INSTEAD,),
            Standing.NOT_APPLICABLE: (),
        }[self]


@dataclass(frozen=True, slots=True)
class Clause:
    """One requirement."""

    id: str
    """C1-C61: RFC 9568. V1-V6: RFC 3768, for VRRPv2."""
    level: Level
    text: str
    section: str
    standing: Standing = Standing.APPLICABLE
    deviations: tuple[int, ...] = ()
    """Numbers of ``deviations.DEVIATIONS``: of a deviation, which; of an applicable clause, what limits it."""
    reason: str = ""
    """Why it does not apply."""


@dataclass(frozen=True, slots=True)
class Deviation:
    """Where we do other than the RFC says, on purpose."""

    number: int
    title: str
    sections: str
    why: str
    """What we do, and why."""


@dataclass(frozen=True, slots=True)
class Mutation:
    """The code, broken at one clause."""

    says: str
    """What the broken code does."""
    file: str
    """Below the root, in nodeagent/ or crds/."""
    old: str
    """Occurs there exactly once."""
    new: str
    net: bool = False
    """Only tests in the rig's kernel see it."""

    @property
    def digest(self) -> str:
        """Tells it from what it was before an edit."""
        return sha256("\0".join((self.file, self.old, self.new)).encode()).hexdigest()[:12]
