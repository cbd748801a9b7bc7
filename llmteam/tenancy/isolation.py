"""Key-value stores that keep tenants apart by the names of their keys.

A stored key is the tenant's name, a separator and the caller's key. In the name, the separator's first character and
``%`` are percent-encoded, so that the first one in a stored key ends the name: no two tenants share a key, whatever
characters their ids and keys have.
"""

from __future__ import annotations

import builtins
from collections.abc import Awaitable, Iterable, Mapping
from typing import Any, Protocol
from urllib.parse import unquote

from llmteam.errors import ConfigurationError
from llmteam.ids import check_identifier
from llmteam.tenancy.context import TenantContext, get_current_tenant, require_tenant_context
from llmteam.tenancy.stores import AdministeredStore, BulkKeyValueStore, KeyValueStore

#: Keys that are deleted in one go.
BATCH = 1_000


class AccessLog(Protocol):
    """What writes down who did what; an ``AuditTrail`` that follows the current tenant is one."""

    def log(
        self,
        event_type: Any,
        *,
        actor_type: str,
        actor_id: str,
        action: str,
        resource_type: str,
        resource_id: str,
    ) -> Awaitable[object]: ...


class Namespace:
    """Between a tenant with its keys and the keys as they are stored.

    The empty tenant is what belongs to none: no tenant can have that name. Raises :class:`ConfigurationError` for a
    separator that could stand in a name.
    """

    def __init__(self, separator: str) -> None:
        if not separator or separator[0].isalnum() or separator[0] in "%." or not separator.isprintable():
            raise ConfigurationError(
                f"separator {separator!r}: it must begin with a printable character that is no letter, no digit and "
                "neither % nor ."
            )
        self.separator = separator
        self._escaped = {ord(char): f"%{ord(char):02X}" for char in {"%", separator[0]} if char.isascii()}
        if not separator[0].isascii():
            self._escaped[ord(separator[0])] = "".join(f"%{byte:02X}" for byte in separator[0].encode())

    def prefix(self, tenant_id: str) -> str:
        """What every stored key of the tenant begins with."""
        return tenant_id.translate(self._escaped) + self.separator

    def split(self, stored: str) -> tuple[str, str]:
        """Tenant and key of a stored key; the whole as a key of no tenant when it was not stored through here."""
        name, found, key = stored.partition(self.separator)
        return (unquote(name), key) if found else ("", stored)


class TenantIsolatedStore:
    """The current tenant's part of ``inner_store``.

    Without a current tenant every operation raises :class:`TenantContextError`; with ``require_context=False`` it then
    works on what belongs to no tenant.
    """

    def __init__(self, inner_store: KeyValueStore, separator: str = ":", require_context: bool = True) -> None:
        self.inner = inner_store
        self.separator = separator
        self.require_context = require_context
        self._namespace = Namespace(separator)

    def _prefix(self) -> str:
        return self._namespace.prefix(require_tenant_context() if self.require_context else get_current_tenant())

    async def get(self, key: str) -> Any:
        """The value of ``key``; None when there is none."""
        return await self.inner.get(self._prefix() + key)

    async def set(self, key: str, value: Any) -> None:
        """Keep a value. Raises :class:`NotJSONError`."""
        await self.inner.set(self._prefix() + key, value)

    async def delete(self, key: str) -> bool:
        """Forget a value; False when there is none."""
        return await self.inner.delete(self._prefix() + key)

    async def exists(self, key: str) -> bool:
        """Whether there is a value, be it null."""
        return await self.inner.exists(self._prefix() + key)

    async def list(self, prefix: str = "") -> builtins.list[str]:
        """The tenant's keys that begin with ``prefix``, in order."""
        own = self._prefix()
        return [stored[len(own) :] for stored in await self.inner.list(own + prefix)]

    async def get_many(self, keys: Iterable[str]) -> dict[str, Any]:
        """The values of those keys that have one, be it null."""
        own = self._prefix()
        found = await get_many(self.inner, [own + key for key in keys])
        return {stored[len(own) :]: value for stored, value in found.items()}

    async def set_many(self, items: Mapping[str, Any]) -> None:
        """Keep several values: all or none, if the inner store can."""
        own = self._prefix()
        given = {own + key: value for key, value in items.items()}
        if isinstance(self.inner, BulkKeyValueStore):
            await self.inner.set_many(given)
            return
        for key, value in given.items():
            await self.inner.set(key, value)

    async def delete_many(self, keys: Iterable[str]) -> int:
        """Forget values; how many there were."""
        own = self._prefix()
        return await delete_many(self.inner, [own + key for key in keys])

    async def clear_tenant(self) -> int:
        """Forget everything of the tenant; how many values there were."""
        stored = await self.inner.list(self._prefix())
        parts = [stored[start : start + BATCH] for start in range(0, len(stored), BATCH)]
        return sum([await delete_many(self.inner, part) for part in parts])


