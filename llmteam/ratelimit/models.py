"""Settings of limits and circuits, as values that can be stored and sent."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import InitVar, dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, TypeVar

from llmteam.ratelimit.exceptions import InvalidLimitError


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


class OnBackendError(StrEnum):
    """What holds while the shared server is away.

    ``local``: each process decides by what it sees itself. ``open``: all calls pass. ``closed``: all are refused.
    """

    LOCAL = "local"
    OPEN = "open"
    CLOSED = "closed"


_Choice = TypeVar("_Choice", bound=StrEnum)

#: The lowest and the highest number of calls in a window: a log keeps each of them for as long.
MIN_RATE, MAX_RATE = 0.001, 1_000_000.0


@dataclass(frozen=True, slots=True)
class RateLimitConfig:
    """How many calls a resource takes. All windows hold at once; None (or ``math.inf``) lifts one.

    Raises :class:`InvalidLimitError`.

    Args:
        requests_per_second: rate at which the bucket refills, and the calls in any second once it is 1 or more.
        requests_per_minute: calls in any 60 seconds.
        requests_per_hour: calls in any 3,600 seconds.
        burst_size: what the bucket holds; 0 refuses every call.
        strategy: what happens to a call over the limit; its value as text does too.
        max_wait_seconds: how long a call waits at most (WAIT and QUEUE).
        queue_size: calls that may wait at the same moment (QUEUE).
        retry_count: tries after the first one; ``max_retries`` says the same.
        retry_base_delay: seconds before the first of them, at most.
        retry_max_delay: seconds before any of them, at most.
        retry_exponential: whether the delay doubles each time.
        fallback_handler: gives the value of a call over the limit (FALLBACK); sync or async. It gets ``name``,
            ``args``, ``kwargs`` and ``error`` as far as it has parameters of these names.
        fallback_value: that value without a handler.
        max_concurrent: calls under way at the same moment; ``burst_size`` when None.
        on_backend_error: what holds while the shared server is away.
    """

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
    on_backend_error: OnBackendError = OnBackendError.LOCAL
    max_retries: InitVar[int | None] = None

    def __post_init__(self, max_retries: int | None) -> None:
        if max_retries is not None:
            object.__setattr__(self, "retry_count", max_retries)
        object.__setattr__(self, "strategy", _member("RateLimitConfig", RateLimitStrategy, self.strategy))
        away = _member("RateLimitConfig", OnBackendError, self.on_backend_error)
        object.__setattr__(self, "on_backend_error", away)
        for name in ("requests_per_second", "requests_per_minute", "requests_per_hour"):
            rate = getattr(self, name)
            if rate == math.inf:
                object.__setattr__(self, name, None)
            elif rate is not None and not MIN_RATE <= rate <= MAX_RATE:
                raise _unusable(name, rate, f"from {MIN_RATE:g} to {MAX_RATE:,.0f}, or None for no limit")
        for name in ("burst_size", "queue_size", "retry_count"):
            count = getattr(self, name)
            if not isinstance(count, int) or not 0 <= count <= MAX_RATE:
                raise _unusable(name, count, f"a whole number from 0 to {MAX_RATE:,.0f}")
        for name in ("max_wait_seconds", "retry_base_delay", "retry_max_delay"):
            seconds = getattr(self, name)
            if not seconds >= 0:
                raise _unusable(name, seconds, "0 seconds or more")
        if self.max_concurrent is not None and not 1 <= self.max_concurrent <= MAX_RATE:
            raise _unusable("max_concurrent", self.max_concurrent, "1 or more, or None for burst_size")

    def get_min_interval(self) -> float:
        """Seconds between two calls at the steady rate of ``requests_per_second``; 0.0 without one."""
        return 0.0 if self.requests_per_second is None else 1 / self.requests_per_second

    def get_retry_delay(self, attempt: int) -> float:
        """The longest delay in seconds before retry number ``attempt``, counted from 0."""
        if not self.retry_exponential:
            return min(self.retry_base_delay, self.retry_max_delay)
        return float(min(self.retry_base_delay * 2.0 ** min(attempt, 64), self.retry_max_delay))


@dataclass(slots=True)
class RateLimiterStats:
    """What one :class:`RateLimiter` of this process saw; waiting times are in seconds."""

    total_requests: int = 0
    successful_requests: int = 0
    rejected_requests: int = 0
    queued_requests: int = 0
    total_wait_time: float = 0.0
    current_queue_size: int = 0

    @property
    def rejection_rate(self) -> float:
        """The share of refused requests; 0.0 without any."""
        return self.rejected_requests / self.total_requests if self.total_requests else 0.0

    @property
    def average_wait_time(self) -> float:
        """Seconds that an admitted request waited; 0.0 without any."""
        return self.total_wait_time / self.successful_requests if self.successful_requests else 0.0


#: The largest number that a circuit may count to: its history is read at every outcome.
MAX_COUNT = 1_000


@dataclass(frozen=True, slots=True)
class CircuitBreakerConfig:
    """When a circuit opens, and how it closes again. Raises :class:`InvalidLimitError`.

    Args:
        failure_threshold: failures in a row that open it.
        failure_rate_threshold: share of failures among the last ``sample_size`` outcomes that opens it.
        sample_size: outcomes that the share is taken of; fewer never open it by share.
        open_timeout: how long it stays open; a number is in seconds.
        half_open_max_requests: trials under way at the same moment, in all processes together.
        success_threshold: successful trials that close it.
        window_seconds: older outcomes do not count.
        slow_call_seconds: a call that takes as long counts as failed, whatever it gave back.
        trial_seconds: how long a trial keeps its place; a success ten times later is not known any more.
        open_jitter: share of ``open_timeout`` that is added by chance, so that circuits are not tried all at once.
        is_failure: asked with the exception or the value of a call; True, False (neither failure nor success) or an
            :class:`~llmteam.ratelimit.decisions.Outcome`.
        on_backend_error: what holds while the shared server is away.
    """

    failure_threshold: int = 5
    failure_rate_threshold: float = 0.5
    sample_size: int = 10
    open_timeout: timedelta = timedelta(seconds=30)
    half_open_max_requests: int = 3
    success_threshold: int = 2
    window_seconds: float = 60.0
    slow_call_seconds: float | None = None
    trial_seconds: float = 60.0
    open_jitter: float = 0.1
    is_failure: Callable[[Any], bool | str] | None = None
    on_backend_error: OnBackendError = OnBackendError.LOCAL

    def __post_init__(self) -> None:
        if isinstance(self.open_timeout, int | float):
            object.__setattr__(self, "open_timeout", timedelta(seconds=self.open_timeout))
        away = _member("CircuitBreakerConfig", OnBackendError, self.on_backend_error)
        object.__setattr__(self, "on_backend_error", away)
        for name in ("failure_threshold", "sample_size", "half_open_max_requests", "success_threshold"):
            value = getattr(self, name)
            _check(name, value, isinstance(value, int) and 1 <= value <= MAX_COUNT, f"a number from 1 to {MAX_COUNT:,}")
        _check("failure_rate_threshold", self.failure_rate_threshold, 0 < self.failure_rate_threshold <= 1, "in (0, 1]")
        _check("open_jitter", self.open_jitter, 0 <= self.open_jitter <= 1, "in [0, 1]")
        _check("open_timeout", self.open_timeout, timedelta(0) <= self.open_timeout <= _LONGEST, "at most 30 days")
        for name in ("window_seconds", "trial_seconds", "slow_call_seconds"):
            value = getattr(self, name)
            if value is not None:
                _check(name, value, 0 < value <= _LONGEST.total_seconds(), "over 0 and at most 30 days")

    def should_open(self, failures: int, total: int) -> bool:
        """Whether ``failures`` among ``total`` outcomes open the circuit."""
        too_many = failures >= self.failure_threshold
        return too_many or (total >= self.sample_size and failures / total >= self.failure_rate_threshold)


@dataclass(slots=True)
class CircuitBreakerStats:
    """What one :class:`CircuitBreaker` saw. Times are UTC, ``time_in_open`` is in seconds."""

    total_requests: int = 0
    successful_requests: int = 0
    failed_requests: int = 0
    rejected_requests: int = 0
    state_changes: int = 0
    last_failure_time: datetime | None = None
    last_success_time: datetime | None = None
    time_in_open: float = 0.0

    @property
    def failure_rate(self) -> float:
        """The share of failures among all outcomes; 0.0 without any."""
        ended = self.successful_requests + self.failed_requests
        return self.failed_requests / ended if ended else 0.0


_LONGEST = timedelta(days=30)


def _unusable(name: str, value: object, wanted: str) -> InvalidLimitError:
    return InvalidLimitError(f"RateLimitConfig: {name} is {value!r}, but must be {wanted}")


def _check(name: str, value: object, good: bool, wanted: str) -> None:
    if not good:
        raise InvalidLimitError(f"CircuitBreakerConfig: {name} is {value!r}, but must be {wanted}")


def _member(where: str, kind: type[_Choice], value: str) -> _Choice:
    try:
        return kind(value)
    except ValueError:
        raise InvalidLimitError(f"{where}: {value!r} is none of {', '.join(kind)}") from None
