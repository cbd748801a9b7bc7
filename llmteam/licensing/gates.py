"""Decorators for code that only some tiers may run. Nothing of this package itself stands behind them.

A gate looks each time the guarded code runs: at the licence of the tenant that is current, without one at that of this
process. What was built, pickled or forked under a higher tier therefore stops when the tier does.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import AsyncIterator, Callable
from typing import Any, TypeVar

from llmteam.licensing.exceptions import FeatureNotLicensedError
from llmteam.licensing.limits import LicenseTier
from llmteam.licensing.manager import LicenseManager, get_license_manager
from llmteam.tenancy.context import get_current_tenant

_Function = TypeVar("_Function", bound=Callable[..., Any])
_Class = TypeVar("_Class", bound=type)


class _Gate:
    """One thing that needs a tier."""

    def __init__(self, feature: str, tier: LicenseTier, manager: LicenseManager | None) -> None:
        self.feature = feature
        self.tier = LicenseTier(tier)
        self._manager = manager

    def check(self) -> None:
        """Raise :class:`FeatureNotLicensedError` below the tier; blocks where the tenant's licence has to be read."""
        manager, tenant_id = self._manager or get_license_manager(), get_current_tenant()
        self._refuse_below(manager.tenants.standing_for_now(tenant_id).tier if tenant_id else manager.current_tier)

    async def check_async(self) -> None:
        """:meth:`check` that does not block the loop."""
        manager, tenant_id = self._manager or get_license_manager(), get_current_tenant()
        found = (await manager.tenants.standing_for(tenant_id)).tier if tenant_id else manager.current_tier
        self._refuse_below(found)

    def _refuse_below(self, found: LicenseTier) -> None:
        if found < self.tier:
            raise FeatureNotLicensedError(self.feature, self.tier)


def require_tier(tier: LicenseTier, *, manager: LicenseManager | None = None) -> Callable[[_Function], _Function]:
    """Have a function need a tier: plain, ``async``, ``async`` generator or :func:`functools.partial`.

    ``manager`` is that of the process by default. Calling it below the tier raises
    :class:`FeatureNotLicensedError`; of ``async`` functions the ``await``, of ``async`` generators the first step.
    Raises ``TypeError`` for what is no function.
    """

    def decorate(function: _Function) -> _Function:
        if isinstance(function, type) or not callable(function):
            raise TypeError("require_tier is for functions; for classes there are professional_only, enterprise_only")
        return _guarded(function, _Gate(_name(function), tier, manager))  # type: ignore[return-value]

    return decorate


def require_professional(function: _Function) -> _Function:
    """:func:`require_tier` of PROFESSIONAL."""
    return require_tier(LicenseTier.PROFESSIONAL)(function)


def require_enterprise(function: _Function) -> _Function:
    """:func:`require_tier` of ENTERPRISE."""
    return require_tier(LicenseTier.ENTERPRISE)(function)


def professional_only(cls: _Class) -> _Class:
    """Have a class need PROFESSIONAL: its construction and each of its public methods."""
    return _gated_class(cls, LicenseTier.PROFESSIONAL)


def enterprise_only(cls: _Class) -> _Class:
    """Have a class need ENTERPRISE: its construction and each of its public methods."""
    return _gated_class(cls, LicenseTier.ENTERPRISE)


def _name(function: Any) -> str:
    inner = function
    while isinstance(inner, functools.partial):
        inner = inner.func
    return getattr(inner, "__qualname__", None) or type(inner).__qualname__


def _guarded(function: Callable[..., Any], gate: _Gate) -> Callable[..., Any]:
    if inspect.isasyncgenfunction(function):

        @functools.wraps(function)
        async def generate(*args: Any, **kwargs: Any) -> AsyncIterator[Any]:
            await gate.check_async()
            async for item in function(*args, **kwargs):
                yield item

        return generate
    if inspect.iscoroutinefunction(function):

        @functools.wraps(function)
        async def run(*args: Any, **kwargs: Any) -> Any:
            await gate.check_async()
            return await function(*args, **kwargs)

        return run

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        gate.check()
        return function(*args, **kwargs)

    return call


def _gated_class(cls: _Class, tier: LicenseTier) -> _Class:
    """A class in the place of ``cls``, which stays as it is."""
    gate = _Gate(cls.__name__, tier, None)

    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:  # noqa: N807
        gate.check()
        super(gated, self).__init__(*args, **kwargs)

    own: Any = vars(cls).get("__init__")
    members: dict[str, Any] = {"_requires_tier": tier, "__doc__": cls.__doc__, "__module__": cls.__module__}
    members |= {"__qualname__": cls.__qualname__, "__init__": functools.wraps(own)(__init__) if own else __init__}
    for owner in reversed(cls.__mro__[:-1]):
        methods = {name: value for name, value in vars(owner).items() if not name.startswith("_")}
        members |= {name: _guarded(value, gate) for name, value in methods.items() if inspect.isfunction(value)}
    gated: Any = type(cls)(cls.__name__, (cls,), members)
    return gated  # type: ignore[no-any-return]
