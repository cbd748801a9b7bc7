"""Where tenants and their values are kept: protocols, the face that all stores of tenants share, the memory stores."""

from __future__ import annotations

import builtins
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, runtime_checkable

from llmteam import codec
from llmteam.tenancy.admission import StartLimits, limits_of
from llmteam.tenancy.exceptions import TenantAlreadyExistsError, TenantConflictError, TenantNotFoundError
from llmteam.tenancy.limits import TenantTier
from llmteam.tenancy.models import TenantConfig

if TYPE_CHECKING:
    from llmteam.tenancy.postgres import PostgresKeyValueStore, PostgresTenantStore
    from llmteam.tenancy.redis import RedisKeyValueStore

__all__ = [
    "AdministeredStore",
    "BulkKeyValueStore",
    "KeyValueStore",
    "MemoryKeyValueStore",
    "MemoryTenantStore",
    "PostgresKeyValueStore",
    "PostgresTenantStore",
    "RedisKeyValueStore",
    "TenantStore",
    "TenantStoreFace",
]

T = TypeVar("T")

_ELSEWHERE = {
    "PostgresKeyValueStore": "llmteam.tenancy.postgres",
    "PostgresTenantStore": "llmteam.tenancy.postgres",
    "RedisKeyValueStore": "llmteam.tenancy.redis",
}


