"""Which tenant the running code works for. This module is the only writer of the variable."""

from __future__ import annotations

from contextvars import ContextVar
from types import TracebackType
from typing import Protocol, Self

from llmteam.ids import check_identifier
from llmteam.tenancy.exceptions import TenantContextError

#: Tenant of what nobody says anything about.
DEFAULT_TENANT = "default"

#: The id of the tenant that the running code works for; empty when there is none. Threads begin empty, asyncio
#: tasks with a copy of their maker's.
current_tenant: ContextVar[str] = ContextVar("current_tenant", default="")


class TenantConfigLike(Protocol):
    """What a context needs of a tenant's configuration."""

    @property
    def tenant_id(self) -> str: ...


def get_current_tenant() -> str:
    """The current tenant's id, empty when there is none."""
    return current_tenant.get()


def tenant_or_current(tenant_id: str | None, what: str) -> str | None:
    """The named tenant, else the current one, else None.

    Raises :class:`TenantContextError`, which says ``what`` was asked for, while another than the named one is current.
    """
    current = current_tenant.get()
    if tenant_id and current and tenant_id != current:
        raise TenantContextError(
            f"{what} of tenant '{tenant_id}' were asked for while '{current}' is current: "
            "leave its context, or enter the other one's"
        )
    return tenant_id or current or None


def require_tenant_context() -> str:
    """The current tenant's id. Raises :class:`TenantContextError` when there is none."""
    tenant_id = current_tenant.get()
    if not tenant_id:
        raise TenantContextError("No tenant is current here: enter one with TenantContext(tenant_id)")
    return tenant_id


class TenantContext:
    """Makes a tenant the current one for a ``with`` or ``async with`` block and restores the outer one behind it.

    One object may be entered again, also inside itself and by several tasks at once: what it has to restore is kept
    with the running code and not in the object.

    Raises:
        InvalidIdentifierError: ``tenant_id`` is no usable id (also a ``ValueError``).
        TenantContextError: ``config`` is another tenant's.
    """

    def __init__(self, tenant_id: str, config: TenantConfigLike | None = None) -> None:
        self.tenant_id = check_identifier("tenant_id", tenant_id)
        if config is not None and config.tenant_id != tenant_id:
            raise TenantContextError(f"The configuration of tenant '{config.tenant_id}' was given for '{tenant_id}'")
        self._config = config

    def __repr__(self) -> str:
        return f"TenantContext({self.tenant_id!r})"

    def get_config(self) -> TenantConfigLike | None:
        return self._config

    def is_active(self) -> bool:
        """Whether this context's tenant is the current one."""
        return current_tenant.get() == self.tenant_id

    def __enter__(self) -> Self:
        _entered.set((*_entered.get(), (self, current_tenant.get())))
        current_tenant.set(self.tenant_id)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        entered = _entered.get()
        if not entered or entered[-1][0] is not self:
            raise TenantContextError(
                f"The context of tenant '{self.tenant_id}' is left where it is not the innermost one: leave contexts "
                "in the reverse order of entering them, and in the task that entered them"
            )
        *outer, (_, previous) = entered
        _entered.set(tuple(outer))
        current_tenant.set(previous)

    async def __aenter__(self) -> Self:
        return self.__enter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.__exit__(kind, exc, trace)


#: Contexts entered by the running code and not yet left, innermost last, each with the tenant it replaced.
_entered: ContextVar[tuple[tuple[TenantContext, str], ...]] = ContextVar("entered_tenants", default=())


class TenantContextStack:
    """Tenant contexts entered and left by calls instead of blocks."""

    def __init__(self) -> None:
        self._contexts: list[TenantContext] = []

    def push(self, tenant_id: str, config: TenantConfigLike | None = None) -> TenantContext:
        """Enter a tenant and return its context."""
        context = TenantContext(tenant_id, config).__enter__()
        self._contexts.append(context)
        return context

    def pop(self) -> TenantContext | None:
        """Leave the innermost context and return it; None when the stack is empty."""
        if not self._contexts:
            return None
        context = self._contexts[-1]
        context.__exit__(None, None, None)
        return self._contexts.pop()

    def current(self) -> TenantContext | None:
        """The innermost context of this stack, None when it is empty."""
        return self._contexts[-1] if self._contexts else None

    def depth(self) -> int:
        return len(self._contexts)

    def clear(self) -> None:
        """Leave every context of this stack."""
        while self.pop() is not None:
            pass
