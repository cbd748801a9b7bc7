"""How large an event's payload may be and what it may never show: caps, references and redaction, as pure functions."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from llmteam import codec
from llmteam.errors import NotJSONError
from llmteam.masking import REDACTED, hide_logins, is_secret_name, may_name_secret

#: Bytes of canonical JSON that one entry of a payload may have inline.
INLINE_BYTES = 8 * 1024
#: A payload whose entries together are above this many times the inline limit is replaced as a whole.
WHOLE_FACTOR = 8
#: Characters kept of an error message; a stack trace may have ten times as many.
MESSAGE_CHARS = 2_000

_BEARER = re.compile(r"(?i)\b(bearer|basic)\s+[\w.~+/=-]{8,}")


def clean_text(text: str, limit: int = MESSAGE_CHARS) -> str:
    """``text`` fit to be stored and shown: valid Unicode, no NUL, at most ``limit`` characters, no credentials."""
    text = valid_text(text[: limit * 2])
    text = _BEARER.sub(rf"\1 {REDACTED}", hide_logins(text))
    return text if len(text) <= limit else text[: limit - 1] + "…"


def redact(value: Any) -> Any:
    """A copy of JSON ``value`` with everything under a secret's key replaced; None and booleans stay."""
    if isinstance(value, Mapping):
        return {
            key: REDACTED if is_secret_name(key) and not (part is None or isinstance(part, bool)) else redact(part)
            for key, part in value.items()
        }
    return [redact(part) for part in value] if isinstance(value, list | tuple) else value


def jsonable(value: Any, _depth: int = 0) -> Any:
    """A copy of ``value`` that JSON can carry; what it does not know becomes text. For callers' data, not for state.

    Raises :class:`~llmteam.errors.NotJSONError` for a value that is nested too deeply, or contains itself.
    """
    if _depth > codec.MAX_DEPTH:
        raise NotJSONError("$", f"nested deeper than {codec.MAX_DEPTH} levels")
    if isinstance(value, Mapping):
        return {valid_text(str(key)): jsonable(part, _depth + 1) for key, part in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [jsonable(part, _depth + 1) for part in value]
    if isinstance(value, bool | int) or value is None or (isinstance(value, float) and abs(value) < float("inf")):
        return value
    if getattr(value, "is_secret", False):
        return REDACTED
    return valid_text(str(value))


def valid_text(text: str) -> str:
    """``text`` with what JSON or Postgres refuses (NUL, lone surrogates) replaced."""
    return text.replace("\x00", "\ufffd").encode("utf-8", "replace").decode()


#: About what a reference takes in place of a body.
_REFERENCE_BYTES = 100


def reference(digest: str, size: int) -> dict[str, Any]:
    """What stands in a payload for a body that is kept by content hash elsewhere; ``size`` in bytes."""
    return {"$ref": f"sha256:{digest}", "bytes": size}


def omission(digest: str, size: int) -> dict[str, Any]:
    """What stands in a payload for a body that was too large and is kept nowhere; ``size`` in bytes."""
    return {"$omitted": "too large", "bytes": size}


def prepare(
    payload: Mapping[str, Any],
    *,
    limit: int = INLINE_BYTES,
    replace: Callable[[str, int], dict[str, Any]] = reference,
) -> tuple[dict[str, Any], dict[str, str]]:
    """The payload as an event may carry it, and the bodies that were taken out, as canonical JSON by hash.

    Secrets are redacted first. Each entry over ``limit`` bytes is replaced; when what remains is still over
    :data:`WHOLE_FACTOR` times the limit, so is the whole. The caller stores the bodies, or passes ``replace=omission``
    and drops them. Raises :class:`~llmteam.errors.NotJSONError`.
    """
    bodies: dict[str, str] = {}
    ready: dict[str, Any] = {}
    total = 0
    for name, given in payload.items():
        value, text = _entry(name, given)
        size = _bytes(text)
        if size > limit:
            digest = codec.digest(text)
            bodies[digest] = text
            ready[name] = replace(digest, size)
            size = _REFERENCE_BYTES
        else:
            ready[name] = value
        total += size + len(name)
    if total > WHOLE_FACTOR * limit:
        text = codec.canonical(ready)
        digest = codec.digest(text)
        bodies[digest] = text
        ready = replace(digest, _bytes(text))
    return ready, bodies


def _entry(name: str, value: Any) -> tuple[Any, str]:
    """The entry without secrets, and its canonical JSON; walked only when its text holds a word of a secret's key."""
    text = codec.canonical(value, path=f"$.{name}")
    if not may_name_secret(name + text):
        return value, text
    value = redact({name: value})[name]
    return value, codec.canonical(value)


def _bytes(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode())
