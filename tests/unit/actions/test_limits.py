"""Actions under limits and circuits: each attempt asks once, and only the executor tries again."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import pytest

from llmteam.actions import ActionConfig, ActionExecutor, ActionResult, ActionStatus, ActionType
from llmteam.actions.limiting import RegisteredLimits
from llmteam.ratelimit import (
    CircuitBreakerConfig,
    Limit,
    LimitRegistry,
    RateLimitConfig,
    RateLimitedExecutor,
    RateLimitStrategy,
)
from tests.unit.actions.conftest import Stand
from tests.unit.actions.test_executor import broken, done, scripted

OPEN = CircuitBreakerConfig(failure_threshold=2, open_timeout=timedelta(hours=1))
WIDE = RateLimitConfig(requests_per_second=1000, requests_per_minute=None, requests_per_hour=None, burst_size=1000)


@pytest.fixture
def limiter() -> RateLimitedExecutor:
    made = RateLimitedExecutor()
    made.register("a", WIDE, OPEN)
    return made


def executor(stand: Stand, limiter: Any) -> ActionExecutor:
    return stand.executor(rate_limiter=limiter)


def test_what_comes_back_is_the_actions_result(stand: Stand, limiter: RateLimitedExecutor) -> None:
    scripted(stand, done("yes"))

    result = stand.execute("a", executor=executor(stand, limiter))

    assert isinstance(result, ActionResult)
    assert (result.response_data, result.status) == ("yes", ActionStatus.COMPLETED)


def test_each_attempt_takes_room_and_only_the_executor_tries_again(stand: Stand) -> None:
    limiter = RateLimitedExecutor()
    limiter.register("a", WIDE)
    handler = scripted(stand, broken(503), broken(503), done())

    result = stand.execute("a", executor=executor(stand, limiter))

    stats = limiter.get_stats("a")["a"]
    assert (result.retry_count, len(handler.calls), stand.waits) == (2, 3, [1.0, 2.0])
    assert (stats.total_executions, stats.total_retries, stats.rate_limiter.total_requests) == (3, 0, 3)


@pytest.mark.parametrize("failure", [broken(500), broken(429), ActionResult("a", ActionStatus.TIMEOUT)])
def test_failures_that_may_pass_open_the_circuit(
    stand: Stand, limiter: RateLimitedExecutor, failure: ActionResult
) -> None:
    handler = scripted(stand, failure, retry_count=0)

    results = [stand.execute("a", executor=executor(stand, limiter)) for _ in range(3)]

    assert [result.error_type for result in results][2] == "CircuitOpenError"
    assert results[2].status is ActionStatus.FAILED
    assert len(handler.calls) == 2, "no attempt is made while it is open"


@pytest.mark.parametrize("failure", [broken(404), broken(400), ValueError("our own mistake")])
def test_what_the_other_side_refuses_does_not(
    stand: Stand, limiter: RateLimitedExecutor, failure: ActionResult | Exception
) -> None:
    handler = scripted(stand, failure)

    for _ in range(5):
        stand.execute("a", executor=executor(stand, limiter))

    assert len(handler.calls) == 5
    assert limiter.is_healthy("a")


def test_an_open_circuit_ends_the_attempts(stand: Stand, limiter: RateLimitedExecutor) -> None:
    handler = scripted(stand, broken(503), retry_count=9)

    result = stand.execute("a", executor=executor(stand, limiter))

    assert (len(handler.calls), result.error_type, result.retry_count) == (2, "CircuitOpenError", 2)


def test_where_there_is_no_room_no_attempt_is_made(stand: Stand) -> None:
    limiter = RateLimitedExecutor()
    limiter.register("a", RateLimitConfig(burst_size=0, strategy=RateLimitStrategy.REJECT))
    handler = scripted(stand, done())

    result = stand.execute("a", executor=executor(stand, limiter))

    assert (result.status, result.error_type, handler.calls) == (ActionStatus.FAILED, "RateLimitExceeded", [])


def test_a_fallback_is_a_result_that_says_so(stand: Stand) -> None:
    limiter = RateLimitedExecutor()
    limiter.register(
        "a", RateLimitConfig(burst_size=0, strategy=RateLimitStrategy.FALLBACK, fallback_value={"cached": 1})
    )
    handler = scripted(stand, done())

    result = stand.execute("a", executor=executor(stand, limiter))

    assert (result.status, result.response_data, handler.calls) == (ActionStatus.COMPLETED, {"cached": 1}, [])
    assert result.audit_metadata["fallback"] is True


def test_limits_that_are_registered_by_name_hold_for_those_actions_alone(stand: Stand) -> None:
    registry = LimitRegistry()
    registry.register(Limit("a", RateLimitConfig(burst_size=0, strategy=RateLimitStrategy.REJECT)))
    limits = RegisteredLimits(RateLimitedExecutor(registry=registry), registry)
    scripted(stand, broken(404))
    stand.registry.register_function("free", lambda data, state: "free")
    stand.registry.register(ActionConfig("b", ActionType.FUNCTION), stand.registry.get_handler("a"))

    results = [stand.execute(name, executor=executor(stand, limits)) for name in ("a", "free", "b")]

    assert [result.error_type for result in results] == ["RateLimitExceeded", "", "HTTPStatusError"]


def test_a_caller_that_has_room_already_does_not_ask_again(stand: Stand) -> None:
    limiter = RateLimitedExecutor()
    limiter.register("a", RateLimitConfig(burst_size=0, strategy=RateLimitStrategy.REJECT))
    scripted(stand, done())

    assert stand.execute("a", executor=executor(stand, limiter), under_limits=False).success


def test_a_limiter_that_calls_twice_after_all_makes_one_attempt(stand: Stand) -> None:
    class Eager:
        async def execute(self, name: str, func: Any, /, *args: Any, **kwargs: Any) -> Any:
            for _ in range(3):
                try:
                    return await func()
                except Exception as exc:  # noqa: BLE001
                    last = exc
            raise last

    handler = scripted(stand, broken(503), retry_count=0)

    assert stand.execute("a", executor=executor(stand, Eager())).response_code == 503
    assert len(handler.calls) == 1


def test_cancelling_passes_through_the_limiter(stand: Stand, limiter: RateLimitedExecutor) -> None:
    async def endless(data: Any, state: Any) -> None:
        await asyncio.Event().wait()

    stand.registry.register_function("a", endless)

    async def cancel() -> None:
        task = asyncio.create_task(executor(stand, limiter).execute("a"))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(cancel())
    assert limiter.is_healthy("a")
