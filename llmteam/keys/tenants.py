"""Data keys as they are used: unwrapped once a minute, in this process only."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Self

from llmteam.crypto import DataKey, MasterKeys, key_id_of
from llmteam.ids import Clock, check_identifier, utc_now
from llmteam.keys.stores import KeyStore, MasterKeyUse, StoredKey, TenantKeyDestroyedError, UnknownDataKeyError

#: Seconds for which a process uses unwrapped keys: how long it may go on after they were destroyed elsewhere.
CACHE_SECONDS = 60.0
#: Tenants whose keys one process keeps unwrapped.
TENANTS_KEPT = 1000
#: Tenants that are looked at in one go when data keys are wrapped anew.
BATCH = 100


@dataclass(frozen=True, slots=True)
class _Unwrapped:
    """A tenant's live keys by id, the one that seals, and until when they may be used (monotonic, in seconds)."""

    keys: dict[str, DataKey]
    current: DataKey
    until: float


class TenantKeys:
    """The data keys of all tenants, for many threads.

    Args:
        store: where wrapped keys are kept.
        masters: the master keys; without any, nothing can be sealed or opened.
    """

    def __init__(
        self,
        store: KeyStore,
        masters: MasterKeys,
        *,
        clock: Clock = utc_now,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._masters = masters
        self._clock = clock
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._cache: OrderedDict[str, _Unwrapped] = OrderedDict()

    def vault(self, tenant_id: str) -> TenantVault:
        """What seals and opens the values of one tenant; costs nothing until it is used."""
        return TenantVault(self, check_identifier("tenant_id", tenant_id))

    def current(self, tenant_id: str) -> DataKey:
        """The key with which the tenant seals, made on first use.

        Raises :class:`NoEncryptionKeysError`, :class:`UnknownMasterKeyError`, :class:`TenantKeyDestroyedError`.
        """
        return self._unwrapped(tenant_id, None).current

    def key(self, tenant_id: str, key_id: str) -> DataKey:
        """The tenant's key of this id. Raises as :meth:`current`, and :class:`UnknownDataKeyError`."""
        return self._unwrapped(tenant_id, key_id).keys[key_id]

    def renew(self, tenant_id: str) -> str:
        """Have the tenant seal with a fresh key from now on; the fresh key's id.

        Older keys still open what they sealed. Keys that were destroyed stay so. Other processes follow within
        :data:`CACHE_SECONDS`.
        """
        key = DataKey.generate()
        wrapped = self._masters.wrap(key, tenant_id)
        self._store.add_next(check_identifier("tenant_id", tenant_id), wrapped, self._clock())
        self._forget(tenant_id)
        return key.key_id

    def destroy(self, tenant_id: str) -> int:
        """Destroy every key of the tenant; how many there were.

        What was sealed with them is unreadable from now on: here at once, in other processes within
        :data:`CACHE_SECONDS`. Again does no harm. The tenant gets no key by itself any more; see :meth:`renew`.
        """
        destroyed = self._store.destroy(check_identifier("tenant_id", tenant_id), self._clock())
        self._forget(tenant_id)
        return destroyed

    def rewrap(self) -> int:
        """Wrap every data key with the current master key; how many were wrapped otherwise.

        May be stopped and called again at any moment, and by several processes at once.
        """
        changed = 0
        while tenants := self._store.wrapped_by_others(self._masters.current, BATCH):
            found = sum(self._rewrap_tenant(tenant_id) for tenant_id in tenants)
            changed += found
            if not found:
                break  # others are at it
        return changed

    def uses(self) -> list[MasterKeyUse]:
        """Every master key that wraps something: one that is not listed may be removed from the settings."""
        return self._store.uses()

    def _rewrap_tenant(self, tenant_id: str) -> int:
        changed = 0
        for stored in self._store.all(tenant_id):
            old = stored.wrapped
            if old is not None and old.master_id != self._masters.current:
                fresh = self._masters.wrap(self._masters.unwrap(old, tenant_id), tenant_id)
                changed += self._store.rewrap(tenant_id, stored.generation, old.master_id, fresh)
        return changed

    def _forget(self, tenant_id: str) -> None:
        with self._lock:
            self._cache.pop(tenant_id, None)

    def _unwrapped(self, tenant_id: str, wanted: str | None) -> _Unwrapped:
        with self._lock:
            found = self._cache.get(tenant_id)
            if found is not None and self._monotonic() < found.until and (wanted is None or wanted in found.keys):
                self._cache.move_to_end(tenant_id)
                return found
        found = self._load(tenant_id)
        with self._lock:
            self._cache[tenant_id] = found
            if len(self._cache) > TENANTS_KEPT:
                self._cache.popitem(last=False)
        if wanted is not None and wanted not in found.keys:
            raise UnknownDataKeyError(tenant_id, wanted)
        return found

    def _load(self, tenant_id: str) -> _Unwrapped:
        # Counted from before the look, so that a key is never used for longer after it was destroyed.
        until = self._monotonic() + CACHE_SECONDS
        stored = self._store.all(tenant_id)
        if not stored:
            self._store.add_first(tenant_id, self._masters.wrap(DataKey.generate(), tenant_id), self._clock())
            stored = self._store.all(tenant_id)
        keys = self._opened(tenant_id, stored)
        if not keys:
            raise TenantKeyDestroyedError(tenant_id)
        return _Unwrapped({key.key_id: key for key in keys}, keys[0], until)

    def _opened(self, tenant_id: str, stored: Sequence[StoredKey]) -> list[DataKey]:
        return [self._masters.unwrap(one.wrapped, tenant_id) for one in stored if one.wrapped is not None]


class TenantVault:
    """Seals and opens the values of one tenant, with its data key."""

    durable = True

    def __init__(self, keys: TenantKeys, tenant_id: str) -> None:
        self._keys = keys
        self.tenant_id = tenant_id

    def __repr__(self) -> str:
        return f"TenantVault({self.tenant_id!r})"

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self  # copies of what was sealed with it open with it

    def seal(self, purpose: str, place: Sequence[str], plain: bytes) -> str:
        """As :meth:`Vault.seal`. Raises what :meth:`TenantKeys.current` raises."""
        return self._keys.current(self.tenant_id).seal(self.tenant_id, purpose, place, plain)

    def open(self, purpose: str, place: Sequence[str], sealed: str) -> bytes:
        """As :meth:`Vault.open`. Raises what :meth:`TenantKeys.key` raises, and :class:`SealBrokenError`."""
        key = self._keys.key(self.tenant_id, key_id_of(sealed))
        return key.open(self.tenant_id, purpose, place, sealed)
