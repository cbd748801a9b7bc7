"""What an executor gives back, and what it counts."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Generic, TypeVar, cast

from llmteam.ratelimit.models import CircuitBreakerStats, RateLimiterStats

T = TypeVar("T")


@dataclass(slots=True)
class ExecutionResult(Generic[T]):
    """What became of one execution.

    ``attempts`` counts the tries, ``total_time_ms`` (begun milliseconds) everything: waiting, tries and pauses.
    """

    success: bool
    value: T | None = None
    error: BaseException | None = None
    attempts: int = 1
    total_time_ms: int = 0
    rate_limited: bool = False
    circuit_open: bool = False
    used_fallback: bool = False

    def unwrap(self) -> T:
        """The value. Raises the error of an execution that failed."""
        if self.error is not None and not self.success:
            raise self.error
        return cast("T", self.value)


@dataclass(slots=True)
class EndpointStats:
    """What this process saw of one endpoint.

    ``total_executions`` is the sum of the successful, failed, fallback and rejected ones; those that were cancelled do
    not count.
    """

    rate_limiter: RateLimiterStats = field(default_factory=RateLimiterStats)
    circuit_breaker: CircuitBreakerStats = field(default_factory=CircuitBreakerStats)
    total_executions: int = 0
    successful_executions: int = 0
    failed_executions: int = 0
    fallback_executions: int = 0
    total_retries: int = 0
    rejected_executions: int = 0
