"""The executor: circuit, limit, call, and again; on limits and circuits of this process."""

from __future__ import annotations

import asyncio
import functools
import threading
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from llmteam.ratelimit import (
    CircuitBreakerConfig,
    CircuitOpenError,
    EndpointStats,
    ExecutionResult,
    LimitRegistry,
    QueueFullError,
    RateLimitConfig,
    RateLimitedExecutor,
    RateLimitExceeded,
    RateLimitStrategy,
    RetryBudget,
)
from llmteam.ratelimit.exceptions import LimitNotRegisteredError
from llmteam.ratelimit.registry import Limit
from llmteam.ratelimit.retrying import delay_before
from llmteam.tenancy import TenantContext, get_current_tenant
from tests.waiting import wait_until_async

QUICK = RateLimitConfig(requests_per_second=1000, burst_size=1000, requests_per_minute=None, retry_base_delay=0.0)


def executor_with(
    config: RateLimitConfig = QUICK, circuit: CircuitBreakerConfig | None = None, **more: Any
) -> RateLimitedExecutor:
    executor = RateLimitedExecutor()
    executor.register("api", config, circuit, **more)
    return executor


def run(
    executor: RateLimitedExecutor, function: Callable[..., Any], /, *args: Any, **kwargs: Any
) -> ExecutionResult[Any]:
    return asyncio.run(executor.execute("api", function, *args, **kwargs))


class Failing:
    """Fails so many times, then gives 42."""

    def __init__(self, times: int, error: BaseException | None = None) -> None:
        self.left, self.calls = times, 0
        self.error = error or ConnectionError("gone")

    async def __call__(self) -> int:
        self.calls += 1
        if self.left > 0:
            self.left -= 1
            raise self.error
        return 42


async def times_two(number: int) -> int:
    return 2 * number


class Callable3:
    async def __call__(self, number: int) -> int:
        return number + 1


@pytest.mark.parametrize(
    ("function", "args", "value"),
    [
        (lambda a, b: a + b, (1, 2), 3),
        (times_two, (4,), 8),
        (lambda number: times_two(number + 1), (5,), 12),
        (functools.partial(times_two, 6), (), 12),
        (functools.partial(lambda a, b: a - b, 6), (2,), 4),
        (Callable3(), (1,), 2),
        (len, ("four",), 4),
    ],
)
def test_whatever_can_be_called_is_and_awaited(function: Callable[..., Any], args: tuple[Any, ...], value: int) -> None:
    result = run(executor_with(), function, *args)

    assert (result.success, result.value, result.attempts, result.unwrap()) == (True, value, 1, value)


def test_arguments_may_have_any_name() -> None:
    result = run(executor_with(), lambda **given: given, name=1, func=2, function=3, self=4)

    assert result.value == {"name": 1, "func": 2, "function": 3, "self": 4}


def test_a_plain_function_runs_beside_the_loop_as_the_same_tenant() -> None:
    async def scene() -> tuple[Any, ...]:
        with TenantContext("acme"):
            result = await executor_with().execute("api", lambda: (threading.get_ident(), get_current_tenant()))
        return result.unwrap()

    thread, tenant = asyncio.run(scene())

    assert (thread != threading.get_ident(), tenant) == (True, "acme")


def test_the_third_try_can_be_the_successful_one() -> None:
    function, executor = Failing(2), executor_with()

    result = run(executor, function)

    assert (result.success, result.value, result.attempts, result.error) == (True, 42, 3, None)
    assert executor.get_stats("api")["api"].total_retries == 2


@pytest.mark.parametrize(
    "error", [ValueError("odd"), RuntimeError("x"), TimeoutError(), OSError("net"), Exception("?")]
)
def test_when_all_tries_fail_the_last_error_is_the_result(error: Exception) -> None:
    function = Failing(99, error)

    result = run(executor_with(), function)

    assert (result.success, result.error, result.attempts, function.calls) == (False, error, 4, 4)
    with pytest.raises(type(error)):
        result.unwrap()


class RefusedError(Exception):
    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


class HopelessError(Exception):
    retryable = False


