"""Reading untrusted JSON: every wrong field is collected, none raises. Pure."""

from collections.abc import Callable, Iterator, Mapping
from enum import StrEnum
from functools import lru_cache
from ipaddress import IPv6Address, ip_address
from typing import TypeGuard, TypeVar

from lvsapi.errors import FieldError
from lvsapi.model import IPAddress

E = TypeVar("E", bound=StrEnum)

_TEXT_SHOWN = 80
_BITS_SHOWN = 64


def brief(value: object) -> object:
    """Value as it may stand in a message: scalars as they are, the rest shortened, for it may be huge."""
    if isinstance(value, str):
        text = value.encode("utf-8", "backslashreplace").decode()
        return text if len(text) <= _TEXT_SHOWN else text[:_TEXT_SHOWN] + "…"
    if isinstance(value, int) and value.bit_length() > _BITS_SHOWN:
        return f"a number of {value.bit_length()} bits"
    if value is None or isinstance(value, int | float):
        return value
    return "an object" if isinstance(value, Mapping) else "a list" if isinstance(value, list) else type(value).__name__


class Fields:
    """One JSON object under its path. Every read marks the field as known; ``finish`` reports the rest.

    Null is the same as absent. Errors go to the shared list; a refused value reads as None (or as its default).
    """

    def __init__(self, value: object, path: str, errors: list[FieldError]) -> None:
        self.path = path
        self.errors = errors
        self._known: set[str] = set()
        self._value: Mapping[object, object] = {}
        if isinstance(value, Mapping):
            self._value = value
        elif value is not None:
            self.refuse(None, value, "must be an object")

    def where(self, name: str) -> str:
        """Path of a field of this object."""
        return f"{self.path}.{name}" if self.path else name

    def refuse(self, name: str | None, value: object, message: str, *, unknown: bool = False) -> None:
        """Collect one error at the field, or at the object itself."""
        path = self.path if name is None else self.where(name)
        self.errors.append(FieldError(path=path or "the object", value=brief(value), message=message, unknown=unknown))

    def raw(self, name: str) -> object:
        """The value as written, None if absent."""
        self._known.add(name)
        return self._value.get(name)

    def section(self, name: str) -> "Fields":
        """A nested object; an empty one if absent."""
        return Fields(self.raw(name), self.where(name), self.errors)

    def items(self, name: str, maximum: int | None = None) -> Iterator[tuple[str, object]]:
        """The elements of a list with their paths; none if absent or refused."""
        value = self.raw(name)
        if value is None:
            return
        if not isinstance(value, list | tuple):
            self.refuse(name, value, "must be a list")
        elif maximum is not None and len(value) > maximum:
            self.refuse(name, f"{len(value)} items", f"at most {maximum} are possible; make a second object")
        else:
            for index, item in enumerate(value):
                yield f"{self.where(name)}[{index}]", item

    def text(self, name: str, check: Callable[[str], bool], rule: str, *, required: bool = False) -> str | None:
        """A string that passes ``check``; ``rule`` says what it must be."""
        value = self.raw(name)
        if value is None:
            if required:
                self.refuse(name, value, f"is required: {rule}")
            return None
        if not isinstance(value, str) or not check(value):
            self.refuse(name, value, rule)
            return None
        return value

    def integer(self, name: str, low: int, high: int, *, step: int = 1, required: bool = False) -> int | None:
        """A whole number from low to high."""
        value = self.raw(name)
        rule = f"must be {low}-{high}" + (f" in steps of {step}" if step > 1 else "")
        if value is None:
            if required:
                self.refuse(name, value, f"is required: {rule}")
            return None
        if not is_integer(value) or not low <= value <= high or value % step:
            self.refuse(name, value, rule)
            return None
        return value

    def boolean(self, name: str) -> bool | None:
        """True or false."""
        value = self.raw(name)
        if value is None or isinstance(value, bool):
            return value
        self.refuse(name, value, "must be true or false")
        return None

    def choice(self, name: str, default: E) -> E:
        """A member of the default's enum, by its value."""
        value = self.raw(name)
        kind = type(default)
        known = [str(member) for member in kind]
        if value is None:
            return default
        if not isinstance(value, str) or value not in known:
            self.refuse(name, value, f"must be one of {', '.join(known)}")
            return default
        return kind(value)

    def pairs(self) -> Iterator[tuple[object, object]]:
        """All fields of an object with free keys, such as labels."""
        yield from self._value.items()

    def finish(self) -> None:
        """Report the fields that nobody read: a misspelt field must not be silently without effect."""
        for name in self._value:
            if name not in self._known:
                known = ", ".join(sorted(self._known))
                message = f"is not a field here; known are {known}"
                self.refuse(str(brief(name)), self._value[name], message, unknown=True)


def is_integer(value: object) -> TypeGuard[int]:
    """Whether value is a whole number; a bool is not."""
    return isinstance(value, int) and not isinstance(value, bool)


def refusal_of_address(value: object) -> str | None:
    """Why value cannot be the address of a virtual server or a real server; None if it can."""
    address = lenient_address(value)
    if address is None:
        return "must be an IPv4 or IPv6 address, without prefix length and zone, e.g. 192.168.139.123"
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        return f"is IPv4 written as IPv6; write {address.ipv4_mapped}"
    if str(address) != value:
        return f"is not in canonical form; write {address}"
    if str(address) == "255.255.255.255":
        return "is a broadcast address; take an unused one of the LAN"
    for flag, word in (
        (address.is_unspecified, "the unspecified"),
        (address.is_loopback, "a loopback"),
        (address.is_link_local, "a link-local"),
        (address.is_multicast, "a multicast"),
    ):
        if flag:
            return f"is {word} address; take an unused one of the LAN"
    return None


def lenient_address(value: object) -> IPAddress | None:
    """An address as Kubernetes may write it, canonical or not; None if it is none (a host name, a zone)."""
    return _lenient(value) if isinstance(value, str) else None


@lru_cache(maxsize=1 << 16)
def _lenient(value: str) -> IPAddress | None:
    """An EndpointSlice is sent whole for each endpoint that changes, so most addresses were seen before."""
    if "%" in value:
        return None
    try:
        return ip_address(value)
    except ValueError:
        return None
