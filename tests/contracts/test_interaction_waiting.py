"""Waiting for an answer, over both stores alike."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any

import pytest

from llmteam.human import HumanInteractionManager, InteractionRequest, InteractionResponse, InteractionStatus, manager
from llmteam.human.deadlines import catch_up
from llmteam.human.interactions import request_channel
from llmteam.human.rulings import Ruling
from tests.conformance.people import Counter, ident
from tests.waiting import wait_until_async

run = asyncio.run
FOR_EVER = timedelta(hours=24)


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """No waiter looks on its own, so that only a wake-up can make it."""
    monkeypatch.setattr(manager, "POLL_SECONDS", 3600.0)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch, patient: None) -> None:
    """Waiters look all the time."""
    monkeypatch.setattr(manager, "POLL_SECONDS", 0.02)


async def begun(counter: Counter, asked: InteractionRequest, *waits: Awaitable[Any]) -> list[asyncio.Task[Any]]:
    """Waiters that have come to wait."""
    tasks = [asyncio.ensure_future(wait) for wait in waits]
    name = request_channel(*ident(asked))
    await wait_until_async(lambda: name in counter.core.wakeup.watched(), "waiters to subscribe")  # type: ignore[attr-defined]
    return tasks


def test_an_answer_that_is_there_comes_at_once(counter: Counter) -> None:
    asked = counter.ask()
    given = counter.answer(asked).vote

    for timeout in (None, 0, FOR_EVER, 60, -1):
        assert run(counter.manager().wait_for_response(asked.request_id, timeout)) == given


@pytest.mark.parametrize("timeout", [0, 0.0, timedelta(), -1, timedelta(seconds=-1), 0.05, timedelta(milliseconds=50)])
def test_a_wait_that_ends_gives_nothing_and_changes_nothing(counter: Counter, timeout: timedelta | float) -> None:
    asked = counter.ask(timeout=60, escalation_chain=["boss"])

    assert run(counter.manager().wait_for_response(asked.request_id, timeout)) is None

    assert counter.now(asked) == asked
    assert counter.answer(asked).final


def test_nobody_waits_for_what_is_not_there(counter: Counter) -> None:
    assert run(counter.manager().wait_for_response("nothing")) is None


@pytest.mark.parametrize("timeout", [None, FOR_EVER, 3600, 1e300, timedelta.max])
def test_an_answer_wakes_every_waiter(counter: Counter, timeout: timedelta | float | None) -> None:
    asked = counter.ask()
    desk = counter.manager()

    async def story() -> list[InteractionResponse | None]:
        waits = [desk.wait_for_response(asked.request_id, timeout) for _ in range(5)]
        tasks = await begun(counter, asked, *waits)
        given = await desk.respond(asked.request_id, "ann", approved=True)
        answers = await asyncio.wait_for(asyncio.gather(*tasks), 20)
        assert answers == [given] * 5
        return answers

    run(story())


@pytest.mark.parametrize("how", ["cancel", "time_out"])
def test_the_end_without_an_answer_wakes_waiters_too(counter: Counter, how: str) -> None:
    asked = counter.ask(timeout=60)
    desk = counter.manager()

    async def story() -> None:
        (task,) = await begun(counter, asked, desk.wait_for_response(asked.request_id, FOR_EVER))
        if how == "cancel":
            await desk.cancel(asked.request_id)
        else:
            counter.pass_time(61)
            counter.apply(asked, lambda case: catch_up(case, counter.clock()))
        assert await asyncio.wait_for(task, 20) is None

    run(story())


def test_a_waiter_waits_on_through_whatever_is_no_answer(counter: Counter) -> None:
    asked = counter.ask(quorum=2, assignee_id=None, approvers=["ann", "bob"])
    desk = counter.manager()

    async def story() -> None:
        (task,) = await begun(counter, asked, desk.wait_for_response(asked.request_id))
        await desk.claim(asked.request_id, "ann")
        await desk.amend(asked.request_id, title="Larger")
        await desk.respond(asked.request_id, "ann", approved=True)
        given = await desk.respond(asked.request_id, "bob", approved=True)
        assert await asyncio.wait_for(task, 20) == given

    run(story())


def test_a_waiter_that_names_no_time_waits_until_the_deadline(counter: Counter, impatient: None) -> None:
    asked = counter.ask(timeout=600)

    async def story() -> None:
        (task,) = await begun(counter, asked, counter.manager().wait_for_response(asked.request_id))
        counter.pass_time(601)
        assert await asyncio.wait_for(task, 20) is None

    run(story())
    # Managers look after a store in memory; one in SQL has its sweep, which nobody runs here.
    swept = not counter.core.keeps_notifications
    assert counter.now(asked).status is (InteractionStatus.TIMEOUT if swept else InteractionStatus.PENDING)


def test_an_escalation_gives_the_waiter_more_time(counter: Counter, impatient: None) -> None:
    asked = counter.ask(timeout=600, escalation_chain=["boss"])
    desk = counter.manager()

    async def story() -> None:
        (task,) = await begun(counter, asked, desk.wait_for_response(asked.request_id))
        counter.pass_time(500)
        counter.apply(asked, lambda case: catch_up(case, counter.clock() + timedelta(seconds=200)))
        counter.pass_time(500)
        given = await desk.respond(asked.request_id, "boss", approved=True)
        assert await asyncio.wait_for(task, 20) == given

    run(story())


def test_a_waiter_outlasts_a_pause_of_the_run(counter: Counter, impatient: None) -> None:
    asked = counter.ask(timeout=600)
    counter.apply(asked, lambda case: Ruling(case.request.changed(frozen_at=counter.clock())))
    counter.pass_time(6000)
    desk = counter.manager()

    async def story() -> None:
        (task,) = await begun(counter, asked, desk.wait_for_response(asked.request_id))
        given = await desk.respond(asked.request_id, "ann", approved=True)
        assert await asyncio.wait_for(task, 20) == given

    run(story())


def test_a_waiter_that_is_cancelled_leaves_nothing_behind(counter: Counter) -> None:
    asked = counter.ask()

    async def story() -> None:
        (task,) = await begun(counter, asked, counter.manager().wait_for_response(asked.request_id))
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert counter.core.wakeup.watched() == set()  # type: ignore[attr-defined]

    run(story())


def test_an_answer_between_the_look_and_the_wait_is_not_missed(
    counter: Counter, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = counter.ask()
    desk, looks = counter.manager(), 0
    look: Callable[..., Any] = counter.core.case

    def answered_behind_its_back(*ident: str) -> Any:
        nonlocal looks
        looks += 1
        seen = look(*ident)
        if looks == 2:
            counter.answer(asked)
        return seen

    monkeypatch.setattr(counter.core, "case", answered_behind_its_back)

    async def story() -> InteractionResponse | None:
        return await asyncio.wait_for(desk.wait_for_response(asked.request_id), 20)

    assert run(story()) == counter.case(asked).response
    assert looks >= 3


def test_a_waiter_sees_an_answer_that_wakes_nobody_when_it_looks_again(counter: Counter, impatient: None) -> None:
    asked = counter.ask()
    desk: HumanInteractionManager = counter.manager()
    quiet = counter.core.wakeup.notify

    async def story() -> None:
        (task,) = await begun(counter, asked, desk.wait_for_response(asked.request_id))
        counter.core.wakeup.notify = lambda *channels: None  # type: ignore[method-assign]
        given = await desk.respond(asked.request_id, "ann", approved=True)
        assert await asyncio.wait_for(task, 20) == given

    try:
        run(story())
    finally:
        counter.core.wakeup.notify = quiet  # type: ignore[method-assign]
