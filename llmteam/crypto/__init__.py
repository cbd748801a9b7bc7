"""Keys: signatures of messages, links, tokens, webhooks and audit chains, and the encryption of what is sealed.

The one place where secrets are compared, and the only importer of ``cryptography``.
"""

from __future__ import annotations

from llmteam.crypto.sealing import (
    CryptoError,
    DataKey,
    MasterKeys,
    NoEncryptionKeysError,
    ProcessVault,
    SealBrokenError,
    UnknownMasterKeyError,
    Vault,
    WrappedKey,
    key_id_of,
)
from llmteam.crypto.signatures import (
    WEBHOOK_SECONDS,
    SigningKey,
    SigningKeyError,
    StartSignatureError,
    VerifyKey,
    check_start,
    is_signed,
    sign,
    sign_start,
    sign_webhook,
    verify_webhook,
)

__all__ = [
    "WEBHOOK_SECONDS",
    "CryptoError",
    "DataKey",
    "MasterKeys",
    "NoEncryptionKeysError",
    "ProcessVault",
    "SealBrokenError",
    "SigningKey",
    "SigningKeyError",
    "StartSignatureError",
    "UnknownMasterKeyError",
    "Vault",
    "VerifyKey",
    "WrappedKey",
    "check_start",
    "is_signed",
    "key_id_of",
    "sign",
    "sign_start",
    "sign_webhook",
    "verify_webhook",
]
