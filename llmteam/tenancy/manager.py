"""Tenants as programs use them: their records, what they may do, and whose turn it is."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any, Protocol, Self

from llmteam.ids import Clock, utc_now
from llmteam.tenancy.admission import LicensedStarts, effective
from llmteam.tenancy.context import TenantContext
from llmteam.tenancy.exceptions import (
    TenantContextError,
    TenantFeatureDisabledError,
    TenantInactiveError,
    TenantLimitExceededError,
    TenantNotFoundError,
)
from llmteam.tenancy.limits import TenantLimits, limit_name, maximum
from llmteam.tenancy.models import TenantConfig
from llmteam.tenancy.stores import TenantStore, TenantStoreFace

#: Seconds for which a record is taken from the cache: what another process changes holds here after this time.
CACHE_SECONDS = 5.0
#: Records in the cache.
CACHED = 10_000


class ChangeLog(Protocol):
    """What writes down changes of tenants; an ``AuditTrail`` that follows the current tenant is one."""

    def log(
        self,
        event_type: Any,
        *,
        actor_type: str,
        actor_id: str,
        action: str,
        resource_type: str,
        resource_id: str,
        old_value: Mapping[str, Any] | None,
        new_value: Mapping[str, Any] | None,
    ) -> Awaitable[object]: ...


class TenantManager:
    """Tenants of one store, with a cache of their records.

    Args:
        store: where the records are kept.
        cache_enabled: whether records are remembered for ``cache_seconds``.
        log: where changes of tenants are written down, each in the trail of its tenant.
        actor_id: who makes them.
        licensed: what a tenant's licence says about its starts, ``LicenseManager.starts``; the lower limit counts.
    """

    def __init__(
        self,
        store: TenantStore,
        cache_enabled: bool = True,
        *,
        cache_seconds: float = CACHE_SECONDS,
        log: ChangeLog | None = None,
        actor_id: str = "",
        licensed: Callable[[str], Awaitable[LicensedStarts | None]] | None = None,
        clock: Clock = utc_now,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.store = store
        self.cache_enabled = cache_enabled
        self._cache_seconds = cache_seconds
        self._log = log
        self._actor_id = actor_id
        self._licensed = licensed
        self._clock = clock
        self._monotonic = monotonic
        self._cache: OrderedDict[str, tuple[float, TenantConfig]] = OrderedDict()

    # -- records

    async def get_tenant(self, tenant_id: str) -> TenantConfig:
        """The tenant's record; a copy, which may be changed and given to :meth:`update_tenant`.

        Raises :class:`TenantNotFoundError`.
        """
        cached = self._cached(tenant_id)
        return self._found(tenant_id, await self.store.get(tenant_id)) if cached is None else cached

    async def create_tenant(self, config: TenantConfig) -> TenantConfig:
        """Keep a new tenant and return its record. Raises :class:`TenantAlreadyExistsError`."""
        now = self._clock()
        created = await self.store.create(config.copy(created_at=now, updated_at=now))
        self._remember(created)
        await self._note("config.tenant_created", "create", None, created)
        return created.copy()

    async def update_tenant(self, config: TenantConfig) -> TenantConfig:
        """Replace a tenant's record and return it as kept.

        Raises :class:`TenantNotFoundError`, and :class:`TenantConflictError` when the record was changed since
        ``config`` was read.
        """
        before = None if self._log is None else await self.store.get(config.tenant_id)
        self.invalidate_cache(config.tenant_id)
        updated = await self.store.update(config.copy(updated_at=self._clock()))
        self._remember(updated)
        await self._note("config.tenant_updated", "update", before, updated)
        return updated.copy()

    async def delete_tenant(self, tenant_id: str) -> None:
        """Delete a tenant: it is found no more and starts nothing; its data stays until it is erased.

        Raises :class:`TenantNotFoundError`.
        """
        before = None if self._log is None else await self.store.get(tenant_id)
        self.invalidate_cache(tenant_id)
        await self.store.delete(tenant_id)
        await self._note("config.tenant_deleted", "delete", before, None)

    async def list_tenants(self, limit: int = 100, offset: int = 0) -> list[TenantConfig]:
        """Active tenants, the oldest first."""
        return await self.store.list(limit, offset)

    async def _note(
        self, event_type: str, action: str, before: TenantConfig | None, after: TenantConfig | None
    ) -> None:
        tenant = after or before
        if self._log is None or tenant is None:
            return
        with TenantContext(tenant.tenant_id):
            await self._log.log(
                event_type,
                actor_type="user" if self._actor_id else "system",
                actor_id=self._actor_id,
                action=action,
                resource_type="tenant",
                resource_id=tenant.tenant_id,
                old_value=None if before is None else before.to_dict(),
                new_value=None if after is None else after.to_dict(),
            )

    # -- limits and features

    def get_limits(self, config: TenantConfig) -> TenantLimits:
        """What holds for a tenant."""
        return config.get_effective_limits()

    async def check_limit(self, tenant_id: str, limit_type: str, current_value: float) -> bool:
        """Whether one more is allowed where there are ``current_value`` already.

        Raises :class:`TenantNotFoundError`, :class:`UnknownLimitError`.
        """
        return current_value < await self._maximum(tenant_id, limit_type)

    async def enforce_limit(self, tenant_id: str, limit_type: str, current_value: float) -> None:
        """Raise :class:`TenantLimitExceededError` unless one more is allowed; else as :meth:`check_limit`."""
        most = await self._maximum(tenant_id, limit_type)
        if current_value >= most:
            raise TenantLimitExceededError(tenant_id, limit_name(limit_type), current_value, most)

    async def _maximum(self, tenant_id: str, limit_type: str) -> float:
        name = limit_name(limit_type)
        own = maximum(self.get_limits(await self.get_tenant(tenant_id)), name)
        cap = None if self._licensed is None else await self._licensed(tenant_id)
        if cap is None:
            return own
        licensed = {"concurrent_pipelines": cap.concurrent, "agents_per_pipeline": cap.agents}.get(name)
        both = effective(own, licensed)
        return own if both is None else both

    async def check_feature(self, tenant_id: str, feature: str) -> bool:
        """Whether the tenant has the feature. Raises :class:`TenantNotFoundError`."""
        return self.get_limits(await self.get_tenant(tenant_id)).has_feature(feature)

    async def require_feature(self, tenant_id: str, feature: str) -> None:
        """Raise :class:`TenantFeatureDisabledError` unless the tenant has the feature."""
        if not await self.check_feature(tenant_id, feature):
            raise TenantFeatureDisabledError(tenant_id, feature)

    # -- whose turn it is

    def context(self, tenant_id: str) -> TenantContext:
        """A context of the tenant that looks, when it is entered, whether the tenant exists and is active.

        Entering raises :class:`TenantNotFoundError`, :class:`TenantInactiveError`. ``with`` needs a store that can be
        asked without ``await``, as ours can, or a record in the cache; else it raises :class:`TenantContextError`.
        """
        return _CheckedContext(self, tenant_id)

    def known(self, tenant_id: str) -> TenantConfig:
        """As :meth:`get_tenant`, without ``await``. Raises :class:`TenantContextError` when the store cannot."""
        cached = self._cached(tenant_id)
        if cached is not None:
            return cached
        if not isinstance(self.store, TenantStoreFace):
            raise TenantContextError(
                f"Tenant '{tenant_id}' is not in the cache and its store cannot be asked here: "
                "use `async with`, or preload_cache"
            )
        return self._found(tenant_id, self.store.find(tenant_id))

    # -- the cache

    def invalidate_cache(self, tenant_id: str | None = None) -> None:
        """Forget one tenant's record, or all."""
        if tenant_id is None:
            self._cache.clear()
        else:
            self._cache.pop(tenant_id, None)

    def preload_cache(self, configs: Iterable[TenantConfig]) -> None:
        """Remember records that are known already. Does nothing when caching is off."""
        for config in configs:
            self._remember(config)

    def _found(self, tenant_id: str, config: TenantConfig | None) -> TenantConfig:
        if config is None:
            raise TenantNotFoundError(tenant_id)
        self._remember(config)
        return config.copy()

    def _cached(self, tenant_id: str) -> TenantConfig | None:
        until, config = self._cache.get(tenant_id, (0.0, None))
        if config is None or self._monotonic() >= until:
            return None
        return config.copy()

    def _remember(self, config: TenantConfig) -> None:
        if not self.cache_enabled:
            return
        self._cache[config.tenant_id] = (self._monotonic() + self._cache_seconds, config.copy())
        self._cache.move_to_end(config.tenant_id)
        while len(self._cache) > CACHED:
            self._cache.popitem(last=False)


class _CheckedContext(TenantContext):
    """A context that looks at its tenant's record each time it is entered."""

    def __init__(self, manager: TenantManager, tenant_id: str) -> None:
        super().__init__(tenant_id)
        self._manager = manager

    def __enter__(self) -> Self:
        self._take(self._manager.known(self.tenant_id))
        return super().__enter__()

    async def __aenter__(self) -> Self:
        self._take(await self._manager.get_tenant(self.tenant_id))
        return super().__enter__()

    def _take(self, config: TenantConfig) -> None:
        if not config.is_active:
            raise TenantInactiveError(self.tenant_id)
        self._config = config
