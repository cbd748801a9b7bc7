"""Limits shared by all workers: how many calls a resource takes, and when it is left alone for a while."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from llmteam.ratelimit.breaker import CircuitBreaker
from llmteam.ratelimit.circuits.memory import MemoryCircuitBackend
from llmteam.ratelimit.decisions import (
    Ask,
    CircuitBackend,
    CircuitChange,
    CircuitPermit,
    Decision,
    LimitBackend,
    LimitKey,
    LimitView,
    Outcome,
)
from llmteam.ratelimit.exceptions import (
    CircuitOpenError,
    InvalidLimitError,
    LimitNotRegisteredError,
    QueueFullError,
    RateLimitError,
    RateLimitExceeded,
)
from llmteam.ratelimit.executor import RateLimitedExecutor
from llmteam.ratelimit.leases import Permit
from llmteam.ratelimit.limiter import RateLimiter
from llmteam.ratelimit.limits.memory import MemoryLimitBackend
from llmteam.ratelimit.models import (
    CircuitBreakerConfig,
    CircuitBreakerStats,
    CircuitState,
    OnBackendError,
    RateLimitConfig,
    RateLimiterStats,
    RateLimitStrategy,
)
from llmteam.ratelimit.registry import Limit, LimitRegistry, register_limit
from llmteam.ratelimit.results import EndpointStats, ExecutionResult
from llmteam.ratelimit.retrying import RetryBudget, is_transient

if TYPE_CHECKING:
    from llmteam.ratelimit.circuits.redis import RedisCircuitBackend
    from llmteam.ratelimit.limits.redis import RedisLimitBackend

__all__ = [
    "Ask",
    "CircuitBackend",
    "CircuitBreaker",
    "CircuitBreakerConfig",
    "CircuitBreakerStats",
    "CircuitChange",
    "CircuitOpenError",
    "CircuitPermit",
    "CircuitState",
    "Decision",
    "EndpointStats",
    "ExecutionResult",
    "InvalidLimitError",
    "Limit",
    "LimitBackend",
    "LimitKey",
    "LimitNotRegisteredError",
    "LimitRegistry",
    "LimitView",
    "MemoryCircuitBackend",
    "MemoryLimitBackend",
    "OnBackendError",
    "Outcome",
    "Permit",
    "QueueFullError",
    "RateLimitConfig",
    "RateLimitError",
    "RateLimitExceeded",
    "RateLimitStrategy",
    "RateLimitedExecutor",
    "RateLimiter",
    "RateLimiterStats",
    "RedisCircuitBackend",
    "RedisLimitBackend",
    "RetryBudget",
    "is_transient",
    "register_limit",
]


def __getattr__(name: str) -> Any:
    # On first use only: they bring the client of Redis.
    if name == "RedisLimitBackend":
        from llmteam.ratelimit.limits.redis import RedisLimitBackend

        return RedisLimitBackend
    if name == "RedisCircuitBackend":
        from llmteam.ratelimit.circuits.redis import RedisCircuitBackend

        return RedisCircuitBackend
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
