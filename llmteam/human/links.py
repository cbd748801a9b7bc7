"""Signed links and access tokens: who may answer what, or see an inbox, until when. Nothing is stored for them.

The text is ``payload.signature``: what is said, as canonical JSON in URL-safe base64, and its HMAC-SHA-256 in hex. The
signature covers the text of the payload, so there is one spelling of each. The payload is readable by whoever has it.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from llmteam import codec
from llmteam.crypto import is_signed, sign
from llmteam.errors import ConfigurationError
from llmteam.human.exceptions import AccessTokenError, AnswerLinkError
from llmteam.ids import as_utc

#: Bytes that a key has at least: as many as the digest (RFC 2104, section 3).
LEAST_KEY = 32
#: Characters of the longest text that is looked at.
MAX_LENGTH = 8192

_ANSWER, _ACCESS = "llmteam answer link", "llmteam access"


@dataclass(frozen=True, slots=True)
class AnswerLink:
    """What a link in a notification lets ``person`` do: answer one request, as it was shown, once, until then.

    That ``link_id`` works once is up to the transaction of the answer.
    """

    tenant_id: str
    request_id: str
    person: str
    shown_hash: str
    link_id: str
    expires_at: datetime


@dataclass(frozen=True, slots=True)
class Access:
    """Who somebody is at the inbox: a person of a tenant, in these groups, until then."""

    tenant_id: str
    person: str
    groups: tuple[str, ...]
    expires_at: datetime


class LinkSigner:
    """Makes links and tokens, and reads them.

    Args:
        keys: the first signs, all verify; a key is replaced by putting another before it, and taken out when what it
            signed has expired.

    Raises :class:`ConfigurationError` without a key, or with one that is too short.
    """

    def __init__(self, keys: Sequence[bytes]) -> None:
        if not keys or any(len(key) < LEAST_KEY for key in keys):
            raise ConfigurationError(
                f"signed links need a key of at least {LEAST_KEY} characters: set LLMTEAM_WEB_KEYS, "
                "for example to the output of: openssl rand -hex 32"
            )
        self._keys = tuple(keys)

    def __repr__(self) -> str:
        return f"LinkSigner({len(self._keys)} keys)"

    def sign_link(self, link: AnswerLink) -> str:
        """The text of a link: safe in a URL's path."""
        said = [link.tenant_id, link.request_id, link.person, link.shown_hash, link.link_id, _written(link.expires_at)]
        return self._sign(_ANSWER, said)

    def read_link(self, text: str, now: datetime) -> AnswerLink:
        """The link that ``text`` is. Raises :class:`AnswerLinkError`, ``forged`` or ``expired``."""
        said = self._read(_ANSWER, text)
        if said is None:
            raise AnswerLinkError("forged")
        tenant_id, request_id, person, shown_hash, link_id, expires = said
        link = AnswerLink(tenant_id, request_id, person, shown_hash, link_id, _read_moment(expires))
        if link.expires_at <= now:
            raise AnswerLinkError("expired")
        return link

    def sign_access(self, access: Access) -> str:
        """The text of a token."""
        said = [access.tenant_id, access.person, list(access.groups), _written(access.expires_at)]
        return self._sign(_ACCESS, said)

    def read_access(self, text: str, now: datetime) -> Access:
        """The access that ``text`` gives. Raises :class:`AccessTokenError`."""
        said = self._read(_ACCESS, text)
        if said is None:
            raise AccessTokenError("forged")
        tenant_id, person, groups, expires = said
        access = Access(tenant_id, person, tuple(groups), _read_moment(expires))
        if access.expires_at <= now:
            raise AccessTokenError("expired")
        return access

    def _sign(self, purpose: str, said: list[Any]) -> str:
        payload = base64.urlsafe_b64encode(codec.canonical(said).encode()).rstrip(b"=")
        return f"{payload.decode()}.{sign(self._keys[0], purpose, payload)}"

    def _read(self, purpose: str, text: str) -> list[Any] | None:
        """What was signed for ``purpose``, or None; nothing is decoded before its signature was found right."""
        if len(text) > MAX_LENGTH:
            return None
        payload, _, signature = text.partition(".")
        if not is_signed(self._keys, purpose, payload.encode("utf-8", "replace"), signature):
            return None
        said: list[Any] = codec.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
        return said


def _written(moment: datetime) -> int:
    """Whole seconds since 1970, in UTC."""
    return int(as_utc(moment).timestamp())


def _read_moment(seconds: int) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)
