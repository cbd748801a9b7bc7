"""Calls by the name of what they call: within its limits, past its circuit, and again when they fail for a while."""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from llmteam.ratelimit.breaker import CircuitBreaker
from llmteam.ratelimit.calling import accepted, call
from llmteam.ratelimit.circuits.memory import MemoryCircuitBackend, chance
from llmteam.ratelimit.circuits.rules import outcome_of
from llmteam.ratelimit.decisions import CircuitBackend, LimitBackend, Outcome
from llmteam.ratelimit.exceptions import CircuitOpenError, LimitNotRegisteredError, QueueFullError, RateLimitExceeded
from llmteam.ratelimit.limiter import RateLimiter
from llmteam.ratelimit.limits.memory import MemoryLimitBackend
from llmteam.ratelimit.models import (
    MAX_RATE,
    CircuitBreakerConfig,
    CircuitBreakerStats,
    RateLimitConfig,
    RateLimitStrategy,
)
from llmteam.ratelimit.registry import LimitRegistry
from llmteam.ratelimit.results import EndpointStats, ExecutionResult
from llmteam.ratelimit.retrying import RetryBudget, RetryOn, delay_before, wants_retry

#: Seconds that a fallback handler may take.
FALLBACK_SECONDS = 30.0
#: Of a registered limit that has a circuit only.
_UNLIMITED = RateLimitConfig(
    requests_per_second=None, requests_per_minute=None, requests_per_hour=None, burst_size=int(MAX_RATE)
)


@dataclass(slots=True)
class _Endpoint:
    """One name, with all that holds for its calls."""

    name: str
    config: RateLimitConfig
    limiter: RateLimiter
    breaker: CircuitBreaker | None
    retry_on: RetryOn | None
    deadline: float
    call_timeout: float
    budget: RetryBudget
    counts: EndpointStats = field(default_factory=EndpointStats)


@dataclass(slots=True)
class _Call:
    """One execution under way. ``ends`` is when it has to be over, on the monotonic clock."""

    endpoint: _Endpoint
    function: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    begun: float
    tries: int = 0

    @property
    def left(self) -> float:
        """Seconds until the deadline."""
        return self.begun + self.endpoint.deadline - time.monotonic()


@dataclass(slots=True)
class _Told:
    """What a try has to tell its circuit."""

    outcome: Outcome = Outcome.IGNORED
    seconds: float = 0.0


class _RefusedError(Exception):
    """Not let in: ``error`` says by what. Sets refusals apart from the same errors raised by the called function."""

    def __init__(self, error: CircuitOpenError | RateLimitExceeded | QueueFullError) -> None:
        super().__init__(str(error))
        self.error = error


