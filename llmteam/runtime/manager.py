"""Where resources are registered and runtimes are made; one manager per process serves imported user modules."""

from __future__ import annotations

import inspect
import threading
from collections.abc import Iterable, Mapping
from datetime import datetime
from types import TracebackType
from typing import Any

from llmteam.ids import as_utc, check_identifier, new_id
from llmteam.runtime.context import REF_FIELDS, Activation, RuntimeContext
from llmteam.runtime.exceptions import RuntimeContextError
from llmteam.runtime.providers.builtin import register_models
from llmteam.runtime.resources import (
    Client,
    ClientRegistry,
    LLMProvider,
    LLMRegistry,
    SecretsProvider,
    Store,
    StoreRegistry,
)
from llmteam.runtime.secrets import AccessRule, SecretReader


class RuntimeContextManager:
    """Registers resources and makes runtimes that share them.

    Given one :class:`RuntimeContext` instead, it is that context's ``with`` and ``async with`` block.
    """

    def __init__(
        self,
        context: RuntimeContext | None = None,
        /,
        *,
        stores: StoreRegistry | None = None,
        clients: ClientRegistry | None = None,
        llms: LLMRegistry | None = None,
        secrets: SecretsProvider | None = None,
    ) -> None:
        if context is not None and not isinstance(context, RuntimeContext):
            raise TypeError(f"RuntimeContextManager(context) takes a RuntimeContext, not a {type(context).__name__}")
        self.stores = StoreRegistry() if stores is None else stores
        self.clients = ClientRegistry() if clients is None else clients
        self.llms = LLMRegistry() if llms is None else llms
        self.secrets = secrets
        self._reader = SecretReader()
        self._activation = None if context is None else Activation(context)

    def register_store(
        self, name: str, store: Store, *, namespaced: bool = False, tenants: Iterable[str] | None = None
    ) -> None:
        """Register a store. ``namespaced`` gives every instance of every tenant keys of its own.

        ``tenants``, here and below, limits who may resolve it; default is everyone.
        """
        self.stores.register(name, store, namespaced=namespaced, tenants=tenants)

    def register_client(self, name: str, client: Client, *, tenants: Iterable[str] | None = None) -> None:
        self.clients.register(name, client, tenants=tenants)

    def register_llm(self, name: str, provider: LLMProvider, *, tenants: Iterable[str] | None = None) -> None:
        self.llms.register(name, provider, tenants=tenants)

    def register_secrets_provider(self, provider: SecretsProvider, *, allow: AccessRule | None = None) -> None:
        """Take secrets from ``provider``. ``allow`` is asked before every read, cached or not; False refuses it.

        Runtimes made before keep the provider they were made with.
        """
        self.secrets = provider
        self._reader.allow = allow

    def forget_secrets(self, secret_id: str | None = None) -> None:
        """Drop one cached secret, or all, so that the next read sees a rotated value."""
        self._reader.forget(secret_id)

    def create_runtime(
        self, tenant_id: str, instance_id: str, run_id: str | None = None, segment_id: str = "", **fields: Any
    ) -> RuntimeContext:
        """A runtime over this manager's resources; ``fields`` are other fields of :class:`RuntimeContext`.

        Without ``run_id`` it gets a new one. Raises :class:`InvalidIdentifierError`.
        """
        shared = {
            "stores": self.stores,
            "clients": self.clients,
            "llms": self.llms,
            "secrets": self.secrets,
            "secret_reader": self._reader,
        }
        return RuntimeContext(
            tenant_id=check_identifier("tenant_id", tenant_id),
            instance_id=check_identifier("instance_id", instance_id) if instance_id else "",
            run_id=check_identifier("run_id", run_id) if run_id is not None else new_id(),
            segment_id=segment_id,
            **{**shared, **fields},
        )

    def from_ref(self, ref: Mapping[str, Any]) -> RuntimeContext:
        """The runtime that :meth:`RuntimeContext.to_ref` described, over this manager's resources.

        Raises :class:`RuntimeContextError` when ``ref`` is no such description.
        """
        try:
            values = {name: ref[name] for name in REF_FIELDS}
            created_at = as_utc(datetime.fromisoformat(ref["created_at"]))
        except (KeyError, TypeError, ValueError) as exc:
            raise RuntimeContextError(f"This is no runtime reference: {type(exc).__name__} {exc}") from None
        return self.create_runtime(**values, created_at=created_at)

    def activate(self, runtime: RuntimeContext) -> Activation:
        """A ``with`` or ``async with`` block in which ``runtime`` is active and its tenant current.

        Entering raises :class:`TenantContextError` while another tenant is current.
        """
        return Activation(runtime)

    async def aclose(self) -> None:
        """Close every registered resource that has ``aclose`` or ``close``, each once. For the end of a process."""
        resources = {
            id(resource): resource
            for registry in (self.llms, self.clients, self.stores)
            for resource in (registry.get(name) for name in registry.list())
        }
        for resource in resources.values():
            close = getattr(resource, "aclose", None) or getattr(resource, "close", None)
            if callable(close):
                closing = close()
                if inspect.isawaitable(closing):
                    await closing

    def __enter__(self) -> RuntimeContext:
        return self._own().__enter__()

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._own().__exit__(kind, exc, trace)

    async def __aenter__(self) -> RuntimeContext:
        return self.__enter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.__exit__(kind, exc, trace)

    def _own(self) -> Activation:
        if self._activation is None:
            raise RuntimeContextError(
                "This manager holds resources and is no context: use `with manager.activate(runtime)`"
            )
        return self._activation


_default_lock = threading.Lock()
_default: list[RuntimeContextManager] = []


def default_manager() -> RuntimeContextManager:
    """The process's own manager, in which imported user modules register what their steps use.

    It knows the model ``offline``, and ``default`` when the settings name a provider.
    """
    with _default_lock:
        if not _default:
            manager = RuntimeContextManager()
            register_models(manager.llms)
            _default.append(manager)
        return _default[0]
