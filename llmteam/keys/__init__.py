"""The data key of each tenant: made on first use, wrapped by the master keys, cached briefly, destroyed for good."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from llmteam.keys.stores import (
    KeyStore,
    MasterKeyUse,
    MemoryKeyStore,
    StoredKey,
    TenantKeyDestroyedError,
    UnknownDataKeyError,
)
from llmteam.keys.tenants import TenantKeys, TenantVault

if TYPE_CHECKING:
    from llmteam.keys.postgres import PostgresKeyStore

__all__ = [
    "KeyStore",
    "MasterKeyUse",
    "MemoryKeyStore",
    "PostgresKeyStore",
    "StoredKey",
    "TenantKeyDestroyedError",
    "TenantKeys",
    "TenantVault",
    "UnknownDataKeyError",
]


def __getattr__(name: str) -> Any:
    # On first use only: it brings SQLAlchemy.
    if name == "PostgresKeyStore":
        from llmteam.keys.postgres import PostgresKeyStore

        return PostgresKeyStore
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
