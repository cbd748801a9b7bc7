"""The one form in which records are hashed, and what their values become before.

The checksum of a record covers every field. ``old_value``, ``new_value`` and ``metadata`` enter as digests, each
salted with the record's own ``salt``: a payload can be erased together with its salt, the chain still holds, and what
was erased cannot be found again by trying values.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from datetime import date, datetime
from decimal import Decimal
from enum import Enum
from typing import Any
from uuid import UUID

from llmteam import codec
from llmteam.errors import NotJSONError
from llmteam.ids import as_utc
from llmteam.masking import REDACTED

#: The version of the rules in this module, kept with each record and hashed with it.
HASH_VERSION = 1

#: Whether a field of this name holds what must not be kept.
Sensitive = Callable[[str], bool]

_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")


def moment(when: datetime) -> str:
    """An instant as text: UTC, six digits of microseconds, ``Z``; a naive one is read as UTC."""
    return as_utc(when).isoformat(timespec="microseconds").removesuffix("+00:00") + "Z"


def storable(text: str) -> str:
    """``text`` without NUL and lone surrogates. Postgres refuses them; nobody shall go unrecorded by sending one."""
    return _UNSTORABLE.sub("\N{REPLACEMENT CHARACTER}", text) if _UNSTORABLE.search(text) else text


def plain(value: Any, sensitive: Sensitive, path: str = "$", depth: int = 0) -> Any:
    """A deep copy of ``value`` as JSON, without secrets.

    Instants, dates, decimals, UUIDs, enums, bytes and sets become text (or lists) that is the same every time. Fields
    for whose name ``sensitive`` answers yes, and secret values, become :data:`REDACTED`. Raises :class:`NotJSONError`.
    """
    if depth > codec.MAX_DEPTH:
        raise NotJSONError(path[:200], f"nested deeper than {codec.MAX_DEPTH} levels")
    if getattr(value, "is_secret", False):
        return REDACTED
    if isinstance(value, Mapping):
        return _plain_mapping(value, sensitive, path, depth)
    if isinstance(value, list | tuple):
        return [plain(part, sensitive, f"{path}[{index}]", depth + 1) for index, part in enumerate(value)]
    if isinstance(value, set | frozenset):
        return sorted((plain(part, sensitive, path, depth + 1) for part in value), key=codec.canonical)
    return _scalar(value)


def _plain_mapping(value: Mapping[Any, Any], sensitive: Sensitive, path: str, depth: int) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, part in value.items():
        if not isinstance(key, str):
            raise NotJSONError(path, f"key of type {type(key).__name__}; JSON keys are text")
        name = storable(key)
        kept = REDACTED if sensitive(name) else plain(part, sensitive, f"{path}.{name}", depth + 1)
        found[str(name)] = kept
    return found


def _scalar(value: Any) -> Any:
    if isinstance(value, Enum):
        return _scalar(value.value)
    if isinstance(value, str):
        return storable(str(value))
    if isinstance(value, datetime):
        return moment(value)
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, Decimal | UUID):
        return str(value)
    if isinstance(value, bytes | bytearray):
        return value.hex()
    # The codec, which comes next, names the path of anything else that is no JSON.
    return value


def payload_digest(value: Mapping[str, Any] | None, salt: str) -> str:
    """What enters the checksum for a payload; empty when there is none."""
    return "" if value is None else codec.digest(f"{salt}:{codec.canonical(value)}")


def checksum(fields: Mapping[str, Any]) -> str:
    """Lower-case hex SHA-256 over the canonical JSON (sorted keys, no spaces, UTF-8) of a record's fields."""
    return codec.digest(codec.canonical(fields))


def open_checksum(fields: Mapping[str, Any]) -> tuple[str, str, str]:
    """The text of :func:`checksum` around the two values that are known only under the lock of the chain's head.

    They are ``previous_checksum`` and ``sequence_number``, in this order; ``fields`` has neither.
    """
    names = ("previous_checksum", "sequence_number")
    first, between, last = (
        codec.canonical({name: value for name, value in fields.items() if after < name < before})[1:-1]
        for after, before in (("", names[0]), names, (names[1], "~"))
    )
    return f'{{{first},"{names[0]}":"', f'",{between},"{names[1]}":', f",{last}}}"
