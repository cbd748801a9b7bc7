"""A store in memory has no sweep: whoever waits looks after the request."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import timedelta

import pytest

from llmteam.audit.models import AuditDraft
from llmteam.human import (
    HumanInteractionManager,
    InteractionRequest,
    InteractionStatus,
    MemoryInteractionStore,
    manager,
)
from llmteam.human.notifications import NotificationChannel
from tests.conformance.people import MovingClock
from tests.waiting import wait_until_async


class Told(NotificationChannel):
    """A channel that takes everything and remembers it, and a trail that does."""

    def __init__(self) -> None:
        self.sent: list[tuple[InteractionStatus, list[str]]] = []
        self.kept: list[str] = []

    async def send(self, request: InteractionRequest, recipients: list[str]) -> bool:
        self.sent.append((request.status, recipients))
        return True

    async def record(self, drafts: Sequence[AuditDraft]) -> None:
        self.kept += [draft.action for draft in drafts]


def test_a_waiter_reminds_escalates_and_times_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(manager, "POLL_SECONDS", 0.01)
    clock, told = MovingClock(), Told()
    people = HumanInteractionManager(MemoryInteractionStore(clock), audit_trail=told, clock=clock)
    people.register_channel("told", told)

    async def story() -> None:
        asked = await people.request_approval(
            message="Go on?", assignee="ann", timeout=600, reminder=400, escalation_chain=["boss"]
        )
        waiting = asyncio.ensure_future(people.wait_for_response(asked.request_id))
        for seconds, action in ((401, "remind"), (200, "escalate"), (601, "time_out")):
            clock.ahead += timedelta(seconds=seconds)
            await wait_until_async(lambda action=action: action in told.kept, f"the waiter to {action}")
        assert await asyncio.wait_for(waiting, 20) is None
        ended = await people.get_request(asked.request_id)
        assert ended is not None
        assert (ended.status, ended.current_escalation_level) == (InteractionStatus.TIMEOUT, 1)

    asyncio.run(story())

    assert [people for _, people in told.sent[:3]] == [["ann"], ["ann"], ["boss"]]
    assert told.kept[:3] == ["request", "remind", "escalate"]


def test_a_manager_that_tells_nobody_leaves_it_to_the_one_that_does() -> None:
    store, told = MemoryInteractionStore(), Told()
    telling, silent = HumanInteractionManager(store, audit_trail=told), HumanInteractionManager(store)

    async def story() -> None:
        asked = await silent.request_approval(message="Go on?", assignee="ann")
        await silent.respond(asked.request_id, "ann", approved=True)
        assert told.kept == []
        await telling.list_pending()

    asyncio.run(story())

    assert told.kept == ["request", "approve"]


def test_a_waiter_gets_the_answer_of_whom_it_was_escalated_to(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(manager, "POLL_SECONDS", 0.01)
    clock = MovingClock()
    people = HumanInteractionManager(MemoryInteractionStore(clock), clock=clock)

    async def story() -> None:
        asked = await people.request_approval(message="Go on?", assignee="ann", timeout=600, escalation_chain=["boss"])
        waiting = asyncio.ensure_future(people.wait_for_response(asked.request_id))
        clock.ahead += timedelta(seconds=601)
        await wait_until_async(
            lambda: people.store.core.open_requests("default", person="boss"), "the escalation to the boss"
        )
        given = await people.respond(asked.request_id, "boss", approved=True)
        assert await asyncio.wait_for(waiting, 20) == given

    asyncio.run(story())
