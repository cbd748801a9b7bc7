"""What a trace tells of people who are asked, of pauses, and of limits."""

from __future__ import annotations

import asyncio
from typing import Any

from llmteam.canvas import HumanTaskHandler, SegmentRunner, SegmentStatus
from llmteam.human import HumanInteractionManager, MemoryInteractionStore
from llmteam.runtime.context import StepContext
from tests.drawing import draw
from tests.looping import in_a_loop
from tests.spans import Spans, said
from tests.waiting import wait_until_async


@in_a_loop
async def test_the_time_in_which_a_person_is_waited_for_is_a_span_beside_the_attempt_that_asked(spans: Spans) -> None:
    manager, runner = HumanInteractionManager(MemoryInteractionStore()), SegmentRunner()
    runner.register_handler("human_task", HumanTaskHandler(manager))
    running = asyncio.create_task(runner.run(draw("human_1", segment_id="ask")))
    found = await wait_until_async(lambda: manager.store.core.open_requests("default"), "somebody to be asked")

    await manager.respond(found[0].request_id, "ann", approved=True, comment="a secret of ann")
    await asyncio.wait_for(running, 20)

    asked, waited = spans.one("step human_1"), spans.one("wait human_1")
    assert said(asked, "outcome") == ("asked",)
    assert said(waited, "outcome", "waited_for", "step_type") == ("completed", "person", "human_task")
    assert (asked.end_time or 0) <= (waited.end_time or 0)
    assert spans.under(spans.one("run ask")) == ["step human_1", "wait human_1"]
    assert "a secret of ann" not in spans.text


@in_a_loop
async def test_an_attempt_that_a_pause_takes_back_is_told_as_released(spans: Spans) -> None:
    goes, began = asyncio.Event(), asyncio.Event()

    async def gated(ctx: StepContext, config: dict[str, Any], input_data: Any) -> str:
        began.set()
        await goes.wait()
        return "done"

    runner = SegmentRunner()
    runner.register_handler("work", gated)
    run_id = await runner.start(draw("a", segment_id="shop"))
    await began.wait()

    snapshot_id = await runner.pause(run_id, grace=0)
    assert snapshot_id is not None
    goes.set()
    await wait_until_async(lambda: spans.named("step a"), "the attempt to be told")
    result = await asyncio.wait_for(runner.resume(snapshot_id), 20)

    assert result.status is SegmentStatus.COMPLETED
    assert [said(span, "outcome", "attempt") for span in spans.named("step a")] == [("released", 1), ("completed", 1)]
    assert spans.under(spans.one("run shop")) == ["step a", "step a"]