class CrossTenantStore:
    """Every tenant's part of ``inner_store``, for administration.

    ``principal`` is who uses it; each call is written to ``log`` in the trail of the tenant concerned before it is
    made. Raises :class:`InvalidIdentifierError` for a principal that is none.
    """

    def __init__(self, inner_store: KeyValueStore, separator: str = ":", *, principal: str, log: AccessLog) -> None:
        self.inner = inner_store
        self.separator = separator
        self.principal = check_identifier("principal", principal)
        self._log = log
        self._namespace = Namespace(separator)

    async def get_for_tenant(self, tenant_id: str, key: str) -> Any:
        """The tenant's value of ``key``; None when there is none."""
        with TenantContext(tenant_id):
            await self._note("get", key)
            return await self.inner.get(self._namespace.prefix(tenant_id) + key)

    async def set_for_tenant(self, tenant_id: str, key: str, value: Any) -> None:
        """Keep a value for the tenant."""
        with TenantContext(tenant_id):
            await self._note("set", key)
            await self.inner.set(self._namespace.prefix(tenant_id) + key, value)

    async def delete_for_tenant(self, tenant_id: str, key: str) -> bool:
        """Forget a value of the tenant; False when there is none."""
        with TenantContext(tenant_id):
            await self._note("delete", key)
            return await self.inner.delete(self._namespace.prefix(tenant_id) + key)

    async def list_for_tenant(self, tenant_id: str, prefix: str = "") -> list[str]:
        """The tenant's keys that begin with ``prefix``, in order."""
        own = self._namespace.prefix(tenant_id)
        with TenantContext(tenant_id):
            await self._note("list", prefix)
            return [stored[len(own) :] for stored in await self.inner.list(own + prefix)]

    async def list_all(self, prefix: str = "") -> list[tuple[str, str]]:
        """Tenant and key of all keys that begin with ``prefix``, whosever they are; told to each of their tenants."""
        if isinstance(self.inner, AdministeredStore):
            stored = await self.inner.list_everything()
        else:
            stored = await self.inner.list()
        known = sorted(self._namespace.split(key) for key in stored)
        found = [(tenant_id, key) for tenant_id, key in known if tenant_id and key.startswith(prefix)]
        for tenant_id in dict.fromkeys(tenant_id for tenant_id, _ in found):
            with TenantContext(tenant_id):
                await self._note("list", prefix)
        return found

    async def copy_between_tenants(self, source_tenant: str, target_tenant: str, key: str) -> bool:
        """Give one tenant another one's value; False when the source has none. A stored null is copied."""
        stored = self._namespace.prefix(source_tenant) + key
        with TenantContext(source_tenant):
            await self._note("copy_from", key)
            found = await get_many(self.inner, [stored])
        if stored not in found:
            return False
        with TenantContext(target_tenant):
            await self._note("copy_to", key)
            await self.inner.set(self._namespace.prefix(target_tenant) + key, found[stored])
        return True

    async def _note(self, action: str, key: str) -> None:
        await self._log.log(
            "security.access_granted",
            actor_type="administrator",
            actor_id=self.principal,
            action=f"key_value.{action}",
            resource_type="key_value",
            resource_id=key,
        )


async def get_many(store: KeyValueStore, keys: list[str]) -> dict[str, Any]:
    """The values of those keys that have one, be it null; at one moment, if the store can."""
    if isinstance(store, BulkKeyValueStore):
        return await store.get_many(keys)
    return {key: await store.get(key) for key in keys if await store.exists(key)}


async def delete_many(store: KeyValueStore, keys: list[str]) -> int:
    """Forget values; how many there were. At once, if the store can."""
    if isinstance(store, BulkKeyValueStore):
        return await store.delete_many(keys)
    found = [key for key in keys if await store.exists(key)]
    for key in found:
        await store.delete(key)
    return len(found)
