"""One attempt of an agent, and whether and when another one follows."""

from __future__ import annotations

import asyncio
from typing import Any

from llmteam.ratelimit.calling import call

__all__ = ["attempt", "delay_before", "is_transient"]

#: Seconds that an agent whose time is over gets to stop, before it is left to itself.
STOP_SECONDS = 1.0
#: No retry waits longer, in seconds.
MAX_DELAY = 60.0


async def attempt(agent: Any, input_data: Any, seconds: float) -> tuple[BaseException | None, Any]:
    """Have the agent process its input for at most so many ``seconds``: what it raised, and what it gave.

    What it gives after its time is dropped, and a plain function, which cannot be stopped, is left to itself.
    """
    process = getattr(agent, "process", None)
    if not callable(process):
        return TypeError(f"{type(agent).__name__} has no method process(input_data)"), None
    work = asyncio.create_task(call(process, (input_data,), {}))
    try:
        done, _ = await asyncio.wait({work}, timeout=seconds)
    except asyncio.CancelledError:
        await _stop(work)
        raise
    if not done:
        await _stop(work)
        return TimeoutError("timeout"), None
    if work.cancelled():
        return asyncio.CancelledError("the agent cancelled itself"), None
    error = work.exception()
    return (error, None) if error is not None else (None, work.result())


async def _stop(work: asyncio.Task[Any]) -> None:
    work.cancel()
    await asyncio.wait({work}, timeout=STOP_SECONDS)
    if not work.done():
        work.add_done_callback(_looked_at)
    else:
        _looked_at(work)


def _looked_at(work: asyncio.Task[Any]) -> None:
    """Have asyncio not complain about an error that nobody waits for any more."""
    if not work.cancelled():
        work.exception()


def is_transient(error: BaseException) -> bool:
    """Whether the same attempt may succeed later: by the error's own word, else lost connections and time-outs."""
    retryable = getattr(error, "retryable", None)
    if isinstance(retryable, bool):
        return retryable
    return isinstance(error, TimeoutError | ConnectionError)


def delay_before(first: float, retry: int, error: BaseException, chance: float) -> float:
    """Seconds before retry number ``retry``, counted from 1; ``chance`` is in [0, 1).

    Between half and all of ``first * 2**(retry - 1)``, but not earlier than the error's ``retry_after`` says.
    """
    asked = getattr(error, "retry_after", None)
    least = float(asked) if isinstance(asked, int | float) else 0.0
    full = min(first * 2.0 ** min(retry - 1, 32), MAX_DELAY)
    return min(max(full * (0.5 + 0.5 * chance), least), MAX_DELAY)
