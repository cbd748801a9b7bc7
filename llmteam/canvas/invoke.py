"""Calling a handler: plain or ``async``, from an event loop or from a worker's thread, inside its runtime."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import inspect
import os
import threading
from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from llmteam.canvas.exceptions import NoHandlerError, StepTimeoutError
from llmteam.canvas.execution import Execution
from llmteam.canvas.observed import working
from llmteam.canvas.ports import StepHandler
from llmteam.errors import LLMTeamError
from llmteam.runtime.context import Activation, working_for


class StepOutOfMemoryError(LLMTeamError, RuntimeError):
    """A handler ran out of memory. A bare ``MemoryError`` would end the worker's main process."""

    def __init__(self, step_id: str) -> None:
        super().__init__(f"Step '{step_id}' ran out of memory: make it work in smaller parts")
        self.step_id = step_id


def is_async(handler: StepHandler) -> bool:
    """Whether calling the handler gives something to await."""
    return inspect.iscoroutinefunction(handler) or inspect.iscoroutinefunction(type(handler).__call__)


def handler_of(execution: Execution, worker: str) -> StepHandler:
    """The handler of the step's type. Raises :class:`NoHandlerError` that names the worker."""
    if execution.refusal is not None:
        raise execution.refusal
    if execution.handler is None:
        raise NoHandlerError(execution.node.step.step_type, worker)
    return execution.handler


async def call(execution: Execution, worker: str = "") -> Any:
    """Call the handler from an event loop: ``async`` ones on it, plain ones in a thread.

    Raises what the handler raises, :class:`StepTimeoutError` when it was not done in time. A plain function cannot
    be stopped; it is told by ``ctx.cancelled`` and its answer is dropped.
    """
    handler = handler_of(execution, worker)
    with Activation(execution.ctx.runtime), working_for(execution.ctx), working(execution):
        if is_async(handler):
            return await _bounded(execution, handler(execution.ctx, execution.config, execution.input))
        return await _bounded(execution, _in_thread(_call_plain, execution, handler))


#: Plain handlers that one process calls at once from event loops.
HANDLER_THREADS = 256
_pools: dict[int, ThreadPoolExecutor] = {}


async def _in_thread(function: Callable[..., Any], *args: Any) -> Any:
    """As ``asyncio.to_thread``, in threads of its own: a handler that blocks must not keep the store from answering."""
    pool = _pools.get(os.getpid())
    if pool is None:  # also after a fork, which threads do not survive
        pool = _pools[os.getpid()] = ThreadPoolExecutor(HANDLER_THREADS, "llmteam-handler")
    context = contextvars.copy_context()
    return await asyncio.get_running_loop().run_in_executor(pool, functools.partial(context.run, function, *args))


def _call_plain(execution: Execution, handler: StepHandler) -> Any:
    try:
        return handler(execution.ctx, execution.config, execution.input)
    except MemoryError:
        raise StepOutOfMemoryError(execution.node.step_id) from None


async def _bounded(execution: Execution, work: Awaitable[Any]) -> Any:
    bound = asyncio.timeout(execution.timeout)
    try:
        async with bound:
            answer = await work
            return await answer if inspect.isawaitable(answer) else answer
    except TimeoutError:
        if not bound.expired():
            raise
        execution.ctx.cancelled.set()
        raise StepTimeoutError(execution.node.step_id, execution.timeout or 0.0) from None
    except MemoryError:
        raise StepOutOfMemoryError(execution.node.step_id) from None


def call_blocking(execution: Execution, loop: LoopThread, worker: str = "") -> Any:
    """Call the handler from a thread that may block; ``async`` ones run on ``loop``. Raises what :func:`call` raises.

    The deadline of a plain function is not watched here: whoever calls has to.
    """
    handler = handler_of(execution, worker)
    with Activation(execution.ctx.runtime), working_for(execution.ctx), working(execution):
        if is_async(handler):
            return loop.run(_bounded(execution, handler(execution.ctx, execution.config, execution.input)), execution)
        answer = _call_plain(execution, handler)
        return loop.run(_bounded(execution, answer), execution) if inspect.isawaitable(answer) else answer


class LoopThread:
    """One event loop in one thread, for all ``async`` handlers of a process. Starts when it is first used."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._pid = 0
        self._running: dict[int, Future[Any]] = {}

    def run(self, work: Coroutine[Any, Any, Any], execution: Execution | None = None) -> Any:
        """Run ``work`` on the loop and wait for it, in the caller's context; raises what it raises.

        ``execution`` names it for :meth:`cancel`, after which this raises ``concurrent.futures.CancelledError``.
        """
        future = asyncio.run_coroutine_threadsafe(_contained(work), self._started())
        if execution is not None:
            self._running[id(execution)] = future
        try:
            answer, ending = future.result()
        finally:
            self._running.pop(id(execution), None)
        if ending is not None:
            raise ending
        return answer

    def cancel(self, execution: Execution) -> None:
        """Cancel what runs for ``execution``, if it is here."""
        future = self._running.get(id(execution))
        if future is not None:
            future.cancel()

    def _started(self) -> asyncio.AbstractEventLoop:
        with self._lock:
            if self._loop is None or self._pid != os.getpid():
                self._loop, self._pid = asyncio.new_event_loop(), os.getpid()
                self._thread = threading.Thread(target=self._loop.run_forever, name="llmteam-handlers", daemon=True)
                self._thread.start()
            return self._loop

    def close(self) -> None:
        """End the loop and its thread; what still runs on it is abandoned. The next use starts anew."""
        with self._lock:
            if self._loop is not None and self._thread is not None and self._pid == os.getpid():
                self._loop.call_soon_threadsafe(self._loop.stop)
                self._thread.join()
                self._loop.close()
            self._loop = self._thread = None


async def _contained(work: Coroutine[Any, Any, Any]) -> tuple[Any, BaseException | None]:
    """Out of a task, these two would end the loop, and with it every other handler on it."""
    try:
        return await work, None
    except (SystemExit, KeyboardInterrupt) as exc:
        return None, exc
