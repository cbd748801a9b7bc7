"""Values of agents as JSON that keeps their types: ``{"$type": "datetime", "value": "2026-01-02T03:04:05+00:00"}``.

Nothing is imported, evaluated or unpickled when they are read: a tag names one of the types below, or an enumeration
that the program has registered.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from decimal import Decimal, InvalidOperation
from enum import Enum
from typing import Any
from uuid import UUID

from llmteam import codec
from llmteam.errors import NotJSONError
from llmteam.persistence.exceptions import SnapshotSerializationError

__all__ = ["UnknownEnum", "decode", "encode", "register_enum"]

#: The key of a tag. A dictionary of the caller's that has it is tagged itself.
TAG = "$type"

#: What stands as it is, and is most of what there is.
_PLAIN = frozenset({str, int, float, bool, type(None)})

_ENUMS: dict[str, type[Enum]] = {}


@dataclass(frozen=True, slots=True)
class UnknownEnum:
    """A member of an enumeration that this program has not registered; written again it is what it was."""

    type_name: str
    name: str
    value: Any


def register_enum(kind: type[Enum]) -> type[Enum]:
    """Have members of ``kind`` come back as such from snapshots; usable as a decorator."""
    _ENUMS[_name_of(kind)] = kind
    return kind


def _name_of(kind: type[Enum]) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"


def encode(value: Any, path: str = "$") -> Any:
    """``value`` as JSON. Raises :class:`SnapshotSerializationError` naming the first part that cannot be kept.

    Tuples become lists. Secret values are refused, as are keys that are not text, NaN and infinities.
    """
    encoded = _encode(value, path, 0)
    try:
        codec.check(encoded, path)
    except NotJSONError as exc:
        raise SnapshotSerializationError(exc.path, exc.reason) from None
    return encoded


def _encode(value: Any, path: str, depth: int) -> Any:
    if type(value) in _PLAIN:
        return value
    if depth > codec.MAX_DEPTH:
        raise SnapshotSerializationError(path[:200], f"nested deeper than {codec.MAX_DEPTH} levels")
    if isinstance(value, Enum):
        return _tagged("enum", [_name_of(type(value)), value.name, _encode(value.value, path, depth + 1)])
    if isinstance(value, UnknownEnum):
        return _tagged("enum", [value.type_name, value.name, _encode(value.value, path, depth + 1)])
    if isinstance(value, Mapping):
        return _encode_mapping(value, path, depth)
    if isinstance(value, list | tuple):
        return [_encode(part, f"{path}[{index}]", depth + 1) for index, part in enumerate(value)]
    if isinstance(value, set | frozenset):
        return _encode_set(value, path, depth)
    for name, kind, write, _ in _KINDS:
        if type(value) is kind:
            return _tagged(name, write(value))
    return value


def _encode_mapping(value: Mapping[Any, Any], path: str, depth: int) -> dict[str, Any]:
    parts = {}
    for key, part in value.items():
        if not isinstance(key, str):
            raise SnapshotSerializationError(path, f"key of type {type(key).__name__}; keys are text")
        parts[key] = _encode(part, f"{path}.{key}", depth + 1)
    return _tagged("dict", parts) if TAG in parts else parts


def _encode_set(value: set[Any] | frozenset[Any], path: str, depth: int) -> dict[str, Any]:
    parts = [_encode(part, f"{path}{{}}", depth + 1) for part in value]
    try:
        parts.sort(key=codec.canonical)  # sets of equal members have one checksum
    except NotJSONError as exc:
        raise SnapshotSerializationError(path, exc.reason) from None
    return _tagged("frozenset" if isinstance(value, frozenset) else "set", parts)


def _tagged(name: str, value: Any) -> dict[str, Any]:
    return {TAG: name, "value": value}


def decode(value: Any, path: str = "$") -> Any:
    """The opposite of :func:`encode`. Raises :class:`SnapshotSerializationError` for a tag that says nothing."""
    if isinstance(value, list):
        return [decode(part, f"{path}[{index}]") for index, part in enumerate(value)]
    if not isinstance(value, Mapping):
        return value
    if TAG not in value:
        return {key: decode(part, f"{path}.{key}") for key, part in value.items()}
    try:
        return _decode_tagged(str(value[TAG]), value["value"], path)
    except (KeyError, TypeError, ValueError, InvalidOperation, binascii.Error):
        raise SnapshotSerializationError(path, f"no value of type '{str(value[TAG])[:40]}'") from None


def _decode_tagged(name: str, given: Any, path: str) -> Any:
    if name == "dict":
        return {key: decode(part, f"{path}.{key}") for key, part in dict(given).items()}
    if name in ("set", "frozenset"):
        parts = [decode(part, path) for part in given]
        return frozenset(parts) if name == "frozenset" else set(parts)
    if name == "enum":
        type_name, member, plain = given
        kind = _ENUMS.get(type_name)
        return UnknownEnum(type_name, member, decode(plain, path)) if kind is None else kind[member]
    return next(read for known, _, _, read in _KINDS if known == name)(given) if name in _NAMES else _unknown(name)


def _unknown(name: str) -> Any:
    raise ValueError(name)


def _write_timedelta(value: timedelta) -> list[int]:
    return [value.days, value.seconds, value.microseconds]


def _write_bytes(value: bytes) -> str:
    return base64.b64encode(value).decode()


_KINDS: tuple[tuple[str, type, Callable[[Any], Any], Callable[[Any], Any]], ...] = (
    ("datetime", datetime, datetime.isoformat, datetime.fromisoformat),
    ("date", date, date.isoformat, date.fromisoformat),
    ("time", time, time.isoformat, time.fromisoformat),
    ("timedelta", timedelta, _write_timedelta, lambda given: timedelta(*given)),
    ("bytes", bytes, _write_bytes, lambda given: base64.b64decode(given, validate=True)),
    ("decimal", Decimal, str, Decimal),
    ("uuid", UUID, str, UUID),
)
_NAMES = frozenset(name for name, *_ in _KINDS)
