"""Runs in one process that ask people: answers are noticed, also after a pause."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest

from llmteam.canvas import HumanTaskHandler, RunConfig, SegmentRunner, SegmentStatus, create_human_task_handler
from llmteam.errors import ConfigurationError
from llmteam.human import HumanInteractionManager, InteractionRequest, MemoryInteractionStore
from llmteam.human.postgres import PostgresInteractionStore
from tests.drawing import draw
from tests.unit.canvas.test_local_runs import in_a_loop
from tests.waiting import wait_until_async


def office() -> tuple[SegmentRunner, HumanInteractionManager]:
    manager, runner = HumanInteractionManager(MemoryInteractionStore()), SegmentRunner()
    runner.register_handler("human_task", HumanTaskHandler(manager))
    return runner, manager


async def asked(manager: HumanInteractionManager) -> InteractionRequest:
    core = manager.store.core
    found = await wait_until_async(lambda: core.open_requests("default"), "somebody to be asked")
    return found[0]


@in_a_loop
async def test_a_run_goes_on_with_the_answer() -> None:
    runner, manager = office()
    running = asyncio.create_task(runner.run(draw("human_1"), input_data={"n": 1}))

    await manager.respond((await asked(manager)).request_id, "ann", approved=True, comment="fine")
    result = await asyncio.wait_for(running, 20)

    assert result.status is SegmentStatus.COMPLETED
    assert result.outputs["approved"]["comment"] == "fine"


@in_a_loop
async def test_a_handler_of_its_own_asks_in_memory_and_waits_as_long_as_it_was_told() -> None:
    handler, runner = HumanTaskHandler(timeout_seconds=90), SegmentRunner()
    runner.register_handler("human_task", handler)
    running = asyncio.create_task(runner.run(draw("human_1")))

    request = await asked(handler.manager)
    await handler.manager.respond(request.request_id, "ann", approved=True)
    result = await asyncio.wait_for(running, 20)

    assert result.status is SegmentStatus.COMPLETED
    assert request.timeout == timedelta(seconds=90)
    assert HumanTaskHandler().timeout_seconds == 86400


@in_a_loop
async def test_what_a_step_says_of_its_time_counts_before_what_its_handler_does() -> None:
    handler, runner = create_human_task_handler(), SegmentRunner()
    runner.register_handler("human_task", handler)
    await runner.start(draw("human_1", config={"human_1": {"timeout_hours": 2}}))

    request = await asked(handler.manager)

    assert request.timeout == timedelta(hours=2)


@in_a_loop
async def test_a_run_that_was_paused_while_it_asked_notices_the_answer_after_the_resume() -> None:
    runner, manager = office()
    run_id = await runner.start(draw("human_1"))
    request = await asked(manager)
    snapshot_id = await runner.pause(run_id)
    assert snapshot_id is not None
    resumed = asyncio.create_task(runner.resume(snapshot_id))
    await wait_until_async(lambda: not runner.is_paused(run_id), "the run to go on")

    await manager.respond(request.request_id, "ann", approved=True)
    result = await asyncio.wait_for(resumed, 20)

    assert result.status is SegmentStatus.COMPLETED


@in_a_loop
async def test_an_answer_while_the_run_is_paused_is_applied_at_the_resume() -> None:
    runner, manager = office()
    run_id = await runner.start(draw("human_1"))
    request = await asked(manager)
    snapshot_id = await runner.pause(run_id)
    assert snapshot_id is not None

    await manager.respond(request.request_id, "ann", approved=True, comment="meanwhile")
    result = await asyncio.wait_for(runner.resume(snapshot_id), 20)

    assert result.outputs["approved"]["comment"] == "meanwhile"


@in_a_loop
async def test_a_run_that_is_cancelled_takes_its_request_back() -> None:
    runner, manager = office()
    run_id = await runner.start(draw("human_1"))
    request = await asked(manager)

    assert await runner.cancel(run_id)

    found = await manager.get_request(request.request_id)
    assert found is not None
    assert found.status.value == "cancelled"


def test_who_started_a_run_is_a_name() -> None:
    assert RunConfig(started_by="ann").started_by == "ann"
    with pytest.raises(ValueError, match="started_by"):
        RunConfig(started_by="a\nb")


def test_a_manager_whose_requests_live_elsewhere_is_refused() -> None:
    manager = HumanInteractionManager(PostgresInteractionStore("postgresql://me@127.0.0.1:9/x"))

    with pytest.raises(ConfigurationError, match="both"):
        SegmentRunner().register_handler("human_task", HumanTaskHandler(manager))
