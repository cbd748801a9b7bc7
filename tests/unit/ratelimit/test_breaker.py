"""The breaker that callers hold: the tables of its contract, blocks around calls, cancellation, statistics."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from llmteam.ratelimit.breaker import MAX_UNTOLD, CircuitBreaker
from llmteam.ratelimit.circuits import memory
from llmteam.ratelimit.circuits.memory import MemoryCircuitBackend
from llmteam.ratelimit.decisions import CircuitBackend, CircuitPermit, LimitKey, Outcome
from llmteam.ratelimit.exceptions import CircuitOpenError
from llmteam.ratelimit.models import CircuitBreakerConfig, CircuitState
from llmteam.tenancy import TenantContext

CONFIG = CircuitBreakerConfig(
    failure_threshold=3,
    open_timeout=timedelta(seconds=30),
    half_open_max_requests=2,
    success_threshold=2,
    open_jitter=0,
)
NOON = datetime(2026, 1, 2, 12, tzinfo=UTC)


class Time:
    """A monotonic clock in a test's hand."""

    def __init__(self) -> None:
        self.seconds = 1_000.0

    def __call__(self) -> float:
        return self.seconds


@pytest.fixture
def time() -> Time:
    return Time()


@pytest.fixture
def breaker(time: Time) -> CircuitBreaker:
    return CircuitBreaker("vendor", CONFIG, monotonic=time, clock=lambda: NOON)


async def fail(breaker: CircuitBreaker, times: int = 3) -> None:
    for _ in range(times):
        await breaker.record_failure()


def test_a_breaker_begins_closed_and_lets_calls_through(breaker: CircuitBreaker) -> None:
    assert asyncio.run(breaker.allow_request()) is True
    assert (breaker.name, breaker.config, breaker.state) == ("vendor", CONFIG, CircuitState.CLOSED)
    assert (breaker.is_closed, breaker.is_open, breaker.is_half_open) == (True, False, False)
    assert breaker.get_retry_after() is None


def test_failures_that_nobody_asked_for_open_it_too(breaker: CircuitBreaker, time: Time) -> None:
    asyncio.run(fail(breaker))
    time.seconds += 12

    with pytest.raises(CircuitOpenError) as refused:
        asyncio.run(breaker.allow_request())

    assert (refused.value.name, refused.value.retry_after) == ("vendor", 18.0)
    assert (breaker.is_open, breaker.get_retry_after(), breaker.get_state_duration()) == (True, 18.0, 12.0)


def test_a_success_clears_the_row(breaker: CircuitBreaker) -> None:
    async def story() -> None:
        await fail(breaker, 2)
        await breaker.record_success()
        await fail(breaker, 2)

    asyncio.run(story())

    assert breaker.is_closed


def test_trials_close_it_again(breaker: CircuitBreaker, time: Time) -> None:
    async def story() -> list[bool]:
        await fail(breaker)
        time.seconds += 30
        await breaker.allow_request()
        seen = [breaker.is_half_open]
        await breaker.record_success()
        await breaker.record_success()
        return [*seen, breaker.is_closed]

    assert asyncio.run(story()) == [True, True]


def test_trials_are_limited_and_a_failed_one_opens_it_again(breaker: CircuitBreaker, time: Time) -> None:
    async def story() -> float | None:
        await fail(breaker)
        time.seconds += 30
        await breaker.allow_request()
        await breaker.allow_request()
        with pytest.raises(CircuitOpenError) as refused:
            await breaker.allow_request()
        await breaker.record_failure()
        return refused.value.retry_after

    assert asyncio.run(story()) == 1.0
    assert (breaker.is_open, breaker.get_retry_after()) == (True, 30.0)


def test_a_state_can_be_set_by_hand(breaker: CircuitBreaker) -> None:
    async def story() -> list[CircuitState]:
        seen = []
        for change in (breaker.force_open, breaker.force_close, breaker.force_open, breaker.reset):
            await change()
            seen.append(breaker.state)
        return seen

    opened, closed = CircuitState.OPEN, CircuitState.CLOSED
    assert asyncio.run(story()) == [opened, closed, opened, closed]


def test_a_reset_forgets_failures(breaker: CircuitBreaker) -> None:
    async def story() -> None:
        await fail(breaker, 2)
        await breaker.reset()
        await fail(breaker, 2)

    asyncio.run(story())

    assert breaker.is_closed


