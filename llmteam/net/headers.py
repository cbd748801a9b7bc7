"""Pure: request headers that are safe to send, and what the answer's headers say."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime
from email.message import Message
from email.utils import parsedate_to_datetime

from llmteam.ids import as_utc
from llmteam.net.errors import InvalidHeaderError

_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")

#: Framing and routing belong to the client: a caller who sets these could smuggle a second request.
_OWN = frozenset(
    {
        "accept-encoding",
        "connection",
        "content-length",
        "expect",
        "host",
        "keep-alive",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)

#: What may follow a redirect to another origin. All else may be a secret (``X-API-Key`` is one by custom only).
_CROSS_ORIGIN = frozenset({"accept", "accept-language", "content-type", "idempotency-key", "user-agent"})

#: A server cannot park a step for longer than this, in seconds.
MAX_RETRY_AFTER = 86_400.0


def checked_headers(headers: Mapping[str, str] | None) -> dict[str, str]:
    """``headers`` with lower-case names; of two that differ in case only, the last counts.

    Raises :class:`InvalidHeaderError` for names that are no tokens (RFC 9110, section 5.1), values with line breaks or
    other control characters, and headers that the client sets by itself.
    """
    checked: dict[str, str] = {}
    for name, value in (headers or {}).items():
        if not isinstance(name, str) or _TOKEN.fullmatch(name) is None:
            raise InvalidHeaderError(str(name), "the name has characters that HTTP does not allow")
        if name.lower() in _OWN:
            raise InvalidHeaderError(name, "the client sets this header by itself; leave it out")
        if not isinstance(value, str):
            raise InvalidHeaderError(name, f"the value is a {type(value).__name__}, not text")
        # A masked secret shows its characters to slicing only.
        text = str.strip(value, " \t")
        if _CONTROL.search(text):
            raise InvalidHeaderError(name, "the value has a line break or another control character")
        try:
            text.encode("latin-1")
        except UnicodeEncodeError:
            raise InvalidHeaderError(name, "the value has characters outside Latin-1") from None
        checked[name.lower()] = text
    return checked


def across_origins(headers: Mapping[str, str]) -> dict[str, str]:
    """Those of the (checked) ``headers`` that a redirect to another host may take along."""
    return {name: value for name, value in headers.items() if name in _CROSS_ORIGIN}


def retry_after(value: str | None, now: datetime) -> float | None:
    """Seconds that a ``Retry-After`` header asks for (RFC 9110, section 10.2.3), at most a day; None without one."""
    if value is None:
        return None
    text = value.strip()
    if text.isascii() and text.isdigit():
        return min(float(text[:12]), MAX_RETRY_AFTER)
    try:
        seconds = (as_utc(parsedate_to_datetime(text)) - now).total_seconds()
    except (ValueError, TypeError, OverflowError):
        return None
    return min(max(seconds, 0.0), MAX_RETRY_AFTER)


def media_type(content_type: str) -> tuple[str, str]:
    """Lower-case media type and charset of a ``Content-Type`` header; both may be empty."""
    message = Message()
    message["content-type"] = content_type or "application/octet-stream"
    charset = message.get_content_charset() or ""
    return (message.get_content_type() if content_type else ""), charset


def is_json(media: str) -> bool:
    """Whether ``media`` is JSON (RFC 6838, section 4.2.8 for the suffix)."""
    return media in {"application/json", "text/json"} or media.endswith("+json")
