"""Runs inside one process: whose they are, what they keep, and what is left when they are over."""

from __future__ import annotations

import asyncio
import functools
import threading
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from llmteam.canvas import AlreadyRunningError, RunConfig, SegmentRunner, SegmentValidationError
from llmteam.canvas.state import SegmentStatus
from llmteam.canvas.stores import MemoryRunStore
from llmteam.errors import InfrastructureError
from llmteam.events import EventStream, MemoryEventStore
from llmteam.persistence import SnapshotManager, SnapshotType
from llmteam.runtime import RuntimeContext, default_manager
from llmteam.runtime.context import StepContext
from llmteam.tenancy import TenantContext
from llmteam.tenancy.admission import StartLimits
from tests.drawing import draw
from tests.waiting import wait_until_async


def in_a_loop(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """A test that is a coroutine."""

    @functools.wraps(test)
    def run(*args: Any, **kwargs: Any) -> None:
        asyncio.run(test(*args, **kwargs))

    return run


class Gate:
    """A handler that waits until it is opened, and what its context showed."""

    def __init__(self) -> None:
        self.opened = asyncio.Event()
        self.seen: list[StepContext] = []

    async def __call__(self, ctx: StepContext, config: dict[str, Any], input_data: Any) -> Any:
        self.seen.append(ctx)
        await self.opened.wait()
        return ctx.runtime.data.get("mark")


def runner_with(handler: Any) -> SegmentRunner:
    runner = SegmentRunner()
    runner.register_handler("work", handler)
    return runner


def runtime_of(tenant_id: str, run_id: str = "run-1", **data: Any) -> RuntimeContext:
    return default_manager().create_runtime(tenant_id, "", run_id=run_id, data=data)


@in_a_loop
async def test_a_second_start_leaves_the_first_run_its_runtime() -> None:
    gate = Gate()
    runner = runner_with(gate)
    first, segment = runtime_of("acme", mark="first"), draw("a -> b")
    running = asyncio.create_task(runner.run(segment, first))
    await wait_until_async(lambda: gate.seen, "the first step")

    await runner.start(segment, runtime_of("acme", mark="second"))
    with pytest.raises(AlreadyRunningError):
        await runner.start(draw("a -> b -> c"), runtime_of("acme", mark="third"))
    gate.opened.set()

    assert (await running).outputs == {"output": "first"}
    assert all(ctx.runtime is first for ctx in gate.seen)


@in_a_loop
async def test_runs_of_two_tenants_may_have_one_id() -> None:
    gate = Gate()
    runner = runner_with(gate)
    gate.opened.set()

    ours, theirs = await asyncio.gather(
        runner.run(draw("a -> b"), runtime_of("acme", mark="ours")),
        runner.run(draw("a -> b"), runtime_of("globex", mark="theirs")),
    )

    assert (ours.outputs, theirs.outputs) == ({"output": "ours"}, {"output": "theirs"})


@in_a_loop
async def test_a_run_is_found_by_its_id_whoever_is_the_current_tenant() -> None:
    gate = Gate()
    runner = runner_with(gate)

    run_id = await runner.start(draw("a"), runtime_of("acme"))
    assert await runner.get_status(run_id) is SegmentStatus.RUNNING
    gate.opened.set()

    assert (await runner.result(run_id)).status is SegmentStatus.COMPLETED
    assert await runner.get_status(run_id) is SegmentStatus.COMPLETED


@in_a_loop
async def test_runs_that_run_or_are_paused_are_listed_for_whoever_asks() -> None:
    gate = Gate()
    runner = runner_with(gate)
    for tenant_id, run_id in (("acme", "a"), ("globex", "g"), ("acme", "paused")):
        await runner.start(draw("a -> b"), runtime_of(tenant_id, run_id))
    await runner.pause("paused", grace=0)

    with TenantContext("acme"):
        mine = (runner.list_running(), runner.list_paused())
    with TenantContext("initech"):
        others = (runner.list_running(), runner.list_paused())
    everyones = (runner.list_running(), runner.list_paused())

    gate.opened.set()
    await asyncio.gather(runner.result("a"), runner.result("g"), runner.cancel("paused"))
    assert mine == (["a"], ["paused"])
    assert others == ([], [])
    assert everyones == (["g", "a"], ["paused"])
    assert (runner.list_running(), runner.list_paused()) == ([], [])


@pytest.mark.parametrize("segment", [{"segment_id": "s"}, None, 17])
@in_a_loop
async def test_what_is_no_segment_is_refused_with_a_word_on_what_is_one(segment: Any) -> None:
    with pytest.raises(SegmentValidationError, match=r"the segment is a .*SegmentDefinition\.from_dict"):
        await SegmentRunner().run(segment, runtime_of("acme"), {})


@in_a_loop
async def test_nothing_is_kept_of_a_run_that_is_over() -> None:
    gate = Gate()
    gate.opened.set()
    runner = runner_with(gate)

    run_id = await runner.start(draw("a -> b"), runtime_of("acme"))
    await runner.result(run_id)

    assert runner._local is not None
    assert (runner._runtimes, runner._local._tasks, runner._local._timers) == ({}, {}, {})


@in_a_loop
async def test_a_caller_that_is_cancelled_while_it_starts_a_run_leaves_none_behind() -> None:
    gate = Gate()
    runner = runner_with(gate)
    calling = asyncio.create_task(runner.run(draw("a"), runtime_of("acme")))
    await asyncio.sleep(0)

    calling.cancel()
    with pytest.raises(asyncio.CancelledError):
        await calling

    assert await runner.get_status("run-1") in (None, SegmentStatus.CANCELLED)


@in_a_loop
async def test_a_failure_stops_the_branches_that_still_work() -> None:
    stopped = asyncio.Event()

    async def work(ctx: StepContext, config: dict[str, Any], input_data: Any) -> None:
        if ctx.step_id == "b":
            raise ValueError("broken")
        try:
            await asyncio.Event().wait()
        finally:
            stopped.set()

    runner = runner_with(work)
    run_id = await runner.start(draw("split_1 -> a -> all_1", "split_1 -> b -> all_1", max_retries=0))

    async with asyncio.timeout(5):
        await stopped.wait()
    assert (await runner.result(run_id)).status is SegmentStatus.FAILED


@in_a_loop
async def test_a_handler_that_blocks_keeps_no_other_from_running() -> None:
    """As many as a default thread pool has, and more."""
    release = threading.Event()

    def work(ctx: StepContext, config: dict[str, Any], input_data: Any) -> None:
        if ctx.step_id != "free":
            release.wait(10)
        else:
            release.set()

    branches = [f"split_1 -> b{number} -> all_1" for number in range(40)]

    result = await runner_with(work).run(draw(*branches, "split_1 -> free -> all_1"))

    assert result.status is SegmentStatus.COMPLETED
    assert result.duration_ms < 8_000


class ShakyStore(MemoryRunStore):
    """Does not answer each second call of a step."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def shake(self) -> None:
        self.calls += 1
        if self.calls % 2:
            raise InfrastructureError("away for a moment")

    def gather(self, *args: Any) -> Any:
        self.shake()
        return super().gather(*args)

    def apply(self, *args: Any, **kwargs: Any) -> Any:
        self.shake()
        return super().apply(*args, **kwargs)


@in_a_loop
async def test_a_short_outage_of_the_store_costs_no_step() -> None:
    runner = SegmentRunner(store=ShakyStore())
    gate = Gate()
    gate.opened.set()
    runner.register_handler("work", gate)

    assert (await runner.run(draw("a -> b -> c"))).status is SegmentStatus.COMPLETED
    assert len(gate.seen) == 3


@in_a_loop
async def test_a_process_of_another_region_runs_nothing_of_a_tenant_and_says_so(
    caplog: pytest.LogCaptureFixture,
) -> None:
    events, homes = MemoryEventStore(), {"acme": StartLimits(region="eu-west-1")}
    store = MemoryRunStore(sink=events.add, limits_of=homes.get)
    runner = SegmentRunner(event_stream=EventStream(events), store=store)
    gate = Gate()
    gate.opened.set()
    runner.register_handler("work", gate)
    segment = draw("a -> b")

    with TenantContext("acme"):
        waiting = await runner.start(segment)
    with TenantContext("globex"):
        ended = await runner.run(segment)

    assert ended.status is SegmentStatus.COMPLETED
    assert await runner.get_status(waiting, tenant_id="acme") is SegmentStatus.RUNNING
    assert "waits for a worker of the region eu-west-1: this process is in default" in caplog.text


@in_a_loop
async def test_snapshots_that_a_run_takes_of_itself_are_found_through_its_runner() -> None:
    def asks(ctx: StepContext, config: dict[str, Any], input_data: Any) -> str:
        if ctx.step_id == "c":
            ctx.checkpoint()
        return ctx.step_id

    runner = SegmentRunner()
    runner.register_handler("work", asks)

    result = await runner.run(draw("a -> b -> c"), runtime_of("acme"), config=RunConfig(snapshot_interval=2))

    with TenantContext("acme"):
        listed = await SnapshotManager(runner.snapshots).list_snapshots("drawn")
        latest = await runner.snapshots.load_latest(result.run_id)
    assert [one.snapshot_type for one in listed] == [SnapshotType.CHECKPOINT, SnapshotType.AUTO]
    assert latest == listed[0]
    found = await runner.get_snapshot(listed[1].snapshot_id, tenant_id="acme")
    assert found is not None
    assert (found.completed_steps, found.step_outputs) == (["a", "b"], {"a": "a", "b": "b"})
