"""Limits shared by all workers: how many calls a resource takes, and when it is left alone for a while."""

from __future__ import annotations

from llmteam.ratelimit.breaker import CircuitBreaker
from llmteam.ratelimit.circuits.memory import MemoryCircuitBackend
from llmteam.ratelimit.circuits.redis import RedisCircuitBackend
from llmteam.ratelimit.decisions import CircuitBackend, CircuitChange, CircuitPermit, LimitKey, Outcome
from llmteam.ratelimit.exceptions import (
    CircuitOpenError,
    InvalidLimitError,
    QueueFullError,
    RateLimitError,
    RateLimitExceeded,
    UnknownLimitError,
)
from llmteam.ratelimit.models import CircuitBreakerConfig, CircuitBreakerStats, CircuitState, OnBackendError

__all__ = [
    "CircuitBackend",
    "CircuitBreaker",
    "CircuitBreakerConfig",
    "CircuitBreakerStats",
    "CircuitChange",
    "CircuitOpenError",
    "CircuitPermit",
    "CircuitState",
    "InvalidLimitError",
    "LimitKey",
    "MemoryCircuitBackend",
    "OnBackendError",
    "Outcome",
    "QueueFullError",
    "RateLimitError",
    "RateLimitExceeded",
    "RedisCircuitBackend",
    "UnknownLimitError",
]
