"""The model's values to JSON and back, by their annotations. Pure.

Only what the model uses: dataclasses, tuples of one type, mappings from text, enums, IP addresses and networks,
numbers, text, bytes (in base64), booleans and unions of those. A field that is missing takes its default, so an older
file still loads.
"""

import base64
import binascii
import ipaddress
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from enum import Enum
from functools import cache
from types import NoneType, UnionType
from typing import Any, TypeVar, Union, cast, get_args, get_origin, get_type_hints

T = TypeVar("T")

_ADDRESSES = (ipaddress.IPv4Address, ipaddress.IPv6Address)
_NETWORKS = (ipaddress.IPv4Network, ipaddress.IPv6Network)


class CodecError(ValueError):
    """The data does not fit the type. The text names the path."""


def to_json(value: object) -> Any:
    """What ``json.dumps`` takes. Raises CodecError for a value the model does not use."""
    if value is None or (isinstance(value, str | int | bool) and not isinstance(value, Enum)):
        return value
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, (*_ADDRESSES, *_NETWORKS)):
        return str(value)
    if isinstance(value, tuple | list | frozenset | set):
        return [to_json(item) for item in value]
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if isinstance(value, Mapping):
        return {str(name): to_json(item) for name, item in value.items()}
    if is_dataclass(value):
        return {name: to_json(getattr(value, name)) for name, _, _ in _fields(cast(type, type(value)))}
    raise CodecError(f"{type(value).__name__} cannot be written")


def from_json(kind: type[T], data: Any, path: str = "$") -> T:
    """A value of that type. Raises CodecError, never anything else."""
    return cast(T, _read(kind, data, path))


def _read(kind: Any, data: Any, path: str) -> Any:
    if is_dataclass(kind) and isinstance(kind, type):
        return _read_dataclass(kind, data, path)
    origin = get_origin(kind)
    if origin in (Union, UnionType):
        return _read_union(get_args(kind), data, path)
    if origin is tuple:
        return tuple(_read_items(get_args(kind), data, path))
    if origin is frozenset:
        return frozenset(_read_items((get_args(kind)[0], ...), data, path))
    if origin is not None and isinstance(origin, type) and issubclass(origin, Mapping):
        _expect(isinstance(data, dict), "an object", data, path)
        return {name: _read(get_args(kind)[1], item, f"{path}.{name}") for name, item in data.items()}
    if isinstance(kind, type) and issubclass(kind, Enum):
        try:
            return kind(data)
        except ValueError as error:
            raise CodecError(f"{path}: {error}") from error
    if kind in (str, int, bool):
        _expect(type(data) is kind, kind.__name__, data, path)
        return data
    if kind is bytes:
        _expect(isinstance(data, str), "base64", data, path)
        try:
            return base64.b64decode(data, validate=True)
        except (binascii.Error, ValueError) as error:
            raise CodecError(f"{path}: {error}") from error
    raise CodecError(f"{path}: {kind} cannot be read")


def _read_dataclass(kind: type, data: Any, path: str) -> Any:
    _expect(isinstance(data, dict), "an object", data, path)
    values = {}
    for name, hint, required in _fields(kind):
        if name in data:
            values[name] = _read(hint, data[name], f"{path}.{name}")
        elif required:
            raise CodecError(f"{path}.{name}: missing")
    return kind(**values)


def _read_items(arguments: tuple[Any, ...], data: Any, path: str) -> list[Any]:
    _expect(isinstance(data, list), "a list", data, path)
    if len(arguments) == 2 and arguments[1] is ...:
        return [_read(arguments[0], item, f"{path}[{number}]") for number, item in enumerate(data)]
    _expect(len(data) == len(arguments), f"{len(arguments)} items", data, path)
    return [
        _read(kind, item, f"{path}[{number}]") for number, (kind, item) in enumerate(zip(arguments, data, strict=True))
    ]


def _read_union(members: tuple[Any, ...], data: Any, path: str) -> Any:
    if data is None:
        _expect(NoneType in members, "a value", data, path)
        return None
    for family, build in ((_ADDRESSES, ipaddress.ip_address), (_NETWORKS, ipaddress.ip_network)):
        if family[0] in members and isinstance(data, str):
            try:
                return build(data)
            except ValueError as error:
                raise CodecError(f"{path}: {error}") from error
    for member in members:
        if isinstance(member, type) and issubclass(member, Enum):
            return _read(member, data, path)
        if member is type(data) or (member not in (str, int, bool, NoneType) and not isinstance(data, str | int)):
            return _read(member, data, path)
    raise CodecError(f"{path}: {data!r} is none of {members}")


def _expect(holds: bool, what: str, data: Any, path: str) -> None:
    if not holds:
        raise CodecError(f"{path}: expected {what}, got {str(data)[:80]!r}")


@cache
def _fields(kind: type) -> tuple[tuple[str, Any, bool], ...]:
    hints = get_type_hints(kind)
    return tuple(
        (item.name, hints[item.name], item.default is MISSING and item.default_factory is MISSING)
        for item in fields(kind)
    )