class RateLimitedExecutor:
    """Calls functions by the name of the resource that they use.

    Each try asks the circuit, then the limit, then calls. The executor is the one who retries: what it calls should
    not do so itself, and a call that must not happen twice is registered with ``retry_count=0``. A cancelled
    execution gives back what it holds.

    Args:
        default_config: of names that are registered without one, or (``auto_register``) not at all.
        limits: where limits are counted; by default with this object alone.
        circuits: where circuits are kept; by default with this object alone.
        auto_register: whether the first use of an unknown name registers it: as the registry of limits has it, else
            with ``default_config``. Otherwise it raises :class:`LimitNotRegisteredError`.
        registry: limits by name; by default those of this process.
    """

    def __init__(
        self,
        default_config: RateLimitConfig | None = None,
        *,
        limits: LimitBackend | None = None,
        circuits: CircuitBackend | None = None,
        auto_register: bool = True,
        registry: LimitRegistry | None = None,
        chance: Callable[[], float] = chance,
    ) -> None:
        self.default_config = default_config or RateLimitConfig()
        self._limits: LimitBackend = limits or MemoryLimitBackend()
        self._circuits: CircuitBackend = circuits or MemoryCircuitBackend()
        self._auto_register = auto_register
        self._registry = registry or LimitRegistry.get_instance()
        self._chance = chance
        self._lock = threading.Lock()
        self._endpoints: dict[str, _Endpoint] = {}

    def register(
        self,
        name: str,
        rate_config: RateLimitConfig | None = None,
        circuit_config: CircuitBreakerConfig | None = None,
        *,
        total: RateLimitConfig | None = None,
        retry_on: RetryOn | None = None,
        deadline_seconds: float | None = None,
        call_timeout_seconds: float | None = None,
        retry_budget: RetryBudget | None = None,
    ) -> None:
        """Set what holds for calls of ``name``, in place of what did.

        Args:
            rate_config: the limit of each tenant, and how calls are retried.
            circuit_config: of the breaker; without one there is none.
            total: the limit of all tenants together.
            retry_on: errors that are tried again; by default those of :func:`~llmteam.ratelimit.retrying.is_transient`.
            deadline_seconds: for everything: waiting, tries and pauses.
            call_timeout_seconds: for one try; one that takes longer has failed. A plain function's thread goes on.
            retry_budget: how many retries there may be, of all executions together.
        """
        config = rate_config or self.default_config
        limiter = RateLimiter(name, config, backend=self._limits, total=total)
        breaker = None if circuit_config is None else CircuitBreaker(name, circuit_config, backend=self._circuits)
        endpoint = _Endpoint(
            name,
            config,
            limiter,
            breaker,
            retry_on,
            math.inf if deadline_seconds is None else deadline_seconds,
            math.inf if call_timeout_seconds is None else call_timeout_seconds,
            retry_budget or RetryBudget(),
        )
        with self._lock:
            self._endpoints[name] = endpoint

    def unregister(self, name: str) -> None:
        """Forget a name, if it is known."""
        with self._lock:
            self._endpoints.pop(name, None)

    async def execute(
        self, name: str, function: Callable[..., Any], /, *args: Any, **kwargs: Any
    ) -> ExecutionResult[Any]:
        """Call ``function``, sync or async, with these arguments. What it raises is in the result.

        Raises :class:`LimitNotRegisteredError`.
        """
        endpoint = self._endpoint(name)
        execution = _Call(endpoint, function, args, kwargs, time.monotonic())
        endpoint.budget.earn()
        result = await self._executed(execution)
        result.attempts = max(execution.tries, 1)
        result.total_time_ms = math.ceil((time.monotonic() - execution.begun) * 1000)
        self._count(execution, result)
        return result

    def get_stats(self, name: str | None = None) -> dict[str, EndpointStats]:
        """What this process saw of each endpoint, or of one; empty when that is unknown."""
        found = {}
        for endpoint in self._chosen(name):
            circuit = CircuitBreakerStats() if endpoint.breaker is None else endpoint.breaker.get_stats()
            seen = endpoint.limiter.get_stats()
            found[endpoint.name] = replace(endpoint.counts, rate_limiter=seen, circuit_breaker=circuit)
        return found

    def reset_stats(self, name: str | None = None) -> None:
        """Begin to count anew, for every endpoint or one."""
        for endpoint in self._chosen(name):
            endpoint.counts = EndpointStats()
            endpoint.limiter.reset_stats()
            if endpoint.breaker is not None:
                endpoint.breaker.reset_stats()

    def is_healthy(self, name: str) -> bool:
        """Whether a call would be let in right now; so for an unknown name."""
        return all(
            (endpoint.breaker is None or endpoint.breaker.is_closed) and not endpoint.limiter.is_limited
            for endpoint in self._chosen(name)
        )

    def get_health_status(self) -> dict[str, dict[str, Any]]:
        """``healthy``, ``circuit_state`` ("n/a" without one) and ``rate_limited`` of each endpoint."""
        found = {}
        for endpoint in self._chosen(None):
            state = "n/a" if endpoint.breaker is None else endpoint.breaker.state.value
            limited = endpoint.limiter.is_limited
            healthy = state in {"n/a", "closed"} and not limited
            found[endpoint.name] = {"healthy": healthy, "circuit_state": state, "rate_limited": limited}
        return found

    def _chosen(self, name: str | None) -> list[_Endpoint]:
        with self._lock:
            return [one for one in self._endpoints.values() if name is None or one.name == name]

    def _endpoint(self, name: str) -> _Endpoint:
        with self._lock:
            known = self._endpoints.get(name)
        if known is not None:
            return known
        if not self._auto_register:
            raise LimitNotRegisteredError(name)
        limit = self._registry.find(name)
        if limit is None:
            self.register(name)
        else:
            # A limit without a rate has none: the default would hold back what nobody limits.
            self.register(name, limit.rate or limit.total or _UNLIMITED, limit.circuit, total=limit.total)
        return self._endpoint(name)

    async def _executed(self, execution: _Call) -> ExecutionResult[Any]:
        error: Exception | None = None
        while True:
            try:
                return ExecutionResult(success=True, value=await self._tried(execution))
            except _RefusedError as exc:
                exc.error.__cause__ = error
                return await self._refused(execution, exc.error)
            except Exception as exc:  # noqa: BLE001  # whatever it is, it is the result
                error = exc
            delay = delay_before(execution.endpoint.config, execution.tries - 1, error, self._chance())
            if not self._goes_on(execution, error, delay):
                return ExecutionResult(success=False, error=error)
            with self._lock:
                execution.endpoint.counts.total_retries += 1
            await asyncio.sleep(delay)

    def _goes_on(self, execution: _Call, error: Exception, delay: float) -> bool:
        endpoint = execution.endpoint
        return (
            execution.tries <= endpoint.config.retry_count
            and wants_retry(endpoint.retry_on, error)
            and delay < execution.left
            and endpoint.budget.spend()
        )

    async def _tried(self, execution: _Call) -> Any:
        """One try: past the circuit, within the limit. Raises _RefusedError, and what the function raises."""
        breaker, told = execution.endpoint.breaker, _Told()
        if breaker is None:
            return await self._limited(execution, told)
        try:
            admitted = await breaker.entered()
        except CircuitOpenError as exc:
            raise _RefusedError(exc) from None
        try:
            return await self._limited(execution, told)
        finally:
            await breaker.left(admitted, told.outcome, told.seconds)

    async def _limited(self, execution: _Call, told: _Told) -> Any:
        endpoint = execution.endpoint
        try:
            permit = await endpoint.limiter.take(max_wait_seconds=max(execution.left, 0.0))
        except (RateLimitExceeded, QueueFullError) as exc:
            raise _RefusedError(exc) from None
        if permit is None:
            raise _RefusedError(RateLimitExceeded(endpoint.name))
        execution.tries += 1
        seconds = max(min(endpoint.call_timeout, execution.left), 0.0)
        begun = time.monotonic()
        try:
            async with asyncio.timeout(None if seconds == math.inf else seconds):
                value = await call(execution.function, execution.args, execution.kwargs)
            told.outcome = _judged(endpoint, None, value)
            return value
        except BaseException as exc:
            told.outcome = _judged(endpoint, exc, None)
            raise
        finally:
            told.seconds = time.monotonic() - begun
            await permit.give_back()

    async def _refused(
        self, execution: _Call, error: CircuitOpenError | RateLimitExceeded | QueueFullError
    ) -> ExecutionResult[Any]:
        opened = isinstance(error, CircuitOpenError)
        result = ExecutionResult[Any](success=False, error=error, rate_limited=not opened, circuit_open=opened)
        if execution.endpoint.config.strategy is RateLimitStrategy.FALLBACK:
            result.used_fallback = True
            try:
                result.value = await _fallen_back(execution, error)
                result.success, result.error = True, None
            except Exception as exc:  # noqa: BLE001  # whatever it is, it is the result
                result.error = exc
        return result

    def _count(self, execution: _Call, result: ExecutionResult[Any]) -> None:
        counts = execution.endpoint.counts
        refused = (result.rate_limited or result.circuit_open) and not result.used_fallback
        with self._lock:
            counts.total_executions += 1
            counts.fallback_executions += result.success and result.used_fallback
            counts.successful_executions += result.success and not result.used_fallback
            counts.rejected_executions += refused
            counts.failed_executions += not result.success and not refused


async def _fallen_back(execution: _Call, error: Exception) -> Any:
    config = execution.endpoint.config
    if config.fallback_handler is None:
        return config.fallback_value
    offered = {
        "name": execution.endpoint.name,
        "args": execution.args,
        "kwargs": execution.kwargs,
        "error": error,
    }
    async with asyncio.timeout(FALLBACK_SECONDS):
        return await call(config.fallback_handler, (), accepted(config.fallback_handler, offered))


def _judged(endpoint: _Endpoint, error: BaseException | None, value: Any) -> Outcome:
    return Outcome.IGNORED if endpoint.breaker is None else outcome_of(endpoint.breaker.config, error, value)
