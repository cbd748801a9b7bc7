"""Where wrapped data keys are kept: the protocol and the store in memory."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Protocol

from llmteam.crypto import CryptoError, WrappedKey


class TenantKeyDestroyedError(CryptoError):
    """The tenant's data key was destroyed: what was sealed with it cannot be read again, and nothing can be sealed."""

    def __init__(self, tenant_id: str) -> None:
        super().__init__(
            f"the data key of tenant '{tenant_id}' was destroyed, so what was sealed with it is gone for good: "
            f"`llmteam keys renew {tenant_id}` lets the tenant seal anew"
        )
        self.tenant_id = tenant_id


class UnknownDataKeyError(CryptoError):
    """A sealed value names a data key that its tenant never had."""

    def __init__(self, tenant_id: str, key_id: str) -> None:
        super().__init__(
            f"tenant '{tenant_id}' has no data key {key_id[:64]!r}: the value was sealed for another tenant, in "
            "another installation, or in a process that has ended"
        )
        self.tenant_id = tenant_id
        self.key_id = key_id


@dataclass(frozen=True, slots=True)
class StoredKey:
    """One data key of a tenant, the first being generation 1. ``wrapped`` is None once it is destroyed."""

    generation: int
    key_id: str
    wrapped: WrappedKey | None
    created_at: datetime
    destroyed_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class MasterKeyUse:
    """How many data keys a master key wraps."""

    master_id: str
    keys: int


class KeyStore(Protocol):
    """Data keys of all tenants. Synchronous; each method is one transaction."""

    def all(self, tenant_id: str) -> list[StoredKey]:
        """Every key of the tenant, destroyed ones too, the newest first."""
        ...

    def add_first(self, tenant_id: str, key: WrappedKey, now: datetime) -> None:
        """Keep the tenant's first key; does nothing when there is or was one."""
        ...

    def add_next(self, tenant_id: str, key: WrappedKey, now: datetime) -> None:
        """Keep a newer key, with which the tenant seals from now on, also after its keys were destroyed."""
        ...

    def rewrap(self, tenant_id: str, generation: int, was: str, key: WrappedKey) -> bool:
        """Keep the same key under another master key; False when ``was`` is no longer what wraps it."""
        ...

    def destroy(self, tenant_id: str, now: datetime) -> int:
        """Destroy every key of the tenant and prevent a first one; how many there were."""
        ...

    def wrapped_by_others(self, master_id: str, limit: int) -> list[str]:
        """Tenants with a key that ``master_id`` does not wrap."""
        ...

    def uses(self) -> list[MasterKeyUse]:
        """Every master key that wraps something, by id."""
        ...


class MemoryKeyStore:
    """Data keys in this process's memory; safe for threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._keys: dict[str, list[StoredKey]] = {}

    def all(self, tenant_id: str) -> list[StoredKey]:
        """As :meth:`KeyStore.all`."""
        with self._lock:
            return list(reversed(self._keys.get(tenant_id, [])))

    def add_first(self, tenant_id: str, key: WrappedKey, now: datetime) -> None:
        """As :meth:`KeyStore.add_first`."""
        with self._lock:
            self._keys.setdefault(tenant_id, [StoredKey(1, key.key_id, key, now)])

    def add_next(self, tenant_id: str, key: WrappedKey, now: datetime) -> None:
        """As :meth:`KeyStore.add_next`."""
        with self._lock:
            kept = self._keys.setdefault(tenant_id, [])
            kept.append(StoredKey(len(kept) + 1, key.key_id, key, now))

    def rewrap(self, tenant_id: str, generation: int, was: str, key: WrappedKey) -> bool:
        """As :meth:`KeyStore.rewrap`."""
        with self._lock:
            kept = self._keys.get(tenant_id, [])
            for index, stored in enumerate(kept):
                if stored.generation == generation and stored.wrapped is not None and stored.wrapped.master_id == was:
                    kept[index] = replace(stored, wrapped=key)
                    return True
            return False

    def destroy(self, tenant_id: str, now: datetime) -> int:
        """As :meth:`KeyStore.destroy`."""
        with self._lock:
            kept = self._keys.setdefault(tenant_id, [StoredKey(1, "", None, now, now)])
            alive = sum(stored.wrapped is not None for stored in kept)
            self._keys[tenant_id] = [
                stored if stored.wrapped is None else replace(stored, wrapped=None, destroyed_at=now) for stored in kept
            ]
            return alive

    def wrapped_by_others(self, master_id: str, limit: int) -> list[str]:
        """As :meth:`KeyStore.wrapped_by_others`."""
        return [tenant_id for tenant_id, keys in self._live() if any(k.master_id != master_id for k in keys)][:limit]

    def uses(self) -> list[MasterKeyUse]:
        """As :meth:`KeyStore.uses`."""
        masters = [key.master_id for _, keys in self._live() for key in keys]
        return [MasterKeyUse(master_id, masters.count(master_id)) for master_id in sorted(set(masters))]

    def _live(self) -> Sequence[tuple[str, list[WrappedKey]]]:
        with self._lock:
            return [
                (tenant_id, [stored.wrapped for stored in self._keys[tenant_id] if stored.wrapped is not None])
                for tenant_id in sorted(self._keys)
            ]
