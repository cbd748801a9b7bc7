"""The limiter as callers see it, on limits of this process."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from llmteam.ratelimit import (
    InvalidLimitError,
    MemoryLimitBackend,
    QueueFullError,
    RateLimitConfig,
    RateLimiter,
    RateLimitExceeded,
    RateLimitStrategy,
)
from llmteam.tenancy import TenantContext
from tests.waiting import wait_until_async


def config(strategy: str = "wait", **limits: Any) -> RateLimitConfig:
    return RateLimitConfig(**{"strategy": strategy, "requests_per_minute": None, "requests_per_hour": None, **limits})


def test_defaults_are_the_documented_ones() -> None:
    found = RateLimitConfig()

    assert (found.requests_per_second, found.requests_per_minute, found.requests_per_hour) == (10.0, 100.0, 1000.0)
    assert (found.burst_size, found.strategy, found.max_wait_seconds, found.queue_size) == (10, "wait", 30.0, 100)
    assert (found.retry_count, found.retry_base_delay, found.retry_max_delay) == (3, 1.0, 60.0)
    assert (found.retry_exponential, found.fallback_handler, found.fallback_value) == (True, None, None)


def test_delays_double_up_to_the_longest_or_stay() -> None:
    doubling = RateLimitConfig(retry_base_delay=1, retry_max_delay=10)
    constant = RateLimitConfig(retry_base_delay=2, retry_exponential=False)

    assert [doubling.get_retry_delay(attempt) for attempt in (0, 1, 2, 9, 5000)] == [1, 2, 4, 10, 10]
    assert [constant.get_retry_delay(attempt) for attempt in (0, 1, 9)] == [2, 2, 2]
    assert (
        RateLimitConfig(requests_per_second=5).get_min_interval(),
        config(requests_per_second=None).get_min_interval(),
    ) == (
        0.2,
        0.0,
    )


def test_other_ways_to_say_the_same_are_accepted() -> None:
    assert RateLimitConfig(max_retries=7).retry_count == 7
    assert RateLimitConfig(strategy="reject").strategy is RateLimitStrategy.REJECT  # type: ignore[arg-type]
    assert RateLimitConfig(requests_per_hour=math.inf).requests_per_hour is None


@pytest.mark.parametrize(
    "wrong",
    [
        {"requests_per_second": 0},
        {"requests_per_minute": -1},
        {"requests_per_hour": math.nan},
        {"burst_size": -1},
        {"burst_size": 2.5},
        {"queue_size": -1},
        {"retry_count": -1},
        {"retry_base_delay": -0.1},
        {"retry_max_delay": math.nan},
        {"max_wait_seconds": -1},
        {"max_concurrent": 0},
        {"strategy": "hope"},
        {"on_backend_error": "shrug"},
    ],
)
def test_settings_that_cannot_be_used_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(InvalidLimitError, match="RateLimitConfig"):
        RateLimitConfig(**wrong)


async def outcomes(*calls: Awaitable[Any]) -> list[Any]:
    return list(await asyncio.gather(*calls, return_exceptions=True))


def test_two_calls_count_as_two_successes() -> None:
    async def run() -> None:
        limiter = RateLimiter("api", config())
        for _ in range(2):
            assert await limiter.acquire()
            limiter.release()

        stats = limiter.get_stats()
        assert (stats.total_requests, stats.successful_requests, stats.rejected_requests) == (2, 2, 0)
        limiter.reset_stats()
        assert limiter.get_stats().total_requests == 0
        assert limiter.get_stats().rejection_rate == limiter.get_stats().average_wait_time == 0.0

    asyncio.run(run())


def test_the_burst_is_the_cap_of_calls_under_way_too() -> None:
    async def run() -> None:
        limiter = RateLimiter("api", config("reject", requests_per_second=100, burst_size=2))
        await limiter.acquire()
        await limiter.acquire()

        with pytest.raises(RateLimitExceeded) as refused:
            await limiter.acquire()

        assert refused.value.name == "api"
        assert refused.value.retry_after is not None
        for _ in range(4):
            limiter.release()
        await wait_until_async(lambda: not limiter.is_limited, "room")
        assert await limiter.acquire()

    asyncio.run(run())


def test_over_the_limit_fallback_says_false_and_holds_nothing() -> None:
    async def run() -> None:
        limiter = RateLimiter("api", RateLimitConfig(strategy=RateLimitStrategy.FALLBACK))

        found = [await limiter.acquire() for _ in range(12)]

        assert found == [True] * 10 + [False] * 2
        assert limiter.is_limited
        assert limiter.get_stats().rejection_rate == pytest.approx(2 / 12)

    asyncio.run(run())


@pytest.mark.parametrize("strategy", list(RateLimitStrategy))
def test_a_burst_of_nothing_is_always_limited(strategy: RateLimitStrategy) -> None:
    async def run() -> None:
        limiter = RateLimiter("api", config(strategy, burst_size=0))
        assert limiter.is_limited
        if strategy is RateLimitStrategy.FALLBACK:
            assert not await limiter.acquire()
            return
        with pytest.raises(RateLimitExceeded) as refused:
            await limiter.acquire()
        assert refused.value.retry_after is None

    asyncio.run(run())


def test_calls_that_come_at_once_wait_for_their_turns_one_after_the_other() -> None:
    """Twenty-one at twenty a second, one at a time: the last one cannot begin before a second has gone by."""

    async def run() -> None:
        limiter = RateLimiter("api", config(requests_per_second=20, burst_size=1, max_concurrent=100))
        order: list[int] = []

        async def caller(number: int) -> None:
            async with limiter:
                order.append(number)

        begun = time.monotonic()
        await asyncio.gather(*(caller(number) for number in range(21)))

        assert time.monotonic() - begun >= 0.999
        assert order == list(range(21))
        stats = limiter.get_stats()
        assert (stats.queued_requests, stats.current_queue_size) == (20, 0)
        assert stats.average_wait_time > 0.4

    asyncio.run(run())


def test_a_wait_that_would_be_too_long_is_refused_with_its_length_at_once() -> None:
    async def run() -> None:
        limiter = RateLimiter("api", RateLimitConfig(requests_per_minute=2, requests_per_hour=None))
        async with limiter, limiter:
            pass

        with pytest.raises(RateLimitExceeded) as refused:
            await limiter.acquire()

        assert refused.value.retry_after is not None
        assert 55 < refused.value.retry_after <= 60
        assert limiter.get_stats().rejected_requests == 1

    asyncio.run(run())


def test_a_caller_waits_for_a_place_among_the_calls_under_way_until_its_patience_ends() -> None:
    async def run() -> None:
        limiter = RateLimiter("api", config(max_concurrent=1, max_wait_seconds=0.2))
        held = await limiter.take()
        assert held is not None
        with pytest.raises(RateLimitExceeded):
            await limiter.acquire()

        waiting = asyncio.create_task(limiter.take())
        await wait_until_async(lambda: limiter.get_stats().current_queue_size, "a caller that waits")
        held.release()
        held.release()

        assert await waiting is not None
        assert limiter._backend.look(limiter.asks)[0].in_flight == 1

    asyncio.run(run())


def test_a_full_queue_is_an_error_that_says_its_size() -> None:
    async def run() -> None:
        limiter = RateLimiter("api", config("queue", requests_per_second=10, burst_size=1, queue_size=1))

        async def caller() -> None:
            async with limiter:
                pass

        found = await outcomes(*(caller() for _ in range(6)))

        assert [type(one) for one in found] == [type(None)] * 2 + [QueueFullError] * 4
        assert (found[5].name, found[5].queue_size) == ("api", 1)

    asyncio.run(run())


def test_a_cancelled_waiter_leaves_no_ticket() -> None:
    async def run() -> None:
        limiter = RateLimiter("api", config(requests_per_second=0.5, burst_size=1))
        await limiter.acquire()
        waiting = [asyncio.create_task(limiter.acquire()) for _ in range(3)]
        await wait_until_async(lambda: limiter.get_stats().current_queue_size == 3, "three callers that wait")

        for task in waiting[:2]:
            task.cancel()
        await outcomes(*waiting[:2])

        (view,) = limiter._backend.look(limiter.asks)
        assert (view.waiting, limiter.get_stats().current_queue_size) == (1, 1)
        waiting[2].cancel()
        await outcomes(waiting[2])

    asyncio.run(run())


def test_releasing_twice_takes_nobody_elses_permit() -> None:
    async def run() -> None:
        limiter = RateLimiter("api", config("reject", max_concurrent=2))
        holding, go_on = asyncio.Event(), asyncio.Event()

        async def holder() -> None:
            await limiter.acquire()
            holding.set()
            await go_on.wait()
            limiter.release()

        other = asyncio.create_task(holder())
        await holding.wait()
        await limiter.acquire()
        limiter.release()
        limiter.release()

        await limiter.acquire()
        with pytest.raises(RateLimitExceeded):
            await limiter.acquire()
        go_on.set()
        await other

    asyncio.run(run())


def test_what_an_ended_task_acquired_can_be_released() -> None:
    async def run() -> None:
        limiter = RateLimiter("api", config("reject", max_concurrent=2))
        await asyncio.gather(limiter.acquire(), limiter.acquire())

        limiter.release()

        assert await limiter.acquire()

    asyncio.run(run())


def test_one_limiter_serves_one_loop_after_the_other_and_what_is_left_of_the_first() -> None:
    limiter = RateLimiter("api", config(requests_per_second=50, burst_size=1))

    async def twice() -> None:
        async with limiter:
            pass
        async with limiter:
            pass

    for _ in range(3):
        asyncio.run(twice())

    assert limiter.get_stats().successful_requests == 6


def test_tenants_have_limits_of_their_own_and_one_together() -> None:
    async def run() -> list[str]:
        backend, own, total = MemoryLimitBackend(), config("reject", burst_size=3), config(burst_size=5)
        limiter = RateLimiter("api", own, backend=backend, total=total)
        admitted = []
        for tenant in ("acme", "globex"):
            with TenantContext(tenant):
                for _ in range(4):
                    try:
                        await limiter.acquire()
                    except RateLimitExceeded:
                        continue
                    admitted.append(tenant)
        return admitted

    assert asyncio.run(run()) == ["acme"] * 3 + ["globex"] * 2


def test_tokens_are_as_of_now() -> None:
    now = [0]
    backend = MemoryLimitBackend(now=lambda: now[0])
    limiter = RateLimiter("api", config(requests_per_second=2, burst_size=4), backend=backend)

    async def run(done: Callable[[], Any]) -> None:
        async with limiter, limiter:
            done()

    asyncio.run(run(lambda: None))

    assert (limiter.available_tokens, limiter.is_limited) == (2.0, True)
    now[0] += 1_000_000
    assert (limiter.available_tokens, limiter.is_limited) == (4.0, False)


def test_unused_limits_are_forgotten() -> None:
    now = [0]
    backend = MemoryLimitBackend(now=lambda: now[0])
    for number in range(5000):
        now[0] += 1_000_000
        limiter = RateLimiter("api", config(requests_per_second=100), backend=backend, part=str(number))
        asyncio.run(one_call(limiter)) if number % 500 == 0 else limiter.is_limited

    assert len(backend._states) <= 1000


async def one_call(limiter: RateLimiter) -> None:
    async with limiter:
        pass