@pytest.mark.parametrize("error", [TypeError("bug"), NameError("typo"), RefusedError(404), HopelessError()])
def test_what_would_fail_the_same_way_is_not_tried_again(error: Exception) -> None:
    assert run(executor_with(), Failing(99, error)).attempts == 1


@pytest.mark.parametrize("error", [RefusedError(429), RefusedError(503)])
def test_an_overloaded_resource_is_tried_again(error: Exception) -> None:
    assert run(executor_with(), Failing(99, error)).attempts == 4


@pytest.mark.parametrize(
    ("retry_on", "attempts"),
    [(KeyError, 1), ((KeyError, ValueError), 4), ((), 1), (lambda error: "odd" in str(error), 4)],
)
def test_what_is_tried_again_can_be_chosen(retry_on: Any, attempts: int) -> None:
    assert run(executor_with(retry_on=retry_on), Failing(99, ValueError("odd"))).attempts == attempts


def test_the_delay_is_drawn_from_the_whole_documented_one_and_never_under_what_was_asked_for() -> None:
    config = RateLimitConfig(retry_base_delay=2, retry_max_delay=5)
    asking = RateLimitExceeded("api", 7.0)

    assert [delay_before(config, attempt, ValueError(), 0.5) for attempt in range(4)] == [1.0, 2.0, 2.5, 2.5]
    assert delay_before(config, 0, ValueError(), 0.0) == 0.0
    assert delay_before(config, 0, asking, 0.5) == 7.0


def test_every_try_takes_a_token_and_asks_the_circuit() -> None:
    executor = executor_with(circuit=CircuitBreakerConfig(failure_threshold=99))

    run(executor, Failing(2))

    stats = executor.get_stats()["api"]
    assert (stats.rate_limiter.successful_requests, stats.circuit_breaker.total_requests) == (3, 3)
    assert (stats.circuit_breaker.failed_requests, stats.circuit_breaker.successful_requests) == (2, 1)


def test_an_open_circuit_refuses_at_once_and_is_not_tried_again() -> None:
    config = RateLimitConfig(retry_count=0)
    executor = executor_with(config, CircuitBreakerConfig(failure_threshold=2, open_timeout=timedelta(minutes=1)))
    function = Failing(99)

    results = [run(executor, function) for _ in range(4)]

    assert function.calls == 2
    assert [result.circuit_open for result in results] == [False, False, True, True]
    last = results[-1]
    assert (last.success, type(last.error), last.rate_limited, last.attempts) == (False, CircuitOpenError, False, 1)
    assert all(result.total_time_ms > 0 for result in results)
    assert not executor.is_healthy("api")
    assert executor.get_health_status() == {"api": {"healthy": False, "circuit_state": "open", "rate_limited": False}}


def test_a_circuit_that_opens_between_tries_shows_the_error_behind_it() -> None:
    executor = executor_with(circuit=CircuitBreakerConfig(failure_threshold=2))

    result = run(executor, Failing(99, ConnectionError("the reason")))

    assert (result.circuit_open, result.attempts) == (True, 2)
    assert isinstance(result.error, CircuitOpenError)
    assert str(result.error.__cause__) == "the reason"


def test_values_that_are_failures_count_for_the_circuit() -> None:
    circuit = CircuitBreakerConfig(failure_threshold=2, is_failure=lambda found: found == "bad")
    executor = executor_with(circuit=circuit)

    results = [run(executor, lambda: "bad") for _ in range(3)]

    assert [result.value for result in results] == ["bad", "bad", None]
    assert results[2].circuit_open


def test_a_call_over_the_limit_is_not_tried_again() -> None:
    executor = executor_with(RateLimitConfig(burst_size=1, strategy=RateLimitStrategy.REJECT))
    run(executor, Failing(0))

    result = run(executor, Failing(0))

    assert (result.success, result.rate_limited, result.circuit_open, result.attempts) == (False, True, False, 1)
    assert isinstance(result.error, RateLimitExceeded)
    assert not executor.is_healthy("api")