def test_a_breaker_without_a_change_has_lasted_since_it_was_made(breaker: CircuitBreaker, time: Time) -> None:
    time.seconds += 7

    assert breaker.get_state_duration() == 7.0


def test_statistics_tell_what_happened(breaker: CircuitBreaker, time: Time) -> None:
    async def story() -> None:
        await breaker.allow_request()
        await breaker.record_success()
        for _ in range(3):
            await breaker.allow_request()
            await breaker.record_failure()
        with pytest.raises(CircuitOpenError):
            await breaker.allow_request()
        time.seconds += 40
        await breaker.allow_request()
        await breaker.record_ignored()

    asyncio.run(story())

    stats = breaker.get_stats()
    counts = (stats.total_requests, stats.successful_requests, stats.failed_requests, stats.rejected_requests)
    assert counts == (6, 1, 3, 1)
    assert (stats.state_changes, stats.time_in_open, stats.failure_rate) == (2, 40.0, 0.75)
    assert (stats.last_failure_time, stats.last_success_time) == (NOON, NOON)
    assert all(
        moment is not None and moment.tzinfo is UTC for moment in (stats.last_failure_time, stats.last_success_time)
    )


def test_time_in_open_runs_on_and_statistics_can_begin_anew(breaker: CircuitBreaker, time: Time) -> None:
    asyncio.run(breaker.force_open())
    time.seconds += 5
    running = breaker.get_stats()

    breaker.reset_stats()
    time.seconds += 2

    assert (running.time_in_open, running.state_changes) == (5.0, 1)
    assert (breaker.get_stats().time_in_open, breaker.get_stats().state_changes) == (2.0, 0)


def test_each_task_tells_of_its_own_call(breaker: CircuitBreaker, time: Time) -> None:
    async def early(told: asyncio.Event) -> None:
        await breaker.allow_request()
        await told.wait()
        await breaker.record_failure()

    async def story() -> CircuitState:
        told = asyncio.Event()
        late = [asyncio.create_task(early(told)) for _ in range(3)]
        await asyncio.sleep(0)
        await breaker.force_open()
        time.seconds += 30
        await breaker.allow_request()
        told.set()
        await asyncio.gather(*late)
        return breaker.state

    # Their calls began before it opened: what became of them is no news of the trial.
    assert asyncio.run(story()) is CircuitState.HALF_OPEN


def test_calls_that_nobody_tells_of_are_not_kept_for_ever(breaker: CircuitBreaker) -> None:
    async def story() -> None:
        for _ in range(MAX_UNTOLD + 50):
            await breaker.allow_request()

    asyncio.run(story())

    assert len(breaker._untold) == MAX_UNTOLD


def test_a_block_counts_what_it_raises(breaker: CircuitBreaker) -> None:
    for _ in range(3):
        with pytest.raises(ConnectionError), breaker.calling():
            raise ConnectionError

    with pytest.raises(CircuitOpenError), breaker.calling():
        pytest.fail("the block of an open circuit was entered")


def test_a_call_is_awaited_and_its_value_given_back(breaker: CircuitBreaker) -> None:
    async def add(name: int, function: int) -> int:
        return name + function

    results = [
        asyncio.run(breaker.call(add, 1, function=2)),
        asyncio.run(breaker.call(lambda: add(3, 4))),
        asyncio.run(breaker.call(max, 5, 6)),
    ]

    assert results == [3, 7, 6]
    assert breaker.get_stats().successful_requests == 3


def test_a_value_may_be_a_failure(time: Time) -> None:
    config = replace(CONFIG, is_failure=lambda result: isinstance(result, dict) and "error" in result)
    breaker = CircuitBreaker("vendor", config, monotonic=time)

    for _ in range(3):
        asyncio.run(breaker.call(dict, error="overloaded"))

    assert breaker.is_open


def test_an_outcome_can_be_said_outright(breaker: CircuitBreaker) -> None:
    for _ in range(3):
        with breaker.calling() as calling:
            calling.ended(Outcome.FAILURE)

    assert breaker.is_open


def test_a_slow_call_counts_as_failed(time: Time) -> None:
    breaker = CircuitBreaker("vendor", replace(CONFIG, slow_call_seconds=2), monotonic=time)

    for _ in range(3):
        with breaker.calling():
            time.seconds += 2

    assert breaker.is_open


