"""Reading secrets: who may, and a reader with cache, deadline and one kind of answer."""

from __future__ import annotations

import asyncio
import inspect
import os
import threading
import time
from collections.abc import Awaitable, Callable, Collection, Coroutine, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from llmteam.masking import SecretValue, never_logged
from llmteam.runtime.exceptions import ResourceNotFoundError, SecretAccessDeniedError, SecretUnavailableError
from llmteam.runtime.resources import SecretsProvider

T = TypeVar("T")

#: How long a value is kept in this process, in seconds.
CACHE_SECONDS = 300.0
#: How long a provider may take, in seconds.
READ_SECONDS = 5.0

#: Asked before every read, cached or not, as (tenant id, step id, secret id); False refuses it. Step id is empty
#: when a runtime reads for itself.
AccessRule = Callable[[str, str, str], bool]


@dataclass(frozen=True)
class SecretAllowList:
    """Who may read which secret, as tenant, step and secret ids; an :data:`AccessRule`.

    ``*`` stands for every tenant, step or secret; a secret id that ends with ``*`` for all that begin so. What is not
    listed is refused. A step is known by its id in the segment; a runtime that reads for itself is the step ``""``. ::

        SecretAllowList({"acme": {"charge": ["stripe"], "*": ["mail/*"]}, "*": {"*": ["weather"]}})
    """

    tenants: Mapping[str, Mapping[str, Collection[str]]]

    def __post_init__(self) -> None:
        for steps in self.tenants.values():
            if any(isinstance(secrets, str) for secrets in steps.values()):
                raise TypeError("SecretAllowList: secrets have to be a collection of ids, not one text")

    def __call__(self, tenant_id: str, step_id: str, secret_id: str) -> bool:
        """Whether the step of the tenant may read the secret."""
        return any(
            _fits(pattern, secret_id)
            for tenant in dict.fromkeys((tenant_id, "*"))
            for step in dict.fromkeys((step_id, "*"))
            for pattern in self.tenants.get(tenant, {}).get(step, ())
        )


def _fits(pattern: str, secret_id: str) -> bool:
    return secret_id.startswith(pattern[:-1]) if pattern.endswith("*") else pattern == secret_id


