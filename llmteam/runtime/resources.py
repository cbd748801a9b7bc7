"""What steps may use from outside: the protocols of resources and the registries that hold them by name."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, Protocol, TypeVar, runtime_checkable

from llmteam.runtime.exceptions import ResourceAccessDeniedError, ResourceNotFoundError

T = TypeVar("T")


@runtime_checkable
class Store(Protocol):
    """Values by key."""

    async def get(self, key: str) -> Any: ...

    async def set(self, key: str, value: Any) -> None: ...

    async def delete(self, key: str) -> None: ...


@runtime_checkable
class Client(Protocol):
    """A service that answers requests."""

    async def request(self, method: str, path: str, **kwargs: Any) -> Any: ...


@runtime_checkable
class SecretsProvider(Protocol):
    """Secret values by id. ``get_secret`` may be a plain function too; an unknown id is a ``KeyError`` or None.

    A provider that also has a plain ``read_secret(secret_id)`` is asked through that by synchronous callers.
    """

    async def get_secret(self, secret_id: str) -> str: ...


@runtime_checkable
class LLMProvider(Protocol):
    """A language model. One that offers ``chat`` (:class:`ChatProvider`) also reports tokens and why it stopped.

    ``kwargs`` are, as far as set: ``model``, ``system_prompt``, ``temperature``, ``max_tokens``, ``output_schema``.
    """

    async def complete(self, prompt: str, **kwargs: Any) -> str: ...


@dataclass(frozen=True, slots=True)
class _Entry(Generic[T]):
    resource: T
    tenants: frozenset[str] | None
    namespaced: bool


class Registry(Generic[T]):
    """Resources by id, for many threads. What is registered later is seen by everyone who holds the registry."""

    kind: ClassVar[str] = "Resource"

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._entries: dict[str, _Entry[T]] = {}

    def register(
        self, resource_id: str, resource: T, *, tenants: Iterable[str] | None = None, namespaced: bool = False
    ) -> None:
        """Keep ``resource`` under its id; the last registration wins.

        ``tenants`` limits who may resolve it (default: everyone). ``namespaced`` concerns stores: see
        :class:`NamespacedStore`.
        """
        if not isinstance(resource_id, str) or not resource_id:
            raise ValueError(f"{self.kind} id has to be text and not empty")
        if resource is None:
            raise TypeError(f"{self.kind} '{resource_id}' is None: register it when it is there")
        if isinstance(tenants, str):
            raise TypeError("tenants has to be a collection of tenant ids, not one text")
        entry = _Entry(resource, None if tenants is None else frozenset(tenants), namespaced)
        with self._lock:
            self._entries[resource_id] = entry

    def unregister(self, resource_id: str) -> None:
        """Forget a resource; an unknown id is ignored."""
        with self._lock:
            self._entries.pop(resource_id, None)

    def get(self, resource_id: str) -> T:
        """The very object registered. Raises :class:`ResourceNotFoundError`."""
        return self._entry(resource_id).resource

    def resolve(self, resource_id: str, tenant_id: str) -> tuple[T, bool]:
        """The object as ``tenant_id`` may use it, and whether its keys are kept apart by instance.

        Raises :class:`ResourceNotFoundError` or :class:`ResourceAccessDeniedError`.
        """
        entry = self._entry(resource_id)
        if entry.tenants is not None and tenant_id not in entry.tenants:
            raise ResourceAccessDeniedError(self.kind, resource_id, tenant_id)
        return entry.resource, entry.namespaced

    def has(self, resource_id: str) -> bool:
        with self._lock:
            return resource_id in self._entries

    def list(self) -> list[str]:
        """The registered ids, sorted."""
        with self._lock:
            return sorted(self._entries)

    def clear(self) -> None:
        with self._lock:
            self._entries.clear()

    def _entry(self, resource_id: str) -> _Entry[T]:
        with self._lock:
            entry = self._entries.get(resource_id)
        if entry is None:
            raise ResourceNotFoundError(self.kind, str(resource_id), self.list())
        return entry


class StoreRegistry(Registry[Store]):
    """Stores by name."""

    kind = "Store"


class ClientRegistry(Registry[Client]):
    """Clients by name."""

    kind = "Client"


class LLMRegistry(Registry[LLMProvider]):
    """Language models by name."""

    kind = "LLM provider"


class NamespacedStore:
    """A store whose keys all stand behind ``tenant/instance/``: instances and tenants never see each other's."""

    def __init__(self, store: Store, tenant_id: str, instance_id: str) -> None:
        self._store = store
        self._prefix = f"{_escaped(tenant_id)}/{_escaped(instance_id)}/"

    async def get(self, key: str) -> Any:
        return await self._store.get(self._prefix + key)

    async def set(self, key: str, value: Any) -> None:
        await self._store.set(self._prefix + key, value)

    async def delete(self, key: str) -> None:
        await self._store.delete(self._prefix + key)


def _escaped(part: str) -> str:
    """``part`` without the separator, distinct for distinct parts."""
    return part.replace("%", "%25").replace("/", "%2F")
