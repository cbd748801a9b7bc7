"""The stores of requests as managers take them; re-exports the one in SQL."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, TypeVar

from llmteam.human.interactions import Interactions
from llmteam.human.memory import MemoryInteractions
from llmteam.human.models import InteractionRequest, InteractionResponse
from llmteam.human.rulings import Ruling
from llmteam.ids import Clock, utc_now
from llmteam.tenancy.context import DEFAULT_TENANT, get_current_tenant
from llmteam.tenancy.exceptions import TenantContextError

__all__ = ["InteractionStore", "MemoryInteractionStore"]

T = TypeVar("T")


class InteractionStore(ABC):
    """Requests and answers, each tenant's apart. A thin ``async`` face of a synchronous ``core``.

    The methods here read and write past all rules; what people do goes through
    :class:`~llmteam.human.manager.HumanInteractionManager`. The tenant is the current one; naming another one raises
    :class:`TenantContextError`.
    """

    #: The one tenant that the store is for; empty when it is for whoever is current.
    bound_to = ""

    @property
    @abstractmethod
    def core(self) -> Interactions:
        """What the engine, the sweeps and the inbox work with."""

    def tenant(self) -> str:
        """Whose requests are seen: those of this store's tenant, the current one's, or the default one's.

        Raises :class:`TenantContextError` when the store is one tenant's and another is current.
        """
        current = get_current_tenant()
        if self.bound_to and current not in ("", self.bound_to):
            raise TenantContextError(f"A store of tenant '{self.bound_to}' was used while '{current}' is current")
        return self.bound_to or current or DEFAULT_TENANT

    def close(self) -> None:  # noqa: B027  # a store without connections has nothing to let go of
        """Let go of connections."""

    async def call(self, function: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        """Call into the core without blocking the loop."""
        return await asyncio.to_thread(function, *args, **kwargs)

    def own(self, tenant_id: str) -> str:
        """``tenant_id``, if it is the current or the store's. Raises :class:`TenantContextError`."""
        current = self.bound_to or get_current_tenant()
        if current not in ("", tenant_id):
            raise TenantContextError(
                f"A request of tenant '{tenant_id}' was given or asked for while '{current}' is current: "
                "leave its context, or enter the other one's"
            )
        return tenant_id

    async def save(self, request: InteractionRequest) -> None:
        """Keep a new request."""
        self.own(request.tenant_id)
        await self.call(self.core.create, Ruling(request))

    async def get(self, request_id: str) -> InteractionRequest | None:
        """The request, or None, also for another tenant's."""
        case = await self.call(self.core.case, self.tenant(), request_id)
        return None if case is None else case.request

    async def update(self, request: InteractionRequest) -> None:
        """Keep a request as it is given. Raises :class:`InteractionNotFoundError`."""
        self.own(request.tenant_id)
        await self.call(self.core.replace, request)

    async def list_pending(self, tenant_id: str) -> list[InteractionRequest]:
        """The open requests of a tenant, oldest deadline first."""
        return await self.call(self.core.open_requests, self.own(tenant_id))

    async def save_response(self, response: InteractionResponse) -> None:
        """Keep a final answer as it is given; the first one stays. Raises :class:`InteractionNotFoundError`."""
        await self.call(self.core.put_response, self.tenant(), response)

    async def get_response(self, request_id: str) -> InteractionResponse | None:
        """The answer that closed the request, or None."""
        case = await self.call(self.core.case, self.tenant(), request_id)
        return None if case is None else case.response


class MemoryInteractionStore(InteractionStore):
    """Requests in this process."""

    def __init__(self, clock: Clock = utc_now) -> None:
        self._core = MemoryInteractions(clock)

    @property
    def core(self) -> MemoryInteractions:
        return self._core

    async def call(self, function: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        """Nothing blocks here."""
        return function(*args, **kwargs)
