"""Small pieces that schemas are made of. Pure."""

from dataclasses import fields
from enum import StrEnum
from typing import TYPE_CHECKING

from lvsapi import names, rules

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Schema = dict[str, object]

ADDRESS_LENGTH = 45
MAX_NAMESPACES = 1024


def default_of(kind: type["DataclassInstance"], name: str) -> object:
    """A field's default in the model. Slots hide it from the class, so ask the dataclass."""
    return next(field.default for field in fields(kind) if field.name == name)


def object_of(text: str, properties: Schema, required: list[str] | None = None) -> Schema:
    found: Schema = {"type": "object", "description": text, "properties": properties}
    return {**found, "required": required} if required else found


def list_of(items: Schema, maximum: int, text: str) -> Schema:
    return {"type": "array", "description": text, "maxItems": maximum, "items": items}


def map_of(items: Schema, key: str) -> Schema:
    """A list that server-side apply merges by a key."""
    return {"type": "array", "items": items, "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": [key]}


def enum_of(kind: type[StrEnum], default: object, text: str) -> Schema:
    return {
        "type": "string",
        "description": text,
        "enum": [str(member) for member in kind],
        "default": str(default),
    }


def integer(low: int, high: int, text: str) -> Schema:
    return {"type": "integer", "format": "int32", "description": text, "minimum": low, "maximum": high}


def priority() -> Schema:
    return integer(*rules.PRIORITY, "VRRP priority.")


def name_of(text: str) -> Schema:
    return {
        "type": "string",
        "description": text,
        "maxLength": names.DNS_SUBDOMAIN_LENGTH,
        "pattern": names.DNS_SUBDOMAIN_PATTERN,
    }


def label(text: str) -> Schema:
    found: Schema = {"type": "string", "maxLength": names.DNS_LABEL_LENGTH, "pattern": names.DNS_LABEL_PATTERN}
    return {**found, "description": text} if text else found


def rule_of(rule: str, message: str, path: str | None = None) -> Schema:
    found: Schema = {"rule": rule, "message": message}
    return {**found, "fieldPath": path} if path else found


def column(name: str, kind: str, path: str, text: str, priority: int = 0) -> Schema:
    found: Schema = {"name": name, "type": kind, "jsonPath": path}
    if text:
        found["description"] = text
    return {**found, "priority": priority} if priority else found
