"""Waiting for a run from the command line: its events, its deadline, our workers, and signals, in one thread."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable
from datetime import datetime
from typing import Any

from llmteam.canvas.runs import Runs
from llmteam.cli.progress import Progress
from llmteam.events.stream import EventStream

#: Seconds between two looks at whatever does not wake us.
_TICK_SECONDS = 0.1

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


async def follow(
    runs: Runs, tenant_id: str, run_id: str, progress: Progress, tick: Callable[[], None]
) -> signal.Signals | None:
    """Show the run until it is over; the signal that came instead, if one did. Raises what ``tick`` raises."""
    loop = asyncio.get_running_loop()
    came: asyncio.Future[signal.Signals] = loop.create_future()
    for number in _SIGNALS:
        loop.add_signal_handler(number, _note, came, number)
    record = await asyncio.to_thread(runs.record, tenant_id, run_id)
    reading = asyncio.create_task(_show(runs, tenant_id, run_id, progress))
    watched: tuple[asyncio.Future[Any], ...] = (reading, came)
    try:
        while not reading.done() and not came.done():
            await asyncio.wait(watched, timeout=_TICK_SECONDS, return_when=asyncio.FIRST_COMPLETED)
            tick()
            if _is_late(record.deadline, runs.engine.clock()):
                await asyncio.to_thread(runs.engine.expire, tenant_id, run_id)
                # People who are asked and pauses give a run more time.
                record = await asyncio.to_thread(runs.record, tenant_id, run_id)
        if came.done():
            return came.result()
        reading.result()
        return None
    finally:
        reading.cancel()
        await asyncio.wait({reading})
        for number in _SIGNALS:
            loop.remove_signal_handler(number)


def _note(came: asyncio.Future[signal.Signals], number: signal.Signals) -> None:
    if not came.done():
        came.set_result(number)


def _is_late(deadline: datetime | None, now: datetime) -> bool:
    return deadline is not None and now >= deadline


async def _show(runs: Runs, tenant_id: str, run_id: str, progress: Progress) -> None:
    async for event in EventStream(runs.events).subscribe(run_id, tenant_id=tenant_id):
        progress.event(event)
