"""Agents side by side in one process: limits, order, retries, time-outs, back-pressure, isolation."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from llmteam.execution import ExecutionMode, ExecutionStats, ExecutorConfig, PipelineExecutor
from llmteam.execution.attempts import delay_before
from llmteam.execution.stats import RECENT, Throttle
from llmteam.licensing import LicenseManager, LicenseTier, get_license_manager
from llmteam.ratelimit import RateLimitExceeded
from llmteam.tenancy import TenantContext, current_tenant
from tests.looping import in_a_loop
from tests.waiting import wait_until


class Agent:
    def __init__(self, name: str, work: Callable[[dict[str, Any]], Any]) -> None:
        self.name = name
        self._work = work
        self.calls = 0

    async def process(self, input_data: dict[str, Any]) -> Any:
        self.calls += 1
        found = self._work(input_data)
        return await found if asyncio.iscoroutine(found) else found


class Gathering:
    """Agents that are inside at once, and those that have been let go."""

    def __init__(self) -> None:
        self.inside = 0
        self.most = 0
        self.door = asyncio.Event()

    async def visit(self, _: Any) -> int:
        self.inside += 1
        self.most = max(self.most, self.inside)
        try:
            await self.door.wait()
        finally:
            self.inside -= 1
        return self.most

    def agents(self, count: int) -> list[Agent]:
        return [Agent(f"a{number}", self.visit) for number in range(count)]


def failing(*errors: Exception) -> Callable[[Any], Any]:
    """Raises each of ``errors`` in turn, and succeeds then."""
    left = list(errors)

    def work(_: Any) -> str:
        if left:
            raise left.pop(0)
        return "done"

    return work


async def settled() -> None:
    """Let everything run that can."""
    for _ in range(50):
        await asyncio.sleep(0)


async def forever(_: Any) -> None:
    await asyncio.Event().wait()


def executor(**given: Any) -> PipelineExecutor:
    return PipelineExecutor(ExecutorConfig(**{"retry_delay": 0.0, **given}))


@in_a_loop
async def test_there_is_a_result_for_each_agent_in_the_given_order() -> None:
    def wrong(_: Any) -> None:
        raise ValueError("no")

    class Nameless:
        async def process(self, input_data: dict[str, Any]) -> int:
            return int(input_data["n"])

    made = executor()
    results = await made.execute_parallel(
        [Agent("one", lambda given: given["n"] + 1), Agent("two", wrong), Nameless()], {"n": 1}
    )

    assert [(one.agent_name, one.success, one.result, one.error, one.error_type) for one in results] == [
        ("one", True, 2, None, None),
        ("two", False, None, "no", "ValueError"),
        ("unknown", True, 1, None, None),
    ]
    assert len({one.task_id for one in results}) == 3
    stats = made.get_stats()
    assert (stats.total_tasks, stats.completed_tasks, stats.failed_tasks) == (3, 2, 1)
    assert await made.execute_parallel([], {}) == []
    assert results[1].to_dict()["error_type"] == "ValueError"


@in_a_loop
async def test_no_agent_sees_what_another_one_or_the_caller_does_with_the_input() -> None:
    given = {"seen": ["mine"]}

    def work(own: dict[str, Any]) -> list[str]:
        own["seen"].append("theirs")
        return list(own["seen"])

    results = await executor().execute([Agent("a", work), Agent("b", work)], given)

    assert [one.result for one in results] == [["mine", "theirs"]] * 2
    assert given == {"seen": ["mine"]}


@in_a_loop
async def test_never_more_run_at_once_than_allowed_over_all_calls() -> None:
    gathering, made = Gathering(), executor(max_concurrent=3, mode="parallel")
    calls = [asyncio.create_task(made.execute(gathering.agents(5), {})) for _ in range(2)]

    await settled()
    stats = made.get_stats()
    gathering.door.set()
    await asyncio.gather(*calls)

    assert (stats.current_running, stats.current_queue_size) == (3, 7)
    assert gathering.most == 3
    assert (made.get_stats().current_running, made.get_stats().current_queue_size) == (0, 0)


@in_a_loop
async def test_sequential_is_one_at_a_time_in_order() -> None:
    order: list[str] = []
    inside = 0

    def agent(name: str) -> Agent:
        async def work(_: Any) -> None:
            nonlocal inside
            inside += 1
            assert inside == 1
            await asyncio.sleep(0)
            order.append(name)
            inside -= 1

        return Agent(name, work)

    results = await executor(mode="sequential").execute_parallel([agent(name) for name in "abcd"], {})

    assert order == ["a", "b", "c", "d"]
    assert all(one.success for one in results)


@in_a_loop
async def test_what_may_pass_is_tried_again_and_nothing_else() -> None:
    made = executor(max_retries=2)
    agents = [
        Agent("connection", failing(ConnectionError("x"), TimeoutError("y"))),
        Agent("limit", failing(RateLimitExceeded("api", 0.0))),
        Agent("mistake", failing(ValueError("bad"))),
        Agent("hopeless", failing(*[ConnectionError(str(number)) for number in range(9)])),
    ]

    results = await made.execute(agents, {})

    assert [(one.success, one.retries, one.error) for one in results] == [
        (True, 2, None),
        (True, 1, None),
        (False, 0, "bad"),
        (False, 2, "2"),
    ]
    assert [agent.calls for agent in agents] == [3, 2, 1, 3]
    assert made.get_stats().total_tasks == 4


@in_a_loop
async def test_waiting_for_a_retry_gives_the_place_back() -> None:
    made = executor(max_concurrent=1, max_retries=1, retry_delay=30.0, mode="parallel")
    failed = asyncio.create_task(made.execute([Agent("a", failing(ConnectionError("x")))], {}))
    await settled()

    (other,) = await made.execute([Agent("b", lambda _: "in between")], {})

    assert other.result == "in between"
    failed.cancel()
    with pytest.raises(asyncio.CancelledError):
        await failed
    assert made.get_stats().current_queue_size == 0


@in_a_loop
async def test_an_agent_over_its_time_fails_with_timeout_and_is_stopped() -> None:
    stopped = []

    async def work(_: Any) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            stopped.append(True)

    (result,) = await executor(task_timeout=0.05, max_retries=1).execute([Agent("slow", work)], {})

    assert (result.success, result.error, result.error_type, result.retries) == (False, "timeout", "TimeoutError", 1)
    assert result.duration_ms > 0
    assert stopped == [True, True]


@in_a_loop
async def test_what_an_agent_gives_after_its_time_does_not_count() -> None:
    async def stubborn(_: Any) -> str:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            return "late"
        return "never"

    (result,) = await executor(task_timeout=0.05, max_retries=0).execute([Agent("slow", stubborn)], {})

    assert (result.success, result.result, result.error) == (False, None, "timeout")


@in_a_loop
async def test_a_call_over_its_time_returns_what_is_done() -> None:
    made = executor(total_timeout=0.2, max_concurrent=2, queue_size=1, mode="parallel")
    agents = [Agent("fast", lambda _: 1), *[Agent(f"s{number}", forever) for number in range(4)]]

    results = await made.execute(agents, {})

    assert results[0].success
    assert [(one.error, one.error_type) for one in results[1:]] == [
        ("timeout", "TotalTimeout"),
        ("timeout", "TotalTimeout"),
        ("timeout", "TotalTimeout"),
        ("queue full", "QueueFull"),
    ]
    stats = made.get_stats()
    assert (stats.total_tasks, stats.current_running, stats.current_queue_size) == (5, 0, 0)


@in_a_loop
async def test_back_pressure_is_there_while_many_wait_and_counted_once() -> None:
    gathering, made = Gathering(), executor(max_concurrent=1, queue_size=5, mode="parallel")
    relaxed = executor(max_concurrent=1, queue_size=5, mode="parallel", enable_backpressure=False)
    assert not made.is_backpressure()
    calls = [asyncio.create_task(one.execute(gathering.agents(5), {})) for one in (made, relaxed)]

    await settled()
    pressed = made.is_backpressure(), relaxed.is_backpressure()
    gathering.door.set()
    await asyncio.gather(*calls)

    assert pressed == (True, False)
    assert not made.is_backpressure()
    assert made.get_stats().backpressure_events == 1


@in_a_loop
async def test_cancelling_the_call_cancels_its_agents() -> None:
    gathering, made = Gathering(), executor(max_concurrent=2)
    call = asyncio.create_task(made.execute(gathering.agents(4), {}))
    await settled()
    assert gathering.inside == 2

    call.cancel()

    with pytest.raises(asyncio.CancelledError):
        await call
    assert gathering.inside == 0
    assert (made.get_stats().current_running, made.get_stats().current_queue_size) == (0, 0)


@in_a_loop
async def test_an_agent_that_cancels_itself_has_failed_and_nothing_else() -> None:
    def work(_: Any) -> None:
        raise asyncio.CancelledError

    bad, good = await executor().execute([Agent("bad", work), Agent("good", lambda _: 1)], {})

    assert (bad.success, bad.error_type, good.success) == (False, "CancelledError", True)


@in_a_loop
async def test_what_is_no_agent_has_failed_and_keeps_nobody_from_working() -> None:
    bad, good = await executor().execute([object(), Agent("good", lambda _: 1)], {})

    assert (bad.success, bad.error_type, bad.error) == (
        False,
        "TypeError",
        "object has no method process(input_data)",
    )
    assert good.result == 1


@in_a_loop
async def test_a_plain_agent_runs_in_a_thread_for_the_callers_tenant() -> None:
    class Plain:
        name = "plain"

        def process(self, input_data: dict[str, Any]) -> tuple[str, bool]:
            return current_tenant.get(), threading.current_thread() is threading.main_thread()

    with TenantContext("acme"):
        (result,) = await executor().execute([Plain()], {})

    assert result.result == ("acme", False)


@in_a_loop
async def test_a_tenants_limit_holds_over_its_calls_and_none_means_nothing_runs() -> None:
    limits = {"acme": 1, "globex": 0}

    async def limit_of(tenant_id: str) -> int | None:
        return limits.get(tenant_id)

    made = PipelineExecutor(ExecutorConfig(mode=ExecutionMode.PARALLEL), limit_of=limit_of)
    gathering = Gathering()

    with TenantContext("acme"):
        calls = [asyncio.create_task(made.execute(gathering.agents(2), {})) for _ in range(2)]
        await settled()
    with TenantContext("globex"):
        refused = await made.execute([Agent("a", lambda _: 1)], {})
    gathering.door.set()
    await asyncio.gather(*calls)

    assert gathering.most == 1
    assert [(one.error, one.error_type) for one in refused] == [("not allowed", "LimitExceeded")]


def test_one_executor_serves_one_event_loop_after_another() -> None:
    made = executor(max_concurrent=1)

    for _ in range(3):
        results = asyncio.run(made.execute([Agent("a", lambda _: 1), Agent("b", lambda _: 2)], {}))
        assert [one.result for one in results] == [1, 2]


def test_event_loops_of_several_threads_share_the_limit() -> None:
    made, lock, inside, most = executor(max_concurrent=2, mode="parallel"), threading.Lock(), [0], [0]

    async def work(_: Any) -> None:
        with lock:
            inside[0] += 1
            most[0] = max(most[0], inside[0])
        await asyncio.sleep(0.001)
        with lock:
            inside[0] -= 1

    def call() -> None:
        asyncio.run(made.execute([Agent(str(number), work) for number in range(20)], {}))

    threads = [threading.Thread(target=call) for _ in range(4)]
    for thread in threads:
        thread.start()
    wait_until(lambda: not any(thread.is_alive() for thread in threads), "all calls to return")

    assert most == [2]
    assert made.get_stats().completed_tasks == 80


def test_statistics_are_a_copy_and_can_begin_anew() -> None:
    made = executor()
    asyncio.run(made.execute([Agent("a", lambda _: 1)], {}))
    before = made.get_stats()

    made.reset_stats()

    assert before.completed_tasks == 1
    assert made.get_stats() == ExecutionStats()


def test_the_average_is_that_of_successes() -> None:
    stats = ExecutionStats(completed_tasks=5, total_duration_ms=500)

    stats.update_avg_duration()

    assert stats.avg_duration_ms == 100.0


def test_trouble_halves_what_an_adaptive_executor_runs_at_once_and_successes_restore_it() -> None:
    throttle = Throttle(8)

    for _ in range(RECENT):
        throttle.finished(False, pressed=False)
    assert throttle.allowed == 4
    for _ in range(RECENT // 2):
        throttle.finished(True, pressed=False)
    assert throttle.allowed == 5
    for _ in range(5):
        throttle.finished(True, pressed=False)
    assert throttle.allowed == 8
    throttle.finished(True, pressed=True)
    assert throttle.allowed == 4
    assert Throttle(1).allowed == 1


@pytest.mark.parametrize(
    "wrong",
    [
        {"max_concurrent": 0},
        {"queue_size": 0},
        {"task_timeout": 0},
        {"total_timeout": -1},
        {"max_retries": -1},
        {"retry_delay": -0.1},
        {"backpressure_threshold": 0},
        {"backpressure_threshold": 1.1},
        {"mode": "sideways"},
    ],
)
def test_a_limit_that_makes_no_sense_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=str(next(iter(wrong.values())))):
        ExecutorConfig(**wrong)


def test_pauses_double_up_to_a_minute_and_heed_what_the_error_asks_for() -> None:
    class Busy(Exception):  # noqa: N818
        retry_after = 7.0

    plain = ConnectionError()

    assert [delay_before(1.0, retry, plain, 0.0) for retry in (1, 2, 3, 40)] == [0.5, 1.0, 2.0, 30.0]
    assert delay_before(1.0, 40, plain, 0.999) <= 60
    assert delay_before(1.0, 1, Busy(), 0.5) == 7.0


@pytest.fixture
def licences() -> Iterator[LicenseManager]:
    """The licences of this process, forgotten afterwards."""
    LicenseManager.reset()
    yield get_license_manager()
    LicenseManager.reset()


@in_a_loop
async def test_the_lowest_of_what_is_configured_and_what_the_tenants_licence_says_holds(
    licences: LicenseManager,
) -> None:
    await licences.set_license("acme", LicenseTier.COMMUNITY)
    most = {}

    for tenant_id, wanted in (("acme", 8), ("acme", 1), ("globex", 8)):
        made, gathering = executor(max_concurrent=wanted, mode="parallel"), Gathering()
        with TenantContext(tenant_id):
            call = asyncio.create_task(made.execute(gathering.agents(8), {}))
            await settled()
        gathering.door.set()
        await call
        most[tenant_id, wanted] = gathering.most

    assert most == {("acme", 8): 2, ("acme", 1): 1, ("globex", 8): 8}
