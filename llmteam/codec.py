"""Canonical JSON: what may be stored or sent, how it is written, and its digest.

Python's ``json`` writes NaN, accepts lone surrogates and turns non-text keys into text; Postgres refuses
NUL in text. Everything durable therefore goes through :func:`dumps`, which refuses all of that and names
the path of what it refused.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from typing import Any

from llmteam.errors import NotJSONError, PayloadTooLargeError

#: Levels of nesting that a value may have.
MAX_DEPTH = 100

#: What JSON can carry. Recursive aliases cost mypy and pydantic more than they catch.
JSON = Any

_encoder = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"), check_circular=False)
_canonical = json.JSONEncoder(
    ensure_ascii=False, allow_nan=False, separators=(",", ":"), check_circular=False, sort_keys=True
)
_PLAIN = (int, bool, type(None))


def check(value: Any, path: str = "$") -> None:
    """Raise :class:`NotJSONError` naming the first part of ``value`` that JSON cannot carry.

    Refused: any type but dict, list, tuple, str, int, float, bool and None; keys that are not text; NaN and
    infinities; NUL characters and lone surrogates in text; more than :data:`MAX_DEPTH` levels.
    """
    stack: list[tuple[Any, str, int]] = [(value, path, 0)]
    while stack:
        item, where, depth = stack.pop()
        kind = type(item)
        if kind is str:
            _check_text(item, where)
        elif kind in _PLAIN:
            continue
        elif isinstance(item, float):
            if not math.isfinite(item):
                raise NotJSONError(where, f"{item} is not a JSON number")
        elif isinstance(item, Mapping):
            _too_deep(depth, where)
            for key, part in item.items():
                if not isinstance(key, str):
                    raise NotJSONError(where, f"key of type {type(key).__name__}; JSON keys are text")
                _check_text(key, where)
                stack.append((part, f"{where}.{key}", depth + 1))
        elif isinstance(item, list | tuple):
            _too_deep(depth, where)
            stack.extend((part, f"{where}[{index}]", depth + 1) for index, part in enumerate(item))
        elif isinstance(item, str):
            if getattr(item, "is_secret", False):
                raise NotJSONError(where, "a secret value is never stored or sent: pass its id instead")
            _check_text(item, where)
        elif not isinstance(item, int):
            raise NotJSONError(where, f"a {type(item).__name__} is not JSON")


def _too_deep(depth: int, where: str) -> None:
    if depth >= MAX_DEPTH:
        raise NotJSONError(where[:200], f"nested deeper than {MAX_DEPTH} levels")


def _check_text(text: str, where: str) -> None:
    if text.isascii():
        if "\x00" in text:
            raise NotJSONError(where, "text with a NUL character")
        return
    if "\x00" in text:
        raise NotJSONError(where, "text with a NUL character")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise NotJSONError(where, "text with a lone surrogate is not valid Unicode") from None


def dumps(value: Any, *, path: str = "$") -> str:
    """Compact JSON text of ``value``, keys in their own order. Raises :class:`NotJSONError`."""
    check(value, path)
    return _encode(_encoder, value, path)


def canonical(value: Any, *, path: str = "$") -> str:
    """JSON text that is the same for equal values: compact, keys sorted. Raises :class:`NotJSONError`."""
    check(value, path)
    return _encode(_canonical, value, path)


def _encode(encoder: json.JSONEncoder, value: Any, path: str) -> str:
    try:
        return encoder.encode(value)
    except (TypeError, ValueError) as exc:
        raise NotJSONError(path, str(exc)) from None


def loads(text: str | bytes) -> Any:
    """The value of JSON ``text``. NaN and infinities are refused with ``ValueError``."""
    return json.loads(text, parse_constant=_refuse_constant)


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def digest(text: str | bytes) -> str:
    """Lower-case hex SHA-256 of ``text`` (UTF-8)."""
    return hashlib.sha256(text.encode() if isinstance(text, str) else text).hexdigest()


def check_size(what: str, text: str, limit: int) -> int:
    """The size of ``text`` in bytes; raises :class:`PayloadTooLargeError` above ``limit``."""
    size = len(text) if text.isascii() else len(text.encode())
    if size > limit:
        raise PayloadTooLargeError(what, size, limit)
    return size
