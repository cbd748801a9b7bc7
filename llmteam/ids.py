"""Identifiers and the clock: the only module that asks the operating system for time or randomness."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable
from datetime import UTC, datetime
from uuid import UUID, uuid4

from llmteam.errors import LLMTeamError

#: A clock answers the present moment as an aware UTC datetime.
Clock = Callable[[], datetime]

_IDENTIFIER = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:@/+-]{0,254}")
_RULE = "1 to 255 characters, letters, digits and . _ : @ / + -, beginning with a letter or digit"


class InvalidIdentifierError(LLMTeamError, ValueError):
    """An identifier given by a caller (tenant, run, instance) is empty, too long or has characters that are refused."""

    retryable = False

    def __init__(self, what: str, value: str, rule: str = _RULE) -> None:
        super().__init__(f"{what} {value[:80]!r} is not usable: {rule}")
        self.what = what
        self.value = value
        self.rule = rule


def utc_now() -> datetime:
    """The present moment, aware, in UTC. Callers that decide anything take it as an argument instead."""
    return datetime.now(UTC)


def as_utc(moment: datetime) -> datetime:
    """``moment`` in UTC; a naive datetime is read as UTC."""
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


def new_id() -> str:
    """A fresh UUIDv7 as text: ordered by creation time to the millisecond (RFC 9562, section 5.7)."""
    millis = time.time_ns() // 1_000_000
    random_bits = int.from_bytes(os.urandom(10), "big")
    value = (millis & 0xFFFF_FFFF_FFFF) << 80
    value |= 0x7 << 76
    value |= (random_bits >> 62 & 0xFFF) << 64
    value |= 0b10 << 62
    value |= random_bits & 0x3FFF_FFFF_FFFF_FFFF
    return str(UUID(int=value))


def check_identifier(what: str, value: str) -> str:
    """Return ``value`` when it can serve as an identifier, else raise :class:`InvalidIdentifierError`."""
    if not isinstance(value, str) or _IDENTIFIER.fullmatch(value) is None:
        raise InvalidIdentifierError(what, str(value))
    return value


def random_id() -> str:
    """A fresh UUIDv4 as text, for where an id must not tell when it was made."""
    return str(uuid4())


def random_bytes(size: int) -> bytes:
    """``size`` random bytes, fit for keys and nonces."""
    return os.urandom(size)


def random_hex(size: int) -> str:
    """``size`` random bytes, fit for secrets, as lower-case hex."""
    return os.urandom(size).hex()
