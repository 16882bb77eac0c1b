"""What is wrong with an object, field by field. Pure."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class FieldError:
    """One refused value: where it stands, what it was, and what to write instead."""

    path: str
    """Dotted path with indices, e.g. ``spec.ports[0].port``."""
    value: object
    """The value as the user wrote it."""
    message: str
    """The rule and the remedy, e.g. ``must be 1-65535``."""
    unknown: bool = False
    """It is a field that is not known here."""

    def __str__(self) -> str:
        return f"{self.path}: {self.value!r}: {self.message}"


class SpecError(ValueError):
    """An object that cannot be used. Carries every field error, not only the first."""

    def __init__(self, name: str, errors: tuple[FieldError, ...]) -> None:
        self.name = name
        """Kind, namespace and name of the object, as kubectl would print them."""
        self.errors = errors
        super().__init__(f"{name}: " + "; ".join(str(error) for error in errors))
