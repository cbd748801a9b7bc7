"""Waiting for a run from the command line: its events, its deadline, our workers, and signals, in one thread."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Coroutine
from datetime import datetime
from typing import Any

from llmteam.canvas.runs import Runs
from llmteam.cli.progress import Progress
from llmteam.events.models import EventType, WorktrailEvent
from llmteam.events.stream import EventStream
from llmteam.human.words import answer_in_words, question_in_words

#: Seconds between two looks at whatever does not wake us.
_TICK_SECONDS = 0.1

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


async def follow(
    runs: Runs,
    tenant_id: str,
    run_id: str,
    progress: Progress,
    tick: Callable[[], None],
    beside: Coroutine[Any, Any, None] | None = None,
) -> signal.Signals | None:
    """Show the run until it is over; the signal that came instead, if one did.

    Raises what ``tick`` raises, or ``beside``, which goes on meanwhile.
    """
    loop = asyncio.get_running_loop()
    came: asyncio.Future[signal.Signals] = loop.create_future()
    for number in _SIGNALS:
        loop.add_signal_handler(number, _note, came, number)
    reading = asyncio.create_task(_show(runs, tenant_id, run_id, progress))
    working = [reading] if beside is None else [reading, asyncio.create_task(beside)]
    watched: tuple[asyncio.Future[Any], ...] = (*working, came)
    try:
        record = await asyncio.to_thread(runs.record, tenant_id, run_id)
        while not reading.done() and not came.done():
            await asyncio.wait(watched, timeout=_TICK_SECONDS, return_when=asyncio.FIRST_COMPLETED)
            tick()
            for other in working[1:]:
                if other.done():
                    other.result()
            if _is_late(record.deadline, runs.engine.clock()):
                await asyncio.to_thread(runs.engine.expire, tenant_id, run_id)
                # People who are asked and pauses give a run more time.
                record = await asyncio.to_thread(runs.record, tenant_id, run_id)
        if came.done():
            return came.result()
        reading.result()
        return None
    finally:
        for task in working:
            task.cancel()
        await asyncio.wait(working)
        for number in _SIGNALS:
            loop.remove_signal_handler(number)


def _note(came: asyncio.Future[signal.Signals], number: signal.Signals) -> None:
    if not came.done():
        came.set_result(number)


def _is_late(deadline: datetime | None, now: datetime) -> bool:
    return deadline is not None and now >= deadline


async def _show(runs: Runs, tenant_id: str, run_id: str, progress: Progress) -> None:
    async for event in EventStream(runs.events).subscribe(run_id, tenant_id=tenant_id):
        progress.event(event, await asyncio.to_thread(_about_people, runs, tenant_id, event))


def _about_people(runs: Runs, tenant_id: str, event: WorktrailEvent) -> str:
    """Whom a step asks, or what was answered; empty for events of other kinds."""
    if not event.event_type.value.startswith("human.task_"):
        return ""
    case = runs.engine.store.interactions.case(tenant_id, str(event.payload.get("task_id")))
    if case is None:
        return ""
    return (
        answer_in_words(case) if event.event_type is EventType.HUMAN_TASK_COMPLETED else question_in_words(case.request)
    )
