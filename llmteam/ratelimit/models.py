"""Settings of limits and circuits, as values that can be stored and sent."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from typing import Any


class RateLimitStrategy(StrEnum):
    """What happens to a call over the limit."""

    WAIT = "wait"
    REJECT = "reject"
    QUEUE = "queue"
    FALLBACK = "fallback"


class CircuitState(StrEnum):
    """Whether calls pass (closed), are refused (open), or are tried again one by one (half open)."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


@dataclass(frozen=True, slots=True)
class RateLimitConfig:
    """How many calls a resource takes. Every window applies at once; None lifts one."""

    requests_per_second: float | None = 10.0
    requests_per_minute: float | None = 100.0
    requests_per_hour: float | None = 1000.0
    burst_size: int = 10
    strategy: RateLimitStrategy = RateLimitStrategy.WAIT
    max_wait_seconds: float = 30.0
    queue_size: int = 100
    retry_count: int = 3
    retry_base_delay: float = 1.0
    retry_max_delay: float = 60.0
    retry_exponential: bool = True
    fallback_handler: Callable[..., Any] | None = None
    fallback_value: Any = None
    max_concurrent: int | None = None


@dataclass(frozen=True, slots=True)
class CircuitBreakerConfig:
    """When a circuit opens, and how it closes again."""

    failure_threshold: int = 5
    failure_rate_threshold: float = 0.5
    sample_size: int = 10
    open_timeout: timedelta = timedelta(seconds=30)
    half_open_max_requests: int = 3
    success_threshold: int = 2
