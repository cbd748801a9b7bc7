"""Signatures of messages from outside. The one place where secrets are compared."""

from __future__ import annotations

import hashlib
import hmac
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