def __getattr__(name: str) -> Any:
    """The stores that need a server's library load on first use."""
    if name in _ELSEWHERE:
        from importlib import import_module

        return getattr(import_module(_ELSEWHERE[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


@runtime_checkable
class TenantStore(Protocol):
    """Keeps tenants' records. What it gives is a copy: changing it changes nothing that is stored."""

    async def get(self, tenant_id: str) -> TenantConfig | None: ...

    async def create(self, config: TenantConfig) -> TenantConfig: ...

    async def update(self, config: TenantConfig) -> TenantConfig: ...

    async def delete(self, tenant_id: str) -> None: ...

    async def list(self, limit: int = 100, offset: int = 0) -> list[TenantConfig]: ...


@runtime_checkable
class KeyValueStore(Protocol):
    """Keeps JSON values by key."""

    async def get(self, key: str) -> Any: ...

    async def set(self, key: str, value: Any) -> None: ...

    async def delete(self, key: str) -> bool: ...

    async def list(self, prefix: str = "") -> list[str]: ...

    async def exists(self, key: str) -> bool: ...


@runtime_checkable
class BulkKeyValueStore(Protocol):
    """A :class:`KeyValueStore` that does several things at once: all of them or none."""

    async def get_many(self, keys: Iterable[str]) -> dict[str, Any]: ...

    async def set_many(self, items: Mapping[str, Any]) -> None: ...

    async def delete_many(self, keys: Iterable[str]) -> int: ...


@runtime_checkable
class AdministeredStore(Protocol):
    """A :class:`KeyValueStore` that shows each tenant its own keys only, and can name those of all."""

    async def list_everything(self, prefix: str = "") -> list[str]: ...


class TenantStoreFace(ABC):
    """The :class:`TenantStore` over a core of methods that block.

    A tenant that was deleted is found no more, but keeps its id, since its data is still there: creating it again
    raises :class:`TenantAlreadyExistsError` until :meth:`hard_delete`. One that is inactive is found.
    """

    @abstractmethod
    async def call(self, function: Callable[..., T], *args: Any) -> T:
        """Call something of the core without blocking the loop."""

    @abstractmethod
    def find(self, tenant_id: str) -> TenantConfig | None:
        """The tenant's record, None when there is none or it was deleted."""

    @abstractmethod
    def start_limits(self, tenant_id: str) -> StartLimits | None:
        """What holds for the tenant's starts, None when it has no record."""

    @abstractmethod
    def add(self, config: TenantConfig) -> TenantConfig:
        """Keep a new record. Raises :class:`TenantAlreadyExistsError`."""

    @abstractmethod
    def put(self, config: TenantConfig) -> TenantConfig:
        """Replace a record. Raises :class:`TenantNotFoundError`, :class:`TenantConflictError`."""

    @abstractmethod
    def remove(self, tenant_id: str) -> None:
        """Mark a record as deleted. Raises :class:`TenantNotFoundError`."""

    @abstractmethod
    def forget(self, tenant_id: str) -> bool:
        """Let go of a record, deleted or not; False when there is none."""

    @abstractmethod
    def page(
        self, limit: int | None, offset: int, include_inactive: bool, tier: TenantTier | None = None
    ) -> builtins.list[TenantConfig]:
        """Records by age, the oldest first."""

    @abstractmethod
    def number(self, include_inactive: bool) -> int:
        """How many there are."""

    async def get(self, tenant_id: str) -> TenantConfig | None:
        """The tenant's record, None when there is none or it was deleted."""
        return await self.call(self.find, tenant_id)

    async def create(self, config: TenantConfig) -> TenantConfig:
        """Keep a new record and return it as kept. Raises :class:`TenantAlreadyExistsError`."""
        config.check()
        return await self.call(self.add, config)

    async def update(self, config: TenantConfig) -> TenantConfig:
        """Replace a record and return it as kept.

        Raises :class:`TenantNotFoundError`, and :class:`TenantConflictError` when ``config.version`` is neither 0 nor
        that of the stored record.
        """
        config.check()
        return await self.call(self.put, config)

    async def delete(self, tenant_id: str) -> None:
        """Mark a record as deleted: it is found no more and starts nothing. Raises :class:`TenantNotFoundError`."""
        await self.call(self.remove, tenant_id)

    async def hard_delete(self, tenant_id: str) -> bool:
        """Let go of a record, so that its id can be given again; False when there is none. Its data stays."""
        return await self.call(self.forget, tenant_id)

    async def list(
        self, limit: int = 100, offset: int = 0, include_inactive: bool = False
    ) -> builtins.list[TenantConfig]:
        """Records by age, the oldest first."""
        return await self.call(self.page, limit, offset, include_inactive)

    async def list_by_tier(self, tier: TenantTier) -> builtins.list[TenantConfig]:
        """All active tenants of a tier, the oldest first."""
        return await self.call(self.page, None, 0, False, TenantTier(tier))

    async def count(self, include_inactive: bool = False) -> int:
        """How many there are."""
        return await self.call(self.number, include_inactive)


class MemoryTenantStore(TenantStoreFace):
    """Tenants in a dictionary, for use inside one process and for tests."""

    def __init__(self) -> None:
        self._records: dict[str, TenantConfig] = {}
        self._deleted: set[str] = set()
        self._lock = threading.Lock()

    async def call(self, function: Callable[..., T], *args: Any) -> T:
        """Call it: nothing here waits."""
        return function(*args)

    def find(self, tenant_id: str) -> TenantConfig | None:
        """As :meth:`TenantStoreFace.find`."""
        found = self._records.get(tenant_id)
        return None if found is None or tenant_id in self._deleted else found.copy()

    def start_limits(self, tenant_id: str) -> StartLimits | None:
        """As :meth:`TenantStoreFace.start_limits`."""
        found = self._records.get(tenant_id)
        return None if found is None else replace(limits_of(found), is_deleted=tenant_id in self._deleted)

    def add(self, config: TenantConfig) -> TenantConfig:
        """As :meth:`TenantStoreFace.add`."""
        with self._lock:
            if config.tenant_id in self._records:
                raise TenantAlreadyExistsError(config.tenant_id)
            self._records[config.tenant_id] = config.copy(version=1)
        return config.copy(version=1)

    def put(self, config: TenantConfig) -> TenantConfig:
        """As :meth:`TenantStoreFace.put`."""
        with self._lock:
            stored = self._known(config.tenant_id)
            if config.version not in {0, stored.version}:
                raise TenantConflictError(config.tenant_id, config.version)
            kept = config.copy(version=stored.version + 1, created_at=stored.created_at)
            self._records[config.tenant_id] = kept
        return kept.copy()

    def remove(self, tenant_id: str) -> None:
        """As :meth:`TenantStoreFace.remove`."""
        with self._lock:
            self._known(tenant_id)
            self._deleted.add(tenant_id)

    def forget(self, tenant_id: str) -> bool:
        """As :meth:`TenantStoreFace.forget`."""
        with self._lock:
            self._deleted.discard(tenant_id)
            return self._records.pop(tenant_id, None) is not None

    def _known(self, tenant_id: str) -> TenantConfig:
        found = self._records.get(tenant_id)
        if found is None or tenant_id in self._deleted:
            raise TenantNotFoundError(tenant_id)
        return found

    def page(
        self, limit: int | None, offset: int, include_inactive: bool, tier: TenantTier | None = None
    ) -> builtins.list[TenantConfig]:
        """As :meth:`TenantStoreFace.page`."""
        known = [
            config
            for tenant_id, config in self._records.items()
            if tenant_id not in self._deleted and (include_inactive or config.is_active) and tier in (None, config.tier)
        ]
        known.sort(key=lambda config: (config.created_at, config.tenant_id))
        return [config.copy() for config in known[offset : None if limit is None else offset + limit]]

    def number(self, include_inactive: bool) -> int:
        """As :meth:`TenantStoreFace.number`."""
        return len(self.page(None, 0, include_inactive))

    def clear(self) -> None:
        """Forget every tenant."""
        with self._lock:
            self._records.clear()
            self._deleted.clear()


class MemoryKeyValueStore:
    """Values in a dictionary, for use inside one process and for tests. They are kept as JSON, as in other stores."""

    def __init__(self) -> None:
        self._values: dict[str, str] = {}

    async def get(self, key: str) -> Any:
        """The value of ``key``; None when there is none."""
        text = self._values.get(key)
        return None if text is None else codec.loads(text)

    async def set(self, key: str, value: Any) -> None:
        """Keep a value. Raises :class:`NotJSONError`."""
        self._values[key] = codec.dumps(value)

    async def delete(self, key: str) -> bool:
        """Forget a value; False when there is none."""
        return self._values.pop(key, None) is not None

    async def exists(self, key: str) -> bool:
        """Whether there is a value, be it null."""
        return key in self._values

    async def list(self, prefix: str = "") -> builtins.list[str]:
        """The keys that begin with ``prefix``, in order."""
        return sorted(key for key in self._values if key.startswith(prefix))

    async def get_many(self, keys: Iterable[str]) -> dict[str, Any]:
        """The values of those keys that have one."""
        return {key: codec.loads(self._values[key]) for key in keys if key in self._values}

    async def set_many(self, items: Mapping[str, Any]) -> None:
        """Keep all values, or none if one of them cannot be kept."""
        self._values.update({key: codec.dumps(value) for key, value in items.items()})

    async def delete_many(self, keys: Iterable[str]) -> int:
        """Forget values; how many there were."""
        return sum([await self.delete(key) for key in keys])

    def clear(self) -> None:
        """Forget everything."""
        self._values.clear()