def test_a_full_queue_is_a_refusal_too_and_no_failure_of_the_resource() -> None:
    config = RateLimitConfig(burst_size=1, requests_per_second=1, strategy=RateLimitStrategy.QUEUE, queue_size=0)
    executor = executor_with(config, CircuitBreakerConfig(failure_threshold=1))
    run(executor, Failing(0))

    result = run(executor, Failing(0))

    assert isinstance(result.error, QueueFullError)
    assert executor.get_health_status()["api"]["circuit_state"] == "closed"


def with_fallback(**fields: Any) -> RateLimitConfig:
    return RateLimitConfig(strategy=RateLimitStrategy.FALLBACK, burst_size=0, **fields)


async def handler() -> str:
    return "handled"


@pytest.mark.parametrize(
    ("fields", "value"),
    [
        ({"fallback_value": {"cached": True}}, {"cached": True}),
        ({"fallback_handler": lambda: "plain", "fallback_value": 1}, "plain"),
        ({"fallback_handler": handler}, "handled"),
        ({"fallback_handler": lambda name, args, error: (name, args, type(error))}, ("api", (7,), RateLimitExceeded)),
        ({"fallback_handler": lambda **given: sorted(given)}, ["args", "error", "kwargs", "name"]),
        ({}, None),
    ],
)
def test_over_the_limit_a_fallback_gives_the_value(fields: dict[str, Any], value: Any) -> None:
    executor = executor_with(with_fallback(**fields))

    result = run(executor, lambda _: None, 7)

    assert (result.success, result.value, result.used_fallback, result.error) == (True, value, True, None)
    assert executor.get_stats()["api"].fallback_executions == 1


def test_a_fallback_runs_for_an_open_circuit_too_but_not_for_a_function_that_fails() -> None:
    config = RateLimitConfig(strategy=RateLimitStrategy.FALLBACK, fallback_value="cached", retry_count=0)
    executor = executor_with(config, CircuitBreakerConfig(failure_threshold=1))

    failed, refused = run(executor, Failing(99)), run(executor, Failing(99))

    assert (failed.success, failed.used_fallback) == (False, False)
    assert (refused.success, refused.value, refused.used_fallback, refused.circuit_open) == (True, "cached", True, True)


def test_an_error_of_the_fallback_is_the_result() -> None:
    def broken() -> None:
        raise LookupError("no cache")

    result = run(executor_with(with_fallback(fallback_handler=broken)), Failing(0))

    assert (result.success, result.used_fallback, type(result.error)) == (False, True, LookupError)


def test_a_fallback_that_hangs_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llmteam.ratelimit.executor.FALLBACK_SECONDS", 0.05)

    result = run(executor_with(with_fallback(fallback_handler=asyncio.Event().wait)), Failing(0))

    assert (result.success, result.used_fallback, type(result.error)) == (False, True, TimeoutError)


def test_a_try_that_takes_too_long_has_failed_for_the_circuit_too() -> None:
    executor = executor_with(circuit=CircuitBreakerConfig(failure_threshold=9), call_timeout_seconds=0.02)

    result = run(executor, asyncio.Event().wait)

    assert (result.success, type(result.error), result.attempts) == (False, TimeoutError, 4)
    assert executor.get_stats()["api"].circuit_breaker.failed_requests == 4


def test_no_pause_goes_beyond_the_deadline() -> None:
    config = RateLimitConfig(retry_base_delay=3600, retry_max_delay=3600)
    executor = RateLimitedExecutor(chance=lambda: 0.99)
    executor.register("api", config, deadline_seconds=5)

    result = run(executor, Failing(99))

    assert (result.success, result.attempts, type(result.error)) == (False, 1, ConnectionError)


def test_nobody_waits_for_the_limit_beyond_the_deadline() -> None:
    config = RateLimitConfig(burst_size=1, requests_per_second=0.1)
    executor = executor_with(config, deadline_seconds=1)
    run(executor, Failing(0))

    assert run(executor, Failing(0)).rate_limited


