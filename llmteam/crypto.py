"""Signatures of messages, links and tokens. The one place where secrets are compared."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable
from typing import Any

from llmteam import codec
from llmteam.errors import LLMTeamError


class StartSignatureError(LLMTeamError):
    """An ``llmteam.start_run`` message is not signed with its tenant's key."""

    retryable = False

    def __init__(self, tenant_id: str, reason: str) -> None:
        super().__init__(f"start of a run for tenant '{tenant_id}' refused: {reason}; see LLMTEAM_START_KEYS")
        self.tenant_id = tenant_id
        self.reason = reason


def sign_start(
    key: bytes,
    tenant_id: str,
    segment: Any,
    input_data: Any = None,
    run_id: str | None = None,
    idempotency_key: str | None = None,
) -> str:
    """The signature to send along with an ``llmteam.start_run`` message: HMAC-SHA-256 over its body, hex."""
    parts = [tenant_id, segment, input_data, run_id]
    body = codec.canonical(parts if idempotency_key is None else [*parts, idempotency_key])
    return hmac.new(key, body.encode(), hashlib.sha256).hexdigest()


def check_start(
    key: bytes | None,
    signature: str | None,
    tenant_id: str,
    segment: Any,
    input_data: Any,
    run_id: str | None,
    idempotency_key: str | None = None,
) -> None:
    """Raise :class:`StartSignatureError` unless ``signature`` is right for this message."""
    if key is None:
        raise StartSignatureError(tenant_id, "the tenant has no key")
    if signature is None:
        raise StartSignatureError(tenant_id, "the message is not signed")
    if not hmac.compare_digest(sign_start(key, tenant_id, segment, input_data, run_id, idempotency_key), signature):
        raise StartSignatureError(tenant_id, "the signature is wrong")


def sign(key: bytes, purpose: str, body: bytes) -> str:
    """HMAC-SHA-256 over ``purpose`` and ``body``, hex. A signature for one purpose is worth nothing for another."""
    return hmac.new(key, purpose.encode() + b"\x00" + body, hashlib.sha256).hexdigest()


def is_signed(keys: Iterable[bytes], purpose: str, body: bytes, signature: str) -> bool:
    """Whether ``signature`` is that of one of ``keys``. Takes as long for a wrong one as for a right one."""
    given = signature.encode("utf-8", "replace")
    # A list, not a generator: every key is tried, so that the time does not tell which one fits.
    fits = [hmac.compare_digest(sign(key, purpose, body).encode(), given) for key in keys]
    return any(fits)
