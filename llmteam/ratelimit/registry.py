"""Limits by name, as the modules that ``--import`` names register them in every process of an installation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from llmteam.ratelimit.exceptions import InvalidLimitError, LimitNotRegisteredError
from llmteam.ratelimit.models import CircuitBreakerConfig, RateLimitConfig


@dataclass(frozen=True, slots=True)
class Limit:
    """What one resource takes: ``rate`` from each tenant, ``total`` from all together, ``circuit`` per tenant."""

    name: str
    rate: RateLimitConfig | None = None
    total: RateLimitConfig | None = None
    circuit: CircuitBreakerConfig | None = None


class LimitRegistry:
    """The limits that a process knows. Registering a name again replaces it."""

    _instance: ClassVar[LimitRegistry | None] = None

    def __init__(self) -> None:
        self._limits: dict[str, Limit] = {}

    @classmethod
    def get_instance(cls) -> LimitRegistry:
        """The registry of this process."""
        if cls._instance is None:
            cls._instance = cls()
        return cls._instance

    def register(self, limit: Limit) -> None:
        """Keep a limit. Raises :class:`InvalidLimitError` for one without a name or that limits nothing."""
        if not limit.name or not limit.name.isprintable() or len(limit.name) > 255:
            raise InvalidLimitError("a limit's name is 1 to 255 printable characters")
        if limit.rate is None and limit.total is None and limit.circuit is None:
            raise InvalidLimitError(f"limit '{limit.name}' limits nothing: give it a rate, a total or a circuit")
        self._limits[limit.name] = limit

    def unregister(self, name: str) -> None:
        """Forget a limit, if it is known."""
        self._limits.pop(name, None)

    def find(self, name: str) -> Limit | None:
        """The limit of this name, if any."""
        return self._limits.get(name)

    def get(self, name: str) -> Limit:
        """The limit of this name. Raises :class:`LimitNotRegisteredError`."""
        found = self._limits.get(name)
        if found is None:
            raise LimitNotRegisteredError(name)
        return found

    def names(self) -> list[str]:
        """Every registered name, sorted."""
        return sorted(self._limits)


def register_limit(
    name: str,
    rate: RateLimitConfig | None = None,
    *,
    total: RateLimitConfig | None = None,
    circuit: CircuitBreakerConfig | None = None,
) -> Limit:
    """Register a limit in this process: ``rate`` per tenant, ``total`` over all tenants, ``circuit`` per tenant.

    Steps are under it that name it in ``limits``, and those that use the model or client of the same name.
    Raises :class:`InvalidLimitError`.
    """
    limit = Limit(name, rate, total, circuit)
    LimitRegistry.get_instance().register(limit)
    return limit
