"""Signatures: of messages, links, tokens, webhooks, audit chains."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable
from datetime import datetime
from typing import TYPE_CHECKING, Any

from llmteam import codec
from llmteam.errors import ConfigurationError, LLMTeamError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey


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
    started_by: str | None = None,
) -> str:
    """The signature to send along with an ``llmteam.start_run`` message: HMAC-SHA-256 over its body, hex."""
    parts = [tenant_id, segment, input_data, run_id]
    if started_by is not None:
        parts += [idempotency_key, started_by]
    elif idempotency_key is not None:
        parts += [idempotency_key]
    body = codec.canonical(parts)
    return hmac.new(key, body.encode(), hashlib.sha256).hexdigest()


def check_start(
    key: bytes | None,
    signature: str | None,
    tenant_id: str,
    segment: Any,
    input_data: Any,
    run_id: str | None,
    idempotency_key: str | None = None,
    started_by: str | None = None,
) -> None:
    """Raise :class:`StartSignatureError` unless ``signature`` is right for this message."""
    if key is None:
        raise StartSignatureError(tenant_id, "the tenant has no key")
    if signature is None:
        raise StartSignatureError(tenant_id, "the message is not signed")
    expected = sign_start(key, tenant_id, segment, input_data, run_id, idempotency_key, started_by)
    if not hmac.compare_digest(expected, signature):
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


#: Seconds for which a signed webhook is taken: longer than clocks differ, shorter than a copy of it is of use.
WEBHOOK_SECONDS = 300.0


def sign_webhook(key: bytes, body: bytes, moment: datetime) -> str:
    """The header of a webhook: ``t=SECONDS,v1=HEX``, where HEX is HMAC-SHA-256 over ``SECONDS.BODY``."""
    seconds = str(int(moment.timestamp()))
    return f"t={seconds},v1={_webhook_digest(key, seconds, body)}"


def verify_webhook(
    key: bytes | str, header: str | None, body: bytes, now: datetime, *, tolerance: float = WEBHOOK_SECONDS
) -> bool:
    """Whether a webhook is ours: its body is what was signed with ``key``, at most ``tolerance`` seconds ago.

    ``header`` is that of ``X-LLMTeam-Signature``, ``body`` the bytes as they came, before any parsing.
    """
    parts = [part.strip().partition("=") for part in (header or "").split(",")]
    moments = [value for name, _, value in parts if name == "t"]
    if len(moments) != 1 or not (moments[0].isascii() and moments[0].isdigit() and len(moments[0]) < 12):
        return False
    wanted = _webhook_digest(key.encode() if isinstance(key, str) else key, moments[0], body).encode()
    given = [value.encode("utf-8", "replace") for name, _, value in parts if name == "v1"]
    signed = any(hmac.compare_digest(wanted, one) for one in given)
    return signed and abs(now.timestamp() - int(moments[0])) <= tolerance


def _webhook_digest(key: bytes, seconds: str, body: bytes) -> str:
    return hmac.new(key, seconds.encode() + b"." + body, hashlib.sha256).hexdigest()


class SigningKeyError(ConfigurationError):
    """A key for signatures is not an Ed25519 key in PEM, or is protected by a passphrase."""


class VerifyKey:
    """An Ed25519 public key (RFC 8032), with which anyone can check what was signed."""

    def __init__(self, key: Ed25519PublicKey) -> None:
        self._key = key

    @classmethod
    def from_pem(cls, pem: bytes) -> VerifyKey:
        """The key of a ``PUBLIC KEY`` block. Raises :class:`SigningKeyError`."""
        from cryptography.exceptions import UnsupportedAlgorithm
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
        from cryptography.hazmat.primitives.serialization import load_pem_public_key

        try:
            key = load_pem_public_key(pem)
        except (ValueError, UnsupportedAlgorithm):
            key = None
        if not isinstance(key, Ed25519PublicKey):
            raise SigningKeyError("this is no Ed25519 public key in PEM: openssl pkey -in key.pem -pubout makes one")
        return cls(key)

    def to_pem(self) -> bytes:
        """The key as a ``PUBLIC KEY`` block."""
        from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

        return self._key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)

    @property
    def key_id(self) -> str:
        """The first 16 hex digits of the SHA-256 of the key's 32 bytes."""
        return codec.digest(self._key.public_bytes_raw())[:16]

    def is_signature(self, signature: str, message: str) -> bool:
        """Whether ``signature`` (hex) is this key's for ``message`` (UTF-8)."""
        from cryptography.exceptions import InvalidSignature

        try:
            self._key.verify(bytes.fromhex(signature), message.encode())
        except (InvalidSignature, ValueError):
            return False
        return True


class SigningKey:
    """An Ed25519 private key (RFC 8032). Its text form shows the key id only."""

    def __init__(self, key: Ed25519PrivateKey) -> None:
        self._key = key

    def __repr__(self) -> str:
        return f"SigningKey(key_id={self.verify_key.key_id!r})"

    @classmethod
    def generate(cls) -> SigningKey:
        """A fresh key."""
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

        return cls(Ed25519PrivateKey.generate())

    @classmethod
    def from_pem(cls, pem: bytes) -> SigningKey:
        """The key of an unprotected ``PRIVATE KEY`` block. Raises :class:`SigningKeyError`."""
        from cryptography.exceptions import UnsupportedAlgorithm
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
        from cryptography.hazmat.primitives.serialization import load_pem_private_key

        try:
            key = load_pem_private_key(pem, password=None)
        except (ValueError, TypeError, UnsupportedAlgorithm):
            key = None
        if not isinstance(key, Ed25519PrivateKey):
            raise SigningKeyError(
                "this is no Ed25519 private key in PEM, unprotected: openssl genpkey -algorithm ed25519 makes one"
            )
        return cls(key)

    def to_pem(self) -> bytes:
        """The key as a ``PRIVATE KEY`` block, unprotected."""
        from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

        return self._key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())

    @property
    def verify_key(self) -> VerifyKey:
        """The public half."""
        return VerifyKey(self._key.public_key())

    def sign(self, message: str) -> str:
        """The signature of ``message`` (UTF-8), as hex."""
        return self._key.sign(message.encode()).hex()