class SecretReader:
    """Reads secrets of one or more providers and remembers them for ``ttl`` seconds, in this process only.

    ``allow`` is asked before every read. Safe for threads; of several that miss the cache one asks the provider.
    """

    def __init__(
        self,
        *,
        ttl: float = CACHE_SECONDS,
        timeout: float = READ_SECONDS,
        allow: AccessRule | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.allow = allow
        self._ttl = ttl
        self._timeout = timeout
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._turns = [threading.RLock() for _ in range(64)]
        # The provider is kept beside its value, so that its id() is not given to another one meanwhile.
        self._cache: dict[tuple[int, str], tuple[SecretsProvider, SecretValue, float]] = {}

    def read(self, provider: SecretsProvider | None, secret_id: str, *, tenant_id: str, step_id: str) -> SecretValue:
        """The secret, blocking. An ``async`` provider is driven on a side thread, so a running loop is no obstacle.

        Raises:
            ResourceNotFoundError: there is no provider, or it does not know the secret.
            SecretAccessDeniedError: ``allow`` or the provider refuses.
            SecretUnavailableError: the provider did not answer in time.
        """
        known = self._checked(provider, secret_id, tenant_id, step_id)
        cached = self._cached(known, secret_id)
        if cached is not None:
            return cached
        with self._turns[hash((id(known), secret_id)) % len(self._turns)]:
            cached = self._cached(known, secret_id)
            return self._keep(known, secret_id, self._fetch(known, secret_id)) if cached is None else cached

    async def read_async(
        self, provider: SecretsProvider | None, secret_id: str, *, tenant_id: str, step_id: str = ""
    ) -> SecretValue:
        """As :meth:`read`, in the caller's loop and without blocking it."""
        known = self._checked(provider, secret_id, tenant_id, step_id)
        cached = self._cached(known, secret_id)
        if cached is not None:
            return cached
        try:
            async with asyncio.timeout(self._timeout):
                found = await _awaited(known, secret_id)
        except TimeoutError:
            raise self._late(known, secret_id) from None
        except KeyError:
            found = None
        return self._keep(known, secret_id, found)

    def forget(self, secret_id: str | None = None) -> None:
        """Drop one secret from the cache, or all: the next read asks the provider. Call it after a rotation."""
        with self._lock:
            for key in [key for key in self._cache if secret_id in (None, key[1])]:
                del self._cache[key]

    def _checked(
        self, provider: SecretsProvider | None, secret_id: str, tenant_id: str, step_id: str
    ) -> SecretsProvider:
        if self.allow is not None and not self.allow(tenant_id, step_id, secret_id):
            reader = f"step '{step_id}' of tenant '{tenant_id}'" if step_id else f"tenant '{tenant_id}'"
            raise SecretAccessDeniedError(f"Secret '{secret_id[:200]}' is not open to {reader}")
        if provider is None:
            raise ResourceNotFoundError(
                "Secret",
                secret_id,
                fix="no secrets provider is registered; call register_secrets_provider in a module that the worker "
                "imports (llmteam worker --import yourapp.resources)",
            )
        return provider

    def _cached(self, provider: SecretsProvider, secret_id: str) -> SecretValue | None:
        with self._lock:
            entry = self._cache.get((id(provider), secret_id))
        return entry[1] if entry is not None and self._monotonic() < entry[2] else None

    def _keep(self, provider: SecretsProvider, secret_id: str, found: object) -> SecretValue:
        if not isinstance(found, str):
            raise ResourceNotFoundError("Secret", secret_id, fix=f"{_name(provider)} does not have it")
        value = SecretValue(found)
        never_logged.add([value])
        with self._lock:
            self._cache[id(provider), secret_id] = (provider, value, self._monotonic() + self._ttl)
        return value

    def _fetch(self, provider: SecretsProvider, secret_id: str) -> object:
        try:
            plain = getattr(provider, "read_secret", None)
            found = provider.get_secret(secret_id) if plain is None else plain(secret_id)
            return side_loop.run(_await(found), self._timeout) if inspect.isawaitable(found) else found
        except TimeoutError:
            raise self._late(provider, secret_id) from None
        except KeyError:
            return None

    def _late(self, provider: SecretsProvider, secret_id: str) -> SecretUnavailableError:
        return SecretUnavailableError(
            f"Secret '{secret_id[:200]}': {_name(provider)} did not answer within {self._timeout:g} s"
        )


def _name(provider: SecretsProvider) -> str:
    return type(provider).__name__


async def _await(found: Awaitable[T]) -> T:
    return await found


async def _awaited(provider: SecretsProvider, secret_id: str) -> object:
    found: object = provider.get_secret(secret_id)
    return await found if inspect.isawaitable(found) else found


class SideLoop:
    """An event loop on a thread of its own, started on first use and again after a fork."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._pid = 0

    def run(self, coroutine: Coroutine[Any, Any, T], timeout: float) -> T:
        """The coroutine's result. Raises ``TimeoutError`` after ``timeout`` seconds and cancels it."""

        async def limited() -> T:
            async with asyncio.timeout(timeout):
                return await coroutine

        return asyncio.run_coroutine_threadsafe(limited(), self._running()).result(timeout + 1)

    def _running(self) -> asyncio.AbstractEventLoop:
        with self._lock:
            if self._loop is None or self._pid != os.getpid():
                self._loop, self._pid = asyncio.new_event_loop(), os.getpid()
                threading.Thread(target=self._loop.run_forever, name=self._name, daemon=True).start()
            return self._loop


side_loop = SideLoop("llmteam-secrets")