def test_retries_stay_a_small_part_of_all_calls_when_everything_fails() -> None:
    executor = executor_with(retry_budget=RetryBudget(reserve=5, share=0.1))

    results = [run(executor, Failing(99)) for _ in range(30)]

    assert sum(result.attempts for result in results) <= 30 + 5 + 30 * 0.1


def test_totals_are_the_sum_of_all_ends() -> None:
    config = RateLimitConfig(burst_size=4, requests_per_second=0.001, strategy=RateLimitStrategy.REJECT, retry_count=0)
    executor = executor_with(config, CircuitBreakerConfig(failure_threshold=9))

    for failures in (0, 1, 0, 1, 0, 0):
        run(executor, Failing(failures))

    stats = executor.get_stats("api")["api"]
    ends = (
        stats.successful_executions,
        stats.failed_executions,
        stats.fallback_executions,
        stats.rejected_executions,
    )
    assert (ends, stats.total_executions) == ((2, 2, 0, 2), 6)
    assert (stats.rate_limiter.rejected_requests, stats.circuit_breaker.failed_requests) == (2, 2)
    executor.reset_stats("api")
    assert executor.get_stats() == {"api": EndpointStats()}
    assert executor.get_stats("ghost") == {}


def test_a_cancelled_execution_gives_everything_back() -> None:
    async def scene() -> None:
        circuit = CircuitBreakerConfig(failure_threshold=1, open_timeout=timedelta(0), half_open_max_requests=2)
        executor = executor_with(RateLimitConfig(burst_size=1000, max_concurrent=1, retry_count=0), circuit)
        await executor.execute("api", Failing(99))
        begun = asyncio.Event()

        async def hanging() -> None:
            begun.set()
            await asyncio.Event().wait()

        task = asyncio.create_task(executor.execute("api", hanging))
        await begun.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

        assert (await executor.execute("api", Failing(0))).success
        assert (await executor.execute("api", Failing(0))).success
        stats = executor.get_stats()["api"]
        assert (stats.total_executions, stats.circuit_breaker.failed_requests) == (3, 1)
        assert executor.is_healthy("api")

    asyncio.run(scene())


def test_a_waiting_execution_that_is_cancelled_leaves_no_ticket() -> None:
    async def scene() -> None:
        executor = executor_with(RateLimitConfig(burst_size=1, requests_per_second=0.1))
        await executor.execute("api", Failing(0))
        task = asyncio.create_task(executor.execute("api", Failing(0)))
        limiter = executor._endpoints["api"].limiter
        await wait_until_async(lambda: limiter.get_stats().current_queue_size, "the call to wait")

        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

        assert limiter._backend.look(limiter.asks)[0].waiting == 0

    asyncio.run(scene())


def test_unknown_names_have_the_default_limit_or_none_at_all() -> None:
    executor = RateLimitedExecutor(RateLimitConfig(burst_size=0, strategy=RateLimitStrategy.REJECT))
    strict = RateLimitedExecutor(auto_register=False)

    assert run(executor, Failing(0)).rate_limited
    with pytest.raises(LimitNotRegisteredError):
        run(strict, Failing(0))
    assert strict.is_healthy("ghost")
    strict.unregister("ghost")


def test_unknown_names_are_limited_as_the_registry_has_them() -> None:
    registry = LimitRegistry()
    registry.register(Limit("api", total=RateLimitConfig(burst_size=0, strategy=RateLimitStrategy.REJECT)))
    registry.register(Limit("free", circuit=CircuitBreakerConfig()))
    executor = RateLimitedExecutor(registry=registry)

    async def scene() -> list[bool]:
        return [(await executor.execute("free", Failing(0))).success for _ in range(50)]

    assert run(executor, Failing(0)).rate_limited
    assert all(asyncio.run(scene()))


def test_registering_again_replaces_and_forgetting_forgets() -> None:
    executor = executor_with(RateLimitConfig(burst_size=0, strategy=RateLimitStrategy.REJECT))
    assert not run(executor, Failing(0)).success

    executor.register("api", QUICK)
    assert run(executor, Failing(0)).success

    executor.unregister("api")
    assert executor.get_stats() == {}
    assert executor.get_health_status() == {}