def test_a_cancelled_trial_gives_its_place_back_and_counts_as_nothing(breaker: CircuitBreaker, time: Time) -> None:
    async def trial(begun: asyncio.Event) -> None:
        async with breaker.calling():
            begun.set()
            await asyncio.Event().wait()

    async def story() -> None:
        await breaker.force_open()
        time.seconds += 30
        for _ in range(6):
            begun = asyncio.Event()
            task = asyncio.create_task(trial(begun))
            await begun.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    asyncio.run(story())

    assert breaker.is_half_open
    assert breaker.get_stats().failed_requests == 0


class Hesitant:
    """A backend, as slow as the test likes."""

    in_process = False

    def __init__(self, inner: CircuitBackend) -> None:
        self.inner = inner
        self.asked = threading.Event()
        self.answer = threading.Event()

    def allow(self, key: LimitKey, config: CircuitBreakerConfig, caller: str) -> CircuitPermit:
        self.asked.set()
        assert self.answer.wait(30)
        return self.inner.allow(key, config, caller)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)


def test_a_trial_granted_to_a_caller_that_was_cancelled_meanwhile_is_given_back(time: Time) -> None:
    inner = MemoryCircuitBackend(now=lambda: round(time() * 1000))
    slow = Hesitant(inner)
    config = replace(CONFIG, half_open_max_requests=1)
    breaker = CircuitBreaker("vendor", config, backend=slow, monotonic=time)

    async def story() -> None:
        await breaker.force_open()
        time.seconds += 30
        task = asyncio.create_task(breaker.allow_request())
        await asyncio.to_thread(slow.asked.wait, 30)
        task.cancel()
        slow.answer.set()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(story())

    assert breaker.is_half_open
    assert inner.allow(breaker.key, config, "next").admitted


def test_each_tenant_has_its_own_circuit(breaker: CircuitBreaker) -> None:
    with TenantContext("acme"):
        asyncio.run(fail(breaker))
        acme = breaker.state

    with TenantContext("globex"):
        globex = breaker.state

    assert (acme, globex) == (CircuitState.OPEN, CircuitState.CLOSED)


def test_an_outcome_of_one_tenant_is_not_told_of_the_call_of_another(breaker: CircuitBreaker) -> None:
    async def calling(tenant_id: str, story: Coroutine[Any, Any, object]) -> None:
        with TenantContext(tenant_id):
            await story

    async def story() -> None:
        await asyncio.create_task(calling("acme", breaker.allow_request()))
        for _ in range(3):
            await asyncio.create_task(calling("globex", breaker.record_failure()))

    asyncio.run(story())

    with TenantContext("acme"):
        acme = breaker.state
    with TenantContext("globex"):
        globex = breaker.state
    assert (acme, globex) == (CircuitState.CLOSED, CircuitState.OPEN)


def test_a_circuit_of_all_tenants_is_one(time: Time) -> None:
    breaker = CircuitBreaker("vendor", CONFIG, monotonic=time, tenant_id="")

    with TenantContext("acme"):
        asyncio.run(fail(breaker))

    with TenantContext("globex"):
        assert breaker.is_open


def test_breakers_of_one_name_share_nothing_unless_their_backend_does(time: Time) -> None:
    shared = MemoryCircuitBackend(now=lambda: round(time() * 1000))
    first, second = (CircuitBreaker("vendor", CONFIG, backend=shared) for _ in range(2))
    apart = CircuitBreaker("vendor", CONFIG)

    asyncio.run(fail(first))

    assert (second.is_open, apart.is_open) == (True, False)


def test_a_breaker_serves_one_loop_after_the_other_and_many_threads(breaker: CircuitBreaker) -> None:
    def use() -> None:
        for _ in range(50):
            asyncio.run(breaker.call(int))

    threads = [threading.Thread(target=use) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert breaker.get_stats().successful_requests == 200


def test_circuits_in_memory_are_not_kept_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "MAX_CIRCUITS", 3)
    backend = MemoryCircuitBackend()
    keys = [LimitKey("vendor", part=str(number)) for number in range(4)]

    for key in keys:
        backend.force(key, CONFIG, CircuitState.OPEN)

    assert [backend.look(key, CONFIG).state is CircuitState.OPEN for key in keys] == [False, True, True, True]


def test_a_forked_child_does_not_wait_for_a_lock_of_its_parent() -> None:
    backend = MemoryCircuitBackend()
    before = backend._lock

    with before:
        memory._after_fork()
        seen = backend.look(LimitKey("vendor"), CONFIG)

    assert seen.admitted
