"""A manager on a store in memory does what workers do for one in SQL: escalate, remind, tell, whoever asks people."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

from llmteam.canvas import HumanTaskHandler, SegmentDefinition, SegmentRunner
from llmteam.human import HumanInteractionManager, InteractionRequest, InteractionStatus, MemoryInteractionStore
from llmteam.human.notifications import NotificationChannel


class Bell(NotificationChannel):
    """Remembers who was told of what."""

    def __init__(self) -> None:
        self.rung: list[tuple[str, list[str]]] = []
        self.heard = asyncio.Event()

    async def send(self, request: InteractionRequest, recipients: list[str]) -> bool:
        self.rung.append((request.title, recipients))
        self.heard.set()
        return True


class Hours:
    """A clock that stands still until it is moved."""

    def __init__(self) -> None:
        self.now = datetime(2026, 1, 2, 3, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now

    def pass_hours(self, hours: float) -> None:
        self.now += timedelta(hours=hours)


def test_time_passes_for_requests_in_memory_whoever_looks() -> None:
    clock, bell = Hours(), Bell()
    manager = HumanInteractionManager(MemoryInteractionStore(clock), clock=clock)
    manager.register_channel("bell", bell)

    async def story() -> list[InteractionStatus]:
        seen = []
        asked = await manager.request_approval(
            message="Pay?", assignee="ann", timeout=timedelta(hours=1), escalation_chain=["bob"]
        )
        for hours in (0.5, 1.0, 1.0):
            clock.pass_hours(hours)
            found = await manager.get_request(asked.request_id)
            assert found is not None
            seen.append(found.status)
        assert await manager.wait_for_response(asked.request_id) is None
        return seen

    seen = asyncio.run(story())

    assert seen == [InteractionStatus.NOTIFIED, InteractionStatus.ESCALATED, InteractionStatus.TIMEOUT]
    assert bell.rung == [("Pay?", ["ann"]), ("Pay?", ["bob"]), ("Pay?", ["bob"])]


def test_who_is_asked_by_a_run_in_this_process_is_told() -> None:
    bell, store = Bell(), MemoryInteractionStore()
    manager = HumanInteractionManager(store)
    manager.register_channel("bell", bell)
    config = {"task_type": "approval", "title": "Ship?", "assignee_ref": "ann"}
    segment = SegmentDefinition.from_dict(
        {"segment_id": "s", "name": "S", "steps": [{"step_id": "ok", "step_type": "human_task", "config": config}]}
    )

    async def answer_when_told() -> None:
        await bell.heard.wait()
        (request,) = await manager.list_pending()
        await manager.respond(request.request_id, "ann", approved=True)

    async def story() -> str:
        runner = SegmentRunner()
        runner.register_handler("human_task", HumanTaskHandler(manager))
        person = asyncio.create_task(answer_when_told())
        async with asyncio.timeout(20):
            result = await runner.run(segment)
            await person
        return result.status.value

    assert asyncio.run(story()) == "completed"
    assert bell.rung == [("Ship?", ["ann"])]
